"""Networks for tests: as a daemon makes its default one, and what containers ask of them."""

from __future__ import annotations

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
