"""Write a tree as a tar stream, while whoever owns the tree may be changing it.

Everything is opened beside the descriptor of its directory and never by a path; a symbolic link is
written, not followed; a file is read only once its descriptor says that it is one. What vanishes
between a listing and a look is left out. Sparse files stay sparse (GNU format 1.0), sockets are
left out, hard links within the tree stay links, and where /proc, /sys and their like are mounted
there is an empty directory.

With ``whiteouts`` the tree is the writable layer of an overlay and comes out as an image's layer
(image-spec, layer.md). Runs in children; the process's limit of descriptors bounds how deep a tree
may be. Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from aruntime.errors import Conflict, Unavailable
from aruntime.images import attributes, tar, tar_headers
from aruntime.images.compression import CHUNK, write_all
from aruntime.images.layers import OPAQUE_WHITEOUT, WHITEOUT
from aruntime.images.lower import NO_XATTR, is_opaque
from aruntime.images.sparse import EXTENTS
from aruntime.images.tar import Entry, shown
from aruntime.images.tree import is_whiteout
from aruntime.kernel import mounts

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""NONBLOCK: a pipe put there meanwhile must not be waited for."""
RACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What opening says to somebody who has just taken the thing away or put another there."""
SPARSE_BYTES = 1 << 20
"""Holes of smaller files are written as zeros: maps cost blocks too."""
DISK_BLOCK = 512
GATHERED_BYTES = 1 << 18

Write = Callable[[bytes], None]


class Options(NamedTuple):
    """How a tree is written."""

    shift: tuple[int, int] = (0, 0)
    """First id and number of ids of the container's user namespace: they come out from 0 on."""
    whiteouts: bool = False
    skipped: Collection[bytes] = ()
    """Paths left out if they are empty files or directories: mount points of ours."""


class Writer:
    """Gathers small pieces of an archive before they are written.

    Args:
        fd: to write to; stays the caller's.
        alive: called now and then; raises to end the work.
    """

    def __init__(self, fd: int, alive: Callable[[], None] = lambda: None) -> None:
        self._fd = fd
        self._alive = alive
        self._pieces: list[bytes] = []
        self._gathered = 0
        self.size = 0
        """Bytes so far."""

    def write(self, content: bytes) -> None:
        """Take a piece."""
        self._pieces.append(content)
        self._gathered += len(content)
        if self._gathered >= GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        self._alive()
        try:
            write_all(self._fd, b"".join(self._pieces))
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise Unavailable(f"cannot write the archive: {reason}") from error
        self.size += self._gathered
        self._pieces.clear()
        self._gathered = 0


class Packer:
    """Writes entries of one archive; owns nothing.

    Args:
        write: gets the archive piece by piece.
        options: see there.

    Raises:
        OSError: from any method, of the tree or of ``write``.
        Conflict: a file cannot be part of an image.
    """

    def __init__(self, write: Write, options: Options | None = None) -> None:
        self._write = write
        self._options = options or Options()
        self._links: dict[tuple[int, int], bytes] = {}

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(tar_headers.END)

    def tree(self, fd: int, name: bytes) -> None:
        """Write a directory and everything in it.

        Args:
            fd: of the directory; stays the caller's.
            name: what it is called; empty: it is the root of the archive, called ``./``.
        """
        self._directory(fd, name)
        own = os.open(".", OPEN_DIRECTORY, dir_fd=fd)
        pending = [(own, name, _names(own))]
        try:
            while pending:
                directory, path, names = pending[-1]
                below = self._until_directory(directory, path, names)
                if below is not None:
                    pending.append((below[0], below[1], _names(below[0])))
                    self._directory(*below)
                else:
                    os.close(pending.pop()[0])
        finally:
            for directory, _, _ in pending:
                os.close(directory)

    def file(self, fd: int, name: bytes) -> None:
        """Write a regular file; the descriptor stays the caller's."""
        status = os.fstat(fd)
        entry = self._entry(name, tar.REGULAR, status, xattrs=_xattrs(fd))
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            link = entry._replace(type=tar.HARD_LINK, linkname=self._links[key], xattrs={})
            self._write(tar_headers.encode(link))
            return
        if status.st_nlink > 1:
            self._links[key] = name
        extents = data_extents(fd, status)
        if extents is None:
            self._write(tar_headers.encode(entry._replace(size=status.st_size)))
            self._content(fd, [(0, status.st_size)])
            return
        sparse = entry._replace(extents=extents, real_size=status.st_size)
        self._write(tar_headers.encode_sparse(sparse))
        self._content(fd, extents)

    def other(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        """Write a link or a device, given the directory it is in and what it is called there."""
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=parent)
            self._write(tar_headers.encode(self._entry(path, tar.SYMLINK, status, linkname=target)))
            return
        kinds = {
            stat.S_IFIFO: tar.FIFO, stat.S_IFCHR: tar.CHARACTER, stat.S_IFBLK: tar.BLOCK_DEVICE
        }  # fmt: skip
        kind = kinds.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket: nobody could listen at a copy
        numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
        self._write(
            tar_headers.encode(
                self._entry(path, kind, status, **({} if kind == tar.FIFO else numbers))
            )
        )

    def _until_directory(
        self, directory: int, path: bytes, names: Iterator[bytes]
    ) -> tuple[int, bytes] | None:
        """Write what comes up to the next directory; return that, opened, and its path."""
        for name in names:
            full = path + b"/" + name if path else name
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if self._is_left_out(full, status, directory, name):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    below = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
                    if not is_kernels(below):
                        return below, full
                    try:
                        self._directory(below, full)
                    finally:
                        os.close(below)
                    continue
                self._single(directory, name, full, status)
            except OSError as error:
                if error.errno not in RACED:
                    error.filename = os.fsdecode(full)
                    raise
        return None

    def _single(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        """Write something that is no directory."""
        if self._options.whiteouts:
            if name.startswith(WHITEOUT):
                raise Conflict(f"{shown(path)} cannot be part of an image: its name hides others")
            if is_whiteout(status):
                hiding = path[: len(path) - len(name)] + WHITEOUT + name
                self._write(tar_headers.encode(tar_headers.entry(hiding, tar.REGULAR)))
                return
        if not stat.S_ISREG(status.st_mode):
            self.other(parent, name, path, status)
            return
        fd = os.open(name, OPEN_FILE, dir_fd=parent)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                self.file(fd, path)
        finally:
            os.close(fd)

    def _is_left_out(self, path: bytes, status: os.stat_result, parent: int, name: bytes) -> bool:
        if path not in self._options.skipped:
            return False
        if not stat.S_ISDIR(status.st_mode):
            return stat.S_ISREG(status.st_mode) and not status.st_size
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
        try:
            return not os.listdir(fd)
        finally:
            os.close(fd)

    def _directory(self, fd: int, path: bytes) -> None:
        entry = self._entry(
            path + b"/" if path else b"./", tar.DIRECTORY, os.fstat(fd), xattrs=_xattrs(fd)
        )
        self._write(tar_headers.encode(entry))
        if self._options.whiteouts and is_opaque(fd):
            mark = path + b"/" + OPAQUE_WHITEOUT if path else OPAQUE_WHITEOUT
            self._write(tar_headers.encode(tar_headers.entry(mark, tar.REGULAR)))

    def _entry(self, name: bytes, kind: int, status: os.stat_result, **fields: object) -> Entry:
        return tar_headers.entry(
            name, kind,
            mode=stat.S_IMODE(status.st_mode), mtime_ns=status.st_mtime_ns,
            uid=self._shifted(status.st_uid), gid=self._shifted(status.st_gid),
            **fields,
        )  # fmt: skip

    def _shifted(self, number: int) -> int:
        first, count = self._options.shift
        return number - first if first <= number < first + count else number

    def _content(self, fd: int, extents: list[tuple[int, int]]) -> None:
        """Write pieces of a file as long as its header says, whatever becomes of it meanwhile."""
        for offset, length in extents:
            at, end = offset, offset + length
            while at < end:
                piece = os.pread(fd, min(CHUNK, end - at), at)
                piece = piece or bytes(min(CHUNK, end - at))
                self._write(piece)
                at += len(piece)
        self._write(tar_headers.padding(sum(length for _, length in extents)))


def open_below(top: int, path: bytes) -> int:
    """Open a directory below another one, no link followed on the way; the caller's to close.

    Raises:
        OSError: as openat2(2); ENAMETOOLONG for what is too deep for a path.
    """
    beneath = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS
    return mounts.openat2(top, path or b".", OPEN_DIRECTORY, 0, beneath)


def is_kernels(fd: int) -> bool:
    """Whether something is in a file system that the kernel makes up: nothing to copy."""
    return mounts.fstatfs_type(fd) in mounts.KERNEL_VIEWS


def _names(fd: int) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(fd)))


def _xattrs(fd: int) -> dict[bytes, bytes]:
    """Return the attributes that mean something elsewhere."""
    found: dict[bytes, bytes] = {}
    try:
        for text in os.listxattr(fd):
            name = os.fsencode(text)
            if attributes.is_kept(name):
                found[name] = os.getxattr(fd, text)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
    return found


def data_extents(fd: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """Return (offset, length) of the data of a file most of which is holes, None for others.

    The last one ends at the end of the file, be it of no length: GNU tar wants it so.
    """
    size = status.st_size
    if size < SPARSE_BYTES or status.st_blocks * DISK_BLOCK > size // 2:
        return None
    found: list[tuple[int, int]] = []
    at = 0
    try:
        while at < size:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = min(size, os.lseek(fd, start, os.SEEK_HOLE))
            found.append((start, at - start))
            if len(found) >= EXTENTS:
                return None
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data after this
            return None
    if at < size or not found:
        found.append((size, 0))
    return found
