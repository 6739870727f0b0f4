"""Networks for tests: as a daemon makes its default one, and what containers ask of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from aruntime.network import Network, Request, default_definition


def bridge_network(bridge: str, subnet: str, root: Path, mtu: int = 1500) -> Network:
    """Return the default network of a daemon with this root."""
    directory = root / "networks" / bridge / "leases"
    return Network(default_definition(bridge, subnet, mtu), directory)


def asked(digit: str, interface: int = 0, *, ip: str = "", ip6: str = "", mac: str = "") -> Request:
    """Return what the container whose id is 64 times this digit asks of a network."""
    return Request(container_id=digit * 64, interface=interface, ip=ip, ip6=ip6, mac=mac)


def numbered(number: int) -> Request:
    """Return what the container with this number as its id asks of a network."""
    return Request(container_id=f"{number:064x}")


def beyond(host: str) -> str:
    """Return the address in the namespace of :func:`elsewhere` that reaches the host by this."""
    return host.removesuffix(".1") + ".2"


@contextlib.contextmanager
def elsewhere() -> Iterator[tuple[str, str]]:
    """Yield a network namespace that reaches this host by a link, and the host's address there."""
    name = f"art{os.getpid()}n"
    link = f"art{os.getpid() % 100000}x0h"[:15]
    base = f"198.18.{os.getpid() % 250}"
    commands = (
        f"ip netns add {name}",
        f"ip link add {link} type veth peer name inner netns {name}",
        f"ip address add {base}.1/30 dev {link}",
        f"ip link set {link} up",
        f"ip -n {name} address add {base}.2/30 dev inner",
        f"ip -n {name} link set inner up",
        f"ip -n {name} route add default via {base}.1",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield name, f"{base}.1"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["ip", "link", "del", link], capture_output=True)
