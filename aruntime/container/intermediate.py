"""The process between the shim and init, where init must lose privileges it was forked with.

A container with a user namespace cannot write its own id maps, mount its layers or configure the
host's side of its network; one with time offsets cannot set them for itself. A process with the
host's privileges does that and forks the real init as its own sibling::

    shim ── clone3 ──► intermediate                        init
                         cgroups, timens_offsets, host mounts
                         clone3(CLONE_PARENT, user, pid) ──► waits
      P {pid} + pidfd ◄─ reports it
                         uid_map, gid_map
                         "go" ─────────────────────────────► becomes root inside
                                                             makes its namespaces
                         ◄─────────── "go" and its netns ────
                         host side of the network
                         "go", exits ──────────────────────► rootfs and the rest
"""

from __future__ import annotations

import _socket
import os

from aruntime.container import joining, messages, wiring
from aruntime.kernel import namespaces, netlink
from aruntime.rootfs import apply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aruntime.container.channel import Channel

SEQPACKET = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC


def is_needed(payload: dict[str, Any]) -> bool:
    """Whether something must be done from outside of init with the host's privileges."""
    return "user_namespace" in payload or "time_offsets" in payload


def fork_init(
    payload: dict[str, Any], fds: dict[str, int], channel: Channel
) -> tuple[_socket.socket | None, dict[str, int]]:
    """Fork the real init and do for it what needs the host's privileges.

    Returns in the real init only: the socket to the intermediate process, None if that is needed
    no more, and the descriptors that the host's mount operations left (``apply.apply``). The
    intermediate process exits here.

    Raises:
        OSError, StepFailed: in either process; it is reported like any other step.
    """
    channel.step = messages.STEP_JOIN
    joining.join_pid_namespace(payload["join"], fds)
    if "time_offsets" in payload:
        channel.step = messages.STEP_TIME_OFFSETS
        namespaces.unshare(namespaces.CLONE_NEWTIME)
        rows = "".join(f"{clock} {s} {ns}\n" for clock, s, ns in payload["time_offsets"])
        joining.write_file("/proc/self/timens_offsets", rows.encode())
    held: dict[str, int] = {}
    user = "user_namespace" in payload
    if user:
        channel.step = messages.STEP_UNSHARE
        namespaces.unshare(namespaces.CLONE_NEWNS)
        channel.step = messages.STEP_ROOTFS
        held = apply.apply(payload["host_mounts"])
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, SEQPACKET)
    flags = payload["clone"] | namespaces.CLONE_PARENT
    channel.step = messages.STEP_CLONE
    pid, pidfd = namespaces.clone3(flags | (namespaces.CLONE_NEWUSER if user else 0))
    if pid == 0:
        ours.close()
        return begin_init(theirs, channel, user=user), held
    theirs.close()
    channel.send(messages.INIT_SPAWNED, {"pid": pid}, {"pidfd": pidfd})
    serve_init(payload, pid, ours, channel)
    os._exit(0)


def begin_init(peer: _socket.socket, channel: Channel, *, user: bool) -> _socket.socket | None:
    """In the real init: hold until the id maps are written, then be root inside.

    Raises:
        OSError: as setresuid(2).
    """
    os.setsid()
    wiring.expect_go(peer)
    if not user:
        peer.close()
        return None
    channel.step = messages.STEP_USER_NAMESPACE
    joining.become_root()
    return peer


def serve_init(payload: dict[str, Any], pid: int, peer: _socket.socket, channel: Channel) -> None:
    """In the intermediate process: write the id maps, then connect the host's side.

    Raises:
        OSError: a step failed.
    """
    user = payload.get("user_namespace")
    if not user:
        peer.send(wiring.GO)
        return
    channel.step = messages.STEP_USER_NAMESPACE
    namespaces.write_uid_map(pid, user["uid_map"])
    namespaces.write_gid_map(pid, user["gid_map"])
    peer.send(wiring.GO)
    channel.step = messages.STEP_NETLINK_HOST
    _, ancillary, _, _ = peer.recvmsg(1, messages.RIGHTS_SPACE, _socket.MSG_CMSG_CLOEXEC)
    received = messages.received_fds(ancillary)
    if not received:
        return  # init failed, has reported it, and is gone
    sock = netlink.open_socket()
    wiring.send_host_batches(payload["netlink"], sock, received[0], channel)
    peer.send(wiring.GO)
