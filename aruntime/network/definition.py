"""What a network was asked to be: the record behind ROOT/networks/<name>/config.json, checked.

Pure data. Which subnets are free is :mod:`aruntime.network.subnets`', where records lie is
:mod:`aruntime.network.store`'s.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec

from aruntime.errors import InvalidParameter

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
MAX_NAME_BYTES = 255
DEFAULT = "bridge"
"""Name of the network that every daemon has and whose containers have no names (docker's rule)."""
RESERVED_NAMES = frozenset({"bridge", "host", "none", "default"})
BRIDGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
BRIDGE_PREFIX = "arb-"
"""Of a user network's link on the host; random digits of its id follow, so that daemons side by
side do not meet."""
DEFAULT_MTU = 1500
LEAST_MTU, LARGEST_MTU = 68, 65535
LEAST_MTU6 = 1280
"""RFC 8200: below it the kernel takes IPv6 away from a link."""
LONGEST_PREFIX = 30
"""A /30 has two addresses: one for the gateway, one for a container."""
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_BRIDGE = "com.docker.network.bridge.name"
OPTIONS = frozenset({OPTION_MTU, OPTION_BRIDGE})
HARDWARE_ADDRESS = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bridge network; addresses are texts, times Unix nanoseconds."""

    id: str
    """64 hex digits."""
    name: str
    created_ns: int = 0
    bridge: str
    """Name of its link on the host, and of its nftables tables."""
    subnet: str
    gateway: str
    ip_range: str = ""
    """Where addresses nobody asked for come from; empty: the whole subnet."""
    subnet6: str = ""
    """Empty: no IPv6."""
    gateway6: str = ""
    internal: bool = False
    """Containers reach each other and the gateway, nothing else."""
    mtu: int = DEFAULT_MTU
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    """As given (``--opt``)."""
    unfinished: bool = False
    """Its creation or removal was begun and not ended: the next daemon removes what there is."""

    @property
    def group(self) -> int:
        """Number that the host ends of its containers' links carry (IFLA_GROUP), never 0."""
        return zlib.crc32(self.bridge.encode()) | 1 << 31


def default_definition(bridge: str, subnet: str, mtu: int = DEFAULT_MTU) -> Definition:
    """Return the definition of the network that every daemon has.

    Raises:
        InvalidParameter: the bridge's name or the subnet cannot be used.
    """
    check_bridge(bridge)
    gateway = check_gateway("", check_subnet(subnet))
    return Definition(
        id=hashlib.sha256(f"bridge {bridge}".encode()).hexdigest(),
        name=DEFAULT,
        bridge=bridge,
        subnet=subnet,
        gateway=str(gateway),
        mtu=mtu,
    )


def check_name(name: str) -> str:
    """Return a network name that is valid.

    Raises:
        InvalidParameter: it is not.
    """
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise InvalidParameter(
            f"network name {name!r} is invalid: use a-z A-Z 0-9 _ . - and begin with a letter "
            "or digit"
        )
    return name


def check_bridge(name: str) -> str:
    """Return the name of a bridge link that kernel and nft both take.

    Raises:
        InvalidParameter: it cannot be used.
    """
    if not BRIDGE_NAME.fullmatch(name):
        raise InvalidParameter(
            f"bridge name {name!r} cannot be used: a letter, then at most 14 of A-Z a-z 0-9 _ . -"
        )
    return name


def check_subnet(text: str) -> IPv4Network:
    """Return a subnet with room for a gateway and a container.

    Raises:
        InvalidParameter: it is none, or too small.
    """
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise InvalidParameter(f"subnet {text!r} cannot be used: {error}") from None
    if subnet.prefixlen > LONGEST_PREFIX:
        raise InvalidParameter(f"subnet {text} is too small: use /{LONGEST_PREFIX} or larger")
    return subnet


def check_subnet6(text: str, subnet: IPv4Network) -> IPv6Network:
    """Return an IPv6 subnet in which every host of the IPv4 subnet finds a place.

    Raises:
        InvalidParameter: it is none, or too small.
    """
    try:
        subnet6 = IPv6Network(text)
    except ValueError as error:
        raise InvalidParameter(f"subnet {text!r} cannot be used: {error}") from None
    longest = 128 - (subnet.max_prefixlen - subnet.prefixlen) - 1
    if subnet6.prefixlen > longest:
        raise InvalidParameter(
            f"subnet {text} is too small for the containers of {subnet}: use /{longest} or larger"
        )
    return subnet6


def check_gateway(text: str, subnet: IPv4Network) -> IPv4Address:
    """Return the gateway's address, the subnet's first when none is asked for.

    Raises:
        InvalidParameter: it is no host address of the subnet.
    """
    if not text:
        return subnet[1]
    try:
        gateway = IPv4Address(text)
    except ValueError as error:
        raise InvalidParameter(f"gateway {text!r} cannot be used: {error}") from None
    ends = (subnet.network_address, subnet.broadcast_address)
    if gateway not in subnet or gateway in ends:
        raise InvalidParameter(f"gateway {text} is no host address of subnet {subnet}")
    return gateway


def check_gateway6(text: str, subnet: IPv6Network) -> IPv6Address:
    """Return the gateway's IPv6 address, the subnet's first when none is asked for.

    Raises:
        InvalidParameter: it is no address of the subnet.
    """
    if not text:
        return subnet[1]
    try:
        gateway = IPv6Address(text)
    except ValueError as error:
        raise InvalidParameter(f"gateway {text!r} cannot be used: {error}") from None
    if gateway not in subnet or gateway == subnet.network_address:
        raise InvalidParameter(f"gateway {text} is no host address of subnet {subnet}")
    return gateway


def check_range(text: str, subnet: IPv4Network) -> IPv4Network | None:
    """Return where addresses come from, None for the whole subnet.

    Raises:
        InvalidParameter: it is no network, or not part of the subnet.
    """
    if not text:
        return None
    try:
        found = IPv4Network(text)
    except ValueError as error:
        raise InvalidParameter(f"ip-range {text!r} cannot be used: {error}") from None
    if not found.subnet_of(subnet):
        raise InvalidParameter(f"ip-range {text} is not part of subnet {subnet}")
    return found


def check_mtu(text: str, *, ipv6: bool) -> int:
    """Return the bytes per packet.

    Raises:
        InvalidParameter: no number, or out of range.
    """
    least = LEAST_MTU6 if ipv6 else LEAST_MTU
    if not text.isdecimal() or not least <= int(text) <= LARGEST_MTU:
        raise InvalidParameter(f"mtu {text!r} cannot be used: {least} to {LARGEST_MTU}")
    return int(text)


def check_mac(text: str) -> bytes:
    """Return a hardware address that one link can have.

    Raises:
        InvalidParameter: it is malformed, a group's, or all zeros.
    """
    if not HARDWARE_ADDRESS.fullmatch(text):
        raise InvalidParameter(f"{text!r} is no MAC address: use six pairs of hex digits")
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if mac[0] & 1 or not any(mac):
        raise InvalidParameter(f"MAC address {text} cannot be used: it is not that of one link")
    return mac
