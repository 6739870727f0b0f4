"""Namespaces: unshare(2), setns(2), clone3(2) and the id maps of user_namespaces(7).

Out of scope: which namespaces a container gets, and in which order they are made.
"""

from __future__ import annotations

import ctypes
import os
import struct

from aruntime.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable, Sequence
else:
    import _signal  # signal itself drags enum in

# include/uapi/linux/sched.h
CLONE_VM = 0x00000100
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

SYS_CLONE3 = 435

_unshare = libc.function("unshare", libc.cint)
_setns = libc.function("setns", libc.cint, libc.cint)
_clone3 = libc.syscall(SYS_CLONE3, libc.pointer, ctypes.c_size_t, library=libc.PYDLL)


# struct clone_args, version 2 (Linux 5.7): flags, pidfd, child_tid, parent_tid, exit_signal,
# stack, stack_size, tls, set_tid, set_tid_size, cgroup
_CLONE_ARGS = struct.Struct("=11Q")


def unshare(flags: int) -> None:
    """Move this process (its future children, for pid and time) into new namespaces.

    Raises:
        OSError: as unshare(2).
    """
    libc.check(_unshare(flags), "unshare")


def setns(fd: int, nstype: int) -> None:
    """Join the namespace of a /proc/PID/ns descriptor, or those ``nstype`` names of a pidfd.

    The descriptor stays the caller's.

    Raises:
        OSError: as setns(2).
    """
    libc.check(_setns(fd, nstype), "setns")


def clone3(flags: int, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork, into new namespaces and into a cgroup of the cgroup2 tree.

    The caller must be single-threaded: the child keeps the interpreter lock because the call
    never gives it up. CLONE_PIDFD is always set; SIGCHLD tells the parent of the end, except
    with CLONE_PARENT, where the kernel takes the caller's own exit signal.

    Returns:
        (pid, pidfd) in the parent, which owns the close-on-exec pidfd; (0, -1) in the child.

    Raises:
        OSError: as clone3(2); nothing was forked.
    """
    pidfd = libc.cint(-1)
    exit_signal = 0 if flags & CLONE_PARENT else int(_signal.SIGCHLD)
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd >= 0 else 0)
    fields = (flags, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup_fd, 0))
    arguments = ctypes.create_string_buffer(_CLONE_ARGS.pack(*fields))
    # What os.fork() does around fork(2): the import lock, pending signals, thread state.
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _clone3(ctypes.addressof(arguments), _CLONE_ARGS.size)
    error = ctypes.get_errno() if pid < 0 else 0
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    ctypes.set_errno(error)
    libc.check(pid, "clone3")
    return pid, pidfd.value


def write_uid_map(pid: int | str, rows: Iterable[Sequence[int]]) -> None:
    """Write the uid map of a process's user namespace: rows of (inside, outside, count).

    Args:
        pid: the process, or ``self``.

    Raises:
        OSError: as write(2) on /proc/PID/uid_map; a map can be written once.
    """
    _write_map(f"/proc/{pid}/uid_map", rows)


def write_gid_map(pid: int | str, rows: Iterable[Sequence[int]]) -> None:
    """Write the gid map; as :func:`write_uid_map`."""
    _write_map(f"/proc/{pid}/gid_map", rows)


def _write_map(path: str, rows: Iterable[Sequence[int]]) -> None:
    content = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in rows)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        # The kernel takes the whole map in one write(2) or not at all.
        os.write(fd, content.encode("ascii"))
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
