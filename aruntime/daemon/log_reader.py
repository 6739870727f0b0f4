"""Reads the log of a container: whole, its tail, from a moment on, and as it grows.

Reading opens files of its own by path, so it works for exited containers, never touches the
pump's file position and survives rotation. Lines are put together per stream: a chunk boundary
in the middle of a line is not one for the reader. Moving output into the log is the pump's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import trio

from aruntime.container import logfile
from aruntime.daemon.pump import LogSink

READ_BYTES = 1 << 18


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of one stream that were moved at one moment."""

    time_ns: int
    stream: int
    content: bytes


class Line(msgspec.Struct, frozen=True):
    """One line with its line end, or the last part of a stream that does not end in one."""

    time_ns: int
    stream: int
    content: bytes


class LogFile:
    """One pair of log and index, open for reading; :meth:`close` gives the descriptors back."""

    __slots__ = ("_limit", "_log_fd", "_position", "_records")

    def __init__(self, directory: str, generation: int = 0, *, limit: int | None = None) -> None:
        self._limit = limit
        log_path, index_path = logfile.log_paths(directory, generation)
        index_fd = os.open(index_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._log_fd = os.open(log_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(index_fd)
            raise
        self._records = index_fd
        self._position = 0

    def close(self) -> None:
        """Close both files."""
        os.close(self._log_fd)
        os.close(self._records)

    def skip_stored(self) -> int:
        """Let :meth:`new_chunks` start where the log ends now; return that offset."""
        self._position = self._end()
        return self._position

    def chunks(self) -> list[tuple[int, int, int, int]]:
        """Return ``(time_ns, stream, offset, length)`` of all chunks there are now."""
        end = self._end()
        size = os.fstat(self._records).st_size
        return logfile.parse_index(os.pread(self._records, size, 0), end)

    def _end(self) -> int:
        size = os.fstat(self._log_fd).st_size
        return size if self._limit is None else min(size, self._limit)

    def skip_to(self, offset: int) -> None:
        """Let :meth:`new_chunks` start at this offset of the log."""
        self._position = offset

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the log."""
        return os.pread(self._log_fd, length, offset)

    def new_chunks(self) -> Iterator[Chunk]:
        """Yield what was written since the last call, in pieces of at most 256 KiB."""
        for time_ns, stream, offset, length in self._chunks_from(self._position):
            start, end = max(offset, self._position), offset + length
            while start < end:
                content = self.read(start, min(READ_BYTES, end - start))
                if not content:
                    return
                start += len(content)
                self._position = start
                yield Chunk(time_ns, stream, content)

    def _chunks_from(self, position: int) -> list[tuple[int, int, int, int]]:
        """Chunks that reach beyond ``position``: read backwards, the newest are the fewest."""
        end = self._end()
        if end <= position:
            return []
        size = os.fstat(self._records).st_size // logfile.RECORD.size * logfile.RECORD.size
        step = 64 * logfile.RECORD.size
        start = size
        while start > 0:
            start = max(0, start - step)
            step *= 2
            records = os.pread(self._records, size - start, start)
            if start == 0 or (logfile.RECORD.unpack_from(records)[1] >> 2) <= position:
                chunks = logfile.parse_index(records, end)
                return [chunk for chunk in chunks if chunk[2] + chunk[3] > position]
        return []


class Place:
    """A place in a log from which to read on, with the files open; whoever has it closes it.

    Attributes:
        live: the file that is read, of the sink's ``generation`` of that number.
        stored: all files up to the place, the oldest first, if they were asked for.
    """

    __slots__ = ("_sink", "generation", "live", "stored")

    def __init__(self, sink: LogSink, *, stored: bool = False) -> None:
        """Be where the log ends now (blocks for the length of a rotation).

        Args:
            sink: of the log.
            stored: open what is stored, too.

        Raises:
            OSError: the log is gone, or no descriptor is left.
        """
        self._sink = sink
        with sink.rotating:
            self.generation = sink.generation
            self.live = LogFile(sink.directory)
            end = self.live.skip_stored()
            self.stored = open_files(sink.directory, end=end) if stored else []

    @property
    def is_rotated(self) -> bool:
        """Whether newer files than the live one have been begun."""
        return self._sink.generation != self.generation

    def advance(self) -> None:
        """Go on to the next file that is kept (blocks); what was rotated away is skipped.

        Raises:
            OSError: no descriptor is left.
        """
        with self._sink.rotating:
            newest = self._sink.generation
            for back in range(newest - self.generation - 1, -1, -1):
                try:
                    following = LogFile(self._sink.directory, back)
                except FileNotFoundError:
                    continue
                self.live.close()
                self.live, self.generation = following, newest - back
                return
            self.generation = newest

    def rest(self) -> Iterator[Chunk]:
        """Yield what there is from here on (blocks between the files)."""
        while True:
            rotated = self.is_rotated
            yield from self.live.new_chunks()
            if not rotated:
                return
            self.advance()

    async def follow(self) -> AsyncGenerator[Chunk, None]:
        """Yield chunks as the log grows, until all its sources have ended.

        Nothing is skipped when the log is rotated meanwhile, but what is not kept any more.
        """
        sink = self._sink
        with sink.followed():
            while True:
                changed = sink.next_change()
                ended, rotated = sink.finished.is_set(), self.is_rotated
                for chunk in self.live.new_chunks():
                    yield chunk
                if rotated:
                    await trio.to_thread.run_sync(self.advance)
                elif ended:
                    return
                else:
                    await changed.wait()

    def close(self) -> None:
        """Close all files."""
        for file in (self.live, *self.stored):
            file.close()
        self.stored = []


def open_files(directory: str, *, end: int | None = None) -> list[LogFile]:
    """Open all files of a log, the oldest first; the caller closes them.

    Args:
        directory: of the container.
        end: how much of the newest one counts.

    Raises:
        OSError: no descriptor is left.
    """
    opened: list[LogFile] = []
    try:
        for generation in generations(directory):
            with contextlib.suppress(FileNotFoundError):
                opened.append(LogFile(directory, generation, limit=None if generation else end))
    except OSError:
        for file in opened:
            file.close()
        raise
    return opened


def generations(directory: str) -> list[int]:
    """Return the generations of a log, oldest first; the live one is 0."""
    found = [0] if os.path.exists(logfile.log_paths(directory)[0]) else []
    generation = 1
    while os.path.exists(logfile.log_paths(directory, generation)[0]):
        found.append(generation)
        generation += 1
    return sorted(found, reverse=True)


class LineSplitter:
    """Puts the lines of each stream together out of chunks."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: dict[int, tuple[int, bytes]] = {}

    def feed(self, chunk: Chunk) -> Iterator[Line]:
        """Yield the lines that a chunk completes; a line has the time of its beginning."""
        time_ns, content = chunk.time_ns, chunk.content
        held = self._partial.pop(chunk.stream, None)
        for line in split_lf(content):
            whole = line
            began = time_ns
            if held is not None:
                began, whole = held[0], held[1] + line
                held = None
            if whole.endswith(b"\n"):
                yield Line(began, chunk.stream, whole)
            else:
                held = (began, whole)
        if held is not None:
            self._partial[chunk.stream] = held

    def rest(self) -> Iterator[Line]:
        """Yield what is left without a line end, oldest first."""
        for stream, (time_ns, content) in sorted(self._partial.items(), key=lambda item: item[1]):
            yield Line(time_ns, stream, content)
        self._partial.clear()


def split_lf(content: bytes) -> list[bytes]:
    """Split after line feeds only: carriage returns belong to the line."""
    parts = content.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    if parts[-1]:
        lines.append(parts[-1])
    return lines


def stored_lines(
    files: Sequence[LogFile],
    *,
    since_ns: int = 0,
    until_ns: int = 0,
    tail: int | None = None,
) -> Iterator[Line]:
    """Yield the lines of some files, in the order they were written.

    Args:
        files: the oldest first (:func:`open_files`); they stay the caller's, and open until the
            last line was taken.
        since_ns, until_ns: Unix times, 0 means no bound.
        tail: keep so many of the last lines.
    """
    if tail == 0:
        return
    skip = 0
    start: tuple[int, int] | None = None
    if tail is not None and not since_ns and not until_ns:
        start, skip = tail_start(files, tail)
    lines = lines_from(files, start)
    if skip:
        for _ in range(skip):
            next(lines, None)
    selected = (
        line
        for line in lines
        if line.time_ns >= since_ns and (not until_ns or line.time_ns <= until_ns)
    )
    if tail is not None and (since_ns or until_ns):
        kept = list(selected)
        yield from kept[-tail:]
    else:
        yield from selected


def lines_from(files: Sequence[LogFile], start: tuple[int, int] | None) -> Iterator[Line]:
    """Yield lines from a place (index of the file, offset) on, or from the very beginning."""
    splitter = LineSplitter()
    first, offset = start if start is not None else (0, 0)
    for number, log in enumerate(files[first:]):
        log.skip_to(0 if number else offset)
        for chunk in log.new_chunks():
            yield from splitter.feed(chunk)
    yield from splitter.rest()


def tail_start(files: Sequence[LogFile], tail: int) -> tuple[tuple[int, int] | None, int]:
    """Find the chunk at which the last ``tail`` lines begin.

    Returns its place and how many lines to skip there. Counting goes backwards chunk by chunk, so
    the tail of a large log costs as much as the tail alone.
    """
    counted = 0
    for number in range(len(files) - 1, -1, -1):
        for _, _, offset, length in reversed(files[number].chunks()):
            content = files[number].read(offset, length)
            counted += content.count(b"\n") + (counted == 0 and not content.endswith(b"\n"))
            # One more line than asked for: the first may have begun in an earlier chunk.
            if counted > tail:
                return (number, offset), counted - tail
    return None, max(0, counted - tail)


def rfc3339_nano(time_ns: int) -> str:
    """Return a time as docker's logs print it: UTC with nine decimals."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
