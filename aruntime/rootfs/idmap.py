"""Ranges of host ids for ``--userns auto``: one per container, none twice. Pure.

The pool is the part of the 31-bit ids that nobody else claims: systemd leaves 1879048192 to
2147352575 unused (systemd.io/UIDS-GIDS), and subordinate ids of users (/etc/subuid) and
systemd-nspawn lie below. A container keeps its range for life, since its files carry the ids:
the daemon stores it, and hands all stored ranges in as taken.
"""

from __future__ import annotations

from collections.abc import Iterable

from aruntime.errors import Unavailable

RANGE_SIZE = 65536
"""Ids 0 … 65535 inside: what every distribution's files and ``nobody`` (65534) need."""
POOL_FIRST = 0x7000_0000
POOL_END = 0x7FFE_0000
"""One past the last id of the pool; room for 4094 ranges."""


def allocate(
    taken: Iterable[tuple[int, int]],
    *,
    size: int = RANGE_SIZE,
    first: int = POOL_FIRST,
    end: int = POOL_END,
) -> tuple[int, int]:
    """Return the lowest free range as (first id, size).

    Args:
        taken: ranges in use, (first id, size), in any order; they may lie outside of the pool.
        size: how many ids.
        first, end: the pool, ``end`` excluded.

    Raises:
        Unavailable: no gap is wide enough.
    """
    start = first
    for other, count in sorted(taken):
        if start + size <= other:
            break
        start = max(start, other + count)
    if start + size > end:
        raise Unavailable(
            f"no range of {size} user ids is free between {first} and {end}: "
            "remove containers made with --userns auto"
        )
    return start, size


def id_map(range_: tuple[int, int]) -> list[list[int]]:
    """Return the rows of uid_map and gid_map: (0 inside, first id outside, count)."""
    return [[0, range_[0], range_[1]]]
