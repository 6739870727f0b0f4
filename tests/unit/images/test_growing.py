"""A file that is read while another writes it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from aruntime.errors import Unavailable
from aruntime.images.ahead import Ahead
from aruntime.images.growing import Growing, Watch
from aruntime.kernel import inotify
from tests.harness import wait_until

CONTENT = bytes(range(256)) * 20


@contextlib.contextmanager
def growing(fd: int, size: int, alive: Callable[[], None] = lambda: None) -> Iterator[Growing]:
    """Yield what reads a file that will have so many bytes."""
    with contextlib.closing(Watch(fd)) as watch:
        yield Growing(fd, size, watch, alive)


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Yield descriptors of an empty file, to be written and to be read."""
    path = tmp_path / "blob"
    writing = os.open(path, os.O_WRONLY | os.O_CREAT)
    reading = os.open(path, os.O_RDONLY)
    yield writing, reading
    os.close(writing)
    os.close(reading)


def read_all(source: Growing) -> list[bytes]:
    """Read to the end."""
    pieces = []
    while piece := source.read():
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize("refused", ["", "inotify_init", "add_watch"])
def test_what_comes_is_read_as_it_comes(
    fds: tuple[int, int], refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the size it is to have, however long it takes; also when no queue or watch is left."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    if refused:
        monkeypatch.setattr(inotify, refused, refuse)
    writing, reading = fds
    with growing(reading, len(CONTENT)) as source, ThreadPoolExecutor() as reader:
        pieces = reader.submit(read_all, source)
        for start in range(0, len(CONTENT), 1024):
            os.write(writing, CONTENT[start : start + 1024])
            wait_until(partial(is_read, source, start + 1024))

        assert b"".join(pieces.result(10)) == CONTENT


def is_read(source: Growing, size: int) -> bool:
    """Whether so much was read, as far as there is."""
    return source.size == min(size, len(CONTENT))


def test_it_ends_at_its_size(fds: tuple[int, int]) -> None:
    """What would follow is not its own."""
    writing, reading = fds
    os.write(writing, CONTENT)

    with growing(reading, 100) as source:
        assert b"".join(read_all(source)) == CONTENT[:100]


def test_a_file_that_begins_anew_goes_on_where_it_was(fds: tuple[int, int]) -> None:
    """What is behind the place that was reached is waited for, not the end of the file."""
    writing, reading = fds
    os.write(writing, CONTENT[:2000])
    with growing(reading, len(CONTENT)) as source, ThreadPoolExecutor() as reader:
        assert source.read() == CONTENT[:2000]
        os.ftruncate(writing, 0)
        os.lseek(writing, 0, os.SEEK_SET)
        pieces = reader.submit(read_all, source)
        os.write(writing, CONTENT[:1000])
        os.write(writing, CONTENT[1000:])

        assert b"".join(pieces.result(10)) == CONTENT[2000:]


def test_who_gives_up_does_not_wait_for_the_rest(fds: tuple[int, int]) -> None:
    """The thread that reads ahead ends, though nothing comes any more."""
    before = threading.active_count()

    with growing(fds[1], 1) as source, Ahead(source.read, source.give_up):
        pass

    assert threading.active_count() == before


def test_a_daemon_that_is_gone_ends_the_wait(fds: tuple[int, int]) -> None:
    """Asked now and then, as of a pipe."""

    def alive() -> None:
        raise Unavailable("the daemon is gone")

    with growing(fds[1], 1, alive) as source, pytest.raises(Unavailable, match="gone"):
        source.read()
