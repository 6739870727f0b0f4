"""The client's own decisions: where the daemon is, what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aruntime.cli import client

ALLOWED = {
    "aruntime", "aruntime.cli", "aruntime.cli.client", "aruntime.cli.conversation", "aruntime.wire",
    "_signal", "_socket", "posix", "select",
}  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["ps", "-a"], ("", ["ps", "-a"])),
        (["-H", "unix:///x", "ps"], ("unix:///x", ["ps"])),
        (["-Hunix:///x", "ps"], ("unix:///x", ["ps"])),
        (["-H=unix:///x", "ps"], ("unix:///x", ["ps"])),
        (["--host", "unix:///x", "ps"], ("unix:///x", ["ps"])),
        (["--host=unix:///x", "ps"], ("unix:///x", ["ps"])),
        (["-D", "--host=unix:///x", "ps"], ("unix:///x", ["-D", "ps"])),
        (["run", "--host", "name"], ("", ["run", "--host", "name"])),
        (["--help"], ("", ["--help"])),
        ([], ("", [])),
    ],
)
def test_host_is_found_before_the_command_only(
    argv: list[str], expected: tuple[str, list[str]]
) -> None:
    """Every spelling of the global option; the command's own flags are left alone."""
    assert client.split_host(argv) == expected


def test_host_without_value_is_an_error() -> None:
    """A dangling option says what it needs."""
    with pytest.raises(ValueError, match="flag needs an argument: --host"):
        client.split_host(["--host"])


def test_order_of_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option, ARUNTIME_HOST, ARUNTIME_RUN_DIR, the default; only the last two may start one."""
    environ: dict[bytes, bytes] = {}
    monkeypatch.setattr("posix.environ", environ)
    assert client.socket_path("") == (b"/run/aruntime/aruntime.sock", True)
    environ[b"ARUNTIME_RUN_DIR"] = b"/tmp/r"
    assert client.socket_path("") == (b"/tmp/r/aruntime.sock", True)
    environ[b"ARUNTIME_HOST"] = b"unix:///tmp/h.sock"
    assert client.socket_path("") == (b"/tmp/h.sock", False)
    assert client.socket_path("unix:///tmp/o.sock") == (b"/tmp/o.sock", False)


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "unix://relative", "/run/x.sock", "x"])
def test_other_addresses_are_refused(host: str) -> None:
    """Only pathname sockets are spoken to; the message shows the form."""
    with pytest.raises(ValueError, match=r"write unix:///path/of/the\.sock"):
        client.socket_path(host)


def test_client_imports_nothing_slow() -> None:
    """Only C modules and our own: every other import costs a command milliseconds."""
    code = (
        "import sys; before = set(sys.modules); import aruntime.cli.conversation;"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= ALLOWED
