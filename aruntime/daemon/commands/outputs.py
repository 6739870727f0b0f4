"""Where a command's bytes go: a file of the client's, opened at its own rights, or its stdout.

A regular file is written in a worker thread; a pipe or a terminal may make one wait for ever, so
those are written on the event loop. What a failed command has written so far stays.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from aruntime.daemon.commands.flags import PROGRAM
from aruntime.daemon.session import Session
from aruntime.errors import UsageError
from aruntime.images.compression import write_all

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
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
        yield stream.send_all


async def copy(chunks: Iterator[bytes], write: Write) -> None:
    """Write pieces that take time to make.

    Raises:
        OSError: the disk refused.
    """
    while (chunk := await trio.to_thread.run_sync(next, chunks, None)) is not None:
        await write(chunk)
