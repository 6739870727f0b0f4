"""The log of a container: moving, indexing, rotating, reading, following."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from aruntime.container import logfile
from aruntime.container.config import LogOptions
from aruntime.daemon import log_reader
from aruntime.daemon.pump import LogSink, Pump, Source


def make_sink(directory: Path, options: LogOptions | None = None) -> LogSink:
    """Open a log and return its sink."""
    log_fd, index_fd = logfile.open_log(str(directory))
    return LogSink(str(directory), options or LogOptions(), log_fd=log_fd, index_fd=index_fd)


def write_chunks(directory: Path, chunks: list[tuple[int, bytes]]) -> None:
    """Put chunks into a log through real pipes."""
    log_fd, index_fd = logfile.open_log(str(directory))
    for stream, content in chunks:
        read_fd, write_fd = os.pipe()
        os.write(write_fd, content)
        assert logfile.move_chunk(read_fd, log_fd, index_fd, stream) == len(content)
        os.close(read_fd)
        os.close(write_fd)
    os.close(log_fd)
    os.close(index_fd)


def contents(directory: Path, tail: int | None = None) -> list[bytes]:
    """Return the lines of a log."""
    files = log_reader.open_files(str(directory))
    found = [line.content for line in log_reader.stored_lines(files, tail=tail)]
    for file in files:
        file.close()
    return found


def test_lines_are_put_together_per_stream(tmp_path: Path) -> None:
    """A line split by a chunk of the other stream is one line again when read."""
    write_chunks(tmp_path, [(0, b"one\ntw"), (1, b"error\n"), (0, b"o\nthree")])

    (file,) = log_reader.open_files(str(tmp_path))
    lines = list(log_reader.stored_lines([file]))
    file.close()

    assert [(line.stream, line.content) for line in lines] == [
        (0, b"one\n"),
        (1, b"error\n"),
        (0, b"two\n"),
        (0, b"three"),
    ]


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 5, 50, 99, 100, 101, 1000])
def test_tail_is_the_end_of_all(tmp_path: Path, tail: int) -> None:
    """The tail equals the last lines of the whole, wherever chunks begin."""
    text = b"".join(b"line %d\n" % number for number in range(100))
    write_chunks(tmp_path, [(0, text[start : start + 7]) for start in range(0, len(text), 7)])

    whole = contents(tmp_path)

    assert contents(tmp_path, tail=tail) == (whole[-tail:] if tail else [])


def test_record_without_bytes_is_skipped(tmp_path: Path) -> None:
    """A process killed between index and splice leaves a record that nobody sees."""
    write_chunks(tmp_path, [(0, b"a\n")])
    with open(tmp_path / "log.index", "ab") as index:
        index.write(logfile.RECORD.pack(1, 2 << 2))
    write_chunks(tmp_path, [(0, b"b\n")])

    assert contents(tmp_path) == [b"a\n", b"b\n"]


def test_torn_record_is_cut_off_on_open(tmp_path: Path) -> None:
    """A record that a full disk tore does not shift those that follow."""
    write_chunks(tmp_path, [(0, b"a\n")])
    with open(tmp_path / "log.index", "ab") as index:
        index.write(b"\x01\x02\x03")
    write_chunks(tmp_path, [(0, b"b\n")])

    assert contents(tmp_path) == [b"a\n", b"b\n"]


@contextlib.asynccontextmanager
async def running_pump() -> AsyncIterator[Pump]:
    """Run a pump for the length of the block."""
    pump = Pump()
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        yield pump
        nursery.cancel_scope.cancel()
    pump.close()


async def test_pump_moves_both_streams_and_ends(tmp_path: Path) -> None:
    """What is written to the pipes is in the log when the sink says finished."""
    sink = make_sink(tmp_path)
    async with running_pump() as pump:
        for stream, text in ((0, b"out\n"), (1, b"err\n")):
            read_fd, write_fd = os.pipe()
            pump.add(Source(sink, read_fd, stream))
            os.write(write_fd, text)
            os.close(write_fd)
        with trio.fail_after(60):
            await sink.finished.wait()
    sink.close()

    assert sorted(contents(tmp_path)) == [b"err\n", b"out\n"]


async def test_follow_sees_all_over_rotation(tmp_path: Path) -> None:
    """A follower misses nothing and sees nothing twice while the log is rotated."""
    sink = make_sink(tmp_path, LogOptions(max_size=4096, max_file=3))
    read_fd, write_fd = os.pipe()
    expected = b"".join(b"number %06d\n" % number for number in range(3000))
    seen = bytearray()

    async def reader(*, task_status: trio.TaskStatus[None]) -> None:
        with contextlib.closing(log_reader.Place(sink)) as place:
            task_status.started()
            async for chunk in place.follow():
                seen.extend(chunk.content)

    async with running_pump() as pump, trio.open_nursery() as nursery:
        pump.add(Source(sink, read_fd, 0))
        await nursery.start(reader)
        for start in range(0, len(expected), 500):
            os.write(write_fd, expected[start : start + 500])
            with trio.fail_after(60):
                while len(seen) < start:  # the writer waits: rotated files are deleted
                    await trio.lowlevel.checkpoint()
        os.close(write_fd)
    sink.close()

    assert bytes(seen) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log",
        "log.1",
        "log.2",
        "log.index",
        "log.index.1",
        "log.index.2",
    ]


async def written(tmp_path: Path, sink: LogSink, content: bytes) -> None:
    """Have the pump move something into a log, to its end."""
    read_fd, write_fd = os.pipe()
    async with running_pump() as pump:
        pump.add(Source(sink, read_fd, 0))
        for start in range(0, len(content), 1000):
            await trio.to_thread.run_sync(os.write, write_fd, content[start : start + 1000])
        os.close(write_fd)
        with trio.fail_after(60):
            await sink.finished.wait()


@pytest.mark.parametrize("kept", [20, 3])
async def test_a_place_is_one_whatever_was_rotated_since(tmp_path: Path, kept: int) -> None:
    """Who follows late finds the rest of the file, and all that are kept of those after it."""
    write_chunks(tmp_path, [(0, b"before\n")])
    sink = make_sink(tmp_path, LogOptions(max_size=4096, max_file=kept))
    expected = b"".join(b"number %06d\n" % number for number in range(3000))
    with contextlib.closing(log_reader.Place(sink, stored=True)) as place:
        assert os.lseek(sink.log_fd, 0, os.SEEK_END) == len(b"before\n")
        await written(tmp_path, sink, expected)
        rotations = sink.generation - place.generation
        stored = [line.content for line in log_reader.stored_lines(place.stored)]
        followed = b"".join([chunk.content async for chunk in place.follow()])
        assert sink.generation == place.generation
    sink.close()

    assert rotations > 5
    assert stored == [b"before\n"]
    kept_files = len(log_reader.generations(str(tmp_path)))
    if kept == 20:
        assert kept_files > 5
        assert followed == expected
    else:
        # The end of the first file, which was open, and whole files from the oldest that is kept.
        assert kept_files == 3
        first = followed[: followed.index(b"\n", 4000) + 1]
        assert expected.startswith(first)
        assert expected.endswith(followed[-8192:])
        assert len(followed) < len(expected)


async def test_the_rest_of_a_log_that_was_rotated(tmp_path: Path) -> None:
    """A container that has ended is read to its end, over all files, without waiting."""
    sink = make_sink(tmp_path, LogOptions(max_size=4096, max_file=20))
    expected = b"".join(b"number %06d\n" % number for number in range(1000))
    with contextlib.closing(log_reader.Place(sink)) as place:
        await written(tmp_path, sink, expected)
        sink.close()
        assert b"".join(chunk.content for chunk in place.rest()) == expected


async def test_follow_hears_of_what_comes_while_it_is_read(tmp_path: Path) -> None:
    """Growth while a follower is busy with earlier chunks is not missed."""
    sink = make_sink(tmp_path)
    seen = []

    with trio.fail_after(60), contextlib.closing(log_reader.Place(sink)) as place:
        write_chunks(tmp_path, [(0, b"early")])
        async with contextlib.aclosing(place.follow()) as chunks:
            async for chunk in chunks:
                seen.append(chunk.content)
                if len(seen) == 1:
                    write_chunks(tmp_path, [(0, b"late")])
                    sink.wake()
                if len(seen) == 2:
                    break

    assert seen == [b"early", b"late"]
    sink.close()


async def test_discard_ends_a_pipe_that_is_still_held(tmp_path: Path) -> None:
    """A sink can be given up while a stranger holds the write end."""
    sink = make_sink(tmp_path)
    read_fd, write_fd = os.pipe()
    async with running_pump() as pump:
        pump.add(Source(sink, read_fd, 0))
        with trio.fail_after(60):
            await pump.discard(sink)
            await sink.finished.wait()
    os.close(write_fd)
    sink.close()


def test_rfc3339_nano() -> None:
    """Times are printed as docker prints them."""
    assert log_reader.rfc3339_nano(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"
