"""The maps of sparse files in tar archives: four formats, one record.

Old GNU keeps the map in the header and blocks after it, pax 0.0 and 0.1 in pax records, pax 1.0
in front of the content (GNU tar manual, appendix "Storing Sparse Files"). Pure but for the
``take`` it is given. Every function raises ValueError with a reason when a map is malformed.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aruntime.images import fields

BLOCK = 512
EXTENTS = 1_000_000
"""Most extents of one file."""
FILE_BYTES = 1 << 62


class Map(NamedTuple):
    """Where the pieces of the content belong."""

    extents: list[tuple[int, int]]
    """(offset, length), as found."""
    real_size: int


def old_gnu(block: bytes, take: Callable[[int], bytes]) -> Map:
    """Read the map of an old GNU sparse header (type S); ``take`` gives the blocks after it."""
    extents = _pairs(block[386:482])
    extended = block[482]
    while extended:
        more = take(BLOCK)
        if len(more) < BLOCK:
            raise ValueError("the archive ends in a sparse map")
        extents += _pairs(more[:504])
        extended = more[504]
        _check_count(len(extents))
    return Map(extents, fields.number(block[483:495]))


def _pairs(block: bytes) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for at in range(0, len(block) - 23, 24):
        if not block[at]:
            break
        found.append((fields.number(block[at : at + 12]), fields.number(block[at + 12 : at + 24])))
    return found


def pax(records: dict[str, bytes], take_block: Callable[[], bytes]) -> Map | None:
    """Read the map that pax records announce; None if the file is not sparse.

    Args:
        records: of the entry.
        take_block: takes one block off the content (format 1.0 begins it with the map).
    """
    if "GNU.sparse.major" in records:
        if (records["GNU.sparse.major"], records.get("GNU.sparse.minor")) != (b"1", b"0"):
            raise ValueError("a sparse format newer than 1.0")
        return Map(
            _leading_map(take_block), fields.decimal(records.get("GNU.sparse.realsize", b""))
        )
    if "GNU.sparse.map" in records:
        numbers = [fields.decimal(text) for text in records["GNU.sparse.map"].split(b",")]
        if len(numbers) % 2:
            raise ValueError("a sparse map of odd length")
        real_size = fields.decimal(records.get("GNU.sparse.size", b""))
        return Map(list(zip(numbers[::2], numbers[1::2], strict=True)), real_size)
    return None


def _leading_map(take_block: Callable[[], bytes]) -> list[tuple[int, int]]:
    """Read decimal lines, padded to a block: the count, then offset and length of each."""
    text = b""
    lines: list[bytes] = []
    wanted = 1
    while len(lines) < wanted:
        head, newline, rest = text.rpartition(b"\n")
        if newline:
            lines += head.split(b"\n")
            text = rest
        if lines and wanted == 1:
            count = fields.decimal(lines[0])
            _check_count(count)
            wanted = 1 + 2 * count
        if len(lines) < wanted:
            text += take_block()
    numbers = [fields.decimal(line) for line in lines[1:wanted]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_count(count: int) -> None:
    if count > EXTENTS:
        raise ValueError(f"more than {EXTENTS} sparse extents")


def check(found: Map, content: int) -> None:
    """Check that the extents ascend, do not overlap, and add up to the content.

    Args:
        found: the map.
        content: bytes of content that follow.
    """
    _check_count(len(found.extents))
    end = 0
    for offset, length in found.extents:
        if length < 0 or offset < end or offset + length > found.real_size:
            raise ValueError("sparse extents overlap or lie outside the file")
        end = offset + length
    if found.real_size > FILE_BYTES:
        raise ValueError("a sparse file is too large")
    if sum(length for _, length in found.extents) != content:
        raise ValueError("the sparse map does not add up to the content")
