"""network: making, listing and removing networks of one's own; ``inspect`` shows them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from aruntime.daemon import networking
from aruntime.daemon.commands import network_rows
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, Conflict, InvalidParameter, os_error_text
from aruntime.network import Wanted
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
            await networking.remove(daemon.parts, removable(daemon, reference))
            await session.out(f"{reference}\n")
        except (AruntimeError, OSError) as error:
            missing = isinstance(error, AruntimeError) and error.HTTP_STATUS == 404
            failed |= not (missing and parsed.boolean("force"))
            message = error.message if isinstance(error, AruntimeError) else os_error_text(error)
            await session.err(f"{PROGRAM}: {message}\n")
    return 1 if failed else 0


def removable(daemon: Daemon, reference: str) -> Any:
    """Return the network that a name or an id means.

    Raises:
        NetworkNotFound: none, or several.
        Conflict: it is none of ours.
    """
    shown = network_rows.find_shown(daemon.networks, reference)
    if shown.definition is None:
        raise Conflict(f"{shown.name} is a pre-defined network and cannot be removed")
    return daemon.networks.get(shown.name)


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
        "network rm", "Remove one or more networks", run_rm, NETWORKS,
        (Flag("force", "f", "bool", help="Do not error if the network does not exist"),),
        aliases=("network remove",), minimum=1, completes="networks",
    ),
]  # fmt: skip
