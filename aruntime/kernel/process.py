"""Processes: prctl(2), host names, descriptors, and what /proc and a pidfd tell of others.

Out of scope: starting and supervising processes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct

from aruntime.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # signal itself drags enum in

SIGKILL = int(_signal.SIGKILL)
pidfd_send_signal = _signal.pidfd_send_signal

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_GET_KEEPCAPS = 7
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_GET_NAME = 16
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_IS_SET = 1
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_LOWER = 3
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_UNSHARE = 2
CLOSE_RANGE_CLOEXEC = 4
MAX_FD = (1 << 32) - 1
SYS_CLOSE_RANGE = 436

# include/uapi/linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info)
PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")
PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11

_NO_INFO_ERRNOS = frozenset({errno.ENOTTY, errno.EINVAL, errno.ESRCH})
"""A kernel without PIDFD_GET_INFO (before 6.13), and a process that is gone."""

_prctl = libc.function("prctl", libc.cint, libc.ulong, libc.ulong, libc.ulong, libc.ulong)
_close_range = libc.syscall(SYS_CLOSE_RANGE, libc.uint, libc.uint, libc.uint)
_sethostname = libc.function("sethostname", libc.text, libc.ulong)
_setdomainname = libc.function("setdomainname", libc.text, libc.ulong)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with numbers as arguments.

    Raises:
        OSError: as prctl(2).
    """
    return libc.check(_prctl(option, arg2, arg3, arg4, arg5), "prctl")


def close_range(first: int, last: int = MAX_FD, flags: int = 0) -> None:
    """Close the descriptors ``first`` to ``last``, or mark them with CLOSE_RANGE_CLOEXEC.

    Raises:
        OSError: as close_range(2) (Linux 5.9, the flag 5.11).
    """
    libc.check(_close_range(first, last, flags), "close_range")


def set_child_subreaper(on: bool = True) -> None:
    """Become the parent of orphaned descendants, or cease to."""
    prctl(PR_SET_CHILD_SUBREAPER, int(on))


def set_no_new_privs() -> None:
    """Give up set-user-id, set-group-id and file capabilities for this process and its heirs."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(on: bool) -> None:
    """Let processes of the same user look into this one through /proc and ptrace, or not."""
    prctl(PR_SET_DUMPABLE, int(on))


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace.

    Raises:
        OSError: as sethostname(2); EINVAL above 64 bytes.
    """
    content = os.fsencode(name)
    libc.check(_sethostname(content, len(content)), "sethostname", name)


def setdomainname(name: str) -> None:
    """Set the NIS domain name of this UTS namespace.

    Raises:
        OSError: as setdomainname(2); EINVAL above 64 bytes.
    """
    content = os.fsencode(name)
    libc.check(_setdomainname(content, len(content)), "setdomainname", name)


def set_cmdline(text: bytes) -> None:
    """Overwrite what /proc/self/cmdline shows; longer texts than the present one are cut.

    The arguments lie in this process's own memory (proc_pid_cmdline(5), fields arg_start and
    arg_end of proc_pid_stat(5)); a child forked later has its own copy of them.

    Raises:
        OSError: /proc cannot be read.
    """
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, 4096)
    finally:
        os.close(fd)
    fields = content[content.rindex(b")") + 2 :].split()
    start, end = int(fields[45]), int(fields[46])
    if start:
        ctypes.memmove(start, text[: end - start - 1].ljust(end - start, b"\0"), end - start)


def is_dead(pidfd: int) -> bool:
    """Whether a process has ended, reaped or not."""
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    return bool(ready.poll(0))


def pidfd_get_exit(pidfd: int) -> int | None:
    """Return the wait status of a process that has been reaped, None if the kernel cannot tell.

    The descriptor must have been opened before the reap. Known from Linux 6.15 on; a success
    of the ioctl without the bit PIDFD_INFO_EXIT means "not reaped", whatever exit_code says.

    Raises:
        OSError: the descriptor is bad.
    """
    buffer = bytearray(_PIDFD_INFO.pack(PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, buffer)
    except OSError as error:
        if error.errno in _NO_INFO_ERRNOS:
            return None
        raise
    fields = _PIDFD_INFO.unpack(buffer)
    return int(fields[13]) if fields[0] & PIDFD_INFO_EXIT else None


def shell_code(status: int) -> int:
    """Return a wait status as shells and docker show it: the exit code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


class ProcessStat:
    """What /proc/PID/stat says of a process (proc_pid_stat(5))."""

    __slots__ = ("exit_code", "ppid", "start_time", "state")

    def __init__(self, content: bytes) -> None:
        # The command, in parentheses, may itself hold blanks and parentheses.
        fields = content[content.rindex(b")") + 2 :].split()
        self.state = fields[0].decode()
        """R, S, D, T, Z …"""
        self.ppid = int(fields[1])
        self.start_time = int(fields[19])
        """Clock ticks after boot: with the pid, and the boot, it names one process for good."""
        self.exit_code = int(fields[49])
        """The wait status of a zombie; 0 for readers who may not ptrace the process."""

    @property
    def is_zombie(self) -> bool:
        """Whether the process has ended and waits to be reaped."""
        return self.state == "Z"


def process_stat(pid: int) -> ProcessStat | None:
    """Return what /proc/PID/stat says, None if there is no such process.

    Raises:
        OSError: /proc cannot be read.
    """
    content = _read_proc(pid, "stat")
    return None if content is None else ProcessStat(content)


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks after boot.

    Raises:
        ProcessLookupError: there is no such process.
    """
    found = process_stat(pid)
    if found is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), f"/proc/{pid}/stat")
    return found.start_time


def is_off_cpu(pid: int) -> bool:
    """Tell whether a zombie has left the CPU for good: no more time will be charged to it.

    A zombie whose pidfd is readable may still be on its last way out of do_exit(), and that
    time counts. Once its stack is released /proc/PID/syscall reads ``-1 0x0 0x0`` (``running``
    before). A process that is gone is off the CPU too.

    Raises:
        OSError: /proc cannot be read, EPERM without the right to ptrace the process.
    """
    content = _read_proc(pid, "syscall")
    return content is None or content.split() == [b"-1", b"0x0", b"0x0"]


def _read_proc(pid: int, name: str) -> bytes | None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
