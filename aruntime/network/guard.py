"""Which frames a container may send: those with its own addresses, and no others.

A table of the bridge family per network, named after the bridge. It looks at frames where they
enter the bridge from a port of ours, known by its link group (IFLA_GROUP; other links of the
bridge are not ours to judge). A frame passes if its port, hardware address and IP source address
stand together in a set; ARP must claim just these, also in its own header; IPv6 passes where the
network has it, without router advertisements, redirects, or neighbour advertisements for others.
Everything else is dropped and counted.

A start adds one element to the set before the link is there, an end takes it out: one netlink
transaction each, no rule changes.

Out of scope: packets between networks and out of the host (nat).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from aruntime.network import encode
from aruntime.network.definition import Definition
from aruntime.network.ipam import Lease
from aruntime.network.nfnetlink import NfTables, Table, add_element, delete_element

FAMILY = "bridge"
PORTS = "ports"
PORTS6 = "ports6"
TARGETS6 = "targets6"
"""The same keys as PORTS6 for the target of a neighbour advertisement, which nft before 1.0.7 knows
as bytes 8 to 23 of the message only, and does not look up in a set of addresses."""
CHAIN = "prerouting"
PRIORITY = -300
"""Before everything else that looks at bridged frames (NF_BR_PRI_NAT_DST_BRIDGED)."""
IFNAMSIZ = 16


class Port(NamedTuple):
    """What the container behind one port of the bridge may call its own."""

    host_ifname: str
    mac: bytes
    ip: IPv4Address
    ip6: IPv6Address | None = None

    @property
    def keys(self) -> list[tuple[str, bytes]]:
        """Return the keys, by the set's name, that let its frames pass."""
        base = self.host_ifname.encode("ascii").ljust(IFNAMSIZ, b"\0") + self.mac + b"\0\0"
        found = [(PORTS, base + self.ip.packed)]
        if self.ip6 is not None:
            found += [(PORTS6, base + self.ip6.packed), (TARGETS6, base + self.ip6.packed)]
        return found


def port_of(lease: Lease) -> Port:
    """Return the port of the container that holds a lease."""
    mac = lease.mac or encode.mac_of(lease.address)
    return Port(lease.host_ifname, mac, IPv4Address(lease.address), lease.ip6)


def ruleset(definition: Definition, ports: Iterable[Port]) -> str:
    """Return the statements that make or repair the table with these ports, in nft's language."""
    table = f"{FAMILY} {definition.bridge}"
    lines = [
        f"add table {table}",
        f"add chain {table} {CHAIN} "
        f"{{ type filter hook prerouting priority {PRIORITY}; policy accept; }}",
        f"flush chain {table} {CHAIN}",
        f"add set {table} {PORTS} {{ type ifname . ether_addr . ipv4_addr; }}",
        f"flush set {table} {PORTS}",
    ]
    if definition.subnet6:
        lines += [
            f"add set {table} {PORTS6} {{ type ifname . ether_addr . ipv6_addr; }}",
            f"flush set {table} {PORTS6}",
            f"add set {table} {TARGETS6} {{ typeof meta iifname . ether saddr . @th,64,128; }}",
            f"flush set {table} {TARGETS6}",
        ]
    known = list(ports)
    found4 = [(port.host_ifname, port.mac, str(port.ip)) for port in known]
    found6 = [(port.host_ifname, port.mac, port.ip6) for port in known if port.ip6]
    lines += _elements(table, PORTS, found4)
    lines += _elements(table, PORTS6, [(name, mac, str(ip6)) for name, mac, ip6 in found6])
    lines += _elements(table, TARGETS6, [(name, mac, f"{ip6:#x}") for name, mac, ip6 in found6])
    lines += [f"add rule {table} {CHAIN} {rule}" for rule in rules(definition)]
    return "".join(f"{line}\n" for line in lines)


def rules(definition: Definition) -> list[str]:
    """Return the rules of the chain, in order."""
    found = [
        f"iifgroup != {definition.group} accept",
        f"ether type ip iifname . ether saddr . ip saddr @{PORTS} accept",
        f"ether type arp iifname . ether saddr . arp saddr ip @{PORTS} "
        f"iifname . arp saddr ether . arp saddr ip @{PORTS} accept",
    ]
    if definition.subnet6:
        found += [
            "ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop",
            "ether type ip6 icmpv6 type nd-neighbor-advert "
            f"iifname . ether saddr . @th,64,128 != @{TARGETS6} drop",
            f"ether type ip6 iifname . ether saddr . ip6 saddr @{PORTS6} accept",
        ]
    return [*found, "counter drop"]


def _elements(table: str, name: str, keys: list[tuple[str, bytes, str]]) -> list[str]:
    listed = ", ".join(f'"{ifname}" . {mac.hex(":")} . {address}' for ifname, mac, address in keys)
    return [f"add element {table} {name} {{ {listed} }}"] if listed else []


def table_of(bridge: str) -> Table:
    """Return what names the table of a bridge."""
    return Table(FAMILY, bridge)


def allow(tables: NfTables, bridge: str, port: Port) -> None:
    """Let the frames of a port pass.

    Raises:
        OSError: the kernel refused (ENOENT: the table is not there).
    """
    table = table_of(bridge)
    tables.commit([add_element(table, name, key) for name, key in port.keys])


def forbid(tables: NfTables, bridge: str, port: Port) -> None:
    """Forget a port; it is no error when it or the table is not there.

    Raises:
        OSError: the kernel refused.
    """
    table = table_of(bridge)
    try:
        tables.commit([delete_element(table, name, key) for name, key in port.keys])
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
