"""Published ports of running containers: held, led into the container, let go, found again.

Ports are bound first (holding), so that one that is taken is an error before anything else
happens, then led into the container by the daemon's table (port_table): for packets from outside,
from the host itself, also by 127.0.0.1, and from containers by any address of the host. No process
stands in between.

Out of scope: what ``-p`` means (ports), what the network's own tables let pass (nat), IPv6.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from aruntime.errors import Conflict
from aruntime.network import holding
from aruntime.network.port_table import PortTable, entry
from aruntime.network.ports import ANY, PortRequest, PublishedPort


@dataclass(frozen=True, slots=True)
class _Holding:
    """What one container has."""

    name: str
    ports: tuple[PublishedPort, ...]
    fd: int
    """Holds the sockets; owned. -1: somebody else has them."""


class Publisher:
    """The published ports of one daemon.

    Owns a descriptor per container that has any; ``close`` lets go of them and leaves the rules.
    Any thread may call any method; every one blocks for some system calls.
    """

    def __init__(self, table: PortTable) -> None:
        self._table = table
        self._lock = threading.RLock()
        self._held: dict[str, _Holding] = {}

    def publish(
        self, container_id: str, name: str, address: str, requests: Sequence[PortRequest]
    ) -> list[PublishedPort]:
        """Make ports of a container reachable from outside.

        Args:
            container_id: it has none published.
            name: of the container, for those who want the same port.
            address: the container's.
            requests: in the user's order.

        Returns:
            What each request became.

        Raises:
            Conflict: a port is taken; the message says by whom.
            InvalidParameter: an address is not the host's.
            Unavailable, OSError: nft or the kernel refused. Nothing is published after an error.
        """
        with self._lock:
            for request in requests:
                self._check_ours(request)
            ports, fd = holding.hold(requests)
            try:
                self._table.put(container_id, [entry(port, address) for port in ports])
            except BaseException:
                os.close(fd)
                raise
            self._held[container_id] = _Holding(name, tuple(ports), fd)
            self._table.forget_flows(ports)
            return ports

    def restore(
        self, container_id: str, name: str, address: str, ports: Sequence[PublishedPort]
    ) -> None:
        """Take over the ports of a container that was started by a former daemon.

        ``settle`` must follow.

        Args:
            container_id, name, address: the container's.
            ports: what ``publish`` had returned.

        Raises:
            AruntimeError, OSError: meanwhile a port was taken by somebody else, or cannot be
                bound; it leads into the container all the same.
        """
        with self._lock:
            self._table.own(container_id, [entry(port, address) for port in ports])
            fd = -1
            try:
                fd = holding.hold([holding.request_for(port) for port in ports])[1]
            finally:
                self._held[container_id] = _Holding(name, tuple(ports), fd)

    def move(self, container_id: str, address: str) -> None:
        """Lead a container's ports to another address of it; nothing happens when it has none.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        with self._lock:
            held = self._held.get(container_id)
            if held is not None:
                self._table.drop(container_id)
                self._table.put(container_id, [entry(port, address) for port in held.ports])
                self._table.forget_flows(held.ports)

    def keep_resolver(self, address: str, *, wanted: bool = True) -> None:
        """See ``PortTable.keep_resolver``."""
        self._table.keep_resolver(address, wanted=wanted)

    def settle(self) -> None:
        """Remove what a former daemon published and nobody took over; repair the rest.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        self._table.settle()

    def release(self, container_id: str) -> None:
        """Take the ports of a container back; nothing happens when it has none.

        Raises:
            OSError: the kernel refused to remove a rule; the ports are free.
        """
        with self._lock:
            held = self._held.pop(container_id, None)
            if held is None:
                return
            try:
                self._table.drop(container_id)
            finally:
                _close(held)

    def close(self) -> None:
        """Let go of every port; the rules stay, and with them the containers' ports."""
        with self._lock:
            for held in self._held.values():
                _close(held)
            self._held.clear()

    def _check_ours(self, request: PortRequest) -> None:
        """Refuse a port that a container of this daemon has.

        Raises:
            Conflict: the message names the container.
        """
        if not request.host_port or request.host_port_end:
            return
        for container_id, held in self._held.items():
            for port in held.ports:
                if (port.protocol, port.host_port) == (
                    request.protocol,
                    request.host_port,
                ) and _overlap(port.host_ip, request.host_ip or ANY):
                    raise Conflict(
                        f"port {request.host_ip or ANY}:{request.host_port}/{request.protocol} is "
                        f"published by container {held.name} ({container_id[:12]}): stop it or "
                        "publish another port"
                    )


def _overlap(one: str, other: str) -> bool:
    return one == other or ANY in (one, other)


def _close(held: _Holding) -> None:
    if held.fd >= 0:
        os.close(held.fd)
