"""What ``network ls`` and ``network inspect`` show: rows, docker's JSON, filters.

Pure: networks and who stands in them in, rows and objects out. ``host`` and ``none`` are no
networks of ours, but docker lists them and so do we.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from aruntime.daemon.commands.listing import Row
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.errors import InvalidParameter
from aruntime.network import Endpoint, Networks
from aruntime.network.definition import Definition

TABLE = r"{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
TITLES = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv6": "IPV6",
    "IPv4": "IPV4", "Internal": "INTERNAL", "Labels": "LABELS", "Label": "LABEL",
    "CreatedAt": "CREATED AT",
}  # fmt: skip
NEVER = "0001-01-01T00:00:00Z"
SHORT_ID = 12
WITHOUT_DRIVER = {"host": "host", "none": "null"}
"""Names and drivers of the networks that have neither link nor addresses of their own."""


class Shown(msgspec.Struct, frozen=True):
    """One network as it is shown."""

    id: str
    name: str
    driver: str = "bridge"
    definition: Definition | None = None
    """None for those without a link of their own."""
    endpoints: tuple[Endpoint, ...] = ()
    is_custom: bool = False

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels given to it."""
        return self.definition.labels if self.definition is not None else {}


def shown_networks(networks: Networks) -> list[Shown]:
    """Return everything that ``--network`` can name, by name."""
    found = [shown_network(networks, network.name) for network in networks]
    found += [
        Shown(id=hashlib.sha256(name.encode()).hexdigest(), name=name, driver=driver)
        for name, driver in WITHOUT_DRIVER.items()
    ]
    return sorted(found, key=lambda one: one.name)


def shown_network(networks: Networks, name: str) -> Shown:
    """Return a network of ours with those who stand in it.

    Raises:
        NetworkNotFound: there is none of this name.
    """
    network = networks.get(name)
    return Shown(
        id=network.definition.id,
        name=name,
        definition=network.definition,
        endpoints=networks.endpoints.on(name),
        is_custom=network is not networks.default,
    )


def find_shown(networks: Networks, reference: str) -> Shown:
    """Return the network that a name, an id or the beginning of one means.

    Raises:
        NetworkNotFound: none, or several.
    """
    for one in shown_networks(networks):
        if one.definition is None and (
            reference == one.name or (len(reference) >= 2 and one.id.startswith(reference))
        ):
            return one
    return shown_network(networks, networks.find(reference).name)


def row(network: Shown, *, truncate: bool) -> Row:
    """Return the fields of one line."""
    definition = network.definition
    created = definition.created_ns if definition is not None else 0
    moment = datetime.fromtimestamp(created // 1_000_000_000).astimezone()
    return {
        "ID": network.id[:SHORT_ID] if truncate else network.id,
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "IPv4": _bool(definition is not None),
        "IPv6": _bool(definition is not None and bool(definition.subnet6)),
        "Internal": _bool(definition is not None and definition.internal),
        "Labels": ",".join(f"{key}={value}" for key, value in network.labels.items()),
        "Label": lambda key: network.labels.get(key, ""),
        "CreatedAt": f"{moment:%Y-%m-%d %H:%M:%S} +{created % 1_000_000_000:09d} {moment:%z %Z}"
        if created
        else NEVER,
    }


def network_object(network: Shown) -> dict[str, Any]:
    """Return a network as ``docker network inspect`` shows it."""
    definition = network.definition
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339_nano(definition.created_ns)
        if definition is not None and definition.created_ns
        else NEVER,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": definition is not None,
        "EnableIPv6": definition is not None and bool(definition.subnet6),
        "IPAM": {"Driver": "default", "Options": {}, "Config": _pools(definition)},
        "Internal": definition is not None and definition.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            endpoint.container_id: {
                "Name": endpoint.name,
                "EndpointID": endpoint_id(network.id, endpoint.container_id),
                "MacAddress": endpoint.mac,
                "IPv4Address": f"{endpoint.ip}/{endpoint.prefix}",
                "IPv6Address": f"{endpoint.ip6}/{endpoint.prefix6}" if endpoint.ip6 else "",
            }
            for endpoint in network.endpoints
        },
        "Options": {} if definition is None else options_of(definition),
        "Labels": dict(network.labels),
    }


def endpoint_id(network_id: str, container_id: str) -> str:
    """Return docker's EndpointID: one container in one network, always the same."""
    return hashlib.sha256(f"{network_id} {container_id}".encode()).hexdigest()


def options_of(definition: Definition) -> dict[str, str]:
    """Return the options as given, and the name of the link, which people look for."""
    return {"com.docker.network.bridge.name": definition.bridge, **definition.options}


def _pools(definition: Definition | None) -> list[dict[str, str]]:
    if definition is None:
        return []
    found = [{"Subnet": definition.subnet, "Gateway": definition.gateway}]
    if definition.ip_range:
        found[0]["IPRange"] = definition.ip_range
    if definition.subnet6:
        found.append({"Subnet": definition.subnet6, "Gateway": definition.gateway6})
    return found


def _bool(value: object) -> str:
    return "true" if value else "false"


def _by_label(network: Shown, value: str) -> bool:
    key, equals, wanted = value.partition("=")
    found = network.labels.get(key)
    return found is not None and (not equals or found == wanted)


def _by_type(network: Shown, value: str) -> bool:
    if value not in {"custom", "builtin"}:
        raise InvalidParameter(f"invalid filter: 'type'='{value}'; use custom or builtin")
    return network.is_custom == (value == "custom")


def _dangling(network: Shown, value: str) -> bool:
    if value.lower() not in {"0", "1", "true", "false"}:
        raise InvalidParameter(f"invalid filter 'dangling={value}'; use true or false")
    unused = network.is_custom and not network.endpoints
    return unused == (value.lower() in {"1", "true"})


FILTERS: Mapping[str, Callable[[Shown, str], bool]] = {
    "dangling": _dangling,
    "driver": lambda network, value: network.driver == value,
    "id": lambda network, value: network.id.startswith(value),
    "label": _by_label,
    "name": lambda network, value: value in network.name,
    "scope": lambda _, value: value == "local",
    "type": _by_type,
}


def selected(networks: Iterable[Shown], filters: Mapping[str, list[str]]) -> list[Shown]:
    """Return the networks that fit: one value of each filter must hold (all labels must).

    Raises:
        InvalidParameter: an unknown filter, or a value that it does not know.
    """
    for key in filters:
        if key not in FILTERS:
            raise InvalidParameter(
                f"invalid filter '{key}'; known are {', '.join(sorted(FILTERS))}"
            )
    return [
        network
        for network in networks
        if all(
            (all if key == "label" else any)(FILTERS[key](network, value) for value in values)
            for key, values in filters.items()
        )
    ]
