"""network: making, listing and removing networks of one's own; ``inspect`` shows them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from aruntime.daemon import joining, networking
from aruntime.daemon.commands import network_rows
from aruntime.daemon.commands.confirmation import confirmed
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.commands.run_networks import (
    Attachment,
    connection_of,
    parse_ip4,
    parse_ip6,
    parse_mac,
)
from aruntime.daemon.commands.run_values import parse_domain
from aruntime.daemon.commands.values import parse_moment
from aruntime.daemon.session import Session
from aruntime.errors import (
    AruntimeError,
    Conflict,
    InvalidParameter,
    NetworkNotFound,
    os_error_text,
)
from aruntime.network import Network, Wanted
from aruntime.network.definition import OPTION_BRIDGE, OPTION_MTU, OPTIONS, check_mtu

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

NETWORKS = "NETWORK [NETWORK...]"


async def run_create(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Make a network and print its id."""
    network = await networking.create(daemon.parts, wanted_network(parsed))
    await session.out(f"{network.definition.id}\n")
    return 0


def wanted_network(parsed: Parsed) -> Wanted:
    """Return what the flags of ``network create`` ask for. Pure.

    Raises:
        InvalidParameter: a value cannot be used, or several of a kind were given.
    """
    driver = parsed.string("driver")
    if driver != "bridge":
        raise InvalidParameter(f"could not find driver '{driver}': the only one here is bridge")
    if not parsed.boolean("ipv4"):
        raise InvalidParameter("a network without IPv4 is not supported: leave --ipv4 out")
    subnets = _by_version("subnet", parsed.strings("subnet"), ip_network)
    gateways = _by_version("gateway", parsed.strings("gateway"), ip_address)
    ranges = _by_version("ip-range", parsed.strings("ip-range"), ip_network)
    ipv6 = parsed.boolean("ipv6") or 6 in subnets
    for flag, given in (("gateway", gateways), ("ip-range", ranges)):
        for version in given:
            if version not in subnets:
                raise InvalidParameter(
                    f"no matching subnet for {flag} {given[version]}: give its --subnet too"
                )
    if 6 in ranges:
        raise InvalidParameter("--ip-range cannot be used for IPv6: addresses follow from IPv4's")
    options = parsed.mapping("opt")
    for name in options:
        if name not in OPTIONS:
            raise InvalidParameter(
                f"option {name} is not supported by the bridge driver here; "
                f"known are {', '.join(sorted(OPTIONS))}"
            )
    mtu = options.get(OPTION_MTU, "")
    return Wanted(
        name=parsed.args[0],
        subnet=subnets.get(4, ""),
        gateway=gateways.get(4, ""),
        ip_range=ranges.get(4, ""),
        ipv6=ipv6,
        subnet6=subnets.get(6, ""),
        gateway6=gateways.get(6, ""),
        internal=parsed.boolean("internal"),
        mtu=check_mtu(mtu, ipv6=ipv6) if mtu else 0,
        bridge=options.get(OPTION_BRIDGE, ""),
        labels=parsed.mapping("label"),
        options=options,
    )


def _by_version(flag: str, texts: Iterable[str], read: Any) -> dict[int, str]:
    """Return at most one text of each IP version."""
    found: dict[int, str] = {}
    for text in texts:
        try:
            version: int = read(text).version
        except ValueError as error:
            raise InvalidParameter(f"invalid {flag} {text!r}: {error}") from None
        if version in found:
            raise InvalidParameter(
                f"--{flag} {text}: one of each IP version, {found[version]} is given already"
            )
        found[version] = text
    return found


async def run_ls(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List networks by name."""
    shown = network_rows.shown_networks(daemon.networks)
    found = network_rows.selected(shown, parsed.filters())
    truncate = not parsed.boolean("no-trunc")
    rows = [network_rows.row(network, truncate=truncate) for network in found]
    if parsed.boolean("quiet"):
        await session.out("".join(f"{row['ID']}\n" for row in rows))
        return 0
    await session.out(
        render_rows(
            rows,
            format=parsed.string("format"),
            titles=network_rows.TITLES,
            table=network_rows.TABLE,
        )
    )
    return 0


async def run_rm(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove networks in which no container runs; with -f a missing one is no failure."""
    failed = False
    for reference in parsed.args:
        try:
            network = own_network(daemon, reference, "cannot be removed")
            await networking.remove(daemon.parts, network)
            await session.out(f"{reference}\n")
        except (AruntimeError, OSError) as error:
            missing = isinstance(error, AruntimeError) and error.HTTP_STATUS == 404
            failed |= not (missing and parsed.boolean("force"))
            message = error.message if isinstance(error, AruntimeError) else os_error_text(error)
            await session.err(f"{PROGRAM}: {message}\n")
    return 1 if failed else 0


def own_network(daemon: Daemon, reference: str, refusal: str) -> Network:
    """Return the network that a name or an id means.

    Args:
        refusal: what is said of a network that has no link of its own.

    Raises:
        NetworkNotFound: none, or several.
        Conflict: it is none of ours.
    """
    shown = network_rows.find_shown(daemon.networks, reference)
    if shown.definition is None:
        raise Conflict(f"{shown.name} is a pre-defined network and {refusal}")
    return daemon.networks.get(shown.name)


async def run_connect(_session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Put a container into a network."""
    name, reference = parsed.args
    wanted = Attachment(
        name,
        tuple(parsed.strings("alias")),
        parsed.string("ip"),
        parsed.string("ip6"),
        parsed.string("mac-address"),
    )
    refusal = "no container can be connected to it: it is chosen when the container is created"
    connection = connection_of(wanted, lambda text: own_network(daemon, text, refusal).definition)
    await joining.connect(daemon.parts, daemon.supervisor.find(reference), connection)
    return 0


async def run_disconnect(_session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Take a container out of a network."""
    name, reference = parsed.args
    container = daemon.supervisor.find(reference)
    if all(one.network != name for one in container.config.networks):
        name = network_rows.find_shown(daemon.networks, name).name
    await joining.disconnect(daemon.parts, container, name)
    return 0


async def run_prune(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove the networks that no container, running or not, is in."""
    chosen = unused(daemon, parsed.filters())
    if not parsed.boolean("force") and not await confirmed(session, PRUNE_QUESTION):
        return 0
    removed = []
    for network in chosen:
        try:
            await networking.remove(daemon.parts, network)
            removed.append(network.name)
        except (Conflict, NetworkNotFound):
            continue  # a container came, or somebody else removed it, meanwhile
    if removed:
        await session.out("Deleted Networks:\n" + "".join(f"{name}\n" for name in removed) + "\n")
    return 0


def unused(daemon: Daemon, filters: Mapping[str, list[str]]) -> list[Network]:
    """Return the networks of users that no container is in, as far as the filters let them.

    Raises:
        InvalidParameter: an unknown filter, or a time that is none.
    """
    for key in filters:
        if key not in {"label", "label!", "until"}:
            raise InvalidParameter(f"invalid filter '{key}'; known are label, label! and until")
    now = time.time_ns()
    try:
        limits = [parse_moment(text, now) for text in filters.get("until", [])]
    except ValueError as error:
        raise InvalidParameter(f"invalid filter until: {error}") from None
    used = {one.network for item in daemon.supervisor for one in item.config.networks}
    return [
        network
        for network in daemon.networks
        if network is not daemon.networks.default
        and network.name not in used
        and all(network.definition.created_ns < limit for limit in limits)
        and all(has_label(network, text) for text in filters.get("label", []))
        and not any(has_label(network, text) for text in filters.get("label!", []))
    ]


def has_label(network: Network, text: str) -> bool:
    """Whether a network has a label, ``key`` or ``key=value``."""
    key, equals, wanted = text.partition("=")
    found = network.definition.labels.get(key)
    return found is not None and (not equals or found == wanted)


PRUNE_QUESTION = (
    "WARNING! This will remove all custom networks not used by at least one container.\n"
    "Are you sure you want to continue?"
)
_SWARM = "it is for swarm services"
_CREATE_FLAGS = (
    Flag("attachable", "", "bool", refused=_SWARM),
    Flag("aux-address", "", "map", refused="keep addresses out of --ip-range instead"),
    Flag("config-from", refused=_SWARM),
    Flag("config-only", "", "bool", refused=_SWARM),
    Flag("driver", "d", "string", "bridge", "string", "Driver to manage the network (bridge)"),
    Flag("gateway", "", "list", None, "ipSlice", "IPv4 or IPv6 gateway for the subnet"),
    Flag("ingress", "", "bool", refused=_SWARM),
    Flag("internal", "", "bool", help="Restrict external access to the network"),
    Flag("ip-range", "", "list", None, "ipNetSlice",
         "Allocate container ip from a sub-range"),
    Flag("ipam-driver", refused="addresses are given out by the daemon"),
    Flag("ipam-opt", "", "map", refused="addresses are given out by the daemon"),
    Flag("ipv4", "", "bool", True, help="Enable IPv4 address assignment"),
    Flag("ipv6", "", "bool", help="Enable IPv6 address assignment"),
    Flag("label", "", "map", help="Set metadata on a network"),
    Flag("opt", "o", "map", None, "map",
         f"Set driver specific options ({OPTION_MTU}, {OPTION_BRIDGE})"),
    Flag("scope", refused=_SWARM),
    Flag("subnet", "", "list", None, "ipNetSlice",
         "Subnet in CIDR format that represents a network segment"),
)  # fmt: skip

COMMANDS = [
    Command(
        "network create", "Create a network", run_create, "NETWORK", _CREATE_FLAGS,
        minimum=1, maximum=1,
    ),
    Command(
        "network ls", "List networks", run_ls, "",
        (
            Flag("filter", "f", "filter", None, "filter", "Provide filter values (driver=bridge)"),
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("no-trunc", "", "bool", help="Do not truncate the output"),
            Flag("quiet", "q", "bool", help="Only display network IDs"),
        ),
        aliases=("network list",), maximum=0,
    ),
    Command(
        "network connect", "Connect a container to a network", run_connect, "NETWORK CONTAINER",
        (
            Flag("alias", "", "list", help="Add network-scoped alias for the container",
                 read=parse_domain),
            Flag("driver-opt", "", "map", refused="this bridge driver has no such options"),
            Flag("gw-priority", "", "int", refused="the way out is the first network's with one"),
            Flag("ip", "", "string", None, "ip", "IPv4 address (e.g., 172.30.100.104)",
                 read=parse_ip4),
            Flag("ip6", "", "string", None, "ip", "IPv6 address (e.g., 2001:db8::33)",
                 read=parse_ip6),
            Flag("link", "", "list", refused="containers in a network find each other by name"),
            Flag("link-local-ip", "", "list",
                 refused="a link has one address of each IP version here"),
            Flag("mac-address", help="MAC address (e.g., 92:d0:c6:0a:29:33)", read=parse_mac),
        ),
        minimum=2, maximum=2, completes="networks",
    ),
    Command(
        "network disconnect", "Disconnect a container from a network", run_disconnect,
        "NETWORK CONTAINER",
        (Flag("force", "f", "bool", help="Accepted; a container is always disconnected"),),
        minimum=2, maximum=2, completes="networks",
    ),
    Command(
        "network prune", "Remove all unused networks", run_prune, "",
        (
            Flag("filter", "", "filter", None, "filter",
                 "Provide filter values (until=24h, label=key=value)"),
            Flag("force", "f", "bool", help="Do not prompt for confirmation"),
        ),
        maximum=0,
    ),
    Command(
        "network rm", "Remove one or more networks", run_rm, NETWORKS,
        (Flag("force", "f", "bool", help="Do not error if the network does not exist"),),
        aliases=("network remove",), minimum=1, completes="networks",
    ),
]  # fmt: skip
