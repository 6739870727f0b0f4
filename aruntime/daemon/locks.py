"""One daemon per root and per run directory: flock(2) on files that say who holds them.

A lock lives as long as its descriptor, so a daemon that is killed holds none. The descriptor is
close-on-exec: the shim and its containers never inherit it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from aruntime.errors import Conflict


@contextlib.contextmanager
def hold(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock at a path while the block runs; the file carries our process id meanwhile.

    Args:
        path: the lock file, made if missing.
        purpose: what the lock is for, for the error ("uses /run/aruntime; …").

    Raises:
        Conflict: another process holds it; the message names it.
        OSError: the file cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Conflict(f"another aruntimed (pid {holder}) {purpose}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
