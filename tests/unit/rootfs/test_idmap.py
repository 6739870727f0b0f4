"""Ranges of ids: no two containers share one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import Unavailable
from aruntime.rootfs import idmap

RANGES = st.lists(
    st.tuples(st.integers(0, 2**31), st.integers(1, 200_000)),
    max_size=20,
)


def test_first_range() -> None:
    """The first container gets the beginning of the pool, with 65536 ids."""
    assert idmap.allocate([]) == (1879048192, 65536)


def test_gap_is_used_again() -> None:
    """The range of a removed container goes to the next one."""
    first, size = idmap.POOL_FIRST, idmap.RANGE_SIZE
    taken = [(first + 2 * size, size), (first, size)]

    assert idmap.allocate(taken) == (first + size, size)


def test_gap_that_is_too_narrow() -> None:
    """Old ranges of another size leave gaps that do not fit."""
    taken = [(10, 5), (16, 3), (30, 1)]

    assert idmap.allocate(taken, size=5, first=10, end=40) == (19, 5)


def test_pool_is_finite() -> None:
    """Every range of the pool can be had, and then no more."""
    taken: list[tuple[int, int]] = []
    with pytest.raises(Unavailable, match="remove containers"):
        while True:
            taken.append(idmap.allocate(taken))

    assert len(taken) == len(set(taken)) == 4094
    assert taken[-1][0] + taken[-1][1] == idmap.POOL_END <= 2**31 - 65536


@given(RANGES, st.integers(1, 100_000))
def test_never_overlaps(taken: list[tuple[int, int]], size: int) -> None:
    """Whatever is taken, in the pool or around it, the new range touches none of it."""
    first, count = idmap.allocate(taken, size=size, end=2**33)

    assert count == size
    assert first >= idmap.POOL_FIRST
    for other, length in taken:
        assert first + count <= other or other + length <= first


def test_id_map() -> None:
    """A range is root's and everybody's inside."""
    assert idmap.id_map((5000, 100)) == [[0, 5000, 100]]
