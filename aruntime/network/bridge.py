"""The daemon's bridge on the host: made, repaired, removed, and its forwarding switched on.

Everything goes through pyroute2's netlink, which is imported on first use (135 ms). All functions
act on the network namespace of the calling thread and block; a daemon calls them in a thread.
They look before they change, so calling again is free of effect, and they touch only the link they
are given: several daemons with a bridge each live side by side.

A bridge made here carries ALIAS (or, made by a daemon killed right then, the hardware address it
was made with). Any other was made by someone else: it is used as it is and given our address, but
nothing else on it is changed and it is not removed.

Out of scope: what leaves the host (nat), the containers' links (encode).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aruntime.errors import Conflict

if TYPE_CHECKING:
    from pyroute2 import IPRoute

ALIAS = "aruntime bridge"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
ACCEPT_RA = "/proc/sys/net/ipv6/conf/{}/accept_ra"
MAIN_TABLE = 254
DEFAULT_MTU = 1500


def ensure(name: str, gateway: IPv4Interface, mtu: int = DEFAULT_MTU) -> tuple[int, list[str]]:
    """Make the bridge what it must be: there, up, with the gateway's address.

    Args:
        name: the bridge's link name.
        gateway: the bridge's own address with the prefix length of the subnet.
        mtu: bytes per packet, also of the containers' links.

    Returns:
        The bridge's interface index, and what had to be changed, in words.

    Raises:
        Conflict: the name belongs to a link that is no bridge, or the subnet to someone else.
        OSError: the kernel refused (EPERM without CAP_NET_ADMIN).
    """
    changes: list[str] = []
    with _netlink(name) as ipr:
        link = _find(ipr, name)
        _check_subnet(ipr, gateway.network, link["index"] if link else 0)
        if link is None:
            link = _create(ipr, name, gateway, mtu)
            changes.append(f"made bridge {name}")
        index: int = link["index"]
        if _kind(link) != "bridge":
            raise Conflict(f"link {name} exists and is no bridge: choose another --bridge")
        ours = link.get_attr("IFLA_IFALIAS") == ALIAS
        if not ours and link.get_attr("IFLA_ADDRESS") == _mac(gateway):
            _mark(ipr, index)
            ours = True
        changes += _repair_addresses(ipr, name, index, gateway, ours)
        if ours and link.get_attr("IFLA_MTU") != mtu:
            ipr.link("set", index=index, mtu=mtu)
            changes.append(f"set mtu {mtu} on {name}")
        if ours:
            changes += _ignore_routers(name)
        if not link["flags"] & 1:
            ipr.link("set", index=index, state="up")
            changes.append(f"brought {name} up")
    return index, changes


def ensure_forwarding(path: Path = FORWARDING) -> list[str]:
    """Let the kernel forward IPv4 between links; return what had to be changed, in words.

    It is never switched off again: others may have come to rely on it.

    Raises:
        OSError: it cannot be written (/proc/sys is read-only in most containers).
    """
    if path.read_text().strip() != "0":
        return []
    path.write_text("1\n")
    return ["set net.ipv4.ip_forward to 1"]


def remove(name: str) -> bool:
    """Remove the bridge if it is there and carries our mark; return whether it was removed."""
    with _netlink(name) as ipr:
        link = _find(ipr, name)
        if link is None or link.get_attr("IFLA_IFALIAS") != ALIAS:
            return False
        ipr.link("del", index=link["index"])
        return True


def ports(name: str) -> list[str]:
    """Return the names of the links that are ports of the bridge, in no order.

    From netlink: sysfs shows the network namespace in which it was mounted.
    """
    with _netlink(name) as ipr:
        link = _find(ipr, name)
        if link is None:
            return []
        return [port.get_attr("IFLA_IFNAME") for port in ipr.get_links(master=link["index"])]


@contextmanager
def _netlink(name: str) -> Iterator[IPRoute]:
    """Open a netlink socket; a refusal by the kernel becomes an OSError that names the bridge."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code), name) from error


def _find(ipr: IPRoute, name: str) -> Any:
    """Return the link of this name, or None."""
    found = ipr.link_lookup(ifname=name)
    return next(iter(ipr.get_links(found[0])), None) if found else None


def _kind(link: Any) -> str | None:
    info = link.get_attr("IFLA_LINKINFO")
    return info.get_attr("IFLA_INFO_KIND") if info else None


def _create(ipr: IPRoute, name: str, gateway: IPv4Interface, mtu: int) -> Any:
    """Make the bridge, down and without address; return its link.

    Its hardware address is fixed: a bridge without one takes the lowest of its ports', and every
    container's ARP entry for the gateway would go stale whenever that port comes or goes. It also
    tells, in the one message that makes the bridge, that it is ours.
    """
    ipr.link("add", ifname=name, kind="bridge", address=_mac(gateway), mtu=mtu)
    return _find(ipr, name)


def _mark(ipr: IPRoute, index: int) -> None:
    """Mark the bridge as ours, and keep its IPv6 chatter from being counted as containers'.

    The kernel takes neither at creation.
    """
    quiet = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    ipr.link("set", index=index, ifalias=ALIAS, IFLA_AF_SPEC=quiet)


def _ignore_routers(name: str) -> list[str]:
    """Keep the host from taking a container for its IPv6 router (CVE-2020-13401).

    A container may send any frame (CAP_NET_RAW), and a router advertisement would give the bridge
    an address and the host a default route.
    """
    path = Path(ACCEPT_RA.format(name))
    try:
        if path.read_text().strip() == "0":
            return []
    except FileNotFoundError:
        return []  # a kernel without IPv6
    path.write_text("0\n")
    return [f"let {name} ignore router advertisements"]


def _mac(gateway: IPv4Interface) -> str:
    """Return the hardware address of a bridge made here."""
    return (b"\x02\x61" + gateway.packed).hex(":")


def _repair_addresses(
    ipr: IPRoute, name: str, index: int, gateway: IPv4Interface, ours: bool
) -> list[str]:
    """Give the bridge the gateway's address and, if it is ours, take away any other one."""
    changes = []
    present = {
        (address.get_attr("IFA_LOCAL"), address["prefixlen"])
        for address in ipr.get_addr(family=2, index=index)
    }
    wanted = (str(gateway.ip), gateway.network.prefixlen)
    for local, prefix in sorted(present - {wanted}) if ours else ():
        ipr.addr("del", index=index, address=local, prefixlen=prefix)
        changes.append(f"removed address {local}/{prefix} from {name}")
    if wanted not in present:
        ipr.addr(
            "add",
            index=index,
            address=wanted[0],
            prefixlen=wanted[1],
            broadcast=str(gateway.network.broadcast_address),
        )
        changes.append(f"gave {name} the address {gateway}")
    return changes


def _check_subnet(ipr: IPRoute, subnet: IPv4Network, index: int) -> None:
    """Refuse a subnet in which another link has its address or its own route.

    A wider route (a VPN's 172.16.0.0/12, the default route) is no conflict: ours is more specific.
    """
    for address in ipr.get_addr(family=2):
        if address["index"] == index:
            continue
        local = IPv4Interface((address.get_attr("IFA_LOCAL"), address["prefixlen"]))
        if local.ip in subnet or subnet.subnet_of(local.network):
            raise _taken(subnet, f"{address.get_attr('IFA_LABEL')} has {local}")
    for route in ipr.get_routes(family=2, table=MAIN_TABLE):
        destination = route.get_attr("RTA_DST")
        if destination is None or route.get_attr("RTA_OIF") == index:
            continue
        network = IPv4Network((IPv4Address(destination), route["dst_len"]))
        if network.subnet_of(subnet):
            raise _taken(subnet, f"there is a route to {network}")


def _taken(subnet: IPv4Network, reason: str) -> Conflict:
    return Conflict(f"subnet {subnet} is taken: {reason}; choose another --subnet")
