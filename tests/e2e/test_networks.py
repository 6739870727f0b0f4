"""Networks of users: made, listed, shown, removed; containers in them."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from typing import Any

import pytest

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
    ping = ("ping", "-c", "1", "-W", "1")

    daemon.run("run", "--rm", "--network", "left", "busybox", *ping, target)
    daemon.run("run", "--rm", "busybox", *ping, target, code=1)
    daemon.run("run", "--rm", "busybox", *ping, hidden, code=1)
    daemon.run("run", "--rm", "--network", "inner", "busybox", *ping, hidden)
    daemon.run("exec", "hidden", *ping, gateway)
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
    daemon.run("rm", "-f", "one", "two")
    daemon.run("network", "rm", "kept")
    wait_until(lambda: bridge not in subprocess.run(
        ["ip", "link"], capture_output=True, text=True, check=True).stdout)  # fmt: skip
