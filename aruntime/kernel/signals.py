"""Signals as a descriptor: signalfd(2). Everything else about signals Python has.

Out of scope: which signals are blocked and what they mean.
"""

from __future__ import annotations

import os
import struct

from aruntime.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SFD_CLOEXEC = os.O_CLOEXEC
SFD_NONBLOCK = os.O_NONBLOCK

SIGSET_BYTES = 128
"""sizeof(sigset_t) of glibc and musl; the kernel reads the first eight."""
SIGNALFD_SIGINFO_BYTES = 128

_SIGNO = struct.Struct("=I")
_signalfd = libc.function("signalfd", libc.cint, libc.text, libc.cint)


def signalfd(numbers: Iterable[int]) -> int:
    """Return a non-blocking descriptor that delivers these signals; the caller owns it.

    They must be blocked, or they take their usual effect instead.

    Raises:
        OSError: as signalfd(2).
    """
    mask = 0
    for number in numbers:
        mask |= 1 << (number - 1)
    content = mask.to_bytes(SIGSET_BYTES, "little")
    return libc.check(_signalfd(-1, content, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd")


def read_signals(fd: int) -> list[int]:
    """Return the numbers of the signals that have arrived, oldest first."""
    try:
        content = os.read(fd, SIGNALFD_SIGINFO_BYTES * 64)
    except BlockingIOError:
        return []
    step = SIGNALFD_SIGINFO_BYTES
    return [_SIGNO.unpack_from(content, at)[0] for at in range(0, len(content), step)]
