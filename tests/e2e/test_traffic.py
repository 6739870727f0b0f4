"""Network traffic as it is counted: against iperf3's own numbers, and over the daemon's death."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_program
from tests.harness import RunningDaemon, wait_until
from tests.networks import beyond, elsewhere

pytestmark = pytest.mark.e2e

PREFIX = "aruntime_container_network_"
IP_UDP = 28
SEND = r"""
use IO::Socket::INET;
my ($address, @gates) = @ARGV;
my $socket = IO::Socket::INET->new(PeerAddr => $address, PeerPort => 9, Proto => "udp");
for my $gate (@gates) {
    select(undef, undef, undef, 0.01) until -e "/gates/$gate";
    for (1 .. 100) {
        # The refusals that come back are errors of the next call.
        until (defined $socket->send("x" x 1000)) {}
    }
}
"""
"""Sends a hundred datagrams whenever a file is there."""


@pytest.fixture
def outside() -> Iterator[tuple[str, str]]:
    """Yield a namespace beyond the host and its address there."""
    with elsewhere() as (name, host):
        yield name, beyond(host)


def look(daemon: RunningDaemon, name: str) -> None:
    """Have the counters of a container read now: they are at every change of its state."""
    daemon.run("pause", name)
    daemon.run("unpause", name)


def traffic(daemon: RunningDaemon, what: str, name: str, interface: str = "eth0") -> int:
    """Return one counter of a container."""
    return int(daemon.metric(f"{PREFIX}{what}_total", name=name, interface=interface))


def egress_of_tenant(daemon: RunningDaemon, tenant: str) -> int:
    """Return what left the host from all containers of a tenant."""
    return int(daemon.metric("aruntime_tenant_network_egress_bytes_total", tenant=tenant))


def iperf_client(*words: str) -> list[str]:
    """Return the command of an iperf3 client that reports as JSON."""
    return [require_program("iperf3"), "--json", "--bytes", "1G", "--client", *words]


def listens(daemon: RunningDaemon, name: str) -> None:
    """Wait until the iperf3 server in a container listens."""
    daemon.run("exec", name, "sh", "-c", "until grep -q :1451 /proc/net/tcp6; do sleep 0.01; done")


def within(found: int, expected: int, percent: float = 1.0) -> bool:
    """Whether a number is another one but for so many percent."""
    return abs(found - expected) <= expected * percent / 100


def test_numbers_are_iperf3s(debian_daemon: RunningDaemon) -> None:
    """Bytes received and sent by two containers that talk by name: iperf3's own, to 1 %."""
    daemon, host = debian_daemon, ("--network", "race", "-v", "/usr:/usr:ro")
    iperf = require_program("iperf3")
    daemon.run("network", "create", "race")
    daemon.run("run", "-d", "--name", "server", *host, "debian", iperf, "--server")
    listens(daemon, "server")
    daemon.run("run", "-d", "--name", "client", *host, "debian", *iperf_client("server"))
    assert daemon.out("wait", "client") == "0"
    report = json.loads(daemon.out("logs", "client"))
    sent, received = (report["end"][f"sum_{word}"]["bytes"] for word in ("sent", "received"))

    assert sent >= 1 << 30
    assert within(traffic(daemon, "transmit_bytes", "client"), sent)
    daemon.run("stop", "-t", "0", "server")
    assert within(traffic(daemon, "receive_bytes", "server"), received)
    assert traffic(daemon, "egress_bytes", "client") == 0
    daemon.run("rm", "server", "client")
    daemon.run("network", "rm", "race")


def test_what_leaves_is_iperf3s(debian_daemon: RunningDaemon, outside: tuple[str, str]) -> None:
    """To a server beyond the host: both counters, and what comes back is none of it."""
    namespace, address = outside
    server = subprocess.Popen(
        ["ip", "netns", "exec", namespace, require_program("iperf3"), "--server"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _is_open(namespace), what="iperf3 listens")
        report = run_iperf(debian_daemon, "up", address)
        back = run_iperf(debian_daemon, "down", address, "--reverse")
    finally:
        server.terminate()
        server.wait(10)

    sent = report["end"]["sum_sent"]["bytes"]
    assert within(traffic(debian_daemon, "egress_bytes", "up"), sent)
    assert within(traffic(debian_daemon, "transmit_bytes", "up"), sent)
    received = back["end"]["sum_received"]["bytes"]
    assert within(traffic(debian_daemon, "receive_bytes", "down"), received)
    assert traffic(debian_daemon, "egress_bytes", "down") < received / 20


def run_iperf(daemon: RunningDaemon, name: str, *words: str) -> Any:
    """Run an iperf3 client in a container to its end; return its report."""
    command = ("run", "-d", "--name", name, "-v", "/usr:/usr:ro", "debian", *iperf_client(*words))
    daemon.run(*command)
    assert daemon.out("wait", name) == "0"
    return json.loads(daemon.out("logs", name))


def _is_open(namespace: str) -> bool:
    listed = subprocess.run(
        ["ip", "netns", "exec", namespace, "cat", "/proc/net/tcp6"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ":1451 " in listed.stdout  # 5201


def test_a_killed_daemon_loses_no_byte(
    daemon: RunningDaemon, debian_tar: Path, tmp_path: Path, outside: tuple[str, str]
) -> None:
    """Two containers send before, during and after; one ends while nobody looks."""
    daemon.run("import", str(debian_tar), "debian")
    gates = {"short": ("before", "during"), "long": ("before", "during", "after")}
    for name, wanted in gates.items():
        daemon.run(
            "run", "-d", "--name", name, "--tenant", "acme", "-v", f"{tmp_path}:/gates", "debian",
            "perl", "-e", SEND, outside[1], *wanted,
        )  # fmt: skip
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "short"))
    (tmp_path / "before").touch()

    def is_counted() -> bool:
        look(daemon, "long")
        return egress_of_tenant(daemon, "acme") > 0

    wait_until(is_counted)
    daemon.kill()
    (tmp_path / "during").touch()
    wait_until(lambda: _state(pid) == "Z", 30, "short ends")
    daemon.start()
    (tmp_path / "after").touch()
    assert daemon.out("wait", *gates).split() == ["0", "0"]

    for name, wanted in gates.items():
        packets = 100 * len(wanted)
        assert traffic(daemon, "egress_packets", name) == packets
        assert traffic(daemon, "egress_bytes", name) == packets * (IP_UDP + 1000)
    assert egress_of_tenant(daemon, "acme") == 500 * (IP_UDP + 1000)
    daemon.run("rm", *gates)
    assert egress_of_tenant(daemon, "acme") == 500 * (IP_UDP + 1000)
    tables = subprocess.run(
        ["/usr/sbin/nft", "list", "table", "inet", daemon.bridge],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "counter eth" not in tables.stdout


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2].split()[0]


def test_each_interface_has_its_own(shared_daemon: RunningDaemon, outside: tuple[str, str]) -> None:
    """Two networks, two interfaces; only the way out carries egress."""
    daemon = shared_daemon
    daemon.run("network", "create", "--internal", "within")
    networks = ("--network", "bridge", "--network", "within")
    daemon.run("run", "-d", "--name", "two", *networks, "busybox", "sleep", "999")
    daemon.run("run", "-d", "--name", "peer", "--network", "within", "busybox", "sleep", "999")
    place = daemon.out(
        "inspect", "-f", '{{(index .NetworkSettings.Networks "within").IPAddress}}', "peer"
    )
    daemon.run("exec", "two", "ping", "-c", "3", "-i", "0.1", "-s", "1000", outside[1])
    daemon.run("exec", "two", "ping", "-c", "5", "-i", "0.1", "-s", "1000", place)

    look(daemon, "two")
    assert traffic(daemon, "transmit_packets", "two", "eth1") >= 5
    assert traffic(daemon, "egress_bytes", "two") == 3 * (1000 + IP_UDP)
    assert traffic(daemon, "egress_bytes", "two", "eth1") == 0
    assert traffic(daemon, "receive_bytes", "two", "eth1") >= 5 * 1000

    # Before the ping: a poll may count it at once.
    sent = traffic(daemon, "transmit_bytes", "two")
    daemon.run("exec", "two", "ping", "-c", "1", "-s", "1000", outside[1])
    daemon.run("network", "disconnect", "bridge", "two")
    assert traffic(daemon, "egress_bytes", "two") == 4 * (1000 + IP_UDP)
    assert traffic(daemon, "transmit_bytes", "two") >= sent + 1000
    daemon.run("rm", "-f", "two", "peer")
    daemon.run("network", "rm", "within")


def test_the_hosts_network_is_not_counted(shared_daemon: RunningDaemon) -> None:
    """No series at all, rather than zeros; the label says why."""
    shared_daemon.run("run", "-d", "--name", "open", "--network", "host", "busybox", "sleep", "999")
    shown = shared_daemon.metrics()

    assert 'network_mode="host"' in next(
        line
        for line in shown.splitlines()
        if line.startswith("aruntime_container_info{") and 'name="open"' in line
    )
    assert not [
        line for line in shown.splitlines() if line.startswith(PREFIX) and 'name="open"' in line
    ]


def test_rates_hold_and_change(debian_daemon: RunningDaemon) -> None:
    """--network-rate of run and update, in both directions, by iperf3's bytes over its seconds."""
    daemon, host = debian_daemon, ("--network", "slow", "-v", "/usr:/usr:ro")
    daemon.run("network", "create", "slow")
    iperf = require_program("iperf3")
    limited = ("--network-rate", "80mbit")
    daemon.run("run", "-d", "--name", "server", *limited, *host, "debian", iperf, "--server")
    listens(daemon, "server")
    assert daemon.out("inspect", "-f", "{{.HostConfig.NetworkRate}}", "server") == "80000000"

    def check(rate: int, *words: str) -> None:
        command = [iperf, "--json", "--time", "1", "--client", "server", *words]
        report = json.loads(daemon.out("run", "--rm", *host, "debian", *command))["end"]
        taken = report["sum_received"]
        # A burst more, and what waits: a twentieth of a second's worth.
        most = rate / 8 * (taken["seconds"] + 0.1) + 65536
        assert 0 < taken["bytes"] <= most

    check(80_000_000)
    check(80_000_000, "--reverse")
    daemon.run("update", "--network-rate", "8mbit", "server")
    check(8_000_000)
    daemon.run("restart", "-t", "0", "server")
    listens(daemon, "server")
    check(8_000_000, "--reverse")
    daemon.run("update", "--network-rate", "0", "server")
    command = [iperf, "--json", "--bytes", "20M", "--client", "server"]
    report = json.loads(daemon.out("run", "--rm", *host, "debian", *command))["end"]
    assert report["sum_sent"]["bits_per_second"] > 2 * 8_000_000
    refused = daemon.run("update", "--network-rate", "10mbps", "server", code=125)
    assert "use kbit, mbit or gbit" in refused.stderr
    daemon.run("rm", "-f", "server")
    daemon.run("network", "rm", "slow")
