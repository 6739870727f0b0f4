"""How a shim is started: its command line, the sealed copy, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aruntime.shim import boot


def test_command_line() -> None:
    """An absolute interpreter, isolated, without site, the file by its path."""
    words = boot.argv("/run/x")
    assert words[0] == sys.executable
    assert os.path.isabs(words[0])
    assert words[1:3] == ["-I", "-S"]
    assert words[-2:] == ["--run-dir", "/run/x"]
    assert boot.argv("/run/x", stay=True)[-1] == "--stay"


def test_arguments() -> None:
    """Both forms, relative directories made absolute."""
    assert boot.parse(["--run-dir", "/a"]) == ("/a", False, False)
    assert boot.parse(["--run-dir=/a", "--stay", "--sealed"]) == ("/a", True, True)
    assert boot.parse(["--run-dir", "x"])[0] == os.path.abspath("x")
    for words in ([], ["--run-dir"], ["--nope"], ["x"]):
        with pytest.raises(ValueError):
            boot.parse(words)


def test_sealed_copy_cannot_change() -> None:
    """Not written, not cut, not grown, not unsealed, by nobody."""
    fd = boot.sealed_copy(b"content")
    try:
        assert os.pread(fd, 100, 0) == b"content"
        for call in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 1),
            lambda: os.ftruncate(fd, 100),
            lambda: os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC)),
        ):
            with pytest.raises(PermissionError):
                call()
    finally:
        os.close(fd)


def test_relative_libraries_are_noticed() -> None:
    """An interpreter that looks for libpython beside itself would not find it from memory."""
    assert not boot.depends_on_origin(b"\x7fELF...")
    with open("/proc/self/maps", "rb") as maps:
        loads_library = b"/libpython" in maps.read()
    assert boot.depends_on_origin(b"\x7fELF...$ORIGIN/../lib") == loads_library


def test_unsealed_process_is_refused() -> None:
    """This test runs from a file: it could never be a shim."""
    with pytest.raises(RuntimeError, match="not from a sealed memfd"):
        boot.check_sealed()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "--run-dir is missing; usage: aruntime-shim"),
        (["--run-dir", "/proc/none"], 1, "No such file or directory"),
        (["--run-dir", "/", "--sealed"], 1, "not from a sealed memfd"),
    ],
)
def test_refusals_are_one_line(words: list[str], code: int, text: str) -> None:
    """Started as a program it says in one line what is wrong."""
    command = [sys.executable, *boot.INTERPRETER_FLAGS, str(Path(boot.__file__)), *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == code
    assert text in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("aruntime-shim: ")


def test_relative_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """argv[0] is how the copy finds its standard library."""
    monkeypatch.setattr(sys, "executable", "python3")
    with pytest.raises(RuntimeError, match="not absolute"):
        boot.argv("/run")
