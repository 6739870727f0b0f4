"""Read a tar archive from a stream, strictly: headers in, entries out, nothing touched.

Understands what layers and root file systems are made of: POSIX ustar and pax (extended and
global headers), GNU long names, GNU sparse files (old, 0.0, 0.1, 1.0), numbers in octal and
base 256. Unlike ``tarfile`` it never takes a broken header for the end of the archive, keeps names
as the bytes they are, and bounds whatever an archive can make it hold in memory. What an entry
means for a file system is :mod:`aruntime.images.layers`'s affair.

Formats: POSIX pax (pubs.opengroup.org, utility pax, "ustar Interchange Format" and "pax Header
Block"), GNU tar manual appendix "Tar Internals". Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from aruntime.errors import InvalidArchive
from aruntime.images import fields, sparse

BLOCK = 512
CHUNK = 1 << 20
HEADER_BYTES = 1 << 20
"""Longest extended header or long name (Go's archive/tar has the same limit)."""
ID_LIMIT = (1 << 32) - 1
"""chown(2) takes this number for "leave as it is"."""
ZERO_BLOCK = bytes(BLOCK)

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0123456"
_REGULAR_TYPES = b"0\x007S"
_HEADER_ONLY = b"123456"
_PAX, _PAX_SOLARIS, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _VOLUME = b"xXgLKV"
XATTR_PREFIX = "SCHILY.xattr."


class Entry(NamedTuple):
    """One member of an archive."""

    name: bytes
    """As it stands there, trailing slashes and all."""
    type: int
    """REGULAR, DIRECTORY …"""
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of the content as the reader yields it."""
    mtime_ns: int
    linkname: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    extents: list[tuple[int, int]] | None
    """Sparse files: (offset, length) of each piece of the content, ascending."""
    real_size: int
    """Bytes of the file on disk, holes included."""


def shown(name: bytes) -> str:
    """Return a name as it may stand in a message: one line, not too long, quoted."""
    text = repr(name.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 120 else f"{text[:100]}…{text[-10:]}"


class Truncated(InvalidArchive):
    """The stream ends where something was still to come."""


class Stream:
    """Takes exact pieces off a ``read(count)``; owns nothing."""

    __slots__ = ("_at", "_buffer", "_read")

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Take so many bytes; fewer only at the end of the stream."""
        end = self._at + count
        if end <= len(self._buffer):
            piece = self._buffer[self._at : end]
            self._at = end
            return piece
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[bytes]:
        """Take so many bytes in pieces of any length; fewer only at the end of the stream."""
        while count:
            if self._at == len(self._buffer):
                self._buffer, self._at = self._read(CHUNK), 0
                if not self._buffer:
                    return
            piece = self._buffer[self._at : self._at + count]
            self._at += len(piece)
            count -= len(piece)
            yield piece


class Reader:
    """Yields the entries of one archive; the content of each is taken before the next.

    Args:
        read: ``read(count)`` returns at most so many bytes, none at the end.
        strict_end: an archive without its end marker is refused. Where a digest tells a whole
            archive from a cut one, it need not be.

    Raises:
        InvalidArchive: from any method, when the archive is broken.
    """

    def __init__(self, read: Callable[[int], bytes], *, strict_end: bool) -> None:
        self._stream = Stream(read)
        self._strict_end = strict_end
        self._left = 0
        self._padding = 0
        self._name = b""
        self._global: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def content(self) -> Iterator[bytes]:
        """Yield the content of the current entry in pieces."""
        for piece in self._stream.pieces(self._left):
            self._left -= len(piece)
            yield piece
        if self._left:
            raise Truncated(f"the archive ends in the middle of {shown(self._name)}")

    def drain(self) -> None:
        """Read what follows the end of the archive."""
        while self._stream.take(CHUNK):
            pass

    def _next(self) -> Entry | None:
        extended: dict[str, bytes] = {}
        while True:
            self._finish_entry()
            block = self._header_block()
            if block is None:
                if extended:
                    raise Truncated("the archive ends after an extended header")
                return None
            kind = block[156]
            size = _number(block, 124, 136)
            if kind in (_PAX, _PAX_SOLARIS):
                self._parse_pax(self._take_header(size), extended)
            elif kind == _PAX_GLOBAL:
                self._parse_pax(self._take_header(size), self._global)
            elif kind == _LONG_NAME:
                extended["path"] = self._take_header(size).partition(b"\0")[0]
            elif kind == _LONG_LINK:
                extended["linkpath"] = self._take_header(size).partition(b"\0")[0]
            elif kind == _VOLUME:
                self._expect_content(size)
            else:
                return self._entry(block, kind, size, {**self._global, **extended})

    def _finish_entry(self) -> None:
        """Skip what is left of the content, and the padding."""
        for _ in self.content():
            pass
        if self._padding and len(self._stream.take(self._padding)) < self._padding:
            raise Truncated(f"the archive ends in the padding of {shown(self._name)}")
        self._padding = 0

    def _header_block(self) -> bytes | None:
        """Take the next header; None at the end of the archive."""
        block = self._stream.take(BLOCK)
        if len(block) == BLOCK and block != ZERO_BLOCK:
            _check_sum(block, self._name)
            return block
        if len(block) == BLOCK:
            second = self._stream.take(BLOCK)
            if second in (ZERO_BLOCK, b""):
                return None
            raise InvalidArchive(f"the archive has a damaged header after {shown(self._name)}")
        if block or self._strict_end:
            raise Truncated(
                f"the archive ends without its end marker after {shown(self._name)}"
                if self._name
                else "the input is not a tar archive"
            )
        return None

    def _expect_content(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _take_header(self, size: int) -> bytes:
        """Take the content of an extended header or long name."""
        if size > HEADER_BYTES:
            raise InvalidArchive(
                f"an extended header of {size} bytes after {shown(self._name)} is too long"
            )
        self._expect_content(size)
        return b"".join(self.content())

    def _parse_pax(self, content: bytes, records: dict[str, bytes]) -> None:
        try:
            fields.parse_pax(content, records)
        except ValueError as error:
            raise InvalidArchive(
                f"a pax header after {shown(self._name)} is malformed: {error}"
            ) from None

    def _entry(self, block: bytes, kind: int, size: int, pax: dict[str, bytes]) -> Entry:
        name = pax.get("path") or _block_name(block)
        self._name = name
        if b"\0" in name:
            raise InvalidArchive(f"the name {shown(name)} contains a NUL byte")
        if kind in _REGULAR_TYPES:
            directory = kind in b"\x000" and name.endswith(b"/") and "GNU.sparse.name" not in pax
            kind_read = DIRECTORY if directory else REGULAR
        elif kind in _HEADER_ONLY:
            kind_read = kind
        else:
            raise InvalidArchive(f"{shown(name)} is of unknown type {chr(kind)!r}")
        try:
            entry = _fields(block, kind_read, size, name, pax)
            self._expect_content(entry.size)
            if kind_read == REGULAR:
                entry = self._sparse(entry, block, pax)
        except ValueError as error:
            raise InvalidArchive(f"the header of {shown(name)} is malformed: {error}") from None
        return entry

    def _sparse(self, entry: Entry, block: bytes, pax: dict[str, bytes]) -> Entry:
        """Read the map of a sparse file, which may begin its content."""

        def take(count: int) -> bytes:
            return self._stream.take(count)

        if block[156] == ord("S"):
            found: sparse.Map | None = sparse.old_gnu(block, take)
        else:
            found = sparse.pax(pax, lambda: b"".join(self._take_block()))
        if found is None:
            return entry
        sparse.check(found, self._left)
        name = pax.get("GNU.sparse.name", entry.name)
        return entry._replace(
            name=name, size=self._left, extents=found.extents, real_size=found.real_size
        )

    def _take_block(self) -> Iterator[bytes]:
        if self._left < BLOCK:
            raise ValueError("the sparse map is longer than the content")
        self._left -= BLOCK
        yield from self._stream.pieces(BLOCK)


def _fields(block: bytes, kind: int, size: int, name: bytes, pax: dict[str, bytes]) -> Entry:
    """Read the fields of a header, those of the pax records first. Raises ValueError."""
    if "size" in pax:
        size = fields.decimal(pax["size"])
    if kind in _HEADER_ONLY:
        size = 0
    device = kind in (CHARACTER, BLOCK_DEVICE)
    linkname = pax.get("linkpath") or block[157:257].partition(b"\0")[0]
    if b"\0" in linkname:
        raise ValueError("the link target contains a NUL byte")
    return Entry(
        name=name,
        type=kind,
        mode=_number(block, 100, 108) & 0o7777,
        uid=_owner(pax.get("uid"), block, 108),
        gid=_owner(pax.get("gid"), block, 116),
        size=size,
        mtime_ns=fields.time_ns(pax["mtime"])
        if "mtime" in pax
        else fields.seconds_ns(fields.number(block[136:148])),
        linkname=linkname,
        major=_number(block, 329, 337) if device else 0,
        minor=_number(block, 337, 345) if device else 0,
        xattrs=_xattrs(pax) if pax else {},
        extents=None,
        real_size=size,
    )


def _block_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # GNU tar (magic "ustar  ") and v7 keep other things where POSIX has the prefix.
    if block[257:263] == b"ustar\0" and block[345]:
        return block[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _check_sum(block: bytes, after: bytes) -> None:
    """Check a header's sum, unsigned as POSIX says or signed as some old tars wrote it."""
    try:
        stored = fields.number(block[148:156])
    except ValueError:
        stored = -1
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    if stored == plain:
        return
    signed = plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    if stored != signed:
        raise InvalidArchive(
            f"the archive has a damaged header after {shown(after)}"
            if after
            else "the input is not a tar archive"
        )


def _number(block: bytes, start: int, end: int) -> int:
    try:
        found = fields.number(block[start:end])
    except ValueError as error:
        raise InvalidArchive(
            f"the header of {shown(_block_name(block))} is malformed: {error}"
        ) from None
    if found < 0:
        raise InvalidArchive(f"the header of {shown(_block_name(block))} has a negative number")
    return found


def _owner(pax: bytes | None, block: bytes, start: int) -> int:
    number = fields.decimal(pax) if pax is not None else _number(block, start, start + 8)
    if number >= ID_LIMIT:
        raise ValueError(f"{number} is no user or group id")
    return number


def _xattrs(pax: dict[str, bytes]) -> dict[bytes, bytes]:
    return {
        key.removeprefix(XATTR_PREFIX).encode("utf-8", "surrogateescape"): value
        for key, value in pax.items()
        if key.startswith(XATTR_PREFIX)
    }
