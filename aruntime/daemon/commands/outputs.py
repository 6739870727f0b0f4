"""Where a command's bytes go: a file of the client's, opened at its own rights, or its stdout.

A regular file is written in a worker thread; a pipe or a terminal may make one wait for ever, so
those are written on the event loop. What a failed command has written so far stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from aruntime.daemon.commands.flags import PROGRAM
from aruntime.daemon.session import Session
from aruntime.errors import UsageError
from aruntime.images.compression import write_all

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
PIPE_BYTES = 1 << 20
MODE = 0o600
"""An image may hold secrets (docker's mode for what ``save -o`` writes)."""

Write = Callable[[bytes], Awaitable[None]]


def check_terminal(session: Session, path: str, command: str) -> None:
    """Refuse to print an archive to a terminal.

    Raises:
        UsageError: it would.
    """
    if not path and session.stdout_tty:
        raise UsageError(
            f"{PROGRAM} {command} writes an archive, not to a terminal: give it a file with -o,"
            " or a pipe"
        )


@contextlib.asynccontextmanager
async def opened(session: Session, path: str) -> AsyncIterator[Write]:
    """Yield what writes to a file of the client's, or to its standard output if path is empty.

    Raises:
        OSError: the client cannot open the file.
    """
    if not path:
        session.open_ended = True
        yield session.out
        return
    fd = await session.open(path, FLAGS, MODE)
    if stat.S_ISREG(os.fstat(fd).st_mode):

        async def write(content: bytes) -> None:
            await trio.to_thread.run_sync(write_all, fd, content)

        try:
            yield write
        finally:
            os.close(fd)
        return
    async with trio.lowlevel.FdStream(fd) as stream:

        async def send(content: bytes) -> None:
            try:
                await stream.send_all(content)
            except trio.BrokenResourceError as error:
                cause = error.__cause__
                number = cause.errno if isinstance(cause, OSError) else errno.EPIPE
                raise OSError(number, os.strerror(number or errno.EIO), path) from error

        yield send


@contextlib.asynccontextmanager
async def descriptor(session: Session, path: str) -> AsyncIterator[int]:
    """Yield a descriptor for a child to write to: a file of the client's, or its stdout.

    Raises:
        OSError: the client cannot open the file.
    """
    if not path:
        async with piped(session) as fd:
            yield fd
        return
    fd = await session.open(path, FLAGS, MODE)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def piped(session: Session) -> AsyncIterator[int]:
    """Yield a descriptor that a child writes to and the client's standard output gets."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # more than one user's share of pipe memory
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    session.open_ended = True
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, reading, session)
            yield writing
            os.close(writing)
            writing = -1
    finally:
        if writing >= 0:
            os.close(writing)


async def _pass_on(fd: int, session: Session) -> None:
    async with trio.lowlevel.FdStream(fd) as pipe:
        while chunk := await pipe.receive_some(PIPE_BYTES):
            await session.out(chunk)


async def copy(chunks: Iterator[bytes], write: Write) -> None:
    """Write pieces that take time to make.

    Raises:
        OSError: the disk refused.
    """
    while (chunk := await trio.to_thread.run_sync(next, chunks, None)) is not None:
        await write(chunk)
