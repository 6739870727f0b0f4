"""Calls about file systems that Python's ``os`` lacks. Policy about durability is the caller's."""

from __future__ import annotations

import fcntl
import os
import struct

from aruntime.kernel import libc

AT_EMPTY_PATH = 0x1000
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_TOPDIR_FL = 0x00020000
FLAGS = struct.Struct("i")

_syncfs = libc.function("syncfs", libc.cint)
_linkat = libc.function("linkat", libc.cint, libc.text, libc.cint, libc.text, libc.cint)


def syncfs(fd: int) -> None:
    """Write the file system that a descriptor is on to its device, and wait (syncfs(2)).

    Raises:
        OSError: a write failed, EIO or ENOSPC among others.
    """
    libc.check(_syncfs(fd), "syncfs", fd)


def link_descriptor(fd: int, directory: int, name: str) -> None:
    """Give an open file another name (linkat(2) with AT_EMPTY_PATH; CAP_DAC_READ_SEARCH).

    Args:
        fd: of the file; stays the caller's.
        directory: descriptor of where the name is made.
        name: one path component.

    Raises:
        OSError: as linkat(2), FileExistsError among others.
    """
    result = _linkat(fd, b"", directory, libc.encoded(name), AT_EMPTY_PATH)
    libc.check(result, "linkat", name)


def set_top_directory(fd: int) -> None:
    """Let each directory made in this one stand on its own on the disk (chattr(1), attribute T).

    ext4 puts what is in a directory near it, into the same group of inodes; directories made in one
    with this flag begin in groups that have little in them.

    Raises:
        OSError: EOPNOTSUPP or ENOTTY where the file system knows no such thing.
    """
    (flags,) = FLAGS.unpack(fcntl.ioctl(fd, FS_IOC_GETFLAGS, FLAGS.pack(0)))
    if not flags & FS_TOPDIR_FL:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, FLAGS.pack(flags | FS_TOPDIR_FL))


def scatter(path: str) -> None:
    """Ask the file system not to put beside each other what is made in a directory.

    ext4 leaves an inode alone for minutes after its file was removed, and looks at each such before
    it takes another: where directories come and go, a new file beside the old took ten times as
    long. A file system that has other ways is left to them: nothing depends on it.

    Raises:
        OSError: the directory cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        set_top_directory(fd)
    except OSError:
        pass
    finally:
        os.close(fd)
