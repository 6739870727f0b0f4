"""Calls about file systems that Python's ``os`` lacks. Policy about durability is the caller's."""

from __future__ import annotations

from aruntime.kernel import libc

_syncfs = libc.function("syncfs", libc.cint)


def syncfs(fd: int) -> None:
    """Write the file system that a descriptor is on to its device, and wait (syncfs(2)).

    Raises:
        OSError: a write failed, EIO or ENOSPC among others.
    """
    libc.check(_syncfs(fd), "syncfs", fd)
