"""The shim's loop, socket and pump by themselves, without containers."""

from __future__ import annotations

import _socket
import errno
import json
import os
import pty
import socket
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aruntime.container import logfile
from aruntime.shim import children, link, pump
from aruntime.shim.children import Child
from aruntime.shim.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Return a loop."""
    made = Loop()
    yield made
    made.close()


def test_callbacks_and_timers(loop: Loop) -> None:
    """Readable descriptors and due timers are served until stop."""
    read_fd, write_fd = os.pipe()
    seen: list[str] = []

    def ready() -> None:
        seen.append(os.read(read_fd, 10).decode())
        loop.forget(read_fd)
        loop.call_later("end", 0.01, loop.stop)
        loop.call_later("end", 0.0, lambda: seen.append("replaced"))
        loop.call_later("never", 0.0, lambda: seen.append("cancelled"))
        loop.cancel("never")

    loop.watch(read_fd, ready)
    os.write(write_fd, b"x")
    loop.run()
    os.close(read_fd)
    os.close(write_fd)
    assert seen == ["x"]


def test_descriptor_forgotten_by_an_earlier_callback(loop: Loop) -> None:
    """An event of the same round for what is gone meanwhile is dropped."""
    pipes = [os.pipe(), os.pipe()]
    calls = []

    def ready() -> None:
        calls.append(1)
        for read_fd, _ in pipes:
            loop.forget(read_fd)
        loop.stop()

    for read_fd, write_fd in pipes:
        loop.watch(read_fd, ready)
        os.write(write_fd, b"x")
    loop.run()
    for pair in pipes:
        for fd in pair:
            os.close(fd)
    assert calls == [1]


def test_messages_and_descriptors_fit() -> None:
    """As many names as descriptors, or the message is none and nothing leaks."""
    fields, fds = link.parse(b'{"op":"x","fds":["a","b"]}', [98, 99])
    assert (fields, fds) == ({"op": "x"}, {"a": 98, "b": 99})
    for content, truncated in (
        (b'{"op":"x","fds":["a"]}', True),
        (b'{"op":"x","fds":["a","a"]}', False),
        (b'{"op":"x","fds":[[]]}', False),
        (b'{"op":"x"}', False),
        (b"junk", False),
    ):
        numbers = [os.dup(0)]
        if b'"a","a"' in content:
            numbers.append(os.dup(0))
        fields, fds = link.parse(content, numbers, truncated=truncated)
        assert "op" not in fields
        assert fds == {}
        for fd in numbers:
            with pytest.raises(OSError):
                os.fstat(fd)


def test_socket_is_private_and_replaces_a_stale_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 0600; a live one is not touched; long paths work from inside their directory."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.chdir(deep)
    path = f"{deep}/shim.sock"
    first = link.listen(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="another shim answers") as caught:
        link.listen(path)
    assert caught.value.errno == errno.EADDRINUSE
    first.close()
    second = link.listen(path)
    assert os.listdir(deep) == ["shim.sock"]
    second.close()


def test_slow_peer_gets_everything_in_order(loop: Loop) -> None:
    """What does not fit the socket waits, and comes in order once the peer reads."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    raw = ours.detach()
    connection = link.Connection(
        loop, _socket.socket(fileno=raw), lambda *_: None, lambda _: loop.stop()
    )
    count = 2000
    for number in range(count):
        connection.send({"op": "x", "number": number, "padding": "p" * 500})
    received: list[int] = []

    def read() -> None:
        content = theirs.recv(4096)
        received.append(json.loads(content)["number"])
        if len(received) == count:
            loop.stop()

    loop.watch(theirs.fileno(), read)
    loop.run()
    assert received == list(range(count))
    connection.close()
    theirs.close()


def test_dead_peer_is_noticed_at_send(loop: Loop) -> None:
    """EPIPE is a hang-up, no signal and no exception."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended: list[link.Connection] = []
    sock = _socket.socket(fileno=ours.detach())
    sock.setblocking(False)
    connection = link.Connection(loop, sock, lambda *_: None, ended.append)
    theirs.close()
    connection.send({"op": "x"})
    connection.send({"op": "y"})
    assert ended == [connection]
    assert not connection.is_open


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[Child, dict[str, int]]]:
    """Return a running child with pipes and a log, and the ends on the other side."""
    made = Child("c1", "", tty=False)
    made.state = children.RUNNING
    theirs: dict[str, int] = {}
    for name in ("stdout", "stderr"):
        made.fds[f"{name}_read"], theirs[name] = os.pipe()
    made.fds["log"], made.fds["index"] = logfile.open_log(str(tmp_path))
    yield made, theirs
    made.close()
    for fd in theirs.values():
        os.close(fd)


def test_pump_moves_only_when_told(loop: Loop, child: Any, tmp_path: Path) -> None:
    """Nothing while a daemon does it; what came meanwhile is moved afterwards."""
    one, theirs = child
    moving = pump.Pump(loop, lambda text: None)
    os.write(theirs["stdout"], b"early")
    moving.add(one)
    loop.call_later("stop", 0.02, loop.stop)
    loop.run()
    assert (tmp_path / "log").read_bytes() == b""
    moving.start([one])
    os.write(theirs["stderr"], b"late")
    loop.call_later("stop", 0.02, loop.stop)
    loop.run()
    assert (tmp_path / "log").read_bytes() in (b"earlylate", b"lateearly")
    moving.stop([one])
    moving.close()


def test_terminal_goes_through_its_pipe(tmp_path: Path) -> None:
    """What is in the private pipe comes first; a closed slave is the end."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    fds = {"master": master}
    fds["pty_read"], fds["pty_write"] = os.pipe()
    fds["log"], fds["index"] = logfile.open_log(str(tmp_path))
    os.write(fds["pty_write"], b"first ")
    os.write(slave, b"second")
    assert pump.move_terminal(fds) is False
    assert (tmp_path / "log").read_bytes() == b"first second"
    os.write(slave, b" third")
    os.close(slave)
    while not pump.move_terminal(fds):
        pass
    assert (tmp_path / "log").read_bytes() == b"first second third"
    for fd in fds.values():
        os.close(fd)


def test_deaths_in_words() -> None:
    """How an init that said nothing has died."""
    assert children.death(9)["strerror"].endswith("killed by signal 9")
    assert children.death(3 << 8)["strerror"].endswith("exit code 3")


def test_child_hands_over_in_the_order_of_the_protocol() -> None:
    """pidfd first, then what there is; an exec says so."""
    made = Child("c1", "e1", tty=True)
    made.fds = {"index": 5, "log": 4, "stdout_read": 3}
    assert list(made.held()) == ["pidfd", "stdout_read", "log", "index"]
    assert made.fields("created") == {"op": "created", "id": "c1", "exec_id": "e1"}
    made.fds.clear()
    assert not made.is_set_up


END_SOON = """
import sys
from aruntime.shim import serve
serve.IDLE_SECONDS = 0.05
serve.run(sys.argv[1], stay=sys.argv[2] == "stay")
"""


@pytest.mark.parametrize("kind", ["idle", "stay"])
def test_shim_without_children_ends_by_itself(tmp_path: Path, kind: str) -> None:
    """Some time after its daemon left, unless a service manager wants it to stay."""
    command = [sys.executable, "-c", END_SOON, str(tmp_path), kind]
    shim = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        if kind == "idle":
            assert shim.wait(timeout=20) == 0
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                shim.wait(timeout=1.0)
            shim.terminate()
            assert shim.wait(timeout=20) == 0
        assert os.listdir(tmp_path) == []
    finally:
        shim.kill()
        shim.communicate()
