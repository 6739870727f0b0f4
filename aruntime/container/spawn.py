"""The parent's side of a launch: fork init into its first namespaces, keep a line to it.

For a caller that is single-threaded, blocks every signal and has all of them at their default
effect (:mod:`aruntime.kernel.signals`): the child inherits that and unblocks them at execve. The
caller becomes the parent and must reap. Nothing here waits for the child.
"""

from __future__ import annotations

import _socket
import os

from aruntime.container import init, intermediate, joining
from aruntime.kernel import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

OWN_PID_NAMESPACE = "/proc/self/ns/pid"
SEQPACKET = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
UNIFIED_FILE = "cgroup.controllers"
"""Every directory of a cgroup2 tree has it, none of a v1 hierarchy."""


class Spawned:
    """A forked child; whoever has this owns ``pidfd`` and ``channel`` (a non-blocking socket).

    Attributes:
        pid: of init, or of the intermediate process until that has reported the real init.
        is_intermediate: whether ``pid`` is the intermediate process.
    """

    __slots__ = ("channel", "is_intermediate", "pid", "pidfd")

    def __init__(
        self, pid: int, pidfd: int, channel: _socket.socket, *, is_intermediate: bool
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.is_intermediate = is_intermediate


def spawn(payload: dict[str, Any], fds: dict[str, int]) -> Spawned:
    """Fork the child; in the child this never returns.

    Args:
        payload: of :func:`aruntime.container.payloads.read`, completed; or what is known of one
            that is still to come (:func:`aruntime.container.init.await_payload`).
        fds: the child's standard streams by name, and the descriptors its ``join`` names, or
            those by which the payload comes; they stay the caller's, who closes them as soon as
            this returns.

    Raises:
        OSError: nothing was forked; the step is clone3, or the PID namespace cannot be joined.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, SEQPACKET)
    try:
        ours.setblocking(False)
        by_intermediate = intermediate.is_needed(payload)
        joins_pid = any(mask & namespaces.CLONE_NEWPID for mask, _ in payload["join"])
        if joins_pid and not by_intermediate:
            pid, pidfd = _clone_into_pid_namespace(payload, fds, theirs)
        else:
            pid, pidfd = _clone(0 if by_intermediate else payload["clone"], payload, fds, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Spawned(pid, pidfd, ours, is_intermediate=by_intermediate)


def _clone_into_pid_namespace(
    payload: dict[str, Any], fds: dict[str, int], theirs: _socket.socket
) -> tuple[int, int]:
    """Fork with the children's PID namespace switched, and switch it back."""
    own = os.open(OWN_PID_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        joining.join_pid_namespace(payload["join"], fds)
        try:
            return _clone(payload["clone"], payload, fds, theirs)
        finally:
            namespaces.setns(own, namespaces.CLONE_NEWPID)
    finally:
        os.close(own)


def _clone(
    flags: int, payload: dict[str, Any], fds: dict[str, int], theirs: _socket.socket
) -> tuple[int, int]:
    """Fork, straight into the cgroup of the cgroup2 tree if there is one: that spares the child
    a wait of several milliseconds for an RCU grace period (performance.md §2)."""
    unified, cgroup_fd = open_unified(payload["cgroups"])
    try:
        pid, pidfd = namespaces.clone3(flags, cgroup_fd=cgroup_fd)
    except OSError:
        if cgroup_fd < 0:
            raise
        # A cgroup that takes no processes: let the child try, and say what is wrong.
        os.close(cgroup_fd)
        cgroup_fd = -1
        pid, pidfd = namespaces.clone3(flags)
    if pid == 0:
        if cgroup_fd >= 0:
            payload["cgroups"] = [path for path in payload["cgroups"] if path != unified]
        init.run(payload, fds, theirs)
    if cgroup_fd >= 0:
        os.close(cgroup_fd)
    return pid, pidfd


def open_unified(directories: Sequence[str]) -> tuple[str, int]:
    """Return the directory in a cgroup2 tree and a descriptor of it, or an empty path and -1.

    The daemon lists it last.
    """
    for directory in reversed(directories):
        if os.path.exists(f"{directory}/{UNIFIED_FILE}"):
            return directory, os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return "", -1
