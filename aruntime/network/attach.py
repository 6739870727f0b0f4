"""The daemon's bridge network as one object: what a container is attached with, and let go.

Composes bridge, nat, ipam and encode. Nothing is done to a container's links after its start: the
veth pair goes with the container's network namespace, only the address is released.

Out of scope: networks made by users, published ports, names.
"""

from __future__ import annotations

import base64
import re
import secrets
import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from aruntime.errors import InvalidParameter, Unavailable
from aruntime.network import bridge as bridges
from aruntime.network import encode, nat
from aruntime.network.counters import LinkCounters, LinkStats
from aruntime.network.ipam import Lease, Leases

HOST_IFNAME_PREFIX = "ar"
BRIDGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
MAX_PORTS = 1023
"""Links the kernel lets a bridge have (BR_PORT_BITS of net/bridge/br_private.h; then EXFULL)."""
LONGEST_PREFIX = 30
"""A /30 has two addresses: one for the gateway, one for a container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a container stands in the network."""

    ip: str
    prefix: int
    gateway: str
    mac: str
    host_ifname: str
    """Name of the host end of its veth pair; its counters are the container's, swapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment(Endpoint):
    """An endpoint about to be made: what init must send."""

    host_ifindex: int
    """Interface index the host end will have; it never had another owner in this daemon's life."""
    netlink: dict[str, Any] = field(repr=False)
    """The launch payload's entry: base64 batches ``host`` and ``inside``, ``netns_fd``, and the
    ``sysctls`` to be set between the two."""
    repairs: tuple[str, ...] = ()
    """What ``ensure`` had to do for it, for the log; empty but for the first container."""


def without_network() -> dict[str, Any]:
    """Return the launch payload's entry for ``--network none``: loopback up, an empty host part."""
    return _payload(b"", encode.encode_loopback())


class Network:
    """One bridge, its subnet and its leases.

    Owns the directory ROOT/networks/BRIDGE and a netlink socket (``close`` it). Every method
    blocks: ``ensure``, ``orphans`` and ``remove`` for milliseconds, the others for microseconds
    unless they wait for one of those. Any thread may call any method at any time.

    Raises:
        InvalidParameter: the bridge's name or the subnet cannot be used.
    """

    def __init__(
        self, bridge: str, subnet: str, root: str | Path, *, mtu: int = bridges.DEFAULT_MTU
    ) -> None:
        self.bridge = _checked_name(bridge)
        self.subnet = _checked_subnet(subnet)
        self.mtu = mtu
        self.gateway = IPv4Interface((int(self.subnet[1]), self.subnet.prefixlen))
        directory = Path(root) / "networks" / bridge / "leases"
        self._leases = Leases(directory, self.subnet, self.gateway.ip)
        self._bridge_ifindex = 0
        self._lock = threading.RLock()
        """Orders everything but ``counters``, which must not wait behind ``ensure``."""
        self._counters_lock = threading.Lock()
        self._counters: LinkCounters | None = None
        self._ifindexes: dict[str, int] = {}
        """Container id to the index of its host link, as far as known; the lease has its name."""
        # Chosen here because the kernel honours the index inside only if both are given. From a
        # random start, so that daemons side by side do not meet; far above the kernel's own.
        self._next_ifindex = (1 << 24) + secrets.randbelow(1 << 29)

    def ensure(self) -> list[str]:
        """Make or repair the bridge, its nftables table and forwarding; safe to repeat.

        Returns:
            What was changed and what stands in the way, in words, for the log.

        Raises:
            Conflict: the name or the subnet is taken.
            Unavailable: nft is missing or refused.
            OSError: the kernel refused.
        """
        with self._lock:
            self._bridge_ifindex, changes = bridges.ensure(self.bridge, self.gateway, self.mtu)
            changes += bridges.ensure_forwarding()
            if not nat.present(self.bridge):
                changes.append(f"wrote nftables table ip {self.bridge}")
            nat.ensure(self.bridge, self.subnet)  # also repairs one that is there but altered
            changes += [
                f"chain {chain} drops forwarded packets: containers reach out only once it "
                f"accepts those from and to {self.bridge}"
                for chain in nat.foreign_drops(self.bridge)
            ]
            return changes

    @property
    def ready(self) -> bool:
        """Whether bridge and table are still there as ``ensure`` left them (some 20 µs)."""
        try:
            same = self._bridge_ifindex == socket.if_nametoindex(self.bridge)
        except OSError:
            return False
        return same and nat.present(self.bridge)

    def attach(self, container_id: str) -> Attachment:
        """Lease an address and encode what connects the container, for its next start.

        Makes or repairs the bridge and its table first when they are not there.

        Repeating it before ``release`` keeps the address; the link's name is new each time, since
        the link of an earlier start vanishes some time after its namespace.

        Raises:
            AddressPoolExhausted: no address is free.
            Unavailable: the bridge has as many ports as the kernel allows.
            Conflict, Unavailable, OSError: as ``ensure``, or the lease could not be written.
        """
        host_ifname = f"{HOST_IFNAME_PREFIX}{container_id[:7]}{secrets.token_hex(3)}"
        with self._lock:
            if len(self._leases) >= MAX_PORTS and self._leases.get(container_id) is None:
                raise Unavailable(
                    f"bridge {self.bridge} is full: the kernel allows {MAX_PORTS} containers on "
                    "one; start another daemon with a --bridge and --subnet of its own"
                )
            repairs = () if self.ready else tuple(self.ensure())
            lease = self._leases.acquire(container_id, host_ifname)
            host_ifindex = self._ifindexes[container_id] = self._free_ifindex()
            bridge_ifindex = self._bridge_ifindex
        host = encode.encode_host(
            host_ifname=host_ifname,
            host_ifindex=host_ifindex,
            bridge_ifindex=bridge_ifindex,
            mac=encode.mac_of(lease.address),
            mtu=self.mtu,
        )
        address = IPv4Interface((lease.address, self.subnet.prefixlen))
        inside = encode.encode_inside(address, int(self.gateway.ip))
        return Attachment(
            **self._place(lease),
            host_ifindex=host_ifindex,
            netlink=_payload(host, inside),
            repairs=repairs,
        )

    def lookup(self, container_id: str) -> Endpoint | None:
        """Return where the container stands, or None when it holds no address."""
        lease = self._leases.get(container_id)
        return Endpoint(**self._place(lease)) if lease else None

    def release(self, container_id: str) -> None:
        """Free the container's address; nothing happens when it holds none."""
        with self._lock:
            self._leases.release(container_id)
            self._ifindexes.pop(container_id, None)

    def reconcile(self, live_ids: Collection[str]) -> list[str]:
        """Free the address of every container not in live_ids; return those containers."""
        with self._lock:
            return [lease.container_id for lease in self._leases.reconcile(live_ids)]

    def counters(self, container_id: str) -> dict[str, LinkStats] | None:
        """Return what the container received and sent since its start, by interface inside.

        A few microseconds, for one container; to be read last while its network namespace is
        still held. None when it holds no address or its link is gone or not yet made.

        Raises:
            OSError: the kernel refused.
        """
        ifindex = self._ifindex(container_id)
        if ifindex is None:
            return None
        with self._counters_lock:
            if self._counters is None:
                self._counters = LinkCounters()
            stats = self._counters.read(ifindex)
        return {encode.IFNAME: stats} if stats is not None else None

    def close(self) -> None:
        """Close the socket of ``counters``; bridge, table and leases stay."""
        with self._counters_lock:
            if self._counters is not None:
                self._counters.close()
                self._counters = None

    def orphans(self) -> list[str]:
        """Return our links on the bridge that belong to no lease.

        Each is held by a network namespace that outlived its container, and goes with it.
        """
        with self._lock:
            known = {lease.host_ifname for lease in self._leases.all()}
        return [
            name
            for name in bridges.ports(self.bridge)
            if name.startswith(HOST_IFNAME_PREFIX) and name not in known
        ]

    def remove(self) -> None:
        """Remove the table and the bridge; leases stay. Running containers lose the network."""
        with self._lock:
            nat.remove(self.bridge)
            bridges.remove(self.bridge)
            self._bridge_ifindex = 0

    def _place(self, lease: Lease) -> dict[str, Any]:
        return {
            "ip": str(IPv4Address(lease.address)),
            "prefix": self.subnet.prefixlen,
            "gateway": str(self.gateway.ip),
            "mac": encode.mac_of(lease.address).hex(":"),
            "host_ifname": lease.host_ifname,
        }

    def _ifindex(self, container_id: str) -> int | None:
        """Return the index of the container's host link; by its name after a daemon's restart.

        An index is never given twice, so one that is remembered cannot mean another link.
        """
        known = self._ifindexes.get(container_id)
        lease = self._leases.get(container_id) if known is None else None
        if lease is None:
            return known
        try:
            found = socket.if_nametoindex(lease.host_ifname)
        except OSError:
            return None
        return self._ifindexes.setdefault(container_id, found)

    def _free_ifindex(self) -> int:
        """Return an interface index that no link of this network namespace has."""
        while True:
            candidate = self._next_ifindex
            self._next_ifindex += 1
            try:
                socket.if_indextoname(candidate)
            except OSError:
                return candidate


def _payload(host: bytes, inside: bytes) -> dict[str, Any]:
    return {
        "host": base64.b64encode(host).decode("ascii"),
        "inside": base64.b64encode(inside).decode("ascii"),
        "netns_fd": encode.NETNS_FD,
        "sysctls": {encode.ACCEPT_RA: "0"} if host else {},
    }


def _checked_name(bridge: str) -> str:
    if not BRIDGE_NAME.fullmatch(bridge):
        raise InvalidParameter(
            f"bridge name {bridge!r} cannot be used: a letter, then at most 14 of A-Z a-z 0-9 _ . -"
        )
    return bridge


def _checked_subnet(subnet: str) -> IPv4Network:
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise InvalidParameter(f"subnet {subnet!r} cannot be used: {error}") from None
    if network.prefixlen > LONGEST_PREFIX:
        raise InvalidParameter(f"subnet {subnet} is too small: use /{LONGEST_PREFIX} or larger")
    return network
