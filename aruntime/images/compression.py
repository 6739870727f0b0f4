"""From a descriptor to plain bytes: copy and digest what comes, decompress it, stop bombs.

The kind of compression is told by its first bytes, never by a name: gzip, zstd, bzip2, xz or
none; several streams one after another are read as one, as their tools do. Truncated and damaged
streams are errors. What the plain bytes mean is :mod:`aruntime.images.tar`'s affair.

Standard library, zstandard once a zstd stream comes, and for gzip Intel's ISA-L (package isal)
where it runs: it takes half of zlib's time.
"""

from __future__ import annotations

import bz2
import errno
import hashlib
import lzma
import os
import select
import stat
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple, Protocol

from aruntime.errors import InvalidArchive

CHUNK = 1 << 20
ALIVE_MILLISECONDS = 500
ZSTD_CHUNK = 1 << 12
"""zstandard cannot bound what one call returns: a block of 128 KiB may take four bytes, so this
much input makes 128 MiB at the worst."""
ZSTD_WINDOW_BYTES = 1 << 27
"""Largest window a stream may ask for; the zstd program's own default limit."""
MAGIC_BYTES = 6
LZMA_MEMORY_BYTES = 1 << 28
RATIO_GRACE_BYTES = 1 << 30
"""An archive may unpack to this much whatever its ratio: sparse tables compress well."""


class Limits(NamedTuple):
    """What one archive may unpack to."""

    stream_bytes: int = 256 << 30
    """Bytes of the plain tar stream."""
    entries: int = 2_000_000
    ratio: int = 200
    """Plain bytes for each compressed one, once RATIO_GRACE_BYTES are exceeded. Layers reach 2
    to 10; gzip allows 1032, zstd thirty thousand."""


class Input:
    """Reads a descriptor to its end, hashing; copies what it reads if asked to.

    Args:
        fd: stays the caller's.
        alive: called now and then; raises to end the work.

    Raises:
        InvalidArchive: from any method, when the descriptor cannot be read.
    """

    def __init__(self, fd: int, alive: Callable[[], None] = lambda: None) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._copy_fd = -1
        self._alive = alive
        self._hash = hashlib.sha256()
        self._peeked = b""
        self.is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self.size = 0
        """Bytes read so far."""

    @property
    def digest(self) -> str:
        """``sha256:…`` of what was read so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def copy_to(self, fd: int) -> None:
        """Write everything to a descriptor too; before anything is taken. Stays the caller's."""
        self._copy_fd = fd
        write_all(fd, self._peeked)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without taking them; fewer at the end."""
        while len(self._peeked) < count:
            more = self._read_some(CHUNK)
            if not more:
                break
            self._peeked += more
        return self._peeked[:count]

    def give_up(self) -> None:
        """Say that nobody wants more, from any thread: a read that waits need not go on."""

    def read(self, count: int = CHUNK) -> bytes:
        """Take at most so many bytes; none at the end."""
        if self._peeked:
            piece, self._peeked = self._peeked[:count], self._peeked[count:]
            return piece
        return self._read_some(count)

    def _read_some(self, count: int) -> bytes:
        self._alive()
        # A pipe may have nothing to say for hours; whether anybody still waits is asked meanwhile.
        while not self._poll.poll(ALIVE_MILLISECONDS):
            self._alive()
        try:
            piece = os.read(self._fd, count)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise InvalidArchive(f"the archive cannot be read: {reason}") from error
        self.size += len(piece)
        self._hash.update(piece)
        if self._copy_fd >= 0:
            write_all(self._copy_fd, piece)
        return piece


def write_all(fd: int, content: bytes) -> None:
    """Write all of it, whatever write(2) takes at a time."""
    written = os.write(fd, content)
    if written < len(content):
        view = memoryview(content)
        while written < len(content):
            written += os.write(fd, view[written:])


class Kind(NamedTuple):
    """One compression."""

    name: str
    magic: bytes
    suffix: str | None
    """Of the media type of a layer (image-spec, layer.md); None where it knows none."""


KINDS = (
    Kind("gzip", b"\x1f\x8b", "+gzip"),
    Kind("zstd", b"\x28\xb5\x2f\xfd", "+zstd"),
    Kind("bzip2", b"BZh", None),
    Kind("xz", b"\xfd7zXZ\0", None),
)
PLAIN = Kind("none", b"", "")


def detect(start: bytes) -> Kind:
    """Tell the compression by the first bytes."""
    return next((kind for kind in KINDS if start.startswith(kind.magic)), PLAIN)


class _Decompressor(Protocol):
    """What zlib, bz2, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def pull(self, chunk: bytes) -> bytes: ...
    @property
    def starved(self) -> bool: ...


def gzip_library() -> ModuleType:
    """Return the fastest module with zlib's interface that is installed.

    An unpacking child imports it before it can no longer see files.
    """
    try:
        from isal import isal_zlib
    except ImportError:  # it knows two architectures
        return zlib
    return isal_zlib


class _Zlib:
    def __init__(self) -> None:
        library = gzip_library()
        self._error: type[Exception] = library.error
        self._one: zlib._Decompress = library.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._one.eof

    @property
    def unused_data(self) -> bytes:
        return self._one.unused_data

    @property
    def starved(self) -> bool:
        return not self._one.unconsumed_tail

    def pull(self, chunk: bytes) -> bytes:
        try:
            return self._one.decompress(self._one.unconsumed_tail + chunk, CHUNK)
        except self._error as error:
            raise zlib.error(str(error)) from None


class _Bounded:
    """bz2 and lzma, which keep unread input themselves."""

    def __init__(self, one: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._one = one

    @property
    def eof(self) -> bool:
        return self._one.eof

    @property
    def unused_data(self) -> bytes:
        return self._one.unused_data

    @property
    def starved(self) -> bool:
        return self._one.needs_input

    def pull(self, chunk: bytes) -> bytes:
        return self._one.decompress(chunk, CHUNK)


class _Zstd:
    starved = True

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        self._one = context.decompressobj()

    @property
    def eof(self) -> bool:
        return self._one.eof

    @property
    def unused_data(self) -> bytes:
        return self._one.unused_data

    def pull(self, chunk: bytes) -> bytes:
        try:
            return self._one.decompress(chunk)
        except self._error as error:
            raise zlib.error(str(error)) from None


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _Zlib,
    "zstd": _Zstd,
    "bzip2": lambda: _Bounded(bz2.BZ2Decompressor()),
    "xz": lambda: _Bounded(lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES)),
}


class _Decompression:
    """Reads the streams of one kind that an input consists of."""

    def __init__(self, source: Input, kind: Kind) -> None:
        self._source = source
        self._kind = kind
        self._one = _MAKERS[kind.name]()
        self._step = ZSTD_CHUNK if kind.name == "zstd" else CHUNK
        self._rest = b""
        self._at = 0

    def read(self, _count: int) -> bytes:
        """Return some plain bytes, however many; none at the end."""
        while True:
            if self._one.eof and not self._next_stream():
                return b""
            chunk = self._chunk() if self._one.starved else b""
            try:
                piece = self._one.pull(chunk)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise InvalidArchive(f"the {self._kind.name} stream is damaged: {error}") from error
            if piece:
                return piece

    def _chunk(self) -> bytes:
        if self._at == len(self._rest):
            self._rest, self._at = self._source.read(CHUNK), 0
            if not self._rest:
                raise InvalidArchive(f"the {self._kind.name} stream is cut off")
        piece = self._rest[self._at : self._at + self._step]
        self._at += len(piece)
        return piece

    def _next_stream(self) -> bool:
        """Begin the stream that follows, if one does; zeros in between are a tape's padding."""
        rest = (self._one.unused_data + self._rest[self._at :]).lstrip(b"\0")
        while len(rest) < MAGIC_BYTES and (more := self._source.read(CHUNK)):
            rest = (rest + more).lstrip(b"\0")
        self._rest, self._at = rest, 0
        if not rest:
            return False
        if detect(rest) != self._kind:
            raise InvalidArchive(f"garbage follows the {self._kind.name} stream")
        self._one = _MAKERS[self._kind.name]()
        return True


class Plain:
    """The plain bytes of an input: decompressed, hashed and held to limits.

    Raises:
        InvalidArchive: from :meth:`read`, when the stream is damaged, cut, or a bomb.
    """

    def __init__(self, source: Input, limits: Limits) -> None:
        self.kind = detect(source.peek(MAGIC_BYTES))
        self._source = source
        self._read = source.read if self.kind == PLAIN else _Decompression(source, self.kind).read
        self._limits = limits
        self._hash = hashlib.sha256()
        self._copy_fd = -1
        self.size = 0
        """Plain bytes so far."""

    @property
    def digest(self) -> str:
        """``sha256:…`` of the plain bytes; only at the end, where it is the diff id."""
        if self.kind == PLAIN:
            return self._source.digest  # the same bytes: digested once is enough
        return f"sha256:{self._hash.hexdigest()}"

    @property
    def is_of_file(self) -> bool:
        """Whether it comes from a regular file."""
        return self._source.is_file

    def give_up(self) -> None:
        """Say that nobody wants more, from any thread."""
        self._source.give_up()

    def read(self, count: int = CHUNK) -> bytes:
        """Take some bytes, about as many as asked for; none at the end."""
        piece = self._read(count)
        self.size += len(piece)
        self._check_limits()
        if self.kind != PLAIN:
            self._hash.update(piece)
        if self._copy_fd >= 0:
            write_all(self._copy_fd, piece)
        return piece

    def copy_to(self, fd: int) -> None:
        """Write everything to a descriptor too; before anything is taken. Stays the caller's."""
        self._copy_fd = fd

    def _check_limits(self) -> None:
        limits = self._limits
        if self.size > limits.stream_bytes:
            raise InvalidArchive(
                f"the archive unpacks to more than the allowed {limits.stream_bytes} bytes"
            )
        if self.size > RATIO_GRACE_BYTES and self.size > limits.ratio * self._source.size:
            raise InvalidArchive(
                f"the archive unpacks to more than {limits.ratio} times its size,"
                " as decompression bombs do"
            )
