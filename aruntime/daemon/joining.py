"""connect and disconnect: a container, running or not, is put into a network or taken out of it.

Operations on one container, like those of :mod:`aruntime.daemon.updating`; the container's lock
keeps them apart from launch, end and pause. What a killed daemon leaves half-way is told by
config.json: it names a network only after the link into it works, and no more before the link goes.
The next daemon removes links that it does not name (connections).

A link that goes is silenced first and its counters read then, so that no byte is lost; interface
numbers are not given twice in one run, for a second link of the same name would seem a counter that
fell.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import structlog
import trio

from aruntime.container.config import Connection
from aruntime.daemon import connections, etc_files, networking
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import AruntimeError, Conflict
from aruntime.network import Attachment, Endpoint, encode, live

journal = structlog.get_logger()


async def connect(parts: Parts, container: Container, connection: Connection) -> None:
    """Put a container into a network; one that runs gets a link at once.

    Raises:
        Conflict: it is in the network already, or has no network of its own to add to.
        AruntimeError, OSError: as ``Networks.attach``; nothing has changed then.
    """
    async with container.lock:
        with trio.CancelScope(shield=True):
            config = container.config
            check_own(container)
            if any(one.network == connection.network for one in config.networks):
                raise Conflict(
                    f"endpoint with name {config.name} already exists in network "
                    f"{connection.network}"
                )
            if container.is_running:
                await trio.to_thread.run_sync(join, parts, container, connection)
            try:
                await rewrite(parts, container, [*config.networks, connection])
            except BaseException:
                await trio.to_thread.run_sync(leave, parts, container, connection.network)
                raise
    network = parts.networks.get(connection.network)
    networking.publish(parts, "connect", network, container=container.id)


async def disconnect(parts: Parts, container: Container, name: str) -> None:
    """Take a container out of a network; the link of one that runs goes at once.

    Its way out and its published ports move to the next network that has a way out, if any.

    Raises:
        Conflict: it is not in the network, or shares another's.
        AruntimeError, OSError: the disk or the kernel refused.
    """
    async with container.lock:
        with trio.CancelScope(shield=True):
            config = container.config
            check_own(container)
            rest = [one for one in config.networks if one.network != name]
            if len(rest) == len(config.networks):
                raise Conflict(f"container {config.name} is not connected to network {name}")
            await rewrite(parts, container, rest)
            if container.is_running:
                await trio.to_thread.run_sync(silence, parts, container, name)
                await parts.meter.cut(container.id, "update")
                await trio.to_thread.run_sync(leave, parts, container, name)
    if name in parts.networks:
        network = parts.networks.get(name)
        networking.publish(parts, "disconnect", network, container=container.id)


def check_own(container: Container) -> None:
    """Refuse a container whose network namespace is not its own, or is to stay empty.

    Raises:
        Conflict: with docker's words.
    """
    mode = container.config.network_mode
    if mode == "none":
        raise Conflict(
            "container cannot be connected to multiple networks with one of the networks in "
            "private (none) mode"
        )
    if connections.is_shared(container):
        raise Conflict(
            "container sharing network namespace with another container or host cannot be "
            "connected to any other network"
        )


async def rewrite(parts: Parts, container: Container, networks: list[Connection]) -> None:
    """Write other networks into config.json.

    Raises:
        OSError: the disk refused; they are as before.
    """
    config = container.config
    before = config.connections, config.unconnected
    config.connections, config.unconnected = networks, not networks
    try:
        await parts.save_config(container)
    except BaseException:
        config.connections, config.unconnected = before
        raise


def join(parts: Parts, container: Container, connection: Connection) -> None:
    """Make the link of a running container (blocks).

    Raises:
        AruntimeError, OSError: nothing of it is left.
    """
    number = next_interface(parts, container)
    files = etc_files.contents(parts, container)
    internal = parts.networks.get(connection.network).definition.internal
    leads_out = not internal and connections.way_out(parts, container) is None
    with network_namespace(container) as fd:
        request = connections.request(
            container, connection, number, default_route=leads_out, netns_fd=fd
        )
        (attachment,) = parts.networks.attach({connection.network: request})
        try:
            live.connect(fd, attachment.netlink)
            etc_files.refresh(parts, container, files)
            if leads_out and container.config.ports:
                connections.publish(parts, container)
        except BaseException:
            with contextlib.suppress(OSError):
                parts.networks.get(connection.network).unlink(container.id)
            parts.networks.detach(container.id, connection.network)
            raise
    container.state.interfaces = number + 1
    container.address = container.address or attachment.ip
    log_repairs(attachment)


def next_interface(parts: Parts, container: Container) -> int:
    """Return the number of a running container's next interface."""
    present = [interface_number(one) + 1 for one in parts.networks.endpoints.of(container.id)]
    return max([container.state.interfaces, *present])


def interface_number(endpoint: Endpoint) -> int:
    """Return the number of an endpoint's interface: 2 of eth2."""
    return int(endpoint.interface.removeprefix("eth"))


def log_repairs(attachment: Attachment) -> None:
    """Log what had to be repaired for an attachment."""
    for repair in attachment.repairs:
        journal.warning("network repaired", network=attachment.network, change=repair)


def silence(parts: Parts, container: Container, name: str) -> None:
    """Let no packet pass a container's link any more (blocks); nothing happens without one."""
    if name in parts.networks:
        parts.networks.get(name).silence(container.id)


def leave(parts: Parts, container: Container, name: str) -> None:
    """Remove the link of a running container, and what depended on it (blocks).

    Raises:
        OSError: the kernel refused.
    """
    former = connections.way_out(parts, container)
    files = etc_files.contents(parts, container)
    if name in parts.networks:
        parts.networks.get(name).unlink(container.id)
    parts.networks.detach(container.id, name)
    etc_files.refresh(parts, container, files)
    places = parts.networks.endpoints.of(container.id)
    container.address = places[0].ip if places else ""
    if former is not None and former.network == name:
        lead_out(parts, container)


def lead_out(parts: Parts, container: Container) -> None:
    """Let the way out and the published ports of a running container lead where they now can.

    Raises:
        AruntimeError, OSError: the kernel or nft refused.
    """
    place = connections.way_out(parts, container)
    if place is None:
        container.state.ports = []
        parts.networks.ports.release(container.id)
        return
    gateways = [int(one.ip) for one in parts.networks.get(place.network).gateways]
    batch = encode.encode_default_route(interface_number(place), *gateways)
    with network_namespace(container) as fd:
        try:
            live.send_inside(fd, batch)
        except OSError as error:
            if error.errno != errno.EEXIST:  # the user has made another one
                raise
    if container.state.ports:
        connections.open_to_loopback(parts, place)
        parts.networks.ports.move(container.id, place.ip)


def set_rate(parts: Parts, container: Container, rate_bytes: int) -> None:
    """Give every link of a running container another rate, 0 for none (blocks).

    Raises:
        OSError: the kernel refused; some links may have it then.
    """
    with network_namespace(container) as fd:
        for endpoint in parts.networks.endpoints.of(container.id):
            ifindex = parts.networks.get(endpoint.network).ifindex(container.id)
            inner = encode.ETH0_IFINDEX + interface_number(endpoint)
            with _without_rate():
                live.send_inside(fd, encode.encode_rate(inner, rate_bytes))
            with _without_rate():
                if ifindex is not None:
                    live.send(encode.encode_rate(ifindex, rate_bytes))


@contextlib.contextmanager
def _without_rate() -> Iterator[None]:
    """Take it for no error that a link has no rate that could be taken away."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def repair(parts: Parts, container: Container) -> None:
    """End a disconnection that a killed daemon has begun (blocks); a failure is logged."""
    try:
        lead_out(parts, container)
    except (AruntimeError, OSError) as error:
        journal.error("way out not repaired", container=container.short_id, error=str(error))


@contextlib.contextmanager
def network_namespace(container: Container) -> Iterator[int]:
    """Open the network namespace of a running container while the block runs.

    The caller holds the container's lock: its init is not reaped meanwhile.

    Raises:
        Conflict: init has just ended.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(f"/proc/{container.state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Conflict(f"container {container.short_id} is not running") from None
    try:
        yield fd
    finally:
        os.close(fd)
