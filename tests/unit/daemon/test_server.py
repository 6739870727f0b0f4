"""The command socket with real connections: good clients, bad clients, stopping."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aruntime import __version__, wire
from aruntime.daemon import journal, server
from aruntime.daemon.commands.flags import Command, Parsed
from aruntime.daemon.commands.registry import Registry, registry
from aruntime.daemon.server import CommandServer, bound_socket
from aruntime.daemon.session import Session
from aruntime.errors import Conflict, ContainerNotFound, InvalidParameter


class State:
    """What the test commands saw."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.entered = trio.Event()
        self.finish = trio.Event()


async def echo(session: Session, parsed: Parsed, _daemon: State) -> int:
    """Print the arguments; the exit code is their number."""
    await session.out(" ".join(parsed.args) + "\n")
    return len(parsed.args)


async def wait(session: Session, parsed: Parsed, daemon: State) -> int:
    """Wait until the test says so, as a request or (with an argument) open-ended."""
    session.open_ended = bool(parsed.args)
    daemon.entered.set()
    try:
        await daemon.finish.wait()
    except trio.Cancelled:
        daemon.cancelled.set()
        raise
    await session.out("done\n")
    return 0


async def fail(_session: Session, parsed: Parsed, _daemon: State) -> int:
    """Fail in the way the argument names."""
    match parsed.args:
        case ["known"]:
            raise ContainerNotFound("No such container:\nx")
        case ["group"]:
            raise ExceptionGroup("", [ContainerNotFound("one"), ContainerNotFound("two")])
        case ["kernel"]:
            raise FileNotFoundError(2, "No such file or directory", "/x")
        case _:
            raise KeyError("bug")


async def flood(session: Session, _parsed: Parsed, _daemon: State) -> int:
    """Write for ever."""
    while True:
        await session.out(bytes(65536))


async def plan(session: Session, _parsed: Parsed, _daemon: State) -> int:
    """Log what it does, below the daemon's level."""
    structlog.get_logger().debug("step planned", number=1)
    await session.out("done\n")
    return 3


KNOWN = registry(
    [
        Command("echo", "", echo),
        Command("wait", "", wait),
        Command("fail", "", fail),
        Command("flood", "", flood),
        Command("plan", "", plan),
    ]
)


class Running:
    """A server under test."""

    def __init__(self, path: Path, state: State, commands: CommandServer) -> None:
        self.path = path
        self.state = state
        self.commands = commands

    async def connect(self) -> trio.SocketStream:
        """A new connection."""
        return await trio.open_unix_socket(self.path)

    async def ask(self, *argv: str, version: str = __version__) -> trio.SocketStream:
        """A connection that has said hello."""
        stream = await self.connect()
        words = [word.encode() for word in argv]
        await stream.send_all(
            wire.encode_hello(version.encode(), b"/", b"000", (0, 0), words, {b"A": b"b"})
        )
        return stream

    async def run(self, *argv: str, version: str = __version__) -> tuple[str, str, int]:
        """Run a command to its end: output, errors, exit code."""
        async with await self.ask(*argv, version=version) as stream:
            return await answer(stream)


async def answer(stream: trio.SocketStream) -> tuple[str, str, int]:
    """Collect the daemon's frames until exit."""
    decoder = wire.Decoder()
    texts = {wire.STDOUT: b"", wire.STDERR: b""}
    with trio.fail_after(20):
        while True:
            while (frame := decoder.next_frame()) is not None:
                if frame[0] == wire.EXIT:
                    out, err = texts[wire.STDOUT].decode(), texts[wire.STDERR].decode()
                    return out, err, int(frame[1])
                texts[frame[0]] += frame[1]
            received = await stream.receive_some()
            assert received, f"hung up after {texts}"
            decoder.feed(received)


@contextlib.asynccontextmanager
async def serving(path: Path, known: Registry = KNOWN) -> AsyncIterator[Running]:
    """A server at this path, stopped afterwards."""
    state = State()
    with bound_socket(path, "") as listening:
        commands = CommandServer(listening, known, state)
        async with trio.open_nursery() as nursery:
            await nursery.start(commands.run)
            yield Running(path, state, commands)
            state.finish.set()
            commands.stop()
            with trio.fail_after(20):
                await commands.stopped.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the server listens."""
    return tmp_path / "aruntime.sock"


async def test_command_runs_and_exits_with_its_code(path: Path) -> None:
    """Output and exit code reach the client."""
    async with serving(path) as running:
        assert await running.run("echo", "a", "b") == ("a b\n", "", 2)


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        ("known", "aruntime: No such container: x\n", 125),
        ("group", "aruntime: one\naruntime: two\n", 125),
        ("kernel", "aruntime: /x: no such file or directory\n", 125),
        (
            "bug",
            "aruntime: internal error (KeyError: 'bug'); the daemon's log has more\n",
            125,
        ),
    ],
)
async def test_failures_are_worded(path: Path, how: str, said: str, code: int) -> None:
    """Foreseen failures are one line each; bugs too, and the server lives on."""
    async with serving(path) as running:
        assert await running.run("fail", how) == ("", said, code)
        assert await running.run("echo") == ("\n", "", 0)


async def test_debug_shows_what_the_daemon_does(path: Path) -> None:
    """With --debug the command's own log lines come to the client; without, none."""
    before = structlog.get_config()
    journal.configure("json", "error")
    try:
        async with serving(path) as running:
            said = ("done\n", "debug: step planned number=1\n", 3)
            assert await running.run("--debug", "plan") == said
            assert await running.run("plan") == ("done\n", "", 3)
    finally:
        structlog.configure(**before)


async def test_many_clients_at_once(path: Path) -> None:
    """A hundred clients that wait are all served, and so is one more meanwhile."""
    async with serving(path) as running, contextlib.AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(await running.ask("wait")) for _ in range(100)]
        assert await running.run("echo", "x") == ("x\n", "", 1)
        running.state.finish.set()
        for stream in waiting:
            assert await answer(stream) == ("done\n", "", 0)


async def test_unknown_command(path: Path) -> None:
    """One line and exit code 1."""
    async with serving(path) as running:
        said = "aruntime: 'frobnicate' is not an aruntime command; see 'aruntime --help'\n"
        assert await running.run("frobnicate") == ("", said, 1)


async def test_version_mismatch_is_one_clear_line(path: Path) -> None:
    """A client of another version is told both versions and what to do."""
    async with serving(path) as running:
        out, err, code = await running.run("echo", version="0.0.9")
        assert (out, code) == ("", 125)
        assert err.startswith(
            f"aruntime: this client is version 0.0.9, the daemon is {__version__}"
        )
        assert err.count("\n") == 1


async def test_client_that_leaves_cancels_its_command(path: Path) -> None:
    """^C kills the client; the daemon notices and ends the command."""
    async with serving(path) as running:
        stream = await running.ask("wait")
        await running.state.entered.wait()
        await stream.aclose()
        with trio.fail_after(20):
            await running.state.cancelled.wait()


async def test_client_that_does_not_read_is_not_buffered(path: Path) -> None:
    """A command waits for a slow client instead of filling memory; others are served."""
    async with serving(path) as running, await running.ask("flood"):
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await running.run("echo", "x") == ("x\n", "", 1)


GARBAGE: dict[str, bytes] = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "huge length": b"H\xff\xff\xff\xff",
    "wrong first frame": wire.frame(wire.STDIN, b"x"),
    "malformed hello": wire.frame(wire.HELLO, b"nothing"),
    "zeros": bytes(100),
    "endless hello": wire.frame(wire.HELLO_PART, bytes(wire.MAX_PAYLOAD)) * 9,
    "half a header": b"H\0",
    "nothing": b"",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_dropped(path: Path, name: str) -> None:
    """Whatever arrives first, the connection ends and the next client is served."""
    async with serving(path) as running:
        async with await running.connect() as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(GARBAGE[name])
                await stream.send_eof()
            with trio.fail_after(20), contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert await running.run("echo", "x") == ("x\n", "", 1)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_after_hello_leave_the_server_alive(path: Path, pieces: list[bytes]) -> None:
    """Fuzzed frames in the middle of a command end that command at most."""

    async def check() -> None:
        async with serving(path) as running:
            async with await running.ask("wait") as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    for piece in pieces:
                        await stream.send_all(piece)
            assert await running.run("echo", "x") == ("x\n", "", 1)

    trio.run(check)


async def test_garbage_after_hello_ends_the_command(path: Path) -> None:
    """A client that breaks the protocol later loses its command."""
    async with serving(path) as running, await running.ask("wait") as stream:
        await running.state.entered.wait()
        await stream.send_all(b"?\0\0\0\0")
        with trio.fail_after(20):
            await running.state.cancelled.wait()


async def test_silent_client_is_dropped(path: Path, autojump_clock: trio.abc.Clock) -> None:
    """Somebody who connects and says nothing does not stay for ever."""
    async with serving(path) as running, await running.connect() as stream:
        with trio.fail_after(server.HELLO_SECONDS + 1):
            assert await stream.receive_some() == b""


async def test_stopping_lets_requests_finish(path: Path) -> None:
    """A command under way gets its answer; new clients are refused at once."""
    async with serving(path) as running, await running.ask("wait") as stream:
        await running.state.entered.wait()
        running.commands.stop()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            await running.connect()
        running.state.finish.set()
        assert await answer(stream) == ("done\n", "", 0)


async def test_stopping_ends_open_ended_commands_at_once(
    path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """Whoever only follows is told that the daemon stops."""
    async with serving(path) as running, await running.ask("wait", "open-ended") as stream:
        await running.state.entered.wait()
        before = trio.current_time()
        running.commands.stop()
        assert await answer(stream) == ("", f"aruntime: {server.STOPPING}\n", 125)
        assert trio.current_time() - before < server.REQUEST_GRACE_SECONDS


async def test_stopping_does_not_wait_for_ever(path: Path, autojump_clock: trio.abc.Clock) -> None:
    """A request that does not end, to a client that does not read, ends after the grace."""
    async with serving(path) as running, await running.ask("flood"):
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        running.commands.stop()
        await running.commands.stopped.wait()
        limit = server.REQUEST_GRACE_SECONDS + server.FAREWELL_SECONDS
        assert trio.current_time() - before <= limit


def test_socket_file_is_0660_and_goes_away(path: Path) -> None:
    """Owner and group may connect, nobody else; the file is removed with the listener."""
    with bound_socket(path, ""):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


def test_socket_is_never_wider_than_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind and chmod the file is 0600 whatever the umask."""
    modes: list[int] = []
    chown: Callable[..., None] = os.chown

    def recording(target: Any, uid: int, gid: int) -> None:
        modes.append(stat.S_IMODE(os.stat(target).st_mode))
        chown(target, uid, gid)

    monkeypatch.setattr(os, "chown", recording)
    before = os.umask(0)
    try:
        with bound_socket(path, ""):
            pass
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_stale_socket_is_replaced(path: Path) -> None:
    """A file left by a killed daemon is no obstacle."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bound_socket(path, ""):
        pass


def test_living_socket_is_respected(path: Path) -> None:
    """Somebody who answers there keeps the path."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(Conflict, match="another daemon answers"), bound_socket(path, ""):
            pass


def test_other_file_is_respected(path: Path) -> None:
    """A file that is no socket is never removed."""
    path.write_text("precious")
    with pytest.raises(Conflict, match="is not a socket"), bound_socket(path, ""):
        pass
    assert path.read_text() == "precious"


def test_unknown_group_is_a_clear_error(path: Path) -> None:
    """The message says how to make the group."""
    with pytest.raises(InvalidParameter, match="groupadd"), bound_socket(path, "no-such-group"):
        pass
