"""Network namespaces for tests: a private 'host', and containers attached to it."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pytest

from aruntime.container import wiring
from aruntime.kernel import namespaces, netlink
from aruntime.network import Network
from aruntime.network.encode import encode_loopback
from tests.networks import bridge_network

if TYPE_CHECKING:
    import _socket

P = ParamSpec("P")
T = TypeVar("T")


class Netns:
    """A network namespace with one thread living in it; it goes when closed.

    A network namespace belongs to a thread, so the test's own thread never leaves the real host's.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1)
        self.run(namespaces.unshare, namespaces.CLONE_NEWNET)
        self._thread = Path(f"/proc/self/task/{self.run(threading.get_native_id)}")

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function inside the namespace and return what it returns."""
        return self._executor.submit(function, *args, **kwargs).result()

    def close(self) -> None:
        """End the thread; the kernel then drops the namespace with its links."""
        self._executor.shutdown()
        while self._thread.exists():  # joined is not yet gone: the leak check lists threads
            os.sched_yield()


class Host(Netns):
    """A namespace that plays the host; containers made from it are closed with it."""

    def __init__(self) -> None:
        super().__init__()
        self._containers = ExitStack()
        self.run(loopback_up)

    def container(self, payload: dict[str, Any]) -> Netns:
        """Return a new namespace connected the way init does it, from the launch payload."""
        with closing(self.run(netlink.open_socket)) as route:
            container = Netns()
            self._containers.callback(container.close)
            container.run(connect, route, payload)
        return container

    def netns(self) -> Netns:
        """Return a new unconnected namespace."""
        other = Netns()
        self._containers.callback(other.close)
        return other

    def close(self) -> None:
        """Close the containers, then the host."""
        self._containers.close()
        super().close()


def loopback_up() -> None:
    """Bring the loopback link of this namespace up."""
    with closing(netlink.open_socket()) as route:
        netlink.send_and_ack(route, encode_loopback())


def connect(host_route: _socket.socket, payload: dict[str, Any]) -> None:
    """Do what init does, from inside the new namespace."""
    netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(netns, payload["netns_fd"])
        try:
            if payload["host"]:
                netlink.send_and_ack(host_route, base64.b64decode(payload["host"]))
        finally:
            os.close(payload["netns_fd"])
    finally:
        os.close(netns)
    wiring.set_sysctls(payload["sysctls"])
    with closing(netlink.open_socket()) as route:
        netlink.send_and_ack(route, base64.b64decode(payload["inside"]))


@pytest.fixture
def host() -> Iterator[Host]:
    """Yield a private network namespace that plays the host."""
    namespace = Host()
    yield namespace
    namespace.close()


@pytest.fixture
def network_of(tmp_path: Path) -> Iterator[Callable[[str, str], Network]]:
    """Yield what makes a network from the bridge's name and a subnet; they are closed."""
    with ExitStack() as opened:
        yield lambda bridge, subnet: opened.enter_context(
            closing(bridge_network(bridge, subnet, tmp_path))
        )
