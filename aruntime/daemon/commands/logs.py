"""logs: what a container wrote, whole, its tail, from a moment on, and as it grows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING

import trio

from aruntime.container import logfile
from aruntime.daemon import log_reader
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.values import parse_moment
from aruntime.daemon.log_reader import Line, LineSplitter
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

BATCH_BYTES = 1 << 16


def moment(parsed: Parsed, flag: str, now_ns: int, default: int) -> int:
    """Return the moment that a flag names in Unix nanoseconds, the default if it is not given.

    Raises:
        InvalidParameter: it names none.
    """
    try:
        return parse_moment(parsed.string(flag), now_ns) if parsed.string(flag) else default
    except ValueError as error:
        raise InvalidParameter(str(error)) from None


def parse_tail(text: str) -> int | None:
    """Return the number of lines of ``--tail``, None for all of them.

    Raises:
        InvalidParameter: neither a number nor ``all``.
    """
    if text == "all":
        return None
    if text.lstrip("-").isdigit():
        return None if int(text) < 0 else int(text)
    raise InvalidParameter(f"invalid value for --tail: {text!r} is neither a number nor all")


def render(line: Line, *, timestamps: bool) -> bytes:
    """Return a line as it is printed."""
    if not timestamps:
        return line.content
    return log_reader.rfc3339_nano(line.time_ns).encode() + b" " + line.content


async def write_lines(session: Session, lines: Iterator[Line], *, timestamps: bool) -> None:
    """Write lines to the client's stdout and stderr, in batches, off the loop while reading."""
    while True:
        batch = await trio.to_thread.run_sync(next_batch, lines, timestamps)
        if not batch:
            return
        for stream, content in batch:
            await (session.err if stream == logfile.STDERR else session.out)(content)


def next_batch(lines: Iterator[Line], timestamps: bool) -> list[tuple[int, bytes]]:
    """Return up to 64 KiB of output as (stream, bytes), neighbours of one stream joined."""
    batch: list[tuple[int, list[bytes]]] = []
    size = 0
    for line in lines:
        if not batch or batch[-1][0] != line.stream:
            batch.append((line.stream, []))
        content = render(line, timestamps=timestamps)
        batch[-1][1].append(content)
        size += len(content)
        if size >= BATCH_BYTES:
            break
    return [(stream, b"".join(parts)) for stream, parts in batch]


async def run_logs(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show the log of a container."""
    container = daemon.supervisor.find(parsed.args[0])
    now = time.time_ns()
    since = moment(parsed, "since", now, 0)
    until = moment(parsed, "until", now, 0)
    tail = parse_tail(parsed.string("tail"))
    timestamps = parsed.boolean("timestamps")
    sink = container.sink
    if sink is not None or parsed.boolean("follow"):
        session.open_ended = True
    with contextlib.ExitStack() as opened:
        place: log_reader.Place | None = None
        if sink is not None:
            place = await trio.to_thread.run_sync(partial(log_reader.Place, sink, stored=True))
            opened.callback(place.close)
            files = place.stored
        else:
            files = await trio.to_thread.run_sync(log_reader.open_files, container.directory)
            for file in files:
                opened.callback(file.close)
        lines = log_reader.stored_lines(files, since_ns=since, until_ns=until, tail=tail)
        await write_lines(session, lines, timestamps=timestamps)
        if parsed.boolean("follow") and place is not None:
            async with contextlib.aclosing(place.follow()) as chunks:
                await follow(session, chunks, until=until, timestamps=timestamps)
    return 0


async def follow(
    session: Session, chunks: AsyncIterator[log_reader.Chunk], *, until: int, timestamps: bool
) -> None:
    """Write what comes: raw chunks at once, or whole lines when each gets a time."""
    splitter = LineSplitter()
    async for chunk in chunks:
        if until and chunk.time_ns > until:
            return
        write = session.err if chunk.stream == logfile.STDERR else session.out
        if not timestamps:
            await write(chunk.content)
            continue
        lines = [render(line, timestamps=True) for line in splitter.feed(chunk)]
        if lines:
            await write(b"".join(lines))
    for line in splitter.rest():
        write = session.err if line.stream == logfile.STDERR else session.out
        await write(render(line, timestamps=True))


COMMANDS = [
    Command(
        "logs", "Fetch the logs of a container", run_logs, "CONTAINER",
        (
            Flag("follow", "f", "bool", help="Follow log output"),
            Flag("since", "", "string", None, "string",
                 "Show logs since timestamp (e.g. 2026-01-02T13:23:37Z) or relative (e.g. 42m)"),
            Flag("tail", "n", "string", "all", "string", "Number of lines to show from the end"),
            Flag("timestamps", "t", "bool", help="Show timestamps"),
            Flag("until", "", "string", None, "string", "Show logs before a timestamp"),
        ),
        minimum=1, maximum=1, section="common", completes="containers",
    ),
]  # fmt: skip
