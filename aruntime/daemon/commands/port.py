"""port: where the published ports of a container are reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aruntime.daemon.commands.flags import Command, Parsed
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter, NotFound
from aruntime.network.ports import PROTOCOLS, PublishedPort, shown_address, split_port

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon


class PortNotFound(NotFound):
    """The port is not published."""

    EXIT_CODE = 1


async def run_port(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List port mappings of a container, or where one port is reached."""
    container = daemon.supervisor.find(parsed.args[0])
    ports = sorted(
        container.state.ports if container.is_running else [],
        key=lambda one: (one.container_port, one.protocol, one.host_ip, one.host_port),
    )
    if len(parsed.args) == 1:
        lines = [f"{port_name(one)} -> {shown_address(one)}" for one in ports]
    else:
        wanted = asked_port(parsed.args[1])
        lines = [shown_address(one) for one in ports if port_name(one) == wanted]
        if not lines:
            raise PortNotFound(f"no public port '{wanted}' published for {parsed.args[0]}")
    await session.out("".join(f"{line}\n" for line in lines))
    return 0


def port_name(port: PublishedPort) -> str:
    """Return the port inside as people write it: ``80/tcp``."""
    return f"{port.container_port}/{port.protocol}"


def asked_port(text: str) -> str:
    """Return ``80`` or ``80/udp`` with its protocol.

    Raises:
        InvalidParameter: it is no port.
    """
    try:
        number, protocol = split_port(text.lower())
    except ValueError:
        raise InvalidParameter(f"invalid port {text!r}: use 80 or 80/udp") from None
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid port {text!r}: use tcp, udp or sctp")
    return f"{number}/{protocol}"


COMMANDS = [
    Command(
        "port", "List port mappings or a specific mapping for the container", run_port,
        "CONTAINER [PRIVATE_PORT[/PROTO]]", minimum=1, maximum=2, completes="running",
    ),
]  # fmt: skip
