"""The networks of a container: what its configuration asks for, and changes while it runs.

Out of scope: how networks work (:mod:`aruntime.network`), who may be connected (the commands).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from aruntime.errors import AruntimeError, InvalidParameter
from aruntime.network import Endpoint, Request

if TYPE_CHECKING:
    from aruntime.container.config import Connection
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

journal = structlog.get_logger()


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
    container: Container,
    connection: Connection,
    interface: int,
    *,
    default_route: bool,
    netns_fd: int = -1,
) -> Request:
    """Return what a container asks of one network; see ``Request``."""
    return Request(
        container_id=container.id,
        interface=interface,
        default_route=default_route,
        ip=connection.ip,
        ip6=connection.ip6,
        mac=connection.mac,
        hairpin=bool(container.config.ports),
        rate_bytes=container.config.network_rate_bits // 8,
        netns_fd=netns_fd,
        name=container.config.name,
        aliases=connection.aliases,
    )


def publish(parts: Parts, container: Container) -> None:
    """Publish what the container asks for, at the place by which it reaches out (blocks).

    Raises:
        InvalidParameter: it has no such place.
        AruntimeError, OSError: as ``Publisher.publish``; nothing is published then.
    """
    config = container.config
    if not config.ports or is_shared(container) or not config.networks:
        return
    place = way_out(parts, container)
    if place is None:
        raise InvalidParameter(
            f"ports of container {config.name} cannot be published: an internal network has no "
            "way in; connect it to another one, or leave -p out"
        )
    open_to_loopback(parts, place)
    container.state.ports = parts.networks.ports.publish(
        container.id, config.name, place.ip, config.ports
    )


def open_to_loopback(parts: Parts, place: Endpoint) -> None:
    """Let ``localhost`` of the host reach what is published at a place; log what it took.

    Raises:
        OSError: the kernel refused.
    """
    for change in parts.networks.get(place.network).open_to_loopback():
        journal.info("network prepared", network=place.network, change=change)


def way_out(parts: Parts, container: Container) -> Endpoint | None:
    """Return the place by which a running container reaches out and is reached, if any."""
    for endpoint in parts.networks.endpoints.of(container.id):
        if not parts.networks.get(endpoint.network).definition.internal:
            return endpoint
    return None


def release(parts: Parts, container: Container) -> None:
    """Give back the ports and addresses of a container (blocks)."""
    container.state.ports = []
    parts.networks.release(container.id)


def resume(parts: Parts, container: Container) -> None:
    """Know again where a running container stands, after a daemon's restart (blocks)."""
    wanted = {
        connection.network: request(container, connection, 0, default_route=False)
        for connection in container.config.networks
    }
    endpoints = parts.networks.resume(wanted)
    container.address = endpoints[0].ip if endpoints else ""
    place = way_out(parts, container)
    if place is None or not container.state.ports:
        return
    try:
        open_to_loopback(parts, place)
        parts.networks.ports.restore(
            container.id, container.config.name, place.ip, container.state.ports
        )
    except (AruntimeError, OSError) as error:
        journal.warning("published port is not held", container=container.short_id, why=str(error))


def reconcile(parts: Parts, running: Iterable[Container]) -> list[str]:
    """Free what is held by containers that do not run or are not in that network (blocks)."""
    try:
        parts.networks.ports.settle()
    except (AruntimeError, OSError) as error:
        journal.error("published ports not repaired", why=str(error))
    return parts.networks.reconcile(
        {item.id: [one.network for one in item.config.networks] for item in running}
    )
