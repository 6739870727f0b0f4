"""One bridge network as one object: what a container is attached with, and let go.

Composes bridge, nat, guard, ipam and encode. At a container's end only address and guard are
released: the veth pair goes with its network namespace, or is removed a second later (departed).

Out of scope: which networks there are (networks), links of running containers (live), published
ports and names.
"""

from __future__ import annotations

import socket
import threading
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any

from aruntime.errors import AruntimeError, Unavailable
from aruntime.network import bridge as bridges
from aruntime.network import egress, encode, guard, live, nat, nft, port_table, redirect
from aruntime.network.counters import LinkCounters, LinkStats
from aruntime.network.definition import (
    Definition,
    check_bridge,
    check_mac,
    check_range,
    check_subnet,
)
from aruntime.network.departed import Departed, link_name
from aruntime.network.endpoints import Attachment, Endpoint, Request
from aruntime.network.ipam import Lease, Leases
from aruntime.network.nfnetlink import NfTables, Table

MAX_PORTS = 1023
"""Links the kernel lets a bridge have (BR_PORT_BITS of net/bridge/br_private.h; then EXFULL)."""
CROWD = 64
"""Containers in a network from which on the kernel's default room for neighbours may be short."""


class Network:
    """One bridge, its subnets and its leases.

    Owns the directory of leases and netlink sockets (``close`` it). Every method blocks:
    ``ensure`` and ``remove`` for milliseconds, the others for microseconds unless
    they wait for one of those. Any thread may call any method at any time.

    Args:
        definition: what it was asked to be.
        directory: where its leases lie.
        tables: a connection to nftables, which stays the caller's; None: one of its own.

    Raises:
        InvalidParameter: an address of the definition cannot be used.
        OSError: the directory cannot be made or read.
    """

    def __init__(
        self, definition: Definition, directory: Path, tables: NfTables | None = None
    ) -> None:
        self.definition = definition
        self.bridge = check_bridge(definition.bridge)
        self.subnet = check_subnet(definition.subnet)
        self.gateway = IPv4Interface((int(IPv4Address(definition.gateway)), self.subnet.prefixlen))
        self.gateway6: IPv6Interface | None = None
        if definition.subnet6:
            prefix6 = definition.subnet6.rpartition("/")[2]
            self.gateway6 = IPv6Interface(f"{definition.gateway6}/{prefix6}")
        self._leases = Leases(
            directory,
            self.subnet,
            self.gateway.ip,
            within=check_range(definition.ip_range, self.subnet),
            subnet6=self.gateway6.network if self.gateway6 else None,
            gateway6=self.gateway6.ip if self.gateway6 else None,
        )
        self._bridge_ifindex = 0
        self._own_tables = NfTables() if tables is None else None
        self._tables = tables or self._own_tables or NfTables()
        self.departed = Departed()
        """The links of its ended containers; to be swept now and then."""
        self._is_guarded = True
        self._is_published = False
        self._has_room = False
        self._lock = threading.RLock()
        """Orders everything but ``counters``, which must not wait behind ``ensure``."""
        self._counters_lock = threading.Lock()
        self._counters: LinkCounters | None = None
        self._ifindexes: dict[str, int] = {}
        """Container id to the index of its host link, as far as known; the lease has its name."""
        self._numbers = live.FreeIndexes()

    @property
    def name(self) -> str:
        """The network's name."""
        return self.definition.name

    @property
    def gateways(self) -> list[IPv4Interface | IPv6Interface]:
        """The bridge's own addresses with the prefix lengths of the subnets, IPv4 first."""
        return [self.gateway, self.gateway6] if self.gateway6 else [self.gateway]

    def ensure(self) -> list[str]:
        """Make or repair the bridge, its nftables tables and forwarding; safe to repeat.

        Returns:
            What was changed and what stands in the way, in words, for the log.

        Raises:
            Conflict: the name or the subnet is taken.
            Unavailable: nft is missing or refused.
            OSError: the kernel refused.
        """
        with self._lock:
            mtu = self.definition.mtu
            self._bridge_ifindex, changes = bridges.ensure(self.bridge, self.gateways, mtu)
            repaired, strays = bridges.ensure_ports(self.bridge, self._links())
            self.departed.add(*strays)
            changes += repaired + self._make_room()
            if self._is_published:
                changes += bridges.ensure_localnet(self.bridge)
            if not self.definition.internal:
                changes += bridges.ensure_forwarding()
                changes += bridges.ensure_forwarding6() if self.gateway6 else []
            changes += self._ensure_tables()
            if not self.definition.internal:
                changes += [
                    f"chain {chain} drops forwarded packets: containers reach out only once it "
                    f"accepts those from and to {self.bridge}"
                    for chain in nat.foreign_drops(self.bridge)
                ]
            return changes

    def open_to_loopback(self) -> list[str]:
        """Let the host reach published ports of this network by 127.0.0.1, from now on.

        Returns:
            What was changed, in words, for the log.

        Raises:
            OSError: the kernel refused.
        """
        with self._lock:
            if self._is_published:
                return []
            changes = bridges.ensure_localnet(self.bridge)
            self._is_published = True
            return changes

    @property
    def ready(self) -> bool:
        """Whether bridge and tables are still there as ``ensure`` left them (some 30 µs)."""
        try:
            same = self._bridge_ifindex == socket.if_nametoindex(self.bridge)
        except OSError:
            return False
        return same and all(
            self._tables.is_table(Table(family, self.bridge)) for family in self._families()
        )

    def attach(self, request: Request) -> Attachment:
        """Lease an address and encode what connects the container, for its next start.

        Makes or repairs the bridge and its tables first when they are not there.

        Repeating it before ``release`` keeps the address; the link's name is new each time, since
        the link of an earlier start vanishes some time after its namespace.

        Raises:
            AddressPoolExhausted: no address is free.
            Unavailable: the bridge has as many ports as the kernel allows.
            InvalidParameter, Conflict: a particular address cannot be had.
            Conflict, Unavailable, OSError: as ``ensure``, or the lease could not be written.
        """
        container_id = request.container_id
        host_ifname = link_name(container_id)
        with self._lock:
            former = self._leases.get(container_id)
            if len(self._leases) >= MAX_PORTS and former is None:
                raise Unavailable(
                    f"bridge {self.bridge} is full: the kernel allows {MAX_PORTS} containers on "
                    "one; use another network"
                )
            repairs = () if self.ready else tuple(self.ensure())
            lease = self._leases.acquire(
                container_id,
                host_ifname,
                IPv4Address(request.ip) if request.ip else None,
                interface=encode.ifname(request.interface),
                mac=check_mac(request.mac) if request.mac else b"",
                ip6=IPv6Address(request.ip6) if request.ip6 else None,
            )
            if former is not None:
                self.departed.add(former.host_ifname)
            repairs += self._guard(lease, former) + tuple(self._make_room())
            host_ifindex = self._ifindexes[container_id] = self._numbers.take()
            bridge_ifindex = self._bridge_ifindex
        place = self._place(lease)
        return Attachment(
            **place,
            name=request.name,
            aliases=request.aliases,
            host_ifindex=host_ifindex,
            netlink=self._payload(request, lease, host_ifindex, bridge_ifindex),
            repairs=repairs,
        )

    def lookup(self, container_id: str) -> Endpoint | None:
        """Return where the container stands, or None when it holds no address."""
        lease = self._leases.get(container_id)
        return Endpoint(**self._place(lease)) if lease else None

    def release(self, container_id: str) -> None:
        """Free the container's address; nothing happens when it holds none."""
        with self._lock:
            lease = self._leases.release(container_id)
            self._ifindexes.pop(container_id, None)
            if lease is None:
                return
            self.departed.add(lease.host_ifname)
            if self._is_guarded:
                guard.forbid(self._tables, self.bridge, guard.port_of(lease))

    def holders(self) -> list[str]:
        """Return the containers that hold an address."""
        return [lease.container_id for lease in self._leases.all()]

    def counters(self, container_id: str) -> dict[str, LinkStats] | None:
        """Return what the container received and sent since its start, by interface inside.

        A few microseconds, for one container; to be read last while its network namespace is
        still held. None when it holds no address or its link is gone or not yet made.

        Raises:
            OSError: the kernel refused.
        """
        lease = self._leases.get(container_id)
        ifindex = self.ifindex(container_id)
        if ifindex is None or lease is None:
            return None
        with self._counters_lock:
            if self._counters is None:
                self._counters = LinkCounters()
            stats = self._counters.read(ifindex)
        return {lease.interface: stats} if stats is not None else None

    def close(self) -> None:
        """Close the sockets of its own; bridge, tables and leases stay."""
        if self._own_tables is not None:
            self._own_tables.close()
        with self._counters_lock:
            if self._counters is not None:
                self._counters.close()
                self._counters = None

    def remove(self) -> None:
        """Remove the tables and the bridge; leases stay. Running containers lose the network."""
        with self._lock:
            self.departed.add(*bridges.strays(self.bridge, self._links()))
            self.departed.sweep(at_once=True)
            own = nat.removal(self.bridge, [*self._families(), egress.FAMILY])
            nft.run(own + port_table.removal(self.bridge) + redirect.removal(self.bridge))
            bridges.remove(self.bridge, self.gateway)
            self._bridge_ifindex = 0

    def unlink(self, container_id: str) -> None:
        """Remove the link of a running container, which blocks for some 20 ms; lease and all else
        stay. Nothing happens when it has none.

        Raises:
            OSError: the kernel refused.
        """
        ifindex = self.ifindex(container_id)
        if ifindex is not None:
            live.send(encode.encode_removal(ifindex))

    def silence(self, container_id: str) -> None:
        """Take down the host's end of a running container's link: no packet passes any more.

        Nothing happens when it has none.

        Raises:
            OSError: the kernel refused.
        """
        ifindex = self.ifindex(container_id)
        if ifindex is not None:
            live.send(encode.encode_down(ifindex))

    def ifindex(self, container_id: str) -> int | None:
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

    def _make_room(self) -> list[str]:
        """Let the kernel know as many neighbours as a crowd of containers has, once."""
        if self._has_room or len(self._leases) < CROWD:
            return []
        self._has_room = True
        return bridges.ensure_neighbours([gateway.version for gateway in self.gateways])

    def _links(self) -> list[str]:
        """Return the names of the links that are held; others of ours are an earlier daemon's."""
        return [lease.host_ifname for lease in self._leases.all()]

    def _families(self) -> list[str]:
        return [*nat.families(self.definition), *([guard.FAMILY] if self._is_guarded else [])]

    def _ensure_tables(self) -> list[str]:
        """Write all tables in one transaction; without the bridge family where there is none."""
        families = [*nat.families(self.definition), guard.FAMILY]
        missing = [
            family for family in families if not self._tables.is_table(Table(family, self.bridge))
        ]
        script = nat.ruleset(self.definition)
        guarded = guard.ruleset(
            self.definition, [guard.port_of(lease) for lease in self._leases.all()]
        )
        try:
            nft.run(script + guarded)  # also repairs what is there but altered
        except AruntimeError as error:
            nft.run(script)
            self._is_guarded = False
            missing = [family for family in missing if family != guard.FAMILY]
            wrote = [f"containers on {self.bridge} can send from any address: {error}"]
        else:
            self._is_guarded = True
            wrote = []
        return [f"wrote nftables table {family} {self.bridge}" for family in missing] + wrote

    def _guard(self, lease: Lease, former: Lease | None) -> tuple[str, ...]:
        """Let the frames of a lease's port pass; those of an earlier port no more."""
        if not self._is_guarded:
            return ()
        try:
            if former is not None:
                guard.forbid(self._tables, self.bridge, guard.port_of(former))
            guard.allow(self._tables, self.bridge, guard.port_of(lease))
        except OSError:
            return tuple(self.ensure())  # the set went meanwhile; it is filled from the leases
        return ()

    def _payload(
        self, request: Request, lease: Lease, host_ifindex: int, bridge_ifindex: int
    ) -> dict[str, Any]:
        """Return the launch payload's entry of a lease."""
        number, gateway6 = request.interface, self.gateway6
        netns_fd = request.netns_fd if request.netns_fd >= 0 else encode.NETNS_FD
        leads_out = request.default_route and not self.definition.internal
        host = encode.encode_host(
            host_ifname=lease.host_ifname,
            host_ifindex=host_ifindex,
            bridge_ifindex=bridge_ifindex,
            mac=lease.mac or encode.mac_of(lease.address),
            mtu=self.definition.mtu,
            group=self.definition.group,
            interface=number,
            netns_fd=netns_fd,
            hairpin=request.hairpin,
            rate_bytes=request.rate_bytes,
        )
        address6 = None
        if gateway6 is not None and lease.ip6 is not None:
            address6 = IPv6Interface((lease.ip6, gateway6.network.prefixlen))
        inside = encode.encode_inside(
            IPv4Interface((lease.address, self.subnet.prefixlen)),
            int(self.gateway.ip) if leads_out else 0,
            interface=number,
            address6=address6,
            gateway6=int(gateway6.ip) if gateway6 is not None and leads_out else 0,
            rate_bytes=request.rate_bytes,
        )
        settings = encode.sysctls(number, ipv6=address6 is not None)
        return encode.payload(host, inside, settings, netns_fd)

    def _place(self, lease: Lease) -> dict[str, Any]:
        gateway6 = self.gateway6
        return {
            "network": self.name,
            "container_id": lease.container_id,
            "interface": lease.interface,
            "ip": str(IPv4Address(lease.address)),
            "prefix": self.subnet.prefixlen,
            "gateway": str(self.gateway.ip),
            "ip6": str(lease.ip6) if lease.ip6 else "",
            "prefix6": gateway6.network.prefixlen if gateway6 else 0,
            "gateway6": str(gateway6.ip) if gateway6 else "",
            "mac": (lease.mac or encode.mac_of(lease.address)).hex(":"),
            "host_ifname": lease.host_ifname,
        }
