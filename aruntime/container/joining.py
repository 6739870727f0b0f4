"""Joining what exists already: cgroups by path, namespaces by descriptor or path.

Every path here is the host's and is opened before the container's mount namespace is entered.
"""

from __future__ import annotations

import errno
import os

from aruntime.container import messages
from aruntime.kernel import namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from aruntime.container.channel import Channel


def write_file(path: str, content: bytes) -> None:
    """Write a file of /proc or a cgroup in one write(2).

    Raises:
        OSError: with the path as filename.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def join_cgroups(directories: Sequence[str], channel: Channel) -> None:
    """Move this process, alone in its thread group, into each cgroup.

    On v1 by ``tasks``: that moves one thread and needs no lock on thread groups, where the first
    write to cgroup.procs after some idle milliseconds waits 5 to 15 ms for an RCU grace period
    (cgroup_attach_lock in kernel/cgroup/cgroup-v1.c). A cgroup2 tree has no such file.

    Raises:
        OSError: with the path of the file concerned.
    """
    channel.step = messages.STEP_CGROUP
    for directory in directories:
        try:
            write_file(f"{directory}/tasks", b"0")
        except FileNotFoundError:
            write_file(f"{directory}/cgroup.procs", b"0")


def join_namespaces(
    entries: Sequence[Sequence[Any]], fds: dict[str, int], channel: Channel
) -> None:
    """Join namespaces that exist, a user namespace last: it takes the host's privileges away.

    The PID namespace was joined by whoever forked this process. Descriptors are closed.

    Raises:
        OSError: as open(2), setns(2).
    """
    channel.step = messages.STEP_JOIN
    for mask, place in sorted(entries, key=lambda entry: entry[0] == namespaces.CLONE_NEWUSER):
        rest = mask & ~namespaces.CLONE_NEWPID
        if not rest:
            continue
        fd = namespace_fd(place, fds)
        try:
            namespaces.setns(fd, rest)
        except OSError as error:
            raise OSError(error.errno, error.strerror, place) from None
        if place.startswith("/"):
            os.close(fd)
        if rest & namespaces.CLONE_NEWUSER:
            become_root()
    for fd in fds.values():
        os.close(fd)
    fds.clear()


def namespace_fd(place: str, fds: dict[str, int]) -> int:
    """Return the descriptor of a ``join`` entry.

    Raises:
        OSError: the path cannot be opened, or the request brought no such descriptor (EBADF).
    """
    if place.startswith("/"):
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    fd = fds.get(place.removeprefix("fd:"), -1)
    if fd < 0:
        raise OSError(errno.EBADF, "the request came without this descriptor", place)
    return fd


def become_root() -> None:
    """Take the ids of root inside a user namespace that was just entered."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.set_dumpable(False)


def join_pid_namespace(entries: Sequence[Sequence[Any]], fds: dict[str, int]) -> None:
    """Let the next child be born in an existing PID namespace, if one is to be joined.

    Raises:
        OSError: as open(2), setns(2).
    """
    for mask, place in entries:
        if mask & namespaces.CLONE_NEWPID:
            fd = namespace_fd(place, fds)
            try:
                namespaces.setns(fd, namespaces.CLONE_NEWPID)
            finally:
                if place.startswith("/"):
                    os.close(fd)
