"""Counters of real links, against known traffic and the kernel's other way of telling them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from aruntime.network.attach import Network
from aruntime.network.counters import LinkCounters, LinkStats
from tests.networks import asked, bridge_network, numbered

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host

pytestmark = pytest.mark.kernel

ETHERNET_IP_UDP = 14 + 20 + 8
TIMEOUT = 5.0


@pytest.fixture
def network(host: Host, tmp_path: Path) -> Iterator[Network]:
    """Yield a network of the private host; its socket is closed."""
    with closing(bridge_network("artest0", "10.77.0.0/24", tmp_path)) as network:
        yield network


def udp(address: str) -> socket.socket:
    """Open a UDP socket at an address of this namespace."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, 0))
    opened.settimeout(TIMEOUT)
    return opened


def by_getlink() -> dict[int, tuple[int, ...]]:
    """Return what RTM_GETLINK tells of every link, from the host's side."""
    names = ("tx_bytes", "rx_bytes", "tx_packets", "rx_packets", "tx_dropped", "rx_dropped")
    with IPRoute() as ipr:
        return {
            link["index"]: tuple(link.get_attr("IFLA_STATS64")[name] for name in names)
            for link in ipr.get_links()
        }


def test_counts_exactly_what_passed(host: Host, network: Network) -> None:
    """Datagrams of known size, one way: the sender transmitted them, the receiver received them."""
    sender, receiver = (host.run(network.attach, asked(name)) for name in "ab")
    inside, target = host.container(sender.netlink), host.container(receiver.netlink)
    with inside.run(udp, sender.ip) as source, target.run(udp, receiver.ip) as sink:
        source.sendto(b"first", sink.getsockname())  # settles ARP, both ways
        sink.recv(100)
        before = [host.run(network.counters, name * 64) for name in "ab"]
        for _ in range(50):
            source.sendto(bytes(1000), sink.getsockname())
            sink.recv(2000)
        after = [host.run(network.counters, name * 64) for name in "ab"]

    sent, received = (
        growth(old["eth0"], new["eth0"])
        for old, new in zip(before, after, strict=True)
        if old is not None and new is not None
    )
    size = 50 * (1000 + ETHERNET_IP_UDP)
    # The bridge may report its multicast groups (IGMP) to every container meanwhile: what the
    # sender received is that, and the receiver received it too.
    flooded, flooded_packets = sent.receive_bytes, sent.receive_packets
    assert sent == LinkStats(flooded, size, flooded_packets, 50, 0, 0)
    assert received == LinkStats(size + flooded, 0, 50 + flooded_packets, 0, 0, 0)


def growth(before: LinkStats, after: LinkStats) -> LinkStats:
    """Return the difference of two readings."""
    return LinkStats(*(new - old for old, new in zip(before, after, strict=True)))


def test_dump_agrees_with_getlink(host: Host, network: Network) -> None:
    """The dump of all links equals RTM_GETLINK's figures, swapped, for many links."""
    attachments = [host.run(network.attach, numbered(n)) for n in range(20)]
    for attachment in attachments:
        host.container(attachment.netlink)
    with closing(host.run(LinkCounters)) as counters:
        # The bridge floods ARP while it settles: compare when the looks before and after agree.
        while True:
            links, found = host.run(by_getlink), counters.read_all()
            if host.run(by_getlink) == links:
                break

    assert {index: stats[:6] for index, stats in found.items()} == links  # egress is not the link's
    assert {attachment.host_ifindex for attachment in attachments} <= set(found)


def test_counters_survive_the_daemon(host: Host, network: Network, tmp_path: Path) -> None:
    """The next daemon finds the link by the name in the lease."""
    attachment = host.run(network.attach, asked("a"))
    container = host.container(attachment.netlink)
    with container.run(udp, attachment.ip) as source, host.run(udp, attachment.gateway) as sink:
        source.sendto(bytes(100), sink.getsockname())
        sink.recv(200)

    with closing(bridge_network("artest0", "10.77.0.0/24", tmp_path)) as successor:
        found = host.run(successor.counters, "a" * 64)

    assert found is not None
    assert found["eth0"].transmit_bytes >= 100


def test_no_link_no_counters(host: Host, network: Network) -> None:
    """An unknown container, one not started yet and one whose namespace is gone have none."""
    attachment = host.run(network.attach, asked("a"))

    assert host.run(network.counters, "b" * 64) is None
    assert host.run(network.counters, "a" * 64) is None
    assert attachment.host_ifindex not in host.run(by_getlink)
    host.container(attachment.netlink)
    assert host.run(network.counters, "a" * 64) is not None
    network.release("a" * 64)
    assert host.run(network.counters, "a" * 64) is None
