"""Networks of users: made, listed, shown, removed; containers in them."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import time
from typing import Any

import pytest

from aruntime.network.bridge import ports
from aruntime.network.departed import GRACE_SECONDS
from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

ADDRESS = '{{(index .NetworkSettings.Networks "%s").IPAddress}}'


def ruleset(*names: str) -> list[str]:
    """Return all tables as text, without counters; outside of CI only those of these names.

    There other programs, and other runs of these tests, make tables meanwhile.
    """
    listed = subprocess.run(
        ["/usr/sbin/nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True
    )
    tables = [table.strip() for table in f"\n{listed.stdout}".split("\ntable ")]
    if os.environ.get("CI"):
        return tables
    return [table for table in tables if any(f" {name} {{" in table for name in names)]


def address(daemon: RunningDaemon, network: str, name: str) -> str:
    """Return a container's address in a network."""
    return daemon.out("inspect", "-f", ADDRESS % network, name)


def shown(daemon: RunningDaemon, name: str) -> Any:
    """Return what ``network inspect`` shows of one network."""
    return json.loads(daemon.out("network", "inspect", name))[0]


def subnet_of(daemon: RunningDaemon, third: int) -> str:
    """Return a subnet that no other test run uses: beside the daemon's own."""
    first, second, *_ = daemon.subnet.split(".")
    return f"{first}.{int(second) ^ 0x80 if int(second) < 128 else int(second)}.{third}.0/24"


def test_create_list_inspect_remove(shared_daemon: RunningDaemon) -> None:
    """The four commands, docker's formats, and a host that is as before."""
    daemon = shared_daemon
    before = ruleset(daemon.bridge)
    made = daemon.out(
        "network", "create", "--label", "who=me", "-o", "com.docker.network.driver.mtu=1400", "web"
    )
    assert len(made) == 64

    assert daemon.out("network", "ls", "-q", "--no-trunc", "--filter", "name=web") == made
    listed = daemon.out("network", "ls").splitlines()
    assert listed[0].split("   ")[0] == "NETWORK ID"
    assert [line.split()[1:] for line in listed[1:]] == [
        ["bridge", "bridge", "local"],
        ["host", "host", "local"],
        ["none", "null", "local"],
        ["web", "bridge", "local"],
    ]
    assert daemon.out("network", "ls", "-f", "type=custom", "--format", "{{.Name}}") == "web"
    assert daemon.out("network", "ls", "-f", "label=who=me", "--format", "{{.Name}}") == "web"
    about = shown(daemon, made[:6])
    bridge = about["Options"]["com.docker.network.bridge.name"]
    assert ruleset(daemon.bridge, bridge) != before
    assert (about["Name"], about["Id"], about["Driver"]) == ("web", made, "bridge")
    assert about["Labels"] == {"who": "me"}
    assert about["Containers"] == {}
    pool = about["IPAM"]["Config"][0]
    assert ipaddress.ip_address(pool["Gateway"]) in ipaddress.ip_network(pool["Subnet"])
    assert daemon.out("inspect", "--type", "network", "-f", "{{.Name}}", "web") == "web"

    daemon.run("run", "-d", "--name", "one", "--network", "web", "busybox", "sleep", "999")
    assert shown(daemon, "web")["Containers"][daemon.out("ps", "-q", "--no-trunc")]["Name"] == "one"
    mtu = daemon.out("exec", "one", "cat", "/sys/class/net/eth0/mtu")
    assert mtu == "1400"
    assert daemon.out("ps", "--format", "{{.Networks}}") == "web"
    assert daemon.out("ps", "-q", "--filter", "network=web") == daemon.out("ps", "-q")
    refused = daemon.run("network", "rm", "web", code=1)
    assert "network web has active endpoints: one; stop or disconnect them first" in refused.stderr
    daemon.run("rm", "-f", "one")
    assert daemon.out("network", "rm", "web") == "web"
    assert daemon.run("network", "inspect", "web", code=1).stdout == "[]\n"
    assert ruleset(daemon.bridge, bridge) == before


def test_wrong_requests_are_refused(shared_daemon: RunningDaemon) -> None:
    """Each with one line that says what to do; nothing is made."""
    for words, reason in (
        (["-d", "overlay", "x"], "could not find driver 'overlay'"),
        (["bridge"], "network with name bridge already exists"),
        (["host"], "network with name host already exists"),
        (["-x"], "unknown shorthand flag"),
        (["a/b"], "network name 'a/b' is invalid"),
        (["--subnet", "10.1.2.0/33", "x"], "invalid subnet '10.1.2.0/33'"),
        (["--subnet", "10.1.2.1/24", "x"], "has host bits set"),
        (["--subnet", "10.1.2.0/24", "--subnet", "10.1.3.0/24", "x"], "one of each IP version"),
        (["--gateway", "10.1.2.1", "x"], "no matching subnet for gateway 10.1.2.1"),
        (["--subnet", shared_daemon.subnet, "x"], "overlaps with"),
        (["-o", "com.docker.network.driver.mtu=1", "x"], "mtu '1' cannot be used: 68 to 65535"),
        (["-o", "colour=red", "x"], "option colour is not supported"),
    ):
        failed = shared_daemon.run("network", "create", *words, code=125)
        assert reason in failed.stderr
        assert failed.stderr.count("\n") == 1
    assert "not found" in shared_daemon.run("network", "rm", "nobody", code=1).stderr
    shared_daemon.run("network", "rm", "-f", "nobody")
    assert "pre-defined" in shared_daemon.run("network", "rm", "host", code=1).stderr
    assert "pre-defined" in shared_daemon.run("network", "rm", "bridge", code=1).stderr
    missing = shared_daemon.run("run", "--rm", "--network", "nobody", "busybox", "true", code=125)
    assert "network nobody not found" in missing.stderr
    assert shared_daemon.out("network", "ls", "-qf", "type=custom") == ""


def test_addresses_that_were_asked_for(shared_daemon: RunningDaemon) -> None:
    """--ip, --ip6, --mac-address; two networks; nobody gets an address that is held."""
    daemon = shared_daemon
    subnet = subnet_of(daemon, 1)
    base = subnet.rpartition(".")[0]
    daemon.run("network", "create", "--subnet", subnet, "--ip-range", f"{base}.128/25",
               "--gateway", f"{base}.254", "--ipv6", "six")  # fmt: skip
    daemon.run("network", "create", "side")
    subnet6 = ipaddress.ip_network(shown(daemon, "six")["IPAM"]["Config"][1]["Subnet"])
    asked6 = str(subnet6[0x1234])
    daemon.run(
        "run", "-d", "--name", "one", "--ip", f"{base}.7", "--ip6", asked6, "--network", "six",
        "--mac-address", "02:00:00:00:12:34", "--network", "name=side,alias=eins",
        "busybox", "sleep", "999",
    )  # fmt: skip
    found = json.loads(daemon.out("inspect", "one"))[0]["NetworkSettings"]
    place = found["Networks"]["six"]
    assert (place["IPAddress"], place["GlobalIPv6Address"]) == (f"{base}.7", asked6)
    assert (place["MacAddress"], place["Gateway"]) == ("02:00:00:00:12:34", f"{base}.254")
    assert found["Networks"]["side"]["Aliases"] == ["eins"]
    assert found["IPAddress"] == ""
    inside = daemon.out("exec", "one", "ip", "address")
    for text in (f"{base}.7/24", asked6, "02:00:00:00:12:34", address(daemon, "side", "one")):
        assert text in inside
    route = daemon.out("exec", "one", "ip", "route", "show", "default").split()
    assert route[:5] == ["default", "via", f"{base}.254", "dev", "eth0"]
    taken = daemon.run(
        "run", "--rm", "--network", "six", "--ip", f"{base}.7", "busybox", "true", code=125
    )
    assert f"address {base}.7 is already in use" in taken.stderr

    daemon.run("run", "-d", "--name", "two", "--network", "six", "busybox", "sleep", "999")
    other = address(daemon, "six", "two")
    assert ipaddress.ip_address(other) in ipaddress.ip_network(f"{base}.128/25")
    daemon.run("exec", "two", "ping", "-c", "1", "-W", "5", f"{base}.7")
    daemon.run("exec", "two", "ping6", "-c", "1", "-W", "5", asked6)
    daemon.run("rm", "-f", "one", "two")
    daemon.run("network", "rm", "six", "side")


def test_networks_do_not_reach_each_other(shared_daemon: RunningDaemon) -> None:
    """From one network no packet enters another; an internal one has no way out at all."""
    daemon = shared_daemon
    daemon.run("network", "create", "left")
    daemon.run("network", "create", "--internal", "inner")
    daemon.run("run", "-d", "--name", "target", "--network", "left", "busybox", "sleep", "999")
    daemon.run("run", "-d", "--name", "hidden", "--network", "inner", "busybox", "sleep", "999")
    target, hidden = address(daemon, "left", "target"), address(daemon, "inner", "hidden")
    gateway = shown(daemon, "inner")["IPAM"]["Config"][0]["Gateway"]
    ping, reach = ("ping", "-c", "1", "-W", "1"), ("ping", "-c", "1", "-W", "20")

    daemon.run("run", "--rm", "--network", "left", "busybox", *reach, target)
    daemon.run("run", "--rm", "busybox", *ping, target, code=1)
    daemon.run("run", "--rm", "busybox", *ping, hidden, code=1)
    daemon.run("run", "--rm", "--network", "inner", "busybox", *reach, hidden)
    daemon.run("exec", "hidden", *reach, gateway)
    outside = next(ipaddress.ip_network(daemon.subnet).hosts())
    script = (
        f"ip route show default; ip route add default via {gateway}; "
        f"ping -c 1 -W 1 {target} || ping -c 1 -W 1 {outside} || echo kept inside"
    )
    tried = daemon.out(
        "run", "--rm", "--network", "inner", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c",
        script,
    )  # fmt: skip
    assert "default" not in tried
    assert tried.endswith("kept inside")
    daemon.run("rm", "-f", "target", "hidden")
    daemon.run("network", "rm", "left", "inner")


def test_networks_survive_the_daemon(daemon: RunningDaemon) -> None:
    """Definitions, leases and bridges outlive a killed daemon; a bridge deleted by hand is back."""
    daemon.run("network", "create", "--label", "a=b", "kept")
    daemon.run("run", "-d", "--name", "one", "--network", "kept", "busybox", "sleep", "999")
    held = address(daemon, "kept", "one")
    before = shown(daemon, "kept")
    daemon.kill()
    bridge = before["Options"]["com.docker.network.bridge.name"]
    subprocess.run(["ip", "link", "del", bridge], check=True)
    daemon.start()

    assert shown(daemon, "kept") == before
    assert address(daemon, "kept", "one") == held
    assert "made bridge" in daemon.log
    daemon.run("run", "-d", "--name", "two", "--network", "kept", "busybox", "sleep", "999")
    assert address(daemon, "kept", "two") != held
    daemon.run("exec", "two", "ping", "-c", "1", "-W", "5", held)
    daemon.run("rm", "-f", "one", "two")
    daemon.run("network", "rm", "kept")
    wait_until(lambda: bridge not in subprocess.run(
        ["ip", "link"], capture_output=True, text=True, check=True).stdout)  # fmt: skip


def links(daemon: RunningDaemon, name: str) -> list[str]:
    """Return the links inside a container."""
    return daemon.out("exec", name, "ls", "/sys/class/net").split()


def way_out(daemon: RunningDaemon, name: str) -> str:
    """Return the link by which a container reaches out, empty without one."""
    routes = daemon.out("exec", name, "ip", "route").splitlines()
    return "".join(line.split()[4] for line in routes if line.startswith("default "))


def test_connect_and_disconnect(shared_daemon: RunningDaemon) -> None:
    """A running container gets and loses networks, its way out and its ports go along."""
    daemon = shared_daemon
    for name in ("blue", "green"):
        daemon.run("network", "create", name)
    daemon.run("network", "create", "--internal", "inner")
    greet = ("sh", "-c", "while :; do echo hello | nc -l -p 80; done")
    daemon.run("run", "-d", "--name", "one", "--network", "inner", "busybox", *greet)
    assert way_out(daemon, "one") == ""

    daemon.run("network", "connect", "--alias", "eins", "blue", "one")
    assert links(daemon, "one") == ["eth0", "eth1", "lo"]
    assert way_out(daemon, "one") == "eth1"
    found = json.loads(daemon.out("inspect", "one"))[0]["NetworkSettings"]["Networks"]
    assert list(found) == ["inner", "blue"]
    assert found["blue"]["Aliases"] == ["eins"]
    daemon.run("run", "--rm", "--network", "blue", "busybox", "ping", "-c", "1", "-W", "5",
               found["blue"]["IPAddress"])  # fmt: skip
    again = daemon.run("network", "connect", "blue", "one", code=125)
    assert "endpoint with name one already exists in network blue" in again.stderr

    daemon.run("network", "connect", "green", "one")
    daemon.run("network", "disconnect", "blue", "one")
    assert links(daemon, "one") == ["eth0", "eth2", "lo"]
    assert way_out(daemon, "one") == "eth2"
    # What the link that is gone has carried is not forgotten: a ping's 98 bytes, and its ARP.
    received = "aruntime_container_network_receive_bytes_total"
    assert daemon.metric(received, name="one", interface="eth1") >= 98
    daemon.run("network", "rm", "blue")
    daemon.run("network", "connect", "bridge", "one")
    assert "eth3" in links(daemon, "one")
    gone = daemon.run("network", "disconnect", "bridge", "one")
    assert gone.stdout == ""
    missing = daemon.run("network", "disconnect", "bridge", "one", code=125)
    assert "container one is not connected to network bridge" in missing.stderr

    daemon.run("restart", "-t", "0", "one")
    assert links(daemon, "one") == ["eth0", "eth1", "lo"]
    for name in ("inner", "green"):
        daemon.run("network", "disconnect", name, "one")
    assert links(daemon, "one") == ["lo"]
    assert daemon.out("inspect", "-f", "{{json .NetworkSettings.Networks}}", "one") == "{}"
    daemon.run("restart", "-t", "0", "one")
    assert links(daemon, "one") == ["lo"]
    daemon.run("stop", "-t", "0", "one")
    daemon.run("network", "connect", "green", "one")
    daemon.run("start", "one")
    assert links(daemon, "one") == ["eth0", "lo"]
    daemon.run("rm", "-f", "one")
    refused = daemon.run("network", "connect", "host", "x", code=125)
    assert "host is a pre-defined network and no container can be connected" in refused.stderr
    daemon.run("create", "--name", "own", "--network", "none", "busybox", "true")
    refused = daemon.run("network", "connect", "green", "own", code=125)
    assert "private (none) mode" in refused.stderr
    daemon.run("rm", "own")
    daemon.run("network", "rm", "inner", "green")


def test_prune(shared_daemon: RunningDaemon) -> None:
    """Networks that no container is in, stopped ones counted; only after yes, or with -f."""
    daemon = shared_daemon
    for name in ("used", "free", "kept"):
        label = ("--label", "keep") if name == "kept" else ()
        daemon.run("network", "create", *label, name)
    daemon.run("create", "--name", "idle", "--network", "used", "busybox", "true")
    asked = daemon.run("network", "prune", stdin=b"n\n")
    assert asked.stdout.endswith("Are you sure you want to continue? [y/N] ")
    assert daemon.run("network", "prune", "-f", "--filter", "until=1h").stdout == ""
    done = daemon.run("network", "prune", "--filter", "label!=keep", stdin=b"y\n")
    assert done.stdout.endswith("[y/N] Deleted Networks:\nfree\n\n")
    assert daemon.out("network", "prune", "-f") == "Deleted Networks:\nkept\n"
    daemon.run("rm", "idle")
    assert daemon.out("network", "prune", "-f") == "Deleted Networks:\nused\n"
    wrong = daemon.run("network", "prune", "-f", "--filter", "colour=red", code=125)
    assert "invalid filter 'colour'" in wrong.stderr


def test_a_disconnection_that_was_cut_off_is_ended(daemon: RunningDaemon) -> None:
    """config.json is the word: a link it does not name goes, ports and way out move on."""
    daemon.run("network", "create", "blue")
    daemon.run("network", "create", "green")
    daemon.run("run", "-d", "--name", "one", "--network", "blue", "--network", "green",
               "-P", "--expose", "80", "busybox", "sleep", "999")  # fmt: skip
    held = address(daemon, "green", "one")
    daemon.kill()
    (config,) = (daemon.root / "containers").glob("*/config.json")
    content = json.loads(config.read_text())
    content["connections"] = [one for one in content["connections"] if one["network"] == "green"]
    config.write_text(json.dumps(content))
    daemon.start()

    assert links(daemon, "one") == ["eth1", "lo"]
    assert way_out(daemon, "one") == "eth1"
    assert not list((daemon.root / "networks/blue/leases").iterdir())
    table = subprocess.run(
        ["/usr/sbin/nft", "list", "table", "ip", f"{daemon.bridge}-ports"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f": {held} . 80" in table
    daemon.run("rm", "-f", "one")
    daemon.run("network", "rm", "blue", "green")


def test_unsent_bytes_keep_no_link(daemon: RunningDaemon, busybox_tar: bytes) -> None:
    """A connection whose other end is gone outlives its program, and keeps its network namespace.

    For minutes, as the kernel tries again and again. The links of ended containers go all the same:
    the last one by the next daemon, as the one that saw the end was killed.
    """
    daemon.load_busybox(busybox_tar)
    daemon.run("network", "create", "talk")
    bridge = shown(daemon, "talk")["Options"]["com.docker.network.bridge.name"]
    on = ("--network", "talk", "busybox", "sh", "-c")
    for name in ("early", "late"):
        daemon.run("run", "-d", "--name", f"{name}-sink", *on, "nc -l -p 9 -e sleep 999")
        listens = "until netstat -ltn | grep -q :9; do sleep 0.01; done"
        daemon.run("exec", f"{name}-sink", "sh", "-c", listens)
        daemon.run("run", "-d", "--name", name, *on, f"yes | nc {name}-sink 9")
        waits = "until netstat -tn | awk '$3 > 100000 {n++} END {exit !n}'; do sleep 0.01; done"
        daemon.run("exec", name, "sh", "-c", waits)
        daemon.run("network", "disconnect", "talk", f"{name}-sink")
    assert len(ports(bridge)) == 2

    began = time.monotonic()
    daemon.run("rm", "-f", "early")
    assert len(ports(bridge)) == 2 or time.monotonic() - began >= GRACE_SECONDS
    wait_until(lambda: len(ports(bridge)) == 1, what="the first link goes")
    wait_until(lambda: "removed the link of an ended container" in daemon.log)
    began = time.monotonic()
    daemon.run("rm", "-f", "late")
    daemon.kill()
    assert len(ports(bridge)) == 1 or time.monotonic() - began >= GRACE_SECONDS
    daemon.start()
    wait_until(lambda: not ports(bridge), what="the other goes")
    daemon.run("rm", "-f", "early-sink", "late-sink")
