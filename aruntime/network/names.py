"""Who is called what, as each container sees it: the directory behind the resolver.

A container knows the containers of its own networks: by name, alias and the first twelve digits of
the id, each also with ``.NETWORK`` behind it, in any case of letters; and their names by address.
The default network has no names (docker's rule).

Kept as indexes, so that a look-up costs the same with a thousand containers. Out of scope: DNS
messages (dns), sockets (aruntime.daemon.resolver).
"""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, IPv6Address, ip_network

from aruntime.network.definition import DEFAULT
from aruntime.network.endpoints import Change, Endpoint

SHORT_ID = 12
NAME_BYTES = 253
LABEL_BYTES = 63
"""RFC 1035, 2.3.4; a name as text, without the dot at its end."""


class Directory:
    """The names of the running containers; :meth:`changed` is a listener of their endpoints.

    Any thread may call any method.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named: dict[tuple[str, str], dict[str, Endpoint]] = {}
        """By network and lower-case name, then container id: in the order of their coming."""
        self._placed: dict[str, Endpoint] = {}
        """By address, of either version."""
        self._of: dict[str, dict[str, Endpoint]] = {}
        """By container id, then network."""
        self._counts: dict[str, int] = {}
        """How many containers stand in a network; none without any."""

    def changed(self, change: Change, endpoint: Endpoint) -> None:
        """Take in that an endpoint came or went."""
        if endpoint.network == DEFAULT:
            return
        with self._lock:
            if change == "connect":
                self._add(endpoint)
            else:
                self._remove(endpoint)

    def is_used(self, network: str) -> bool:
        """Return whether anybody stands in a network."""
        return network in self._counts

    def client(self, network: str, address: str) -> str | None:
        """Return the container that has an address in a network, None for a stranger's."""
        endpoint = self._placed.get(address)
        if endpoint is None or endpoint.network != network:
            return None
        return endpoint.container_id

    def networks_of(self, container_id: str) -> list[str]:
        """Return the networks whose names a container knows."""
        with self._lock:
            return list(self._of.get(container_id, ()))

    def addresses(self, container_id: str, name: str) -> list[str] | None:
        """Return the addresses of a name as a container sees it, None if it knows none such.

        Args:
            container_id: who asks.
            name: without the dot at the end.
        """
        wanted = name.lower()
        with self._lock:
            for network in self._of.get(container_id, ()):
                found = self._named.get((network, wanted))
                if found is None and wanted.endswith(f".{network.lower()}"):
                    found = self._named.get((network, wanted[: -len(network) - 1]))
                if found:
                    return [
                        address for endpoint in found.values() for address in _addresses(endpoint)
                    ]
        return None

    def name_at(self, container_id: str, address: str) -> str | None:
        """Return the full name of who has an address in one of a container's networks."""
        with self._lock:
            endpoint = self._placed.get(address)
            if endpoint is None or endpoint.network not in self._of.get(container_id, ()):
                return None
        short = endpoint.container_id[:SHORT_ID]
        full = (f"{name}.{endpoint.network}" for name in (endpoint.name, short))
        return next(filter(_is_sayable, full), short)

    def covers(self, container_id: str, address: IPv4Address | IPv6Address) -> bool:
        """Return whether an address belongs to one of a container's networks."""
        with self._lock:
            endpoints = list(self._of.get(container_id, {}).values())
        for endpoint in endpoints:
            for ip, prefix in ((endpoint.ip, endpoint.prefix), (endpoint.ip6, endpoint.prefix6)):
                if ip and address in ip_network(f"{ip}/{prefix}", strict=False):
                    return True
        return False

    def _add(self, endpoint: Endpoint) -> None:
        for name in _names(endpoint):
            holders = self._named.setdefault((endpoint.network, name), {})
            holders[endpoint.container_id] = endpoint
        for address in _addresses(endpoint):
            self._placed[address] = endpoint
        self._of.setdefault(endpoint.container_id, {})[endpoint.network] = endpoint
        self._counts[endpoint.network] = self._counts.get(endpoint.network, 0) + 1

    def _remove(self, endpoint: Endpoint) -> None:
        networks = self._of.get(endpoint.container_id, {})
        if networks.pop(endpoint.network, None) is None:
            return
        if not networks:
            del self._of[endpoint.container_id]
        for name in _names(endpoint):
            holders = self._named.get((endpoint.network, name), {})
            holders.pop(endpoint.container_id, None)
            if not holders:
                self._named.pop((endpoint.network, name), None)
        for address in _addresses(endpoint):
            if self._placed.get(address) == endpoint:
                del self._placed[address]
        self._counts[endpoint.network] -= 1
        if not self._counts[endpoint.network]:
            del self._counts[endpoint.network]


class View:
    """The directory as one container sees it."""

    def __init__(self, directory: Directory, container_id: str) -> None:
        self._directory = directory
        self._container_id = container_id

    def addresses(self, name: str) -> list[str] | None:
        """Return the addresses of a name, None if it is nobody's."""
        return self._directory.addresses(self._container_id, name)

    def name_at(self, address: str) -> str | None:
        """Return the full name of who has an address, None if nobody has."""
        return self._directory.name_at(self._container_id, address)

    def covers(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether an address belongs to one of the networks."""
        return self._directory.covers(self._container_id, address)


def _names(endpoint: Endpoint) -> set[str]:
    given = (endpoint.name, *endpoint.aliases, endpoint.container_id[:SHORT_ID])
    return {name.lower() for name in given if name}


def _is_sayable(name: str) -> bool:
    """Return whether DNS can carry a name: containers may be called what it cannot."""
    labels = name.split(".")
    return len(name) <= NAME_BYTES and all(0 < len(label) <= LABEL_BYTES for label in labels)


def _addresses(endpoint: Endpoint) -> list[str]:
    return [address for address in (endpoint.ip, endpoint.ip6) if address]
