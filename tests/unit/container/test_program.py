"""Pure parts of the last stretch: environment, look-up of the program, directories."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from aruntime.container import program


def test_environment() -> None:
    """The last of a name wins; what has no name or no value is left out."""
    entries = ["A=1", "B=x=y", "A=2", "C=", "NOVALUE", "=x", ""]
    assert program.environment(entries) == {"A": "2", "B": "x=y", "C": ""}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with programs and things that are none."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    for name, mode in (("first/plain", 0o644), ("second/plain", 0o755), ("second/only", 0o755)):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(mode)
    (tmp_path / "first/directory").mkdir()
    os.mkfifo(tmp_path / "first/fifo")
    return tmp_path


def test_search_path_skips_what_cannot_be_executed(tree: Path) -> None:
    """As a shell: the first executable of that name."""
    path = f"{tree}/first:{tree}/second"
    assert program.find_executable("plain", path) == f"{tree}/second/plain"
    assert program.find_executable("only", path) == f"{tree}/second/only"


@pytest.mark.parametrize("path", ["", "/nowhere", ":"])
def test_not_in_the_search_path(tree: Path, path: str) -> None:
    """In runc's words, which engines look for."""
    with pytest.raises(FileNotFoundError) as caught:
        program.find_executable("absent", path)
    assert caught.value.strerror == 'exec: "absent": executable file not found in $PATH'


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("absent", errno.ENOENT, "no such file or directory"),
        ("first/plain", errno.EACCES, "permission denied"),
        ("first/directory", errno.EISDIR, "is a directory"),
        ("first/fifo", errno.EACCES, "permission denied"),
        ("first/plain/x", errno.ENOTDIR, "not a directory"),
    ],
)
def test_path_of_a_program(tree: Path, name: str, number: int, text: str) -> None:
    """A name with a slash is that file or an error that says why not."""
    path = f"{tree}/{name}"
    with pytest.raises(OSError) as caught:
        program.find_executable(path, "/bin")
    assert caught.value.errno == number
    assert caught.value.strerror is not None
    assert caught.value.strerror.startswith(f'exec: "{path}": ')
    assert caught.value.strerror.endswith(text)


def test_relative_program(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the working directory; an empty element of PATH means it too."""
    monkeypatch.chdir(tree / "second")
    assert program.find_executable("./only", "") == "./only"
    assert program.find_executable("only", "/nowhere:") == "./only"


def test_directories_are_made(tmp_path: Path) -> None:
    """Missing ones only, whatever the path looks like."""
    previous = os.umask(0o022)
    try:
        program.make_directories(f"{tmp_path}//a/./b/../c/")
        program.make_directories(f"{tmp_path}/a/c")
    finally:
        os.umask(previous)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "c"]
    assert (tmp_path / "a/c").stat().st_mode & 0o777 == 0o755
    with pytest.raises(NotADirectoryError):
        (tmp_path / "file").write_text("")
        program.make_directories(f"{tmp_path}/file/x")
