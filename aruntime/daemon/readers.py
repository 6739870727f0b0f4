"""Who may look at tenants' containers: ``--tenant-reader TENANT=USER`` or ``TENANT=@GROUP``.

Names are looked up once, when the settings are read; a client is told by the kernel's word
(SO_PEERCRED, SO_PEERGROUPS), never by its own.
"""

from __future__ import annotations

import array
import grp
import pwd
import socket
from collections.abc import Iterable

import msgspec
import trio

from aruntime.daemon.hello import Peer
from aruntime.errors import InvalidParameter

SO_PEERGROUPS = 59
"""asm-generic/socket.h; Python 3.11 has no name for it. Linux 4.13."""
OPTION_BYTES = 1024
"""What Python lets an option be: 256 groups. Of a process with more, none counts."""


class Reader(msgspec.Struct, frozen=True):
    """A user or a group that may look at a tenant's containers; the other id is -1."""

    tenant: str
    uid: int = -1
    gid: int = -1


def parse_readers(texts: Iterable[str]) -> tuple[Reader, ...]:
    """Read ``TENANT=USER`` and ``TENANT=@GROUP``; names are looked up now (NSS, blocks).

    Raises:
        InvalidParameter: a form is wrong, or there is no such user or group.
    """
    return tuple(map(_reader, texts))


def _reader(text: str) -> Reader:
    tenant, equals, who = text.rpartition("=")
    if not tenant or not equals or not who.removeprefix("@"):
        raise InvalidParameter(f"must be TENANT=USER or TENANT=@GROUP, not {text}")
    try:
        if who.startswith("@"):
            return Reader(tenant, gid=grp.getgrnam(who[1:]).gr_gid)
        return Reader(tenant, uid=pwd.getpwnam(who).pw_uid)
    except KeyError:
        kind = f"group {who[1:]}" if who.startswith("@") else f"user {who}"
        raise InvalidParameter(f"there is no {kind}") from None


def peer_groups(connection: trio.socket.SocketType | socket.socket) -> frozenset[int]:
    """Supplementary groups of whoever connected, as they were then (socket(7), SO_PEERGROUPS).

    None where they are too many to be told, or the kernel is older than 4.13.
    """
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, OPTION_BYTES)
    except OSError:
        return frozenset()
    return frozenset(array.array("I", found))


def tenants_of(readers: Iterable[Reader], peer: Peer, groups: frozenset[int]) -> frozenset[str]:
    """The tenants whose containers a peer may look at."""
    return frozenset(
        one.tenant
        for one in readers
        if one.uid == peer.uid or (one.gid >= 0 and (one.gid == peer.gid or one.gid in groups))
    )
