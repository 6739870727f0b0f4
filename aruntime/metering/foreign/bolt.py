"""Reading a bolt database without its library, its lock, or a write.

Bolt (go.etcd.io/bbolt) is one file of pages: two alternating meta pages, and B+ trees of branch and
leaf pages. A commit writes new pages and then one meta page, so the tree below the newer valid meta
page is whole; pages are used again only after a later commit, which the reader notices by the
meta page having changed and then starts over. A lock is not needed for that, and taking one would
make the program that owns the file wait.

    page    u64 id, u16 flags, u16 count, u32 overflow (further pages), then the elements
    branch  count × (u32 offset of the key, u32 its length, u64 page)
    leaf    count × (u32 flags, u32 offset of the key, u32 key length, u32 value length)
    bucket  a leaf's value: u64 root page, u64 sequence; root 0: one leaf page follows in place
    meta    u32 magic, version, page size, flags, then the root bucket, u64 free list, u64 end,
            u64 transaction, u64 FNV-1a of all before

Numbers are of the machine's byte order. Offsets count from their element.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from functools import partial

MAGIC = 0xED0CDAED
VERSION = 2
_META = struct.Struct("=IIIIQQQQQQ")
_PAGE = struct.Struct("=QHHI")
_BRANCH = struct.Struct("=IIQ")
_LEAF = struct.Struct("=IIII")
_BUCKET = struct.Struct("=QQ")
_IS_BRANCH, _IS_LEAF = 0x01, 0x02
_HOLDS_BUCKET = 0x01
_META_PLACES = (0, 4096, 8192, 16384, 65536)
"""The second meta page stands after the first, of whatever size the pages are."""
_MAX_DEPTH = 64
"""Of a tree: a damaged file may lead in circles."""
_MAX_OVERFLOW = 4096
"""Pages of one value: a damaged file may claim any number."""
ATTEMPTS = 5
"""At one moment's content, against a writer that commits all the time."""


class Damaged(ValueError):
    """The bytes are no bolt database, or not of one moment."""


Read = Callable[[int, int], bytes]
"""Offset and length to the bytes there, fewer at the end of the file."""


class Snapshot:
    """A bolt file as of its last commit; pages are read when they are needed.

    Args:
        read: reads the file.

    Raises, when made:
        Damaged: neither meta page is valid.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        metas = [meta for place in _META_PLACES if (meta := self._meta(place)) is not None]
        if not metas:
            raise Damaged("no valid meta page")
        self.transaction, self._page_size, self._root = max(metas)

    def get(self, buckets: Sequence[bytes], key: bytes) -> bytes | None:
        """Return the value of a key in nested buckets, None if a bucket or the key is missing.

        Raises:
            Damaged: the pages do not hang together.
        """
        try:
            page = self._page(self._root)
            for name in buckets:
                flags, value = self._find(page, name)
                if value is None or not flags & _HOLDS_BUCKET:
                    return None
                root, _ = _BUCKET.unpack_from(value)
                page = self._page(root) if root else value[_BUCKET.size :]
            flags, value = self._find(page, key)
        except struct.error as error:
            raise Damaged(str(error)) from error
        return None if flags & _HOLDS_BUCKET else value

    def _meta(self, place: int) -> tuple[int, int, int] | None:
        """Transaction, page size and root page of a meta page; None if it is not valid."""
        content = self._read(place + _PAGE.size, _META.size)
        if len(content) < _META.size:
            return None
        magic, version, page_size, _, root, _, _, _, transaction, checksum = _META.unpack(content)
        if magic != MAGIC or version != VERSION or place not in (0, page_size):
            return None
        return (transaction, page_size, root) if checksum == fnv1a(content[:-8]) else None

    def _page(self, number: int) -> bytes:
        """A page with those that it overflows into."""
        start = number * self._page_size
        first = self._read(start, self._page_size)
        _, _, _, overflow = _PAGE.unpack_from(first)
        if not overflow:
            return first
        if overflow > _MAX_OVERFLOW:
            raise Damaged(f"a value of {overflow} pages")
        return first + self._read(start + self._page_size, overflow * self._page_size)

    def _find(self, page: bytes, key: bytes) -> tuple[int, bytes | None]:
        """Flags and value of a key below a page."""
        for _ in range(_MAX_DEPTH):
            _, flags, count, _ = _PAGE.unpack_from(page)
            if flags & _IS_LEAF:
                return _find_in_leaf(page, count, key)
            if not flags & _IS_BRANCH or not count:
                raise Damaged(f"page flags {flags:#x}")
            below = 0
            for place in range(count):
                start = _PAGE.size + place * _BRANCH.size
                offset, length, number = _BRANCH.unpack_from(page, start)
                if place and page[start + offset : start + offset + length] > key:
                    break
                below = number
            page = self._page(below)
        raise Damaged("the tree leads in a circle")


def _find_in_leaf(page: bytes, count: int, key: bytes) -> tuple[int, bytes | None]:
    for place in range(count):
        start = _PAGE.size + place * _LEAF.size
        flags, offset, length, value_length = _LEAF.unpack_from(page, start)
        begin = start + offset
        if length == len(key) and page[begin : begin + length] == key:
            value = page[begin + length : begin + length + value_length]
            if len(value) != value_length:
                raise Damaged("a value goes beyond its page")
            return flags, value
    return 0, None


def fnv1a(content: bytes) -> int:
    """The 64-bit FNV-1a hash, bolt's checksum of a meta page."""
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def get(path: str, buckets: Sequence[bytes], key: bytes) -> bytes | None:
    """Return a value of a bolt file that its owner may be writing to at this moment.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is no bolt database, or changes faster than it can be read.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        reason = Damaged("never the same for long enough")
        for _ in range(ATTEMPTS):
            try:
                snapshot = Snapshot(partial(_pread, fd))
                value = snapshot.get(buckets, key)
                # What one commit freed is written over by the next but one at the earliest.
                if Snapshot(partial(_pread, fd)).transaction <= snapshot.transaction + 1:
                    return value
            except Damaged as error:
                reason = error
        raise reason
    finally:
        os.close(fd)


def _pread(fd: int, offset: int, length: int) -> bytes:
    return os.pread(fd, length, offset)
