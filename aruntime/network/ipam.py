"""IPv4 address leases: an allocator and the directory that remembers what it gave out.

A lease is one symbolic link in a directory::

    <address> → <container id> <host link> <link inside> <hardware address or -> <IPv6 address or ->

What is as it usually is (eth0, nothing particular) is left out, and an id of 64 hexadecimal digits
is written in 43 characters (base64, RFC 4648 §5): a text of less than 60 bytes lies in the inode
itself (ext4 and others), and no block has to be found for it, nor given back, for which a disk that
is told of free blocks (mount option discard) makes the end of a container wait half a millisecond.

symlink(2) is atomic and refuses an existing name, so a crash at any moment leaves a lease that is
either whole or absent, no address is given twice even by two processes, and a start pays one
system call (about 20 µs) instead of rewriting and syncing one file for all (a millisecond).
Nothing is synced: leases matter while containers run, and none survives what only fsync(2) would
cover; ``reconcile`` frees the stale ones. Earlier releases wrote ids as they are.

Allocation takes constant time at any pool size: fresh addresses in order first, then released
ones, the longest free first, so that an address rests as long as possible before it is reused.

Out of scope: which subnet, and everything on the wire.
"""

from __future__ import annotations

import base64
import os
import re
from collections import OrderedDict
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import NamedTuple

from aruntime.errors import AddressPoolExhausted, Conflict, InvalidParameter

ABSENT = "-"
USUAL = ["eth0", ABSENT, ABSENT]
"""The last three words of most leases."""
UNFINISHED = "."
"""Begins the name of a lease that is being written."""
FULL_ID = re.compile(r"[0-9a-f]{64}")
SHORT_ID = re.compile(r"[A-Za-z0-9_-]{43}")


class Pool:
    """Which host addresses of a subnet are free. Pure: addresses are integers.

    The network and broadcast addresses are never given out, and neither are the reserved ones;
    outside of ``within`` only who asks for a particular address gets it.
    """

    def __init__(
        self,
        subnet: IPv4Network,
        reserved: Collection[int] = (),
        within: IPv4Network | None = None,
    ) -> None:
        self.subnet = subnet
        within = within or subnet
        self._first = int(subnet.network_address) + 1
        self._last = int(subnet.broadcast_address) - 1
        self._fresh = self._start = max(self._first, int(within.network_address))
        self._end = min(self._last, int(within.broadcast_address)) + 1
        """Every address from here up has never been given out, unless it is in ``_held``."""
        self._released: OrderedDict[int, None] = OrderedDict()
        """Free addresses below ``_fresh``, the longest free first."""
        self._held = set(reserved)

    def take(self) -> int:
        """Return a free address and hold it.

        Raises:
            AddressPoolExhausted: every address is held.
        """
        while self._fresh < self._end:
            address = self._fresh
            self._fresh += 1
            if address not in self._held:
                self._held.add(address)
                return address
        if not self._released:
            raise AddressPoolExhausted(
                f"no free address in {self.subnet}: remove containers or use a larger subnet"
            )
        address, _ = self._released.popitem(last=False)
        self._held.add(address)
        return address

    def hold(self, address: int) -> bool:
        """Hold one particular address; return False if it is held or not of this subnet."""
        if not self._first <= address <= self._last or address in self._held:
            return False
        self._released.pop(address, None)
        self._held.add(address)
        return True

    def release(self, address: int) -> None:
        """Give a held address back; it becomes the last to be given out again."""
        self._held.remove(address)
        if self._start <= address < self._fresh:
            self._released[address] = None

    def resume(self, addresses: Collection[int]) -> None:
        """Go on above the highest of these; the free ones below count as released long ago.

        Called once, after the leases of an earlier daemon were held: what that one released last
        is not known, so its addresses are the last to be given out again.
        """
        inside = [address for address in addresses if self._start <= address < self._end]
        above = max(inside, default=self._fresh - 1) + 1
        for address in range(self._fresh, above):
            if address not in self._held:
                self._released[address] = None
        self._fresh = max(self._fresh, above)


class Lease(NamedTuple):
    """One address held for one container."""

    address: int
    container_id: str
    host_ifname: str
    """Name of the host end of the container's veth pair."""
    interface: str = "eth0"
    """Name of its other end, inside."""
    mac: bytes = b""
    """Hardware address inside; empty: the one that follows from the address."""
    ip6: IPv6Address | None = None
    """Follows from the address, unless a particular one was asked for."""


class Leases:
    """The leases of one subnet, kept in memory and as symbolic links in a directory.

    Not thread-safe: one caller at a time. The directory belongs to this object; what in it is not
    a lease of this subnet is removed when it is opened.
    """

    def __init__(
        self,
        directory: Path,
        subnet: IPv4Network,
        gateway: IPv4Address,
        *,
        within: IPv4Network | None = None,
        subnet6: IPv6Network | None = None,
        gateway6: IPv6Address | None = None,
    ) -> None:
        self._directory = directory
        self._pool = Pool(subnet, {int(gateway)}, within)
        self._subnet6 = subnet6
        self._gateway6 = gateway6
        self._by_container: dict[str, Lease] = {}
        self._held6: set[IPv6Address] = set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load()

    def __len__(self) -> int:
        return len(self._by_container)

    def get(self, container_id: str) -> Lease | None:
        """Return the container's lease, or None."""
        return self._by_container.get(container_id)

    def all(self) -> list[Lease]:
        """Return every lease."""
        return list(self._by_container.values())

    def acquire(
        self,
        container_id: str,
        host_ifname: str,
        address: IPv4Address | None = None,
        *,
        interface: str = "eth0",
        mac: bytes = b"",
        ip6: IPv6Address | None = None,
    ) -> Lease:
        """Lease an address to a container; one that has a lease keeps its address.

        Args:
            container_id: who holds it; no spaces.
            host_ifname: the link name to remember; it replaces that of an earlier lease, and so
                do interface and hardware address.
            address: a particular address, or None for any.
            interface: name of the link inside.
            mac: a particular hardware address.
            ip6: a particular IPv6 address; None: where there is IPv6, the one that follows from
                the address.

        Raises:
            AddressPoolExhausted: there is none left.
            Conflict: the particular address is taken.
            InvalidParameter: it is not of this subnet.
            OSError: the lease could not be written; nothing is held then.
        """
        held = self._by_container.get(container_id)
        if held is not None:
            if address not in (None, IPv4Address(held.address)) or ip6 not in (None, held.ip6):
                raise Conflict(
                    f"container {container_id[:12]} holds {IPv4Address(held.address)}: "
                    f"stop it before giving it {address or ip6}"
                )
            return self._rename(
                held._replace(host_ifname=host_ifname, interface=interface, mac=mac)
            )
        if ip6 is not None:
            self._check6(ip6)
        while True:
            chosen = self._choose(address)
            follows = ip6 or self._follows(chosen)
            lease = Lease(chosen, container_id, host_ifname, interface, mac, follows)
            try:
                os.symlink(_target(lease), self._path(chosen))
            except FileExistsError:
                # Another process leased it in the same directory. It stays held here: only a
                # restart learns that the other one has let go.
                if address is not None:
                    raise Conflict(f"address {address} is taken by another daemon") from None
                continue
            except OSError:
                self._pool.release(chosen)
                raise
            self._remember(lease)
            return lease

    def release(self, container_id: str) -> Lease | None:
        """Free the container's address and return its lease; None when it held none.

        Raises:
            OSError: the lease could not be removed; it is still held then.
        """
        lease = self._by_container.get(container_id)
        if lease is None:
            return None
        self._path(lease.address).unlink(missing_ok=True)
        del self._by_container[container_id]
        if lease.ip6 is not None:
            self._held6.discard(lease.ip6)
        self._pool.release(lease.address)
        return lease

    def reconcile(self, live_ids: Collection[str]) -> list[Lease]:
        """Free the lease of every container that is not in live_ids; return those leases."""
        live = frozenset(live_ids)
        gone = [lease for lease in self._by_container.values() if lease.container_id not in live]
        for lease in gone:
            self.release(lease.container_id)
        return gone

    def _choose(self, address: IPv4Address | None) -> int:
        if address is None:
            return self._pool.take()
        if address not in self._pool.subnet:
            raise InvalidParameter(f"address {address} is not in subnet {self._pool.subnet}")
        if not self._pool.hold(int(address)):
            raise Conflict(f"address {address} is already in use")
        return int(address)

    def _check6(self, address: IPv6Address) -> None:
        if self._subnet6 is None or address not in self._subnet6:
            raise InvalidParameter(
                f"address {address} is not in subnet {self._subnet6}"
                if self._subnet6 is not None
                else f"address {address} cannot be used: the network has no IPv6"
            )
        if address in self._held6 or address in (self._gateway6, self._subnet6.network_address):
            raise Conflict(f"address {address} is already in use")

    def _follows(self, address: int) -> IPv6Address | None:
        """Return the IPv6 address of an IPv4 address: the same place in the subnet.

        Somebody may have asked for just that one; then another as far from the beginning.
        """
        if self._subnet6 is None:
            return None
        size = self._pool.subnet.num_addresses
        place = address - int(self._pool.subnet.network_address)
        while self._subnet6[place] in self._held6 or self._subnet6[place] == self._gateway6:
            place += size
            if place >= self._subnet6.num_addresses:
                raise AddressPoolExhausted(
                    f"no free address in {self._subnet6}: use a larger subnet"
                )
        return self._subnet6[place]

    def _remember(self, lease: Lease) -> None:
        self._by_container[lease.container_id] = lease
        if lease.ip6 is not None:
            self._held6.add(lease.ip6)

    def _rename(self, renamed: Lease) -> Lease:
        """Record new names for a lease, at no moment without one of the two."""
        write_lease(self._directory, renamed)
        self._by_container[renamed.container_id] = renamed
        return renamed

    def _path(self, address: int) -> Path:
        return self._directory / str(IPv4Address(address))

    def _load(self) -> None:
        """Take over the leases on disk; remove what is not one."""
        for name in sorted(os.listdir(self._directory)):
            lease = read_lease(self._directory / name)
            if (
                lease is None
                or lease.container_id in self._by_container
                or not self._pool.hold(lease.address)
            ):
                (self._directory / name).unlink()
            else:
                self._remember(lease)
        self._pool.resume([lease.address for lease in self._by_container.values()])


def read_lease(path: Path) -> Lease | None:
    """Return the lease that a directory entry is, None when it is none."""
    try:
        address = int(IPv4Address(path.name))
        match os.readlink(path).split(" "):
            case [written, host_ifname]:
                return Lease(address, _full_id(written), host_ifname)
            case [written, host_ifname, interface, mac, ip6]:
                known6 = IPv6Address(ip6) if ip6 != ABSENT else None
                hardware = bytes.fromhex(mac.replace(":", "")) if mac != ABSENT else b""
                return Lease(address, _full_id(written), host_ifname, interface, hardware, known6)
            case _:
                return None
    except (ValueError, OSError):
        return None


def write_lease(directory: Path, lease: Lease) -> None:
    """Write a lease in place of what has its name, if anything; at no moment is there none.

    Raises:
        OSError: a directory is in the way, or the disk refused.
    """
    temporary = directory / f"{UNFINISHED}{IPv4Address(lease.address)}"
    temporary.unlink(missing_ok=True)
    os.symlink(_target(lease), temporary)
    temporary.rename(directory / str(IPv4Address(lease.address)))


def _target(lease: Lease) -> str:
    ip6 = str(lease.ip6) if lease.ip6 is not None else ABSENT
    more = [lease.interface, lease.mac.hex(":") or ABSENT, ip6]
    words = [_short_id(lease.container_id), lease.host_ifname]
    return " ".join(words if more == USUAL else words + more)


def _short_id(container_id: str) -> str:
    if not FULL_ID.fullmatch(container_id):
        return container_id
    return base64.urlsafe_b64encode(bytes.fromhex(container_id)).decode().rstrip("=")


def _full_id(written: str) -> str:
    """Return the id that a word of a lease stands for; any other word is one itself.

    Raises:
        ValueError: it stands for none.
    """
    if not SHORT_ID.fullmatch(written):
        return written
    return base64.urlsafe_b64decode(f"{written}=").hex()
