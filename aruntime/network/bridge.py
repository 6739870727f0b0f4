"""A network's bridge on the host: made, repaired, removed, and its forwarding switched on.

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
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aruntime.errors import Conflict
from aruntime.network import departed, subnets
from aruntime.network.definition import DEFAULT_MTU

if TYPE_CHECKING:
    from pyroute2 import IPRoute

ALIAS = "aruntime bridge"
SYS_NET = Path("/proc/sys/net")
FORWARDING = SYS_NET / "ipv4/ip_forward"
CONF4 = SYS_NET / "ipv4/conf"
CONF6 = SYS_NET / "ipv6/conf"
NEIGHBOURS = {3: 16384, 2: 8192, 1: 2048}
"""Entries that are never exceeded, that old ones are dropped above, that all are kept below."""
AF_INET6 = 10
RTPROT_RA = 9
IFA_F_NODAD = 0x02
SCOPE_LINK = 253

Gateway = IPv4Interface | IPv6Interface


def ensure(name: str, gateways: Sequence[Gateway], mtu: int = DEFAULT_MTU) -> tuple[int, list[str]]:
    """Make the bridge what it must be: there, up, with the gateway's addresses.

    Args:
        name: the bridge's link name.
        gateways: the bridge's own addresses with the prefix lengths of the subnets, IPv4 first.
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
        for gateway in gateways:
            uses = subnets.in_use(ipr, gateway.version, link["index"] if link else 0)
            subnets.check(gateway.network, uses)
        mac = _mac(gateways[0])
        if link is None:
            link = _create(ipr, name, mac, mtu)
            changes.append(f"made bridge {name}")
        index: int = link["index"]
        if _kind(link) != "bridge":
            raise Conflict(f"link {name} exists and is no bridge: choose another --bridge")
        ours = _is_ours(link, gateways[0])
        if ours and link.get_attr("IFLA_IFALIAS") != ALIAS:
            _mark(ipr, index)
        if ours:
            changes += _prepare_ipv6(name, wanted=any(one.version == 6 for one in gateways))
        changes += _repair_addresses(ipr, name, index, gateways, ours)
        if ours and link.get_attr("IFLA_MTU") != mtu:
            ipr.link("set", index=index, mtu=mtu)
            changes.append(f"set mtu {mtu} on {name}")
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


def ensure_ports(name: str, links: Collection[str]) -> tuple[list[str], list[str]]:
    """Make those of the links that are there ports of the bridge.

    A bridge that was deleted and made anew has lost the links of the containers that run.

    Returns:
        What had to be changed, in words, and the bridge's :func:`strays`.
    """
    with _netlink(name) as ipr:
        bridge = _find(ipr, name)
        if bridge is None:
            return [], []
        index, changes = bridge["index"], []
        found = list(ipr.get_links() if links else ipr.get_links(master=index))
        for link in found:
            ifname = link.get_attr("IFLA_IFNAME")
            if ifname in links and link.get_attr("IFLA_MASTER") != index:
                ipr.link("set", index=link["index"], master=index)
                changes.append(f"made {ifname} a port of {name} again")
        return changes, _strays(bridge, found, links)


def ensure_neighbours(versions: Collection[int], net: Path = SYS_NET) -> list[str]:
    """Let the kernel remember the hardware addresses of a thousand containers.

    Its default, 1,024 for all network namespaces together, is reached by some hundred that talk to
    each other; then packets to further ones are dropped, anybody's (gc_thresh3 in
    Documentation/networking/ip-sysctl.rst). Never lowered again: others may have come to rely on
    it. Nothing is done where the settings are not to be seen, as in a network namespace of one's
    own, or not to be written.

    Args:
        versions: of the Internet protocol: 4, 6.

    Returns:
        What had to be changed and what could not, in words.
    """
    changes = []
    for version in versions:
        for number, wanted in NEIGHBOURS.items():
            setting = f"net.ipv{version}.neigh.default.gc_thresh{number}"
            path = net / f"ipv{version}" / "neigh" / "default" / f"gc_thresh{number}"
            try:
                if int(path.read_text()) >= wanted:
                    continue
                path.write_text(f"{wanted}\n")
            except FileNotFoundError:
                continue
            except OSError as error:
                changes.append(
                    f"{setting} cannot be set to {wanted}: with many containers some will not be "
                    f"reached ({error.strerror})"
                )
            else:
                changes.append(f"set {setting} to {wanted}: many containers are neighbours")
    return changes


def strays(name: str, links: Collection[str]) -> list[str]:
    """Return the ports of a bridge of ours that are called as containers' links, but for these.

    A daemon that died may have left them; at a bridge of someone else they may be another daemon's.
    """
    with _netlink(name) as ipr:
        bridge = _find(ipr, name)
        return (
            [] if bridge is None else _strays(bridge, ipr.get_links(master=bridge["index"]), links)
        )


def _strays(bridge: Any, found: Iterable[Any], links: Collection[str]) -> list[str]:
    """See :func:`strays`; of the links that were found."""
    if bridge.get_attr("IFLA_IFALIAS") != ALIAS:
        return []
    ports = (one for one in found if one.get_attr("IFLA_MASTER") == bridge["index"])
    names = {port.get_attr("IFLA_IFNAME") for port in ports} - set(links)
    return sorted(name for name in names if departed.NAME.fullmatch(name))


def ensure_localnet(name: str) -> list[str]:
    """Let packets from 127.0.0.1 leave by a bridge; return what had to be changed, in words.

    The network's tables let none of them in (nat).

    Raises:
        OSError: it cannot be written.
    """
    path = CONF4 / name / "route_localnet"
    if path.read_text().strip() == "1":
        return []
    path.write_text("1\n")
    return [f"set net.ipv4.conf.{name}.route_localnet to 1: localhost reaches published ports"]


def remove(name: str, gateway: Gateway) -> bool:
    """Remove the bridge if it is there and ours; return whether it was removed.

    Args:
        gateway: the IPv4 address that it was made for.
    """
    with _netlink(name) as ipr:
        link = _find(ipr, name)
        if link is None or not _is_ours(link, gateway):
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


def _is_ours(link: Any, gateway: Gateway) -> bool:
    """Whether a bridge was made here: marked so, or by a daemon that was killed before it did."""
    marks = link.get_attr("IFLA_IFALIAS"), link.get_attr("IFLA_ADDRESS")
    return bool(marks[0] == ALIAS or marks[1] == _mac(gateway))


def _create(ipr: IPRoute, name: str, mac: str, mtu: int) -> Any:
    """Make the bridge, down and without address; return its link.

    Its hardware address is fixed: a bridge without one takes the lowest of its ports', and every
    container's ARP entry for the gateway would go stale whenever that port comes or goes. It also
    tells, in the one message that makes the bridge, that it is ours.
    """
    ipr.link("add", ifname=name, kind="bridge", address=mac, mtu=mtu)
    return _find(ipr, name)


def _mark(ipr: IPRoute, index: int) -> None:
    """Mark the bridge as ours, and keep its IPv6 chatter from being counted as containers'.

    The kernel takes neither at creation.
    """
    quiet = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    ipr.link("set", index=index, ifalias=ALIAS, IFLA_AF_SPEC=quiet)


def _prepare_ipv6(name: str, *, wanted: bool) -> list[str]:
    """Keep the host from taking a container for its IPv6 router (CVE-2020-13401).

    A container may send any frame (CAP_NET_RAW), and a router advertisement would give the bridge
    an address and the host a default route. Where the network has IPv6, it is switched on for the
    bridge also on hosts that switch it off for new links.
    """
    values = {"accept_ra": ("0", f"let {name} ignore router advertisements")}
    if wanted:
        values["disable_ipv6"] = ("0", f"switched IPv6 on for {name}")
    changes = []
    for setting, (value, text) in values.items():
        path = CONF6 / name / setting
        try:
            if path.read_text().strip() == value:
                continue
        except FileNotFoundError:
            continue  # a kernel without IPv6
        path.write_text(f"{value}\n")
        changes.append(text)
    return changes


def _mac(gateway: Gateway) -> str:
    """Return the hardware address of a bridge made here; gateway is its IPv4 address."""
    return (b"\x02\x61" + gateway.packed).hex(":")


def _repair_addresses(
    ipr: IPRoute, name: str, index: int, gateways: Sequence[Gateway], ours: bool
) -> list[str]:
    """Give the bridge the gateway's addresses and, if it is ours, take away any other one."""
    changes = []
    present = {
        (address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"), address["prefixlen"])
        for address in ipr.get_addr(index=index)
        if address["scope"] != SCOPE_LINK
    }
    wanted = {(str(one.ip), one.network.prefixlen): one for one in gateways}
    for local, prefix in sorted(present - wanted.keys()) if ours else ():
        ipr.addr("del", index=index, address=local, prefixlen=prefix)
        changes.append(f"removed address {local}/{prefix} from {name}")
    for (local, prefix), gateway in wanted.items():
        if (local, prefix) in present:
            continue
        if isinstance(gateway, IPv4Interface):
            more: dict[str, Any] = {"broadcast": str(gateway.network.broadcast_address)}
        else:
            # Without a port the bridge has no carrier, and detection of duplicates no end.
            more = {"flags": IFA_F_NODAD}
        ipr.addr("add", index=index, address=local, prefixlen=prefix, **more)
        changes.append(f"gave {name} the address {gateway}")
    return changes


def ensure_forwarding6(conf: Path = CONF6) -> list[str]:
    """Let the kernel forward IPv6 between links; return what had to be changed, in words.

    A host that forwards ignores router advertisements unless told to take them all the same
    (accept_ra 2): links that got routes by them are told so first, or the host would lose its way
    out within minutes.

    Raises:
        OSError: it cannot be written.
    """
    forwarding = conf / "all" / "forwarding"
    if forwarding.read_text().strip() != "0":
        return []
    changes = []
    for link in _advertised():
        setting = conf / link / "accept_ra"
        if setting.read_text().strip() == "1":
            setting.write_text("2\n")
            changes.append(f"set net.ipv6.conf.{link}.accept_ra to 2: its routes are advertised")
    forwarding.write_text("1\n")
    return [*changes, "set net.ipv6.conf.all.forwarding to 1"]


def in_use(version: int) -> list[subnets.Use]:
    """Return what addresses and routes of the host take up, of an IP version (4 or 6)."""
    with _netlink("") as ipr:
        return subnets.in_use(ipr, version)


def _advertised() -> list[str]:
    """Return the links over which the host learned routes by router advertisements."""
    with _netlink("") as ipr:
        routes = ipr.get_routes(family=AF_INET6, proto=RTPROT_RA)
        indexes = {route.get_attr("RTA_OIF") for route in routes} - {None}
        links = [next(iter(ipr.get_links(index)), None) for index in sorted(indexes)]
        return [link.get_attr("IFLA_IFNAME") for link in links if link]
