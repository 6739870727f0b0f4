"""Network counters by container id: what the meter asks for, from the leases and the links.

A container's counters are those of the host end of its veth pair, swapped
(:mod:`aruntime.network.counters`); the lease knows that link's name. Containers without a link of
their own (host network, none) have no counters here.
"""

from __future__ import annotations

import socket
import threading

from aruntime.network import Network
from aruntime.network.counters import LinkCounters
from aruntime.network.encode import IFNAME


class ContainerLinks:
    """Reads for several worker threads, one at a time; owns the netlink socket."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._counters = LinkCounters()
        self._lock = threading.Lock()

    def read(self, container_id: str) -> dict[str, tuple[int, ...]] | None:
        """Counters by interface name inside the container; None without a link.

        Raises:
            OSError: the kernel refused.
        """
        endpoint = self._network.lookup(container_id)
        if endpoint is None:
            return None
        try:
            ifindex = socket.if_nametoindex(endpoint.host_ifname)
        except OSError:
            return None  # not made yet, or gone with the namespace
        with self._lock:
            stats = self._counters.read(ifindex)
        return None if stats is None else {IFNAME: tuple(stats)}

    def close(self) -> None:
        """Close the socket."""
        self._counters.close()
