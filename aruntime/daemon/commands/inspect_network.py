"""The member NetworkSettings of ``inspect``, as docker has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aruntime.container.config import Connection, ContainerConfig
from aruntime.daemon.commands.network_rows import endpoint_id
from aruntime.daemon.record import Container
from aruntime.errors import NetworkNotFound
from aruntime.network import DEFAULT, Endpoint, Networks

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

NO_PLACE: dict[str, Any] = {
    "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
    "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
}  # fmt: skip


def network_settings(daemon: Daemon, container: Container) -> dict[str, Any]:
    """Return the member NetworkSettings; addresses at its top are the default network's."""
    mode = container.config.network_mode
    endpoints = {one.network: one for one in daemon.networks.endpoints.of(container.id)}
    networks = {
        connection.network: endpoint_object(
            daemon.networks, container, connection, endpoints.get(connection.network)
        )
        for connection in container.config.networks
    }
    if not networks and mode in ("host", "none"):
        networks = {mode: endpoint_object(daemon.networks, container, Connection(network=mode))}
    first = networks.get(DEFAULT, NO_PLACE)
    return {
        "Bridge": "",
        "SandboxKey": f"/proc/{container.state.pid}/ns/net" if container.is_running else "",
        "Ports": ports_object(container),
        "HairpinMode": False,
        **{name: first[name] for name in NO_PLACE},
        "Networks": networks,
    }


def ports_object(container: Container) -> dict[str, Any]:
    """Return the member Ports: exposed ones, and where the published ones are reached."""
    if not container.is_running:
        return {}
    shown: dict[str, Any] = dict.fromkeys(container.config.exposed_ports)
    for port in container.state.ports:
        name = f"{port.container_port}/{port.protocol}"
        place = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
        shown[name] = [*(shown.get(name) or []), place]
    return shown


def bindings_object(config: ContainerConfig) -> dict[str, Any]:
    """Return the member PortBindings of HostConfig: what was asked for."""
    shown: dict[str, Any] = {}
    for port in config.ports:
        host_port = str(port.host_port or "")
        if port.host_port_end:
            host_port += f"-{port.host_port_end}"
        place = {"HostIp": port.host_ip, "HostPort": host_port}
        shown.setdefault(f"{port.container_port}/{port.protocol}", []).append(place)
    return shown


def endpoint_object(
    networks: Networks,
    container: Container,
    connection: Connection,
    endpoint: Endpoint | None = None,
) -> dict[str, Any]:
    """Return one entry of Networks; the places are empty while the container does not run."""
    try:
        network_id = networks.get(connection.network).definition.id
    except NetworkNotFound:
        network_id = ""
    asked = {"IPv4Address": connection.ip, "IPv6Address": connection.ip6}
    names = [container.config.name, *connection.aliases, container.short_id]
    shown: dict[str, Any] = {
        "IPAMConfig": {name: value for name, value in asked.items() if value} or None,
        "Links": None,
        "Aliases": list(connection.aliases) or None,
        "DriverOpts": None,
        "NetworkID": network_id,
        "DNSNames": None if connection.network in (DEFAULT, "host", "none") else names,
        **NO_PLACE,
        "MacAddress": connection.mac,
    }
    if endpoint is not None:
        shown |= {
            "EndpointID": endpoint_id(network_id, container.id),
            "Gateway": endpoint.gateway,
            "GlobalIPv6Address": endpoint.ip6,
            "GlobalIPv6PrefixLen": endpoint.prefix6,
            "IPAddress": endpoint.ip,
            "IPPrefixLen": endpoint.prefix,
            "IPv6Gateway": endpoint.gateway6,
            "MacAddress": endpoint.mac,
        }
    return shown
