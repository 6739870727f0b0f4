"""tee(2) between pipes and seals on memfds; splice and memfd_create are in ``os``."""

from __future__ import annotations

import ctypes
import fcntl

from aruntime.kernel import libc

# include/linux/splice.h
SPLICE_F_MOVE = 1
SPLICE_F_NONBLOCK = 2
SPLICE_F_MORE = 4

# include/uapi/linux/fcntl.h
F_ADD_SEALS = 1033
F_GET_SEALS = 1034
F_SEAL_SEAL = 1
F_SEAL_SHRINK = 2
F_SEAL_GROW = 4
F_SEAL_WRITE = 8
ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE

_tee = libc.function(
    "tee", libc.cint, libc.cint, ctypes.c_size_t, libc.uint, restype=ctypes.c_ssize_t
)


def tee(fd_in: int, fd_out: int, length: int, flags: int = 0) -> int:
    """Copy up to ``length`` bytes from pipe to pipe without consuming them; return how many.

    Raises:
        OSError: as tee(2); EAGAIN with SPLICE_F_NONBLOCK when it would block.
    """
    return libc.check(_tee(fd_in, fd_out, length, flags), "tee")


def seal(fd: int) -> None:
    """Make a memfd (made with MFD_ALLOW_SEALING) immutable for ever, for everybody.

    Raises:
        OSError: EBUSY while a writable mapping exists, EPERM when it is sealed already.
    """
    fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
