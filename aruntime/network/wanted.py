"""What a user asks of a new network, and the definition that is made of it.

Out of scope: making it (networks), what a definition's values must be (definition).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

import msgspec

from aruntime.errors import Conflict
from aruntime.network import bridge as bridges
from aruntime.network import definition as checks
from aruntime.network import subnets
from aruntime.network.attach import Network
from aruntime.network.definition import Definition


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of a new network; empty texts leave the choice to us."""

    name: str
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    ipv6: bool = False
    subnet6: str = ""
    gateway6: str = ""
    internal: bool = False
    mtu: int = 0
    bridge: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


def define(wanted: Wanted, networks: Iterable[Network]) -> Definition:
    """Check what was asked for and choose the rest.

    Args:
        wanted: what was asked for; its name is known to be free.
        networks: those that are there.

    Raises:
        Conflict: bridge or subnet are taken; says by what.
        InvalidParameter: a value cannot be used.
        AddressPoolExhausted: no subnet is free.
    """
    network_id = secrets.token_hex(32)
    ours = {one.name: one for one in networks}
    # Which part of the IPv4 address space the host and our networks take up.
    uses = [
        subnets.Use(one.subnet, f"network {name} has it", is_route=False)
        for name, one in ours.items()
    ] + bridges.in_use(4)
    subnet = checks.check_subnet(wanted.subnet) if wanted.subnet else subnets.first_free(uses)
    _check_overlap(subnet, {name: one.subnet for name, one in ours.items()})
    gateway = checks.check_gateway(wanted.gateway, subnet)
    checks.check_range(wanted.ip_range, subnet)
    subnet6, gateway6 = "", ""
    if wanted.ipv6 or wanted.subnet6:
        network6 = (
            checks.check_subnet6(wanted.subnet6, subnet)
            if wanted.subnet6
            else subnets.unique_local()
        )
        taken6 = {name: one.gateway6.network for name, one in ours.items() if one.gateway6}
        _check_overlap(network6, taken6)
        subnet6, gateway6 = str(network6), str(checks.check_gateway6(wanted.gateway6, network6))
    bridge = wanted.bridge or f"{checks.BRIDGE_PREFIX}{network_id[:11]}"
    holder = next((one for one in ours.values() if one.bridge == checks.check_bridge(bridge)), None)
    if holder is not None:
        raise Conflict(f"bridge {bridge} is that of network {holder.name}")
    return Definition(
        id=network_id,
        name=wanted.name,
        created_ns=time.time_ns(),
        bridge=bridge,
        subnet=str(subnet),
        gateway=str(gateway),
        ip_range=wanted.ip_range,
        subnet6=subnet6,
        gateway6=gateway6,
        internal=wanted.internal,
        mtu=wanted.mtu or checks.DEFAULT_MTU,
        labels=wanted.labels,
        options=wanted.options,
        unfinished=True,
    )


def _check_overlap(
    subnet: IPv4Network | IPv6Network, ours: Mapping[str, IPv4Network | IPv6Network]
) -> None:
    """Refuse a subnet that shares addresses with one of our networks.

    Raises:
        Conflict: it does; says with which.
    """
    for name, other in ours.items():
        if subnet.version == other.version and subnet.overlaps(other):
            raise Conflict(
                f"subnet {subnet} overlaps with {other} of network {name}; choose another --subnet"
            )
