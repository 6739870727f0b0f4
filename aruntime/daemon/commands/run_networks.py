"""``--network`` and its companions: the networks a new container will be in. Pure.

A value is a name (``--network web``) or a list of fields (``--network name=web,alias=db,
ip=10.1.0.9``); the words and rules are docker's (opts/network.go, cli/command/container/opts.go).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from aruntime.container.config import Connection
from aruntime.daemon.commands.flags import Parsed
from aruntime.errors import InvalidParameter
from aruntime.network import DEFAULT
from aruntime.network.definition import Definition, check_mac
from aruntime.network.ports import requested_ports

FindNetwork = Callable[[str], Definition]
"""Returns the definition of the network of a name or id; raises NetworkNotFound."""

WITHOUT_LINKS = ("host", "none")
JOINED = "container:"


class Attachment(NamedTuple):
    """One value of ``--network``, with only what it says itself."""

    target: str
    aliases: tuple[str, ...] = ()
    ip: str = ""
    ip6: str = ""
    mac: str = ""


def parse_network(text: str) -> Attachment:
    """Read one value of ``--network``.

    Raises:
        ValueError: with docker's words.
    """
    if "=" not in text:
        return Attachment(text)
    found: dict[str, str] = {}
    aliases: list[str] = []
    for field in next(csv.reader([text.strip()]), []):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            raise ValueError(f"invalid field {key}: must be a key=value pair")
        value = value.strip()
        if key in {"driver-opt", "gw-priority", "link-local-ip"}:
            raise ValueError(f"{key} is not supported: this bridge driver has no such option")
        if key == "alias":
            aliases.append(value)
        elif key in {"name", "ip", "ip6", "mac-address"}:
            found[key] = value
        else:
            raise ValueError(f"invalid field key {key}")
    if not found.get("name"):
        raise ValueError("network name/id is not specified")
    return Attachment(
        found["name"],
        tuple(aliases),
        parse_ip4(found.get("ip", "")),
        parse_ip6(found.get("ip6", "")),
        parse_mac(found.get("mac-address", "")),
    )


def parse_ip4(text: str) -> str:
    """Return an IPv4 address as the kernel writes it, empty for none.

    Raises:
        ValueError: it is none.
    """
    return str(IPv4Address(text)) if text else ""


def parse_ip6(text: str) -> str:
    """Return an IPv6 address as the kernel writes it, empty for none.

    Raises:
        ValueError: it is none.
    """
    return str(IPv6Address(text)) if text else ""


def parse_mac(text: str) -> str:
    """Return a hardware address as the kernel writes it, empty for none.

    Raises:
        ValueError: it is malformed, or no single link's.
    """
    try:
        return check_mac(text).hex(":") if text else ""
    except InvalidParameter as error:
        raise ValueError(error.message) from None


def requested_networks(parsed: Parsed, find: FindNetwork) -> tuple[str, list[Connection]]:
    """Return the network mode of a new container and its connections.

    The connections are empty where the mode says all: the default network without anything
    asked of it, and the modes without links of their own.

    Raises:
        InvalidParameter: values that cannot be used, or contradict each other.
        NetworkNotFound: a network is not there.
    """
    wanted: list[Attachment] = parsed["network"] or [Attachment(DEFAULT)]
    if any(not one.target for one in wanted):
        raise InvalidParameter("no name set for network; use bridge, host, none or a network")
    wanted = [_with_short_name(one) for one in wanted]
    _check_modes(wanted)
    wanted[0] = _with_flags(parsed, wanted[0])
    first = wanted[0].target
    if first in WITHOUT_LINKS or first.startswith(JOINED):
        _check_nothing_asked(wanted[0])
        return first, []
    connections = [connection_of(one, find) for one in wanted]
    names = [connection.network for connection in connections]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameter(f'network "{name}" is specified multiple times')
    if connections == [Connection(network=DEFAULT)]:
        return DEFAULT, []
    return names[0], connections


def requested_publishing(
    parsed: Parsed, image_ports: Sequence[str], mode: str
) -> tuple[dict[str, Any], list[str]]:
    """Return what a container publishes and exposes, and warnings for the user.

    Args:
        image_ports: what the image exposes.
        mode: the network mode.

    Raises:
        InvalidParameter: it publishes in a mode in which nothing can be.
    """
    exposed = [*image_ports, *(port for ports in parsed["expose"] for port in ports)]
    exposed = list(dict.fromkeys(exposed))
    everything = parsed.boolean("publish-all")
    if mode.startswith(JOINED) and (parsed["publish"] or everything):
        raise InvalidParameter(
            "conflicting options: port publishing and the container type network mode"
        )
    if mode.startswith(JOINED) and parsed["expose"]:
        raise InvalidParameter(
            "conflicting options: port exposing and the container type network mode"
        )
    warnings = []
    if mode in WITHOUT_LINKS and parsed["publish"]:
        warnings = [f"Published ports are discarded when using {mode} network mode"]
    ports = requested_ports(parsed["publish"], exposed, publish_all=everything)
    found = {
        "ports": [] if mode in WITHOUT_LINKS or mode.startswith(JOINED) else ports,
        "exposed_ports": exposed,
        "publish_all": everything,
    }
    return found, warnings


def _with_short_name(one: Attachment) -> Attachment:
    return one._replace(target=DEFAULT) if one.target == "default" else one


def _check_modes(wanted: Sequence[Attachment]) -> None:
    """Modes without links of their own stand alone."""
    for one in wanted:
        if one.target == JOINED:
            raise InvalidParameter("invalid container format container:<name|id>")
        if len(wanted) > 1 and (one.target in WITHOUT_LINKS or one.target.startswith(JOINED)):
            raise InvalidParameter(
                "conflicting options: cannot attach both user-defined and non-user-defined "
                f"network-modes: --network {one.target} stands alone"
            )


def _with_flags(parsed: Parsed, first: Attachment) -> Attachment:
    """Add what the flags without a network's name say: they mean the first one."""
    flags = {
        "ip": ("ip", "IPv4 address"),
        "ip6": ("ip6", "IPv6 address"),
        "mac": ("mac-address", "MAC address"),
    }
    for field, (flag, shown) in flags.items():
        value = parsed.string(flag)
        if value and getattr(first, field):
            raise InvalidParameter(
                f"conflicting options: cannot specify both --{flag} and per-network {shown}"
            )
        if value:
            change: dict[str, Any] = {field: value}
            first = first._replace(**change)
    aliases = tuple(parsed.strings("network-alias"))
    if aliases and first.aliases:
        raise InvalidParameter(
            "conflicting options: cannot specify both --network-alias and per-network alias"
        )
    return first._replace(aliases=aliases) if aliases else first


def _check_nothing_asked(one: Attachment) -> None:
    if one.aliases:
        raise InvalidParameter(
            "network-scoped aliases are only supported for user-defined networks"
        )
    if one.ip or one.ip6:
        raise InvalidParameter(
            "user-specified IP address is supported on user-defined networks only"
        )
    if one.mac:
        raise InvalidParameter("conflicting options: mac-address and the network mode")


def connection_of(one: Attachment, find: FindNetwork) -> Connection:
    """Return the connection that a value asks for, checked against the network.

    Raises:
        InvalidParameter, NetworkNotFound: it cannot be had.
    """
    definition = find(one.target)
    if definition.name == DEFAULT:
        _check_nothing_asked(one._replace(mac=""))
    for address, subnet in (
        (one.ip, IPv4Network(definition.subnet)),
        (one.ip6, IPv6Network(definition.subnet6) if definition.subnet6 else None),
    ):
        if address and subnet is None:
            raise InvalidParameter(
                f"address {address} cannot be used: network {definition.name} has no IPv6; "
                "create it with --ipv6"
            )
        if address and subnet is not None and ip_address(address) not in subnet:
            raise InvalidParameter(
                f"no configured subnet contains IP address {address}: "
                f"network {definition.name} has {subnet}"
            )
    return Connection(
        network=definition.name, ip=one.ip, ip6=one.ip6, mac=one.mac, aliases=one.aliases
    )
