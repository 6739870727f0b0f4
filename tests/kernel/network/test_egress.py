"""What leaves the host is counted apart: real packets between namespaces, real nftables."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from aruntime.network import Networks, Request, Wanted, default_definition
from aruntime.network.counters import LinkStats
from aruntime.network.egress import Egress, counter_name
from aruntime.network.nfnetlink import Count, NfTables, Table
from tests.harness import wait_until

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host, Netns

pytestmark = pytest.mark.kernel

OUTSIDE, OUTSIDE6 = "203.0.113.9", "2001:db8::9"
UDP4, UDP6 = 20 + 8, 40 + 8
"""Bytes of the headers before a datagram's content."""


class World(NamedTuple):
    """A host with two networks, and something outside of it."""

    host: Host
    networks: Networks
    outside: Netns

    def container(self, digit: str, network: str = "bridge") -> Netns:
        """Return a new container in a network."""
        asked = {network: Request(container_id=digit * 64)}
        return self.host.container(self.host.run(self.networks.attach, asked)[0].netlink)

    def address(self, digit: str) -> str:
        """Return where a container stands."""
        return self.networks.endpoints.of(digit * 64)[0].ip

    def read(self, digit: str) -> LinkStats:
        """Return the counters of a container."""
        found = self.host.run(self.networks.counters, digit * 64)
        assert found is not None
        return found["eth0"]

    def left(self, digit: str) -> tuple[int, int]:
        """Return bytes and packets that left the host from a container."""
        stats = self.read(digit)
        return stats.egress_bytes, stats.egress_packets


def check_left(world: World, digit: str, expected: tuple[int, int]) -> None:
    """Bytes and packets that left are what is expected, in the end.

    A first packet waits in the kernel until the neighbour's address is known.
    """
    deadline = time.monotonic() + 5
    while world.left(digit) != expected and time.monotonic() < deadline:
        time.sleep(0.005)
    assert world.left(digit) == expected


def networks_of(root: Path) -> Networks:
    """Return the networks of a daemon with this root."""
    return Networks(default_definition("eg0", "10.81.0.0/24"), root)


def script(namespace: Netns, *commands: str) -> None:
    """Run commands of the ip program in a namespace."""
    namespace.run(
        subprocess.run, ["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True
    )


@pytest.fixture
def world(host: Host, tmp_path: Path) -> Iterator[World]:
    """Yield a host with a way out by IPv4 and IPv6."""
    outside = host.netns()
    with outside.run(open, "/proc/thread-self/ns/net", "rb") as netns:
        place = f"/proc/self/fd/{netns.fileno()}"
        host.run(
            subprocess.run,
            ["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1", "netns", place],
            pass_fds=[netns.fileno()],
            check=True,
        )
    script(
        outside, "addr add 203.0.113.9/24 dev wan1", "addr add 2001:db8::9/64 dev wan1 nodad",
        "link set wan1 up",
    )  # fmt: skip
    script(
        host, "addr add 203.0.113.1/24 dev wan0", "addr add 2001:db8::1/64 dev wan0 nodad",
        "link set wan0 up",
    )  # fmt: skip
    with closing(networks_of(tmp_path)) as networks:
        host.run(networks.default.ensure)
        assert host.run(networks.open) == []
        host.run(
            networks.create, Wanted(name="six", subnet="10.82.0.0/24", ipv6=True, bridge="eg6")
        )
        yield World(host, networks, outside)


def send(sender: Netns, address: str, size: int, *, count: int = 1) -> None:
    """Send datagrams to a port where nobody listens."""

    def datagrams() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            for _ in range(count):
                sock.sendto(bytes(size), (address, 9))

    sender.run(datagrams)


def test_what_leaves_and_what_does_not(world: World) -> None:
    """Exactly the bytes of the packets that leave; none to host, gateway or other containers."""
    one, two = world.container("a"), world.container("b")
    assert world.left("a") == world.left("b") == (0, 0)
    send(one, OUTSIDE, 100, count=7)
    for address in ("10.81.0.1", "203.0.113.1", "10.82.0.1", world.address("b")):
        send(one, address, 500, count=3)
    send(two, OUTSIDE, 1)

    check_left(world, "a", (7 * (UDP4 + 100), 7))
    check_left(world, "b", (UDP4 + 1, 1))
    assert world.read("a").transmit_packets >= 7 + 4 * 3


def test_both_kinds_of_addresses_feed_one_counter(world: World) -> None:
    """IPv6 leaves too."""
    six = world.container("a", "six")
    send(six, OUTSIDE6, 100, count=2)
    send(six, OUTSIDE, 100, count=3)

    check_left(world, "a", (2 * (UDP6 + 100) + 3 * (UDP4 + 100), 5))


def test_what_comes_in_is_not_what_leaves(world: World) -> None:
    """The refusal that comes back from outside is received, and leaves nowhere."""
    one = world.container("a")
    send(one, OUTSIDE, 10)

    check_left(world, "a", (UDP4 + 10, 1))
    wait_until(lambda: world.read("a").receive_packets > 0)
    check_left(world, "a", (UDP4 + 10, 1))


def test_nobody_else_sends_at_a_containers_expense(world: World) -> None:
    """Not from outside by its address, though the host forwards it and lets it leave."""
    one = world.container("a")
    script(world.outside, f"addr add {world.address('a')}/32 dev wan1",
           f"route add 198.51.100.0/24 via 203.0.113.1 src {world.address('a')}")  # fmt: skip
    script(world.host, "route add 198.51.100.0/24 via 203.0.113.9")
    for link in ("all", "wan0"):
        setting = Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter")
        world.host.run(setting.write_text, "0")
    before = world.host.run(forwarded)
    send(world.outside, "198.51.100.1", 100, count=3)
    wait_until(lambda: world.host.run(forwarded) >= before + 3)
    assert world.left("a") == (0, 0)
    send(one, OUTSIDE, 10)
    check_left(world, "a", (UDP4 + 10, 1))


def forwarded() -> int:
    """Return how many packets this namespace has forwarded (ForwDatagrams)."""
    for line in Path("/proc/thread-self/net/snmp").read_text().splitlines():
        words = line.split()
        if words[0] == "Ip:" and words[1].isdigit():
            return int(words[6])
    raise AssertionError("no Ip: line")


def test_a_later_daemon_goes_on(world: World, tmp_path: Path) -> None:
    """It finds the counters, keeps those of running containers, and removes the others."""
    one, two = world.container("a"), world.container("b")
    send(one, OUTSIDE, 10)
    world.networks.close()
    send(one, OUTSIDE, 20)
    with closing(networks_of(tmp_path)) as later:
        world.host.run(later.open)
        send(one, OUTSIDE, 30)
        later.resume({"bridge": Request(container_id="a" * 64)})
        next_world = world._replace(networks=later)
        check_left(next_world, "a", (3 * UDP4 + 60, 3))
        world.host.run(later.reconcile, {"a" * 64: ["bridge"]})
        send(one, OUTSIDE, 40)
        send(two, OUTSIDE, 1000)

        check_left(next_world, "a", (4 * UDP4 + 100, 4))
        with closing(NfTables()) as tables:
            names = world.host.run(tables.read_counters, Table("inet", "eg0"))
        assert names.keys() == {counter_name("a" * 64, "eth0")}


def test_a_start_begins_at_zero(world: World) -> None:
    """Whatever a killed daemon left: the counter, or the address at another container's."""
    one = world.container("a")
    send(one, OUTSIDE, 10)
    check_left(world, "a", (UDP4 + 10, 1))
    again = world.networks.endpoints.of("a" * 64)[0]
    with closing(NfTables()) as tables:
        egress = Egress("eg0", tables, list)
        world.host.run(egress.begin, again, "eg0")
        assert world.left("a") == (0, 0)
        world.host.run(egress.begin, replace(again, container_id="c" * 64), "eg0")
        send(one, OUTSIDE, 30)
        wait_until(lambda: world.host.run(egress.read, "c" * 64, "eth0") == Count(UDP4 + 30, 1))


def test_an_end_leaves_nothing(world: World) -> None:
    """Counter and elements go with the container, the bridge with its network."""
    before = listed(world.host)
    world.container("a", "six")
    assert counter_name("a" * 64, "eth0") in listed(world.host)
    world.host.run(world.networks.release, "a" * 64)
    world.host.run(world.networks.release, "a" * 64)
    world.host.run(world.networks.remove, world.networks.get("six"))

    assert listed(world.host) == before
    world.host.run(world.networks.default.remove)
    assert listed(world.host) == ""


def listed(host: Host) -> str:
    """Return the daemon's table as nft shows it, nothing if it is not there."""
    return str(
        host.run(
            subprocess.run, ["/usr/sbin/nft", "-s", "list", "table", "inet", "eg0"],
            capture_output=True, text=True, check=False,
        ).stdout
    )  # fmt: skip


def test_a_flushed_table_is_written_anew(world: World) -> None:
    """By the next container that comes; those that are there are counted from zero."""
    one = world.container("a")
    send(one, OUTSIDE, 10)
    check_left(world, "a", (UDP4 + 10, 1))
    world.host.run(subprocess.run, ["/usr/sbin/nft", "flush", "ruleset"], check=True)
    assert world.left("a") == (0, 0)
    two = world.container("b")
    for sender, size in ((one, 20), (two, 30)):
        send(sender, OUTSIDE, size)

    check_left(world, "a", (UDP4 + 20, 1))
    check_left(world, "b", (UDP4 + 30, 1))


def test_a_refused_start_leaves_no_counter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel refuses the counter the address is free again."""

    def refuse(*_: object) -> None:
        raise OSError(1, "no")

    monkeypatch.setattr(Egress, "begin", refuse)
    with pytest.raises(OSError):
        world.container("a")
    assert world.networks.default.holders() == []
    assert world.networks.endpoints.of("a" * 64) == ()
