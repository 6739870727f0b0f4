"""Whether the leases of addresses are what containers, the disk and this daemon take them for.

One look may come in the middle of a start or an end; what a second one finds again is so
(:func:`lasting`). What is found is only told; a finding that can be mended brings how. What runs
is never taken its address: of a lease on the disk and one in memory, the one in memory is what a
container was started with. Blocks, for milliseconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from aruntime.network import encode, store
from aruntime.network.attach import Network
from aruntime.network.endpoints import Endpoint
from aruntime.network.ipam import UNFINISHED, Lease, read_lease, write_lease
from aruntime.network.networks import Networks

REPAIR = "'aruntime check --repair'"
SHORT_ID = 12


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    what: str
    advice: str
    grave: bool = True
    """Whether an address may go to two, or cannot be had; else it only lies about."""
    mend: Callable[[], str] | None = None
    """Repairs it and returns what was done; raises OSError. None: a person has to."""


class Report(NamedTuple):
    """What was looked at and what was found."""

    findings: tuple[Finding, ...]
    networks: int
    leases: int


class Resident(NamedTuple):
    """A container there is."""

    id: str
    name: str
    networks: tuple[str, ...]
    """Names of those it runs in; none if it does not run."""


Residents = Callable[[], Iterable[Resident]]
Address = IPv4Address | IPv6Address


def check(networks: Networks, residents: Residents) -> Report:
    """Look at the leases of all networks once.

    Args:
        networks: to look at; they may be used meanwhile.
        residents: returns all containers there are.

    Raises:
        OSError: a directory of leases cannot be read.
    """
    look = _Look(networks, residents)
    findings = [
        *look.records(),
        *(finding for network in networks for finding in look.entries(network)),
        *(finding for network in networks for finding in look.held(network)),
        *look.without(),
        *look.twice(),
    ]
    return Report(tuple(findings), len(look.places), sum(map(len, look.places.values())))


def lasting(first: Report, second: Report) -> Report:
    """Return the second look with what the first one found, too."""
    known = {finding.what for finding in first.findings}
    return second._replace(findings=tuple(one for one in second.findings if one.what in known))


class _Look:
    """What the containers, the networks and the disk say of each other."""

    def __init__(self, networks: Networks, residents: Residents) -> None:
        self._networks = networks
        before = {one.id: one for one in residents()}
        self.places: dict[str, dict[str, Endpoint]] = {
            network.name: {
                container_id: place
                for container_id in network.holders()
                if (place := network.lookup(container_id)) is not None
            }
            for network in networks
        }
        self._residents = before | {one.id: one for one in residents()}

    def records(self) -> Iterator[Finding]:
        """The records of users' networks can be read."""
        for error in store.load_all(self._networks.root)[1]:
            yield Finding(
                f"a network is lost: {error}",
                "remove its directory and make it again with 'aruntime network create'",
            )

    def entries(self, network: Network) -> Iterator[Finding]:
        """Each entry of the directory is a lease that this daemon knows."""
        directory = self._networks.leases_directory(network)
        known = self.places[network.name]
        addresses = {place.ip: place for place in known.values()}
        for name in sorted(os.listdir(directory)):
            path = directory / name
            lease = read_lease(path)
            if name.startswith(UNFINISHED) and lease is None:
                yield Finding(
                    f"{path} is left of a lease that was being written",
                    f"{REPAIR} removes it",
                    grave=False,
                    mend=partial(_remove, path),
                )
            elif name in addresses:
                continue  # see held
            elif lease is None:
                yield Finding(
                    f"{path} is no lease: it cannot be read",
                    f"{REPAIR} removes it",
                    mend=partial(_remove, path),
                )
            else:
                yield Finding(
                    f"{name} of network {network.name} is held for {self._why(lease, known)}",
                    f"{REPAIR} frees it",
                    mend=partial(_remove, path),
                )

    def _why(self, lease: Lease, known: dict[str, Endpoint]) -> str:
        place = known.get(lease.container_id)
        if place is not None:
            return f"container {self._named(lease.container_id)}, which has {place.ip} there"
        if lease.container_id not in self._residents:
            return f"container {lease.container_id[:SHORT_ID]}, which does not exist"
        return f"container {self._named(lease.container_id)}, which has no address there"

    def held(self, network: Network) -> Iterator[Finding]:
        """Each lease that this daemon knows is on the disk, and somebody's."""
        directory = self._networks.leases_directory(network)
        for container_id, place in self.places[network.name].items():
            where = f"{place.ip} of network {network.name}"
            if container_id not in self._residents:
                yield Finding(
                    f"{where} is held for container {container_id[:SHORT_ID]}, which does not"
                    " exist",
                    f"{REPAIR} frees it",
                    mend=partial(_release, network, place),
                )
                continue
            found = read_lease(directory / place.ip)
            if found is None or not _is_of(found, place):
                said = "missing or damaged" if found is None else "another's or of another link"
                yield Finding(
                    f"the lease of {where} for container {self._named(container_id)} is {said}:"
                    " after a restart of the daemon the address could be given to two",
                    f"{REPAIR} writes it again",
                    mend=partial(_write, directory, network, place),
                )

    def without(self) -> Iterator[Finding]:
        """Each container that runs in a network has a lease there."""
        for resident in self._residents.values():
            for name in resident.networks:
                if name in self.places and resident.id not in self.places[name]:
                    yield Finding(
                        f"container {resident.name} runs in network {name} and holds no address"
                        " there: what it has can be given to another",
                        f"'aruntime restart {resident.name}' gives it one",
                    )

    def twice(self) -> Iterator[Finding]:
        """No address has two owners, whatever network each is in."""
        first: dict[Address, str] = {}
        for address, owner in self._owned():
            if (other := first.setdefault(address, owner)) != owner:
                yield Finding(
                    f"{address} has two owners: {other} and {owner}",
                    "restart one of the containers, or make one of the networks again with another"
                    " subnet",
                )

    def _owned(self) -> Iterator[tuple[Address, str]]:
        for network in self._networks:
            for gateway in network.gateways:
                yield gateway.ip, f"network {network.name} itself"
            for place in self.places.get(network.name, {}).values():
                owner = f"container {self._named(place.container_id)} in network {network.name}"
                yield IPv4Address(place.ip), owner
                if place.ip6:
                    yield IPv6Address(place.ip6), owner

    def _named(self, container_id: str) -> str:
        known = self._residents.get(container_id)
        return known.name if known is not None else container_id[:SHORT_ID]


def _lease(place: Endpoint) -> Lease:
    """Return the lease that a container's place came from."""
    return Lease(
        int(IPv4Address(place.ip)),
        place.container_id,
        place.host_ifname,
        place.interface,
        bytes.fromhex(place.mac.replace(":", "")),
        IPv6Address(place.ip6) if place.ip6 else None,
    )


def _is_of(lease: Lease, place: Endpoint) -> bool:
    return lease._replace(mac=lease.mac or encode.mac_of(lease.address)) == _lease(place)


def _remove(path: Path) -> str:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path)
    return f"removed {path}"


def _release(network: Network, place: Endpoint) -> str:
    network.release(place.container_id)
    return f"freed {place.ip} of network {network.name}"


def _write(directory: Path, network: Network, place: Endpoint) -> str:
    path = directory / place.ip
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    write_lease(directory, _lease(place))
    if network.lookup(place.container_id) is None:
        path.unlink(missing_ok=True)  # it ended meanwhile
        return f"{place.ip} of network {network.name} was given back"
    return f"wrote the lease of {place.ip} of network {network.name} again"
