"""Networks: none, host, bridge, and the network of another container."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

ACCEPT_RA = "/proc/sys/net/ipv6/conf/eth0/accept_ra"


@pytest.fixture
def target(shared_daemon: RunningDaemon) -> Iterator[str]:
    """Yield the name of a container on the bridge."""
    shared_daemon.run("run", "-d", "--name", "target", "busybox", "sleep", "999")
    yield "target"
    shared_daemon.run("rm", "-f", "target")


def address(daemon: RunningDaemon, name: str) -> str:
    """Return a container's address on the bridge."""
    return daemon.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)


def gateway_of(daemon: RunningDaemon) -> str:
    """Return the bridge's own address."""
    return str(next(ipaddress.ip_network(daemon.subnet).hosts()))


def test_none_has_loopback_only(shared_daemon: RunningDaemon) -> None:
    """``--network none``: lo is up, there is nothing else and no way out."""
    script = "ls /sys/class/net; ping -c 1 -W 20 127.0.0.1 >/dev/null && echo up; ip route"

    assert shared_daemon.out(
        "run", "--rm", "--network", "none", "busybox", "sh", "-c", script
    ).split() == ["lo", "up"]


def test_host_has_the_hosts_links(shared_daemon: RunningDaemon) -> None:
    """``--network host``: the host's links and the host's name."""
    flags = ("--network", "host")

    assert set(
        shared_daemon.out("run", "--rm", *flags, "busybox", "ls", "/sys/class/net").split()
    ) >= {"lo", shared_daemon.bridge}
    assert shared_daemon.out("run", "--rm", *flags, "busybox", "hostname") == os.uname().nodename


def test_bridge_reaches_gateway_and_neighbour(shared_daemon: RunningDaemon, target: str) -> None:
    """On the bridge a container reaches the gateway and another container, and is reached."""
    network = ipaddress.ip_network(shared_daemon.subnet)
    gateway = gateway_of(shared_daemon)
    other = address(shared_daemon, target)
    assert ipaddress.ip_address(other) in network

    for place in (gateway, other):
        shared_daemon.run("run", "--rm", "busybox", "ping", "-c", "1", "-W", "5", place)
    shared_daemon.run("exec", target, "ping", "-c", "1", "-W", "5", gateway)


def test_bridge_has_one_link_and_a_default_route(shared_daemon: RunningDaemon) -> None:
    """Inside there are lo and eth0, and a route by the gateway; the host's links are not."""
    script = "ls /sys/class/net; ip route show default"
    first, second, *route = shared_daemon.out("run", "--rm", "busybox", "sh", "-c", script).split()

    assert [first, second] == ["eth0", "lo"]
    assert route[:3] == ["default", "via", gateway_of(shared_daemon)]


def test_ports_of_two_containers_do_not_clash(shared_daemon: RunningDaemon, target: str) -> None:
    """The same port is free in every container, and each answers on its own."""
    serve = "nc -l -p 80 -e echo {} & until netstat -tln | grep -q ':80 '; do :; done; {}"
    shared_daemon.run("exec", target, "sh", "-c", serve.format("first", "true"))
    second = serve.format("second", "nc 127.0.0.1 80")

    assert shared_daemon.out("run", "--rm", "busybox", "sh", "-c", second) == "second"
    assert shared_daemon.out("exec", target, "nc", "127.0.0.1", "80") == "first"


ADVERTISE = r"""
my ($source, $all) = (pack("H*", "fe80" . "0" x 24 . "dead"), pack("H*", "ff02" . "0" x 27 . "1"));
my $mac = pack("H*", "02420000dead");
my $icmp = pack("CCnCCnNN", 134, 0, 0, 64, 0, 1800, 0, 0)
    . pack("CCCCNNN", 3, 4, 64, 0xc0, 3600, 1800, 0) . pack("H*", "20010db80bad" . "0" x 20)
    . pack("CC", 1, 1) . $mac;
my $sum = 0;
$sum += $_ for unpack("n*", $source . $all . pack("NN", length $icmp, 58) . $icmp);
$sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
substr($icmp, 2, 2) = pack("n", ~$sum & 0xffff);
my $frame = pack("H*", "333300000001") . $mac . pack("n", 0x86dd)
    . pack("NnCC", 0x60000000, length $icmp, 58, 255) . $source . $all . $icmp;
my ($index) = `cat /sys/class/net/eth0/ifindex`;
socket(my $raw, 17, 3, 0xdd86) or die "socket: $!";
send($raw, $frame, 0, pack("SniSCCa8", 17, 0x86dd, $index, 0, 0, 6, $mac)) or die "send: $!";
print "sent";
"""
"""A router advertisement for 2001:db8:bad::/64 by fe80::dead, to all nodes, as a raw frame."""


def dropped(daemon: RunningDaemon) -> int:
    """Return how many frames the default network's guard has dropped."""
    listed = subprocess.run(
        ["/usr/sbin/nft", "list", "chain", "bridge", daemon.bridge, "prerouting"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return int(re.findall(r"counter packets (\d+)", listed)[-1])


def test_a_container_cannot_become_the_router(debian_daemon: RunningDaemon, target: str) -> None:
    """CVE-2020-13401: an advertisement reaches nobody, and nobody would heed it."""
    if not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("this host has no IPv6")
    before = dropped(debian_daemon)
    done = debian_daemon.out("run", "--rm", "debian", "perl", "-e", ADVERTISE)

    assert done == "sent"
    wait_until(lambda: dropped(debian_daemon) > before)
    assert "2001:db8" not in debian_daemon.out("exec", target, "ip", "-6", "address")
    assert "dead" not in debian_daemon.out("exec", target, "ip", "-6", "route")
    assert "20010db80bad" not in Path("/proc/net/if_inet6").read_text()
    assert "0" * 28 + "dead" not in Path("/proc/net/ipv6_route").read_text()
    assert debian_daemon.out("exec", target, "cat", ACCEPT_RA) == "0"
    hosts = Path(f"/proc/sys/net/ipv6/conf/{debian_daemon.bridge}/accept_ra")
    assert hosts.read_text().strip() == "0"


def test_network_of_another_container(shared_daemon: RunningDaemon, target: str) -> None:
    """``--network container:NAME``: its links, address, host name and name files."""
    flags = ("run", "--rm", "--network", f"container:{target}", "busybox")
    name = shared_daemon.out("exec", target, "hostname")

    assert address(shared_daemon, target) in shared_daemon.out(*flags, "ip", "-4", "address")
    assert shared_daemon.out(*flags, "hostname") == name
    for file in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf"):
        assert shared_daemon.out(*flags, "cat", file) == shared_daemon.out(
            "exec", target, "cat", file
        )


def test_network_of_a_container_that_cannot_be_joined(shared_daemon: RunningDaemon) -> None:
    """An unknown or stopped container is an error before anything is started."""
    unknown = shared_daemon.run(
        "run", "--rm", "--network", "container:nobody", "busybox", "true", code=125
    )
    assert "nobody" in unknown.stderr
    shared_daemon.run("run", "--name", "ended", "busybox", "true")
    ended = shared_daemon.run(
        "run", "--rm", "--network", "container:ended", "busybox", "true", code=125
    )
    assert "is not running" in ended.stderr
    shared_daemon.run("rm", "ended")
