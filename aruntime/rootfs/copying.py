"""Copy a directory tree, by descriptors, with everything a container's file has.

Content (holes stay holes), type, owner, mode, extended attributes, times, hard links. No
symbolic link is ever followed: both trees may be an attacker's. The destination must be
private to the caller until the copy is done.

Used by init for ``tmpcopyup``, and by volumes: standard library only.
"""

from __future__ import annotations

import errno
import os
import stat

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

MAX_DEPTH = 200
"""Directories inside each other; two descriptors are open for each."""
CHUNK_BYTES = 1 << 30
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
"""Notes of overlayfs to itself, which mean nothing elsewhere."""

NO_XATTRS = frozenset({errno.ENOTSUP, errno.ENODATA})
NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""copy_file_range(2) between these two file systems is impossible: plain reads and writes."""


def copy_tree(source: int, destination: int) -> None:
    """Copy what is in one directory into another, which gets its attributes too.

    Args:
        source, destination: descriptors of directories, open for reading; the caller's.

    Raises:
        OSError: ELOOP when directories are nested deeper than MAX_DEPTH; whatever the file
            systems say. What has been copied stays.
    """
    _Copy(destination).directory(source, destination, "", 0)


class _Copy:
    """Knows the files with several names seen so far, by their first new path."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._linked: dict[tuple[int, int], str] = {}

    def directory(self, source: int, destination: int, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise OSError(errno.ELOOP, f"directories are nested deeper than {MAX_DEPTH}", path)
        for name in os.listdir(source):
            status = os.lstat(name, dir_fd=source)
            inner = f"{path}/{name}" if path else name
            if stat.S_ISDIR(status.st_mode):
                self._subdirectory(source, destination, name, inner, depth)
            elif not _is_whiteout(status):
                self._file(source, destination, name, inner, status)
                _copy_attributes(source, destination, name, status)
        _copy_attributes(source, destination, ".", os.fstat(source))

    def _subdirectory(
        self, source: int, destination: int, name: str, path: str, depth: int
    ) -> None:
        os.mkdir(name, 0o700, dir_fd=destination)
        below = os.open(name, OPEN_DIRECTORY, dir_fd=source)
        try:
            inside = os.open(name, OPEN_DIRECTORY, dir_fd=destination)
            try:
                self.directory(below, inside, path, depth + 1)
            finally:
                os.close(inside)
        finally:
            os.close(below)

    def _file(
        self, source: int, destination: int, name: str, path: str, status: os.stat_result
    ) -> None:
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            first = self._linked.setdefault(identity, path)
            if first != path:
                # Every component was made by this copy: none is a symbolic link.
                os.link(
                    first, name, src_dir_fd=self._root, dst_dir_fd=destination,
                    follow_symlinks=False,
                )  # fmt: skip
                return
        if stat.S_ISREG(status.st_mode):
            _copy_regular(source, destination, name)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=destination)
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=destination)


def _is_whiteout(status: os.stat_result) -> bool:
    """Tell whether this is overlayfs's sign for a deleted file (character device 0:0)."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _copy_regular(source: int, destination: int, name: str) -> None:
    from_fd = os.open(name, OPEN_SOURCE, dir_fd=source)
    try:
        to_fd = os.open(name, OPEN_NEW, 0o600, dir_fd=destination)
        try:
            copy_content(from_fd, to_fd)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)


def copy_content(from_fd: int, to_fd: int) -> None:
    """Copy the data of a file and leave its holes.

    Raises:
        OSError: reading or writing failed, for example for want of space.
    """
    end = os.fstat(from_fd).st_size
    offset = 0
    while offset < end:
        try:
            begin = os.lseek(from_fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        offset = os.lseek(from_fd, begin, os.SEEK_HOLE)
        _copy_range(from_fd, to_fd, begin, offset)
    os.ftruncate(to_fd, end)


def _copy_range(from_fd: int, to_fd: int, begin: int, end: int) -> None:
    position = begin
    while position < end:
        length = min(end - position, CHUNK_BYTES)
        try:
            copied = os.copy_file_range(from_fd, to_fd, length, position, position)
        except OSError as error:
            if error.errno not in NO_COPY_RANGE:
                raise
            os.lseek(to_fd, position, os.SEEK_SET)
            copied = os.sendfile(to_fd, from_fd, position, length)
        if not copied:
            break  # the file was cut meanwhile
        position += copied


def _copy_attributes(source: int, destination: int, name: str, status: os.stat_result) -> None:
    """Copy owner, mode, extended attributes and times.

    In this order: a change of owner clears set-user-id bits and file capabilities.
    """
    os.chown(name, status.st_uid, status.st_gid, dir_fd=destination, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=destination)
    _copy_xattrs(f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{destination}/{name}")
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=destination, follow_symlinks=False)


def _copy_xattrs(source: str, destination: str) -> None:
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_XATTRS:
            return
        raise
    for name in names:
        if name.startswith(OVERLAY_XATTRS):
            continue
        try:
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(destination, name, value, follow_symlinks=False)
        except OSError as error:
            # A tmpfs, for one, may take no user.* attributes.
            if error.errno not in NO_XATTRS:
                raise
