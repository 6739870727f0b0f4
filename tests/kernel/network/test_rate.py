"""Rates of links, by what the kernel's counters say over time."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from aruntime.kernel import netlink
from aruntime.network import Network, Request, encode
from aruntime.network.counters import LinkStats
from tests.harness import wait_until

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host, Netns

pytestmark = pytest.mark.kernel

NetworkOf = Callable[[str, str], Network]
RATE = 2_000_000
"""Bytes per second: 16 Mbit/s."""
SECONDS = 1.0
OPEN_SIZE = 1400


def asked(digit: str, rate: int) -> Request:
    """Return what a container with a rate asks of a network."""
    return Request(container_id=digit * 64, rate_bytes=rate)


@contextlib.contextmanager
def blasting(sender: Netns, address: str) -> Iterator[None]:
    """Have a namespace send as fast as it can while the block runs."""
    enough = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not enough.is_set():
                with contextlib.suppress(OSError):  # no room, or nobody listens
                    sock.sendto(bytes(OPEN_SIZE), (address, 9))

    with ThreadPoolExecutor(max_workers=1) as executor:
        sending = executor.submit(sender.run, send)
        try:
            yield
        finally:
            enough.set()
            sending.result()


def check_rate(read: Callable[[], int], rate: int) -> None:
    """A second's worth and a burst take a second at least; how long they take beside others is
    theirs to say."""
    start = read()
    wait_until(lambda: read() > start, 30, "the first packet has passed")
    began = time.monotonic()
    first = read()
    wait_until(lambda: read() - first >= rate * SECONDS + encode.burst_bytes(rate), 30)
    last = read()
    assert last - first <= rate * (time.monotonic() - began) + encode.burst_bytes(rate)


@pytest.mark.parametrize("direction", ["transmit", "receive"])
def test_both_directions(host: Host, network_of: NetworkOf, direction: str) -> None:
    """A limited container sends, and receives from an unlimited one, at its rate."""
    network = network_of("artest0", "10.83.0.0/24")
    limited = host.run(network.attach, asked("a", RATE))
    free = host.run(network.attach, asked("b", 0))
    one, two = host.container(limited.netlink), host.container(free.netlink)
    sender, address = (one, free.ip) if direction == "transmit" else (two, limited.ip)

    def read(digit: str = "a") -> int:
        found = host.run(network.counters, digit * 64)
        assert found is not None
        stats: LinkStats = found["eth0"]
        octets: int = getattr(stats, f"{direction}_bytes")
        return octets

    with blasting(sender, address):
        check_rate(read, RATE)


def qdisc(name: str) -> dict[str, Any]:
    """Return the root queue of a link as tc shows it."""
    shown = subprocess.run(
        ["tc", "-json", "qdisc", "show", "dev", name, "root"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found: list[dict[str, Any]] = json.loads(shown)
    return found[0]


def test_a_rate_is_changed_and_taken_away(host: Host, network_of: NetworkOf) -> None:
    """At both ends, as tc shows it; taking away what is not there is ENOENT."""
    network = network_of("artest0", "10.83.0.0/24")
    attachment = host.run(network.attach, asked("a", RATE))
    container = host.container(attachment.netlink)
    ends = (
        (host, attachment.host_ifname, attachment.host_ifindex),
        (container, "eth0", encode.ETH0_IFINDEX),
    )
    for place, name, index in ends:
        for rate in (RATE, 125_000, 1_250_000_000, 12_500_000_000):
            place.run(send, encode.encode_rate(index, rate))
            shown = place.run(qdisc, name)
            assert (shown["kind"], shown["options"]["rate"]) == ("tbf", rate)
            burst = encode.burst_bytes(rate)
            assert burst * 0.99 <= shown["options"]["burst"] <= burst * 1.01
        place.run(send, encode.encode_rate(index, 0))
        assert place.run(qdisc, name)["kind"] == "noqueue"
        with pytest.raises(FileNotFoundError):
            place.run(send, encode.encode_rate(index, 0))


def send(batch: bytes) -> None:
    """Send a batch in this namespace."""
    with closing(netlink.open_socket()) as route:
        netlink.send_and_ack(route, batch)
