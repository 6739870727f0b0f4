"""A server in this process with commands for tests, clients as processes, a terminal."""

from __future__ import annotations

import contextlib
import functools
import os
import pty
import subprocess
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from aruntime.daemon.commands.flags import Command, Parsed
from aruntime.daemon.commands.registry import registry
from aruntime.daemon.server import CommandServer, bound_socket
from aruntime.daemon.session import Session
from aruntime.errors import NotFound

SCRIPT = Path(__file__).parents[3] / "aruntime" / "cli" / "aruntime"


class Seen:
    """What the commands below tell the test."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.written = 0


async def show(session: Session, parsed: Parsed, seen: Seen) -> int:
    """Print who the client is, on both streams, and exit with 42."""
    seen.session = session
    await session.out(f"{session.cwd} {parsed.args} {session.env.get('MARK')}\n")
    await session.err(f"{session.stdin_tty}{session.stdout_tty} {session.rows}x{session.cols}\n")
    return 42


async def cat(session: Session, _parsed: Parsed, _seen: Seen) -> int:
    """Copy stdin to stdout."""
    async for chunk in await session.stdin():
        await session.out(chunk)
    return 0


async def flood(session: Session, _parsed: Parsed, seen: Seen) -> int:
    """Write until the client goes."""
    try:
        while True:
            await session.out(bytes(65536))
            seen.written += 65536
            seen.ready.set()
    finally:
        seen.ended.set()


async def once(session: Session, _parsed: Parsed, seen: Seen) -> int:
    """Write one line, then wait for ever."""
    try:
        await session.out("one line\n")
        await trio.sleep_forever()
    finally:
        seen.ended.set()


async def hang(session: Session, _parsed: Parsed, seen: Seen) -> int:
    """Do nothing for ever."""
    seen.ready.set()
    try:
        await trio.sleep_forever()
    finally:
        seen.ended.set()


async def signals(session: Session, parsed: Parsed, seen: Seen) -> int:
    """Exit with the first signal; with an argument, block the client's stdout before."""
    receiving = await session.forward_signals()
    async with trio.open_nursery() as nursery:
        if parsed.args:
            nursery.start_soon(session.out, bytes(4 << 20))
        else:
            await session.out("ready\n")
        seen.ready.set()
        number = await receiving.receive()
        nursery.cancel_scope.cancel()
    return number


async def raw(session: Session, parsed: Parsed, seen: Seen) -> int:
    """Raw mode until one byte is typed; with ``keep`` leave it on."""
    await session.raw_mode(True)
    await session.out("raw\n")
    stdin = await session.stdin()
    typed = await stdin.receive()
    if parsed.args != ["keep"]:
        await session.raw_mode(False)
    await session.out(repr(typed) + "\n")
    return 0


async def size(session: Session, _parsed: Parsed, seen: Seen) -> int:
    """Print the window size after it has changed."""
    await session.out("ready\n")
    rows, columns = await session.resizes.receive()
    await session.out(f"{rows}x{columns}\n")
    return 0


async def read_file(session: Session, parsed: Parsed, _seen: Seen) -> int:
    """Print a file the client opens."""
    try:
        fd = await session.open(parsed.args[0], os.O_RDONLY)
    except OSError as error:
        raise NotFound(f"{error.filename}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        await session.out(file.read())
    return 0


async def write_file(session: Session, parsed: Parsed, _seen: Seen) -> int:
    """Write a file the client makes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(await session.open(parsed.args[0], flags, 0o640), "wb") as file:
        file.write(b"from the daemon")
    return 0


KNOWN = registry(
    Command(run.__name__.replace("_", "-"), "", run)
    for run in (show, cat, flood, once, hang, signals, raw, size, read_file, write_file)
)


def is_writing_to_stdout(pid: int) -> bool:
    """Whether a process is inside write(2) to descriptor 1 (system call number of amd64)."""
    return Path(f"/proc/{pid}/syscall").read_text().startswith("1 0x1 ")


class Served:
    """A served socket: starts clients against it."""

    def __init__(self, path: Path, seen: Seen) -> None:
        self.path = path
        self.seen = seen
        self.env = {**os.environ, "ARUNTIME_HOST": f"unix://{path}", "MARK": "mark"}

    def command(self, *argv: str) -> list[str]:
        """The words that start a client."""
        return [sys.executable, str(SCRIPT), *argv]

    async def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a client to its end, both streams captured."""
        options = {"env": self.env, **options}
        with trio.fail_after(30):
            return await trio.run_process(
                self.command(*argv),
                capture_stdout=True, capture_stderr=True, check=False, **options,
            )  # fmt: skip

    def started(
        self, *argv: str, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[trio.Process]:
        """A client while the block runs; killed if it is still there after it."""
        return self.started_command(self.command(*argv), **options)

    @contextlib.asynccontextmanager
    async def started_command(
        self, command: Sequence[str], **options: Any
    ) -> AsyncIterator[trio.Process]:
        """A command that starts a client, as :meth:`started`."""
        call = functools.partial(trio.run_process, command, env=self.env, check=False, **options)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(call)
            with trio.fail_after(30):
                yield process
            nursery.cancel_scope.cancel()

    async def shell(self, text: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a line of shell; $CLIENT is the client."""
        env = self.env | {"CLIENT": f"{sys.executable} {SCRIPT}"}
        options = {"capture_stdout": True, "check": False, **options}
        with trio.fail_after(30):
            return await trio.run_process(["bash", "-c", text], env=env, **options)

    @staticmethod
    async def wait_blocked_in_write(pid: int) -> None:
        """Wait until a process sleeps in write(2) to its stdout."""
        with trio.fail_after(30):
            while not is_writing_to_stdout(pid):
                await trio.sleep(0.01)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody may enter (pytest's own are for one user)."""
    with tempfile.TemporaryDirectory(prefix="aruntime-test-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
async def served(open_path: Path) -> AsyncIterator[Served]:
    """A server in this process."""
    path = open_path / "aruntime.sock"
    seen = Seen()
    with bound_socket(path, "") as listening:
        commands = CommandServer(listening, KNOWN, seen)
        async with trio.open_nursery() as nursery:
            await nursery.start(commands.run)
            yield Served(path, seen)
            nursery.cancel_scope.cancel()


class Terminal:
    """A pseudo-terminal: its slave side is the client's, we are the user."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        termios.tcsetwinsize(self.slave, (30, 100))

    async def read_until(self, text: bytes) -> bytes:
        """Read what the client prints up to a text."""
        seen = b""
        with trio.fail_after(30):
            while text not in seen:
                await trio.lowlevel.wait_readable(self.master)
                try:
                    seen += os.read(self.master, 4096)
                except BlockingIOError:
                    continue
        return seen

    def local_flags(self) -> int:
        """The terminal's local modes (ICANON, ECHO, ISIG)."""
        flags: int = termios.tcgetattr(self.slave)[3]
        return flags


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal of 30 rows and 100 columns."""
    made = Terminal()
    yield made
    os.close(made.master)
    os.close(made.slave)
