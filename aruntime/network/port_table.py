"""The daemon's nftables table of published ports: where a port of the host leads.

One table of family ip per daemon, beside those of its networks (nat), named after its default
bridge: NAME-ports. The rules never change, only elements of its maps and its set do:

    published       protocol, port → address and port of a container
    published_at    the same for one address of the host
    resolvers       addresses at which containers ask us for names, whatever is published

::

    in from a link   arrive   (to the container)
    from the host    local    (to the container, also for 127.0.0.1)

What a packet needs on its way then is in the tables of the network it enters (nat).

A transaction changes all entries of a container or none. The table is made with the first port and
stays; one that somebody flushed is written anew, with everything in it, by the next change.

Out of scope: what an entry means and who owns ports (publishing).
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from aruntime.network import conntrack, nfnetlink, nft
from aruntime.network.nfnetlink import Change, NfTables, Table
from aruntime.network.ports import ANY, PROTOCOLS, PublishedPort

PUBLISHED = "published"
PUBLISHED_AT = "published_at"
RESOLVERS = "resolvers"
SUFFIX = "-ports"

STALE = frozenset({errno.EEXIST, errno.EBUSY})
"""What the kernel answers when a key leads elsewhere already: left by a daemon that was killed."""


class Entry(NamedTuple):
    """One element of a map."""

    map: str
    key: bytes
    value: bytes


def entry(port: PublishedPort, address: str) -> Entry:
    """Return the entry that leads a port of the host into the container at an address."""
    key = bytes([PROTOCOLS[port.protocol], 0, 0, 0]) + _port(port.host_port)
    value = IPv4Address(address).packed + _port(port.container_port)
    if port.host_ip == ANY:
        return Entry(PUBLISHED, key, value)
    return Entry(PUBLISHED_AT, IPv4Address(port.host_ip).packed + key, value)


def removal(bridge: str) -> str:
    """Return the statements that remove the table of the daemon that has this default bridge."""
    # `add` first: deleting a table that is not there would fail.
    return f"add table ip {bridge}{SUFFIX}\ndelete table ip {bridge}{SUFFIX}\n"


def ruleset(table: Table) -> str:
    """Return the transaction that makes or repairs the table, in nft's language; elements stay."""
    name = f"{table.family} {table.name}"
    service = "ipv4_addr . inet_service"
    lines = [
        f"add table {name}",
        f"add map {name} {PUBLISHED} {{ type inet_proto . inet_service : {service}; }}",
        f"add map {name} {PUBLISHED_AT} "
        f"{{ type ipv4_addr . inet_proto . inet_service : {service}; }}",
        f"add set {name} {RESOLVERS} {{ type ipv4_addr; }}",
    ]
    for chain, hook in (
        ("arrive", "prerouting priority dstnat"),
        ("local", "output priority -100"),
    ):
        lines += [
            f"add chain {name} {chain} {{ type nat hook {hook}; policy accept; }}",
            f"flush chain {name} {chain}",
            f"add rule {name} {chain} ip daddr @{RESOLVERS} th dport 53 accept",
            f"add rule {name} {chain} dnat ip to ip daddr . meta l4proto . th dport "
            f"map @{PUBLISHED_AT}",
            f"add rule {name} {chain} fib daddr type local dnat ip to meta l4proto . th dport "
            f"map @{PUBLISHED}",
        ]
    return "".join(f"{line}\n" for line in lines)


class PortTable:
    """The table and what of it belongs to whom.

    Any thread may call any method.

    Args:
        bridge: the daemon's default bridge, after which the table is named.
        tables: the connection to use; stays the caller's.
    """

    def __init__(self, bridge: str, tables: NfTables) -> None:
        self.table = Table("ip", f"{bridge}{SUFFIX}")
        self._tables = tables
        self._entries: dict[str, tuple[Entry, ...]] = {}
        """By container."""
        self._resolvers: set[str] = set()
        self._lock = threading.RLock()

    def keep_resolver(self, address: str, *, wanted: bool = True) -> None:
        """Let questions for names to an address of the host be ours, or let go of it.

        Raises:
            OSError: the kernel refused.
        """
        with self._lock:
            was = set(self._resolvers)
            (self._resolvers.add if wanted else self._resolvers.discard)(address)
            if was != self._resolvers and self._tables.is_table(self.table):
                make = nfnetlink.add_element if wanted else nfnetlink.delete_element
                with contextlib.suppress(FileNotFoundError):
                    self._tables.commit([make(self.table, RESOLVERS, IPv4Address(address).packed)])

    def put(self, container_id: str, entries: Sequence[Entry]) -> None:
        """Add the entries of a container, all at once.

        Raises:
            Unavailable, OSError: nothing of it is there.
        """
        with self._lock:
            self._ensure()
            try:
                self._tables.commit(self._additions(entries))
            except OSError as error:
                if error.errno not in STALE:
                    raise
                self._delete(entries)
                self._tables.commit(self._additions(entries))
            self._entries[container_id] = tuple(entries)

    def own(self, container_id: str, entries: Sequence[Entry]) -> None:
        """Say whose entries of a former daemon these are; ``settle`` makes sure of them."""
        with self._lock:
            self._entries[container_id] = tuple(entries)

    def drop(self, container_id: str) -> None:
        """Take out the entries of a container; nothing happens when it has none.

        Raises:
            OSError: the kernel refused.
        """
        with self._lock:
            entries = self._entries.pop(container_id, ())
            if entries:
                self._delete(entries)

    def forget_flows(self, ports: Iterable[PublishedPort]) -> None:
        """Let clients that have sent to ports before reach who has them now."""
        for port in ports:
            if port.protocol == "udp":
                with contextlib.suppress(OSError):  # the flows end by themselves some time
                    conntrack.forget(self._tables, PROTOCOLS["udp"], port.host_port)

    def settle(self) -> None:
        """Make the table hold what has an owner, and nothing else.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        with self._lock:
            there = self._tables.is_table(self.table)
            if not self._entries and not there:
                return  # a host without nft may have containers that need no network
            # One transaction: no port is without its container for a moment.
            nft.run(ruleset(self.table))
            names = (PUBLISHED, PUBLISHED_AT, RESOLVERS)
            clear = [nfnetlink.clear_map(self.table, name) for name in names]
            self._tables.commit([*clear, *self._all()])

    def _ensure(self) -> None:
        """Write the table with everything in it, if it is not there.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        if not self._tables.is_table(self.table):
            nft.run(ruleset(self.table))
            self._tables.commit(self._all())

    def _all(self) -> list[Change]:
        return self._additions([one for owned in self._entries.values() for one in owned]) + [
            nfnetlink.add_element(self.table, RESOLVERS, IPv4Address(address).packed)
            for address in sorted(self._resolvers)
        ]

    def _additions(self, entries: Sequence[Entry]) -> list[Change]:
        return [nfnetlink.add_element(self.table, *one) for one in entries]

    def _delete(self, entries: Sequence[Entry]) -> None:
        """Take entries out; those that are not there are no error."""
        changes = [nfnetlink.delete_element(self.table, one.map, one.key) for one in entries]
        try:
            self._tables.commit(changes)
            return
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        for change in changes:
            try:
                self._tables.commit([change])
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big") + b"\0\0"
