"""The networks of a container: what its configuration asks for, and changes while it runs.

Out of scope: how networks work (:mod:`aruntime.network`), who may be connected (the commands).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aruntime.network import Request

if TYPE_CHECKING:
    from aruntime.container.config import Connection
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container


def requests(parts: Parts, container: Container) -> dict[str, Request]:
    """Return what a start of a container asks of each of its networks, by name.

    The way out leads through the first network that has one.

    Raises:
        NetworkNotFound: a network of the container is gone.
    """
    found: dict[str, Request] = {}
    way_out = False
    for number, connection in enumerate(container.config.networks):
        internal = parts.networks.get(connection.network).definition.internal
        found[connection.network] = request(
            container, connection, number, default_route=not (internal or way_out)
        )
        way_out = way_out or not internal
    return found


def is_shared(container: Container) -> bool:
    """Whether its network namespace is the host's or another container's."""
    mode = container.config.network_mode
    return mode == "host" or mode.startswith("container:")


def request(
    container: Container, connection: Connection, interface: int, *, default_route: bool
) -> Request:
    """Return what a container asks of one network."""
    return Request(
        container_id=container.id,
        interface=interface,
        default_route=default_route,
        ip=connection.ip,
        ip6=connection.ip6,
        mac=connection.mac,
        name=container.config.name,
        aliases=connection.aliases,
    )


def resume(parts: Parts, container: Container) -> None:
    """Know again where a running container stands, after a daemon's restart (blocks)."""
    wanted = {
        connection.network: request(container, connection, 0, default_route=False)
        for connection in container.config.networks
    }
    endpoints = parts.networks.resume(wanted)
    container.address = endpoints[0].ip if endpoints else ""


def reconcile(parts: Parts, running: Iterable[Container]) -> list[str]:
    """Free what is held by containers that do not run or are not in that network (blocks)."""
    return parts.networks.reconcile(
        {item.id: [one.network for one in item.config.networks] for item in running}
    )
