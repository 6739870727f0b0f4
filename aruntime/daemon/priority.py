"""The daemon's turn on a busy machine.

It has little to do, but at once: a reading that comes late is a less exact one, and a thread that
waits for a processor may hold the interpreter lock meanwhile. Where the kernel schedules sessions
as groups (sched(7), autogroup), each container's cgroup is a group too, and the nice value of a
process says nothing between them; that of its session's group does. The shim, and the programs that
work for the daemon for longer than a moment, have sessions of their own: they get no more than
their share.

Where processors are given out by a cgroup of the service (systemd's CPUWeight), that rules instead.
"""

from __future__ import annotations

import contextlib
import os

AUTOGROUP = "/proc/self/autogroup"
NICE = -5
"""Three times the weight of a group that asked for nothing."""


def prefer(path: str = AUTOGROUP) -> bool:
    """Ask for more weight if the session is the daemon's own; whether the kernel gave it.

    A daemon in a session that somebody else made, such as a terminal's, leaves that as it is.
    """
    if os.getsid(0) != os.getpid():
        return False
    with contextlib.suppress(OSError):  # no such groups here, or CAP_SYS_NICE is missing
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(fd, b"%d" % NICE) > 0
        finally:
            os.close(fd)
    return False
