"""What leaves the host from each container, counted apart from what containers say to each other.

A table of family inet per daemon, named after its default bridge, with a named counter for every
interface of a running container. It is fed where a packet has passed every filter and still bears
the container's own address, if it came in by a bridge of this daemon and goes out by another link:

    postrouting, before source NAT   from a bridge of ours, to none → counter of its source address

Counted are bytes of IP packets, without the Ethernet header that the counters of the link
(counters) include; a packet merged by GSO counts once. What goes to the host itself, to containers
of this daemon and to ports that they publish does not leave. The guard keeps a container from
sending by another's address.

The kernel counts on while no daemon runs, and a counter has its container's name: whoever comes
next goes on with it. A start begins at zero, whatever a daemon that was killed left behind.

Out of scope: keeping what was counted (metering), which links there are (attach, networks).
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from aruntime.network import nfnetlink, nft
from aruntime.network.endpoints import Endpoint
from aruntime.network.nfnetlink import Change, Count, NfTables, Table

FAMILY = "inet"
MAPS = {4: "egress", 6: "egress6"}
BRIDGES = "bridges"
IFNAMSIZ = 16
PRIORITY = -150
"""Before source NAT (100); with nft's word mangle."""
STALE = frozenset({errno.EEXIST, errno.EBUSY})
"""What the kernel answers where a daemon that was killed left something."""
ABSENT = frozenset({errno.ENOENT, errno.EBUSY})
"""When something is to be removed: not there, or not ours to remove as another refers to it."""

Standing = Callable[[], Iterable[tuple[Endpoint, str]]]
"""Returns the endpoints of running containers, each with its bridge."""


def ruleset(name: str) -> str:
    """Return the statements that make or repair the table, in nft's language.

    Elements and counters stay.
    """
    table = f"{FAMILY} {name}"
    # Where it came in counts: nobody else can send by a container's address at its expense.
    way = f"iifname @{BRIDGES} oifname != @{BRIDGES}"
    lines = [
        f"add table {table}",
        f"add map {table} {MAPS[4]} {{ type ipv4_addr : counter; }}",
        f"add map {table} {MAPS[6]} {{ type ipv6_addr : counter; }}",
        f"add set {table} {BRIDGES} {{ type ifname; }}",
        f"add chain {table} leave "
        f"{{ type filter hook postrouting priority {PRIORITY}; policy accept; }}",
        f"flush chain {table} leave",
        f"add rule {table} leave {way} counter name ip saddr map @{MAPS[4]}",
        f"add rule {table} leave {way} counter name ip6 saddr map @{MAPS[6]}",
    ]
    return "".join(f"{line}\n" for line in lines)


def elements(name: str, standing: Iterable[tuple[Endpoint, str]]) -> str:
    """Return the statements that let maps and set hold these and no others, in nft's language."""
    table = f"{FAMILY} {name}"
    lines = [f"flush map {table} {one}" for one in MAPS.values()]
    lines.append(f"flush set {table} {BRIDGES}")
    for endpoint, bridge in standing:
        counter = _name_of(endpoint)
        lines.append(f'add element {table} {BRIDGES} {{ "{bridge}" }}')
        lines.append(f"add counter {table} {counter}")
        lines += [
            f'add element {table} {MAPS[address.version]} {{ {address} : "{counter}" }}'
            for address in _addresses(endpoint)
        ]
    return "".join(f"{line}\n" for line in lines)


def counter_name(container_id: str, interface: str) -> str:
    """Return the name of a counter; it begins with a letter, as nft wants it."""
    return f"{interface}-{container_id}"


class Egress:
    """The counters of one daemon's containers.

    Any thread may call any method. A table that somebody flushed is written anew by the next call
    that adds something; what it had counted since the last reading is lost then.

    Args:
        name: the daemon's default bridge, after which the table is named.
        tables: the connection to use; stays the caller's.
        standing: who is to be counted when the table is written anew.
    """

    def __init__(self, name: str, tables: NfTables, standing: Standing) -> None:
        self.table = Table(FAMILY, name)
        self._tables = tables
        self._standing = standing
        self._lock = threading.RLock()
        """Held while the table changes; whoever reads goes without."""

    def ensure(self) -> None:
        """Make the table if it is not there (5 ms), so that no start waits for it.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        with self._lock:
            if not self._tables.is_table(self.table):
                nft.run(ruleset(self.table.name))

    def begin(self, endpoint: Endpoint, bridge: str) -> None:
        """Count from now on, from zero, what leaves from an endpoint.

        Raises:
            Unavailable, OSError: nft or the kernel refused; nothing of it is there then.
        """
        with self._lock:
            try:
                self._tables.commit(self._additions(endpoint, bridge))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    self._write()
                elif error.errno not in STALE:
                    raise
                self.end(endpoint)
                self._tables.commit(self._additions(endpoint, bridge))

    def end(self, endpoint: Endpoint) -> None:
        """Remove an endpoint's counter; nothing happens when there is none.

        Raises:
            OSError: the kernel refused.
        """
        with self._lock:
            removals = self._removals(endpoint)
            try:
                self._tables.commit(removals)
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                for change in removals:
                    self._remove(change)

    def forget(self, bridge: str) -> None:
        """Take a bridge that is being removed for a way out from now on.

        Raises:
            OSError: the kernel refused.
        """
        with self._lock:
            self._remove(nfnetlink.delete_element(self.table, BRIDGES, _bridge_key(bridge)))

    def settle(self) -> None:
        """Count who stands somewhere, and nobody else; counters that stay go on.

        Called when the containers of a former daemon are known again.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        with self._lock:
            standing = list(self._standing())
            if not standing and not self._tables.is_table(self.table):
                return  # a host without nft may have containers that need no network
            self._write()
            known = {_name_of(endpoint) for endpoint, _ in standing}
            for name in self._tables.read_counters(self.table).keys() - known:
                self._remove(nfnetlink.delete_counter(self.table, name))

    def read(self, container_id: str, interface: str) -> Count | None:
        """Return what has left by an interface (some 10 µs), None when nobody counts.

        Raises:
            OSError: the kernel refused.
        """
        name = counter_name(container_id, interface)
        return self._tables.read_counters(self.table, name).get(name)

    def _write(self) -> None:
        """Make or repair the table, with the elements of whoever stands somewhere.

        One transaction: no packet finds the maps empty.
        """
        nft.run(ruleset(self.table.name) + elements(self.table.name, self._standing()))

    def _additions(self, endpoint: Endpoint, bridge: str) -> list[Change]:
        name = _name_of(endpoint)
        return [
            nfnetlink.add_element(self.table, BRIDGES, _bridge_key(bridge)),
            nfnetlink.add_counter(self.table, name, exclusive=True),
            *(
                nfnetlink.add_element(self.table, map_name, key, name)
                for map_name, key in _keys(endpoint)
            ),
        ]

    def _removals(self, endpoint: Endpoint) -> list[Change]:
        return [
            *(
                nfnetlink.delete_element(self.table, map_name, key)
                for map_name, key in _keys(endpoint)
            ),
            nfnetlink.delete_counter(self.table, _name_of(endpoint)),
        ]

    def _remove(self, change: Change) -> None:
        try:
            self._tables.commit([change])
        except OSError as error:
            if error.errno not in ABSENT:
                raise


def _name_of(endpoint: Endpoint) -> str:
    return counter_name(endpoint.container_id, endpoint.interface)


def _bridge_key(bridge: str) -> bytes:
    return bridge.encode("ascii").ljust(IFNAMSIZ, b"\0")


def _keys(endpoint: Endpoint) -> list[tuple[str, bytes]]:
    """Return the elements by which an endpoint's packets are known: map and key."""
    return [(MAPS[address.version], address.packed) for address in _addresses(endpoint)]


def _addresses(endpoint: Endpoint) -> list[IPv4Address | IPv6Address]:
    return [ip_address(one) for one in (endpoint.ip, endpoint.ip6) if one]
