"""Where containers stand in networks: the records that name it, and who is told when they change.

An endpoint is one container in one network: addresses, names, links. The registry holds those of
running containers, in the order in which they came, and calls its listeners at each coming and
going; published ports and the resolver of names live by it.

Out of scope: making an endpoint (attach), what a container asks for while it does not run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from aruntime.network.definition import DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a container asks of one network for one run."""

    container_id: str
    interface: int = 0
    """Number of the interface inside: 0 is eth0."""
    default_route: bool = True
    """Whether the way out leads through this network, if it has one."""
    ip: str = ""
    """A particular address; empty: any."""
    ip6: str = ""
    mac: str = ""
    hairpin: bool = False
    """It may reach its own published ports."""
    rate_bytes: int = 0
    """What it sends, and what it receives, per second at most; 0: there is no limit."""
    netns_fd: int = -1
    """Its network namespace, if it runs already; stays the caller's."""
    name: str = ""
    """The container's name."""
    aliases: tuple[str, ...] = ()
    """Further names, valid in this network only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a container stands in one network."""

    network: str = DEFAULT
    """The network's name."""
    container_id: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    interface: str = "eth0"
    """Name of the link inside."""
    ip: str
    prefix: int
    gateway: str
    """The network's own address on the host; also where there is no way out."""
    ip6: str = ""
    """Empty in a network without IPv6; so are the gateway and, 0, the prefix."""
    prefix6: int = 0
    gateway6: str = ""
    mac: str
    host_ifname: str
    """Name of the host end of its veth pair; its counters are the container's, swapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment(Endpoint):
    """An endpoint about to be made: what init must send."""

    host_ifindex: int
    """Interface index the host end will have; it never had another owner in this daemon's life."""
    netlink: dict[str, Any] = field(repr=False)
    """The launch payload's entry: base64 batches ``host`` and ``inside``, ``netns_fd``, and the
    ``sysctls`` to be set between the two."""
    repairs: tuple[str, ...] = ()
    """What ``ensure`` had to do for it, for the log; empty but for the first container."""


Change = Literal["connect", "disconnect"]
Listener = Callable[[Change, Endpoint], None]
"""Called in the thread that makes the change, before it is done with; must be quick, may block for
a system call, must not raise and must not call the registry's changing methods."""


class Endpoints:
    """The endpoints of running containers. Any thread may call any method at any time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._by_container: dict[str, dict[str, Endpoint]] = {}
        """Container id, then network name."""
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call the listener at each change from now on."""
        with self._lock:
            self._listeners.append(listener)

    def add(self, endpoint: Endpoint) -> None:
        """An endpoint came, or one of the same container and network is replaced."""
        with self._lock:
            held = self._by_container.setdefault(endpoint.container_id, {})
            former = held.pop(endpoint.network, None)
            if former is not None:
                self._tell("disconnect", former)
            held[endpoint.network] = endpoint
            self._tell("connect", endpoint)

    def remove(self, container_id: str, network: str) -> Endpoint | None:
        """An endpoint went; return it, None if there was none."""
        with self._lock:
            held = self._by_container.get(container_id, {})
            endpoint = held.pop(network, None)
            if not held:
                self._by_container.pop(container_id, None)
            if endpoint is not None:
                self._tell("disconnect", endpoint)
            return endpoint

    def rename(self, container_id: str, name: str) -> None:
        """A container is called otherwise: its endpoints go and come by the new name."""
        with self._lock:
            for endpoint in self.of(container_id):
                self.add(replace(endpoint, name=name))

    def of(self, container_id: str) -> tuple[Endpoint, ...]:
        """Return the endpoints of a container by the number of its interface."""
        held = self._by_container.get(container_id)
        if not held:
            return ()
        with self._lock:
            found = tuple(self._by_container.get(container_id, {}).values())
        return tuple(sorted(found, key=lambda one: (len(one.interface), one.interface)))

    def on(self, network: str) -> tuple[Endpoint, ...]:
        """Return the endpoints in a network, the longest connected first."""
        with self._lock:
            found = [held.get(network) for held in self._by_container.values()]
        return tuple(endpoint for endpoint in found if endpoint is not None)

    def named(self, network: str, name: str) -> tuple[Endpoint, ...]:
        """Return the endpoints in a network that answer to a name, in any case of its letters.

        Names are the container's own, its aliases and the first twelve digits of its id.
        """
        wanted = name.lower()
        return tuple(
            endpoint
            for endpoint in self.on(network)
            if wanted == endpoint.container_id[:12]
            or wanted == endpoint.name.lower()
            or any(wanted == alias.lower() for alias in endpoint.aliases)
        )

    def _tell(self, change: Change, endpoint: Endpoint) -> None:
        for listener in self._listeners:
            listener(change, endpoint)
