"""Signals: signalfd(2), and the state in which a program expects them.

Out of scope: what a signal means to whoever reads it.
"""

from __future__ import annotations

import os
import struct

from aruntime.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
else:
    import _signal  # signal itself drags enum in

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


def block_all() -> None:
    """Block every signal that can be blocked, in this thread and what it forks."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())


def unblock_all() -> None:
    """Block nothing; what has arrived takes its effect now."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def reset_all() -> None:
    """Set every signal to its default effect.

    Python ignores SIGPIPE and SIGXFSZ, and whoever started this process may have ignored more,
    SIGCHLD for one (the kernel would then reap in our place). What is ignored stays so over
    execve.
    """
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP, and those the C library keeps
