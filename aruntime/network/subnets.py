"""Which subnets are free: against the host's addresses and routes, and the networks we have.

What the host says is read by netlink; choosing is pure. A wider route of the host (a VPN's
10.0.0.0/8, the default route) is no conflict for a subnet that a user names, ours is more specific;
a subnet that we choose ourselves keeps clear of those too, but for the default route.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TYPE_CHECKING, Any, NamedTuple

from aruntime.errors import AddressPoolExhausted, Conflict

if TYPE_CHECKING:
    from pyroute2 import IPRoute

IPNetwork = IPv4Network | IPv6Network

MAIN_TABLE = 254
FAMILIES = {4: 2, 6: 10}
POOLS = (
    *(IPv4Network((f"172.{number}.0.0", 16)) for number in range(18, 32)),
    *IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
    *IPv4Network("10.192.0.0/11").subnets(new_prefix=20),
)
"""Where subnets that nobody named come from, in order: docker's, then some more."""
UNIQUE_LOCAL = 0xFD << 120
"""fd00::/8 of RFC 4193, followed by forty random bits."""


class Use(NamedTuple):
    """A part of the address space that is in use on the host."""

    network: IPNetwork
    reason: str
    is_route: bool


def in_use(ipr: IPRoute, version: int, index: int = 0) -> list[Use]:
    """Return what the host's addresses and routes of an IP version take up.

    Args:
        ipr: a netlink socket.
        version: 4 or 6.
        index: a link whose own addresses and routes do not count.
    """
    family = FAMILIES[version]
    found = []
    for address in ipr.get_addr(family=family):
        if address["index"] != index:
            local = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            interface = _interface(local, address["prefixlen"])
            if not interface.is_link_local and not interface.is_loopback:
                name = address.get_attr("IFA_LABEL") or _name(ipr, address["index"])
                found.append(Use(interface.network, f"{name} has {interface}", is_route=False))
    for route in ipr.get_routes(family=family, table=MAIN_TABLE):
        destination = route.get_attr("RTA_DST")
        if destination is None or route.get_attr("RTA_OIF") == index:
            continue
        network = _interface(destination, route["dst_len"]).network
        if not network.is_link_local and not network.is_multicast:
            found.append(Use(network, f"there is a route to {network}", is_route=True))
    return found


def check(subnet: IPNetwork, uses: Iterable[Use]) -> None:
    """Refuse a subnet in which another link has its address or its own route.

    Raises:
        Conflict: it is taken; says by what.
    """
    for use in uses:
        if use.network.version != subnet.version:
            continue
        inside = _within(use.network, subnet)
        if inside or (not use.is_route and _within(subnet, use.network)):
            raise Conflict(f"subnet {subnet} is taken: {use.reason}; choose another --subnet")


def free(candidates: Iterable[IPv4Network], uses: Iterable[Use]) -> Iterator[IPv4Network]:
    """Return those candidates that overlap with nothing in use, in order."""
    taken = [use.network for use in uses if use.network.prefixlen]
    return (one for one in candidates if not any(one.overlaps(network) for network in taken))


def first_free(uses: Iterable[Use]) -> IPv4Network:
    """Return the first subnet of the pools that is free.

    Raises:
        AddressPoolExhausted: there is none.
    """
    for subnet in itertools.islice(free(POOLS, uses), 1):
        return subnet
    raise AddressPoolExhausted(
        "no free subnet among those networks get by default: name one with --subnet"
    )


def unique_local() -> IPv6Network:
    """Return a random IPv6 subnet of the kind that nobody else has (RFC 4193)."""
    return IPv6Network((UNIQUE_LOCAL | secrets.randbits(40) << 80, 64))


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _interface(address: str, prefix: int) -> IPv4Interface | IPv6Interface:
    if ":" in address:
        return IPv6Interface((IPv6Address(address), prefix))
    return IPv4Interface((IPv4Address(address), prefix))


def _name(ipr: IPRoute, index: int) -> Any:
    link = next(iter(ipr.get_links(index)), None)
    return link.get_attr("IFLA_IFNAME") if link else f"link {index}"
