"""Ports of the host held for containers: bound, so that nobody else can take them.

A published port is led into its container by nftables, before any socket of the host is asked. So
that no other program binds the same port and wonders why nothing arrives, and so that a port that
is taken is an error at once, each is bound to a socket of ours that neither listens nor reads:
should the rules be gone (a firewall's flush), clients are refused instead of left waiting.

The sockets of one container are held by a single descriptor: they are sent into a Unix socket and
never received, and live as long as its other end is open (unix(7), SCM_RIGHTS). It can be given to
another process, which then holds them too.

Out of scope: which ports (publishing).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

from aruntime.errors import Conflict, InvalidParameter, Unavailable
from aruntime.network.ports import ANY, PortRequest, PublishedPort

SCM_MAX_FD = 253
"""Descriptors in one message (linux/net/scm.h)."""
TCP_TIME_WAIT = "06"
KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
NO_SCTP = frozenset({errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT})
"""Where the host speaks no SCTP, nobody on it can take such a port either."""
RESOLVER_PORT = 53
"""Where the resolvers of users' networks listen, at the gateways."""
PROC = "/proc"
PROC_NET = "/proc/thread-self/net"


class Taken(Exception):
    """Somebody has the port."""


def hold(requests: Sequence[PortRequest]) -> tuple[list[PublishedPort], int]:
    """Bind a port of the host for each request, in the network namespace of this thread.

    Returns:
        What each request became, and a descriptor that holds the ports; the caller owns it.

    Raises:
        Conflict: a port is taken; the message says by whom.
        InvalidParameter: an address is not the host's.
        OSError: no descriptors are left. Nothing is held after an error.
    """
    found: list[PublishedPort] = []
    with ExitStack() as undo:
        keep, give = socket.socketpair()
        undo.callback(keep.close)
        undo.callback(give.close)
        sockets: list[socket.socket] = []
        for request in requests:
            held, port = _hold_one(request)
            if held is not None:
                sockets.append(undo.enter_context(held))
            found.append(port)
            if len(sockets) == SCM_MAX_FD:
                _hand_in(give, sockets)
        _hand_in(give, sockets)
        return found, os.dup(keep.fileno())


def request_for(port: PublishedPort) -> PortRequest:
    """Return the request that a published port, and no other, satisfies."""
    return PortRequest(
        container_port=port.container_port,
        protocol=port.protocol,
        host_ip="" if port.host_ip == ANY else port.host_ip,
        host_port=port.host_port,
    )


def _hand_in(give: socket.socket, sockets: list[socket.socket]) -> None:
    """Send sockets on their way and close our own descriptors of them."""
    if sockets:
        socket.send_fds(give, [b"."], [held.fileno() for held in sockets])
    for held in sockets:
        held.close()
    sockets.clear()


def _hold_one(request: PortRequest) -> tuple[socket.socket | None, PublishedPort]:
    """Bind the first port that a request allows; no socket where the host lacks the protocol."""
    last = request.host_port_end or request.host_port
    for port in range(request.host_port, last + 1):
        try:
            held = bind(request.protocol, request.host_ip, port)
        except Taken:
            continue
        chosen = held.getsockname()[1] if held is not None else port
        return held, PublishedPort(
            protocol=request.protocol,
            host_ip=request.host_ip or ANY,
            host_port=chosen,
            container_port=request.container_port,
        )
    place = f"{request.host_ip or ANY}:{request.host_port}"
    if request.host_port_end:
        raise Conflict(
            f"all ports of {place}-{last}/{request.protocol} are in use: publish another range"
        )
    raise Conflict(
        f"port {place}/{request.protocol} is in use by "
        f"{holder(request.protocol, request.host_ip, request.host_port)}: "
        "stop it or publish another port"
    )


def bind(protocol: str, host_ip: str, port: int) -> socket.socket | None:
    """Return a socket bound to a port, None where the host does not know the protocol.

    Args:
        protocol: tcp, udp or sctp.
        host_ip: empty for every address.
        port: 0 lets the kernel choose.

    Raises:
        Taken: somebody has it.
        InvalidParameter: the address is not the host's.
        Unavailable: the kernel has no port to choose; or no SCTP, and is to choose one.
        OSError: as socket(2).
    """
    kind, number = KINDS[protocol]
    try:
        held = socket.socket(socket.AF_INET, kind, number)
    except OSError as error:
        if error.errno not in NO_SCTP:
            raise
        if port:
            return None
        raise Unavailable(f"this host has no {protocol}: name the port of the host too") from None
    try:
        _bind(held, protocol, host_ip, port)
    except OSError as error:
        held.close()
        raise _explained(error, host_ip, port) from error
    if protocol == "udp":
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    return held


def _bind(held: socket.socket, protocol: str, host_ip: str, port: int) -> None:
    """Bind, although connections that have ended, or only sockets of our own, are in the way.

    Port 53 is shared with the resolvers of users' networks (SO_REUSEPORT), and with nobody else:
    who else has it is found by a bind without that.

    Raises:
        OSError: EADDRINUSE and others, as bind(2).
    """
    try:
        held.bind((host_ip, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not port:
            raise
        present = set(_inodes(protocol, host_ip, port))
        if port == RESOLVER_PORT and present and present <= _own_inodes():
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((host_ip, port))
        elif protocol == "tcp" and not present:
            _bind_past_time_wait(held, host_ip, port)
        else:
            raise
    if port == RESOLVER_PORT:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _own_inodes() -> set[int]:
    """Return the sockets of this process."""
    found = set()
    for name in os.listdir(f"{PROC}/self/fd"):
        try:
            kind, _, number = os.readlink(f"{PROC}/self/fd/{name}").partition(":")
        except OSError:
            continue  # that of the listing itself
        if kind == "socket":
            found.add(int(number.strip("[]")))
    return found


def _bind_past_time_wait(held: socket.socket, host_ip: str, port: int) -> None:
    """Bind a port in which only connections that ended a minute ago are left.

    SO_REUSEADDR lets us, but would let the next one too; and it does not see those who are bound
    without listening. Listening does, for a moment.

    Raises:
        OSError: EADDRINUSE.
    """
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host_ip, port))
    held.listen(0)
    held.shutdown(socket.SHUT_RDWR)  # bound as before, listening no more
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _explained(error: OSError, host_ip: str, port: int) -> Exception:
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidParameter(f"cannot publish at {host_ip}: it is no address of this host")
    if error.errno == errno.EADDRINUSE:
        if port:
            return Taken()
        return Unavailable("the host has no free port to choose from: name one")
    return error


def holder(protocol: str, host_ip: str, port: int) -> str:
    """Return in words who has a port: a process, as far as the host's tables tell."""
    inodes = set(_inodes(protocol, host_ip, port))
    for pid in _pids():
        try:
            with os.scandir(f"{PROC}/{pid}/fd") as entries:
                links = {os.readlink(entry.path) for entry in entries}
            if links & {f"socket:[{inode}]" for inode in inodes}:
                with open(f"{PROC}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue  # it has just ended
    if inodes:
        return "a process that this daemon cannot see"
    return "a socket that is bound and does not listen, such as another aruntime daemon's"


def _pids() -> Iterator[int]:
    for name in os.listdir(PROC):
        if name.isdecimal():
            yield int(name)


#   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
#    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
def _inodes(protocol: str, host_ip: str, port: int) -> Iterator[int]:
    """Yield the sockets that have a port at an address, or at all of them (proc_net(5))."""
    for table in (protocol, f"{protocol}6"):
        try:
            with open(f"{PROC_NET}/{table}", encoding="ascii") as file:
                rows = file.readlines()[1:]
        except OSError:
            continue  # no IPv6, or no SCTP
        yield from parse_table(rows, host_ip, port)


def parse_table(rows: Iterable[str], host_ip: str, port: int) -> Iterator[int]:
    """Yield the inodes of those rows of /proc/net/tcp that stand in the way of an address."""
    for row in rows:
        words = row.split()
        address, _, number = words[1].partition(":")
        if int(number, 16) != port or words[3] == TCP_TIME_WAIT:
            continue
        packed = b"".join(
            int(address[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(address), 8)
        )
        anywhere = not any(packed)
        mapped = len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff"
        if mapped:
            packed, anywhere = packed[12:], not any(packed[12:])
        if anywhere or (len(packed) == 4 and host_ip in ("", str(IPv4Address(packed)))):
            yield int(words[9])
