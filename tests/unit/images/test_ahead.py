"""Pieces that a thread reads ahead."""

from __future__ import annotations

import threading

import pytest

from aruntime.errors import InvalidArchive
from aruntime.images.ahead import LARGE_BYTES, PIECES, Ahead


def test_all_pieces_in_their_order_then_the_end() -> None:
    """As often as asked."""
    pieces = [bytes([n]) for n in range(50)]
    left = iter([*pieces, b""])

    with Ahead(lambda: next(left)) as ahead:
        assert [ahead.read() for _ in pieces] == pieces
        assert (ahead.read(), ahead.read()) == (b"", b"")


def test_a_failure_comes_where_it_happened() -> None:
    """After the pieces before it."""

    def read() -> bytes:
        if not left:
            raise InvalidArchive("cut off")
        return left.pop()

    left = [b"2", b"1"]
    with Ahead(read) as ahead:
        assert (ahead.read(), ahead.read()) == (b"1", b"2")
        with pytest.raises(InvalidArchive, match="cut off"):
            ahead.read()


def test_no_more_than_a_few_wait_and_the_thread_ends() -> None:
    """Memory is bounded; a reader that gives up leaves no thread behind."""
    before = threading.active_count()
    read = threading.Semaphore(0)
    count = 0

    def source() -> bytes:
        nonlocal count
        count += 1
        read.release()
        return b"x"

    with Ahead(source) as ahead:
        for _ in range(PIECES + 1):
            assert read.acquire(timeout=10)
        assert not read.acquire(timeout=0.05)
        assert count == PIECES + 1
        ahead.read()
        assert read.acquire(timeout=10)
    assert threading.active_count() == before


def test_a_large_piece_waits_alone() -> None:
    """What little input makes of much is not made four times over."""
    count = 0

    def source() -> bytes:
        nonlocal count
        count += 1
        return bytes(LARGE_BYTES + 1)

    with Ahead(source) as ahead:
        for number in (1, 2, 3):
            assert len(ahead.read()) > LARGE_BYTES
            assert count <= number + 1
