"""Counters by container id, on a real link."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aruntime.daemon.link_counters import ContainerLinks
from aruntime.network.attach import Network

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host

pytestmark = pytest.mark.kernel

ONE, OTHER = "1" * 64, "2" * 64
PAYLOAD = bytes(1000)
UDP_FRAME_BYTES = 14 + 20 + 8 + len(PAYLOAD)
TRANSMIT_BYTES, TRANSMIT_PACKETS = 1, 3


def send_datagrams(address: str, count: int) -> None:
    """Send UDP datagrams from this namespace; nobody has to listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(PAYLOAD, (address, 9))


def test_counters_follow_the_lease(host: Host, tmp_path: Path) -> None:
    """None without a lease or before the link; then what the container sent; None after it."""
    network = host.run(Network, "artlinks", "10.78.0.0/24", tmp_path)
    host.run(network.ensure)
    links = host.run(ContainerLinks, network)
    try:
        assert host.run(links.read, ONE) is None
        attachment = host.run(network.attach, ONE)
        assert host.run(links.read, ONE) is None
        container = host.container(attachment.netlink)
        before = host.run(links.read, ONE)
        assert before is not None
        container.run(send_datagrams, attachment.gateway, 10)
        after = host.run(links.read, ONE)
        assert after is not None
        assert set(after) == {"eth0"}
        sent = after["eth0"][TRANSMIT_BYTES] - before["eth0"][TRANSMIT_BYTES]
        packets = after["eth0"][TRANSMIT_PACKETS] - before["eth0"][TRANSMIT_PACKETS]
        assert packets >= 10
        assert 10 * UDP_FRAME_BYTES <= sent <= 10 * UDP_FRAME_BYTES + 500  # and an ARP exchange
        assert host.run(links.read, OTHER) is None
        network.release(ONE)
        assert host.run(links.read, ONE) is None
    finally:
        links.close()
        host.run(network.remove)
