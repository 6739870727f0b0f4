"""Many containers in one network, and many that come and go at once.

ARUNTIME_TEST_CONTAINERS asks for more of them on one bridge (1000 for the whole check).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

CONTAINERS = int(os.environ.get("ARUNTIME_TEST_CONTAINERS", "25"))
STARTS = 100
IN_PARALLEL = 8


def tables_of(bridge: str) -> str:
    """Return the elements of a network's tables, and of the published ports."""
    found = ""
    for family, name in (("ip", f"{bridge}-ports"), ("bridge", bridge), ("ip", bridge)):
        listed = subprocess.run(
            ["/usr/sbin/nft", "list", "table", family, name], capture_output=True, text=True
        )
        found += listed.stdout
    return found


def test_many_on_one_bridge_are_all_reachable(daemon: RunningDaemon) -> None:
    """No address twice; one container reaches every other, and the host reaches all."""
    daemon.run("network", "create", "crowd")

    def start(number: int) -> str:
        words = ("--name", f"c{number}", "--network", "crowd", "busybox", "sleep", "9999")
        return daemon.out("run", "-d", *words, timeout=120)

    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        ids = list(pool.map(start, range(CONTAINERS)))
    about = json.loads(daemon.out("network", "inspect", "crowd"))[0]
    places = {key: one["IPv4Address"].partition("/")[0] for key, one in about["Containers"].items()}
    assert places.keys() == set(ids)
    assert len(set(places.values())) == CONTAINERS
    script = "for a in $0 $*; do ping -c 1 -W 5 $a >/dev/null || echo $a; done"
    assert daemon.out("exec", "c0", "sh", "-c", script, *places.values(), timeout=300) == ""
    for address in places.values():
        with pytest.raises(ConnectionRefusedError):  # by the container itself
            socket.create_connection((address, 80), timeout=10)
    daemon.run("rm", "-f", *ids, timeout=300)
    daemon.run("network", "rm", "crowd")


def test_parallel_starts_and_stops_leave_nothing(daemon: RunningDaemon) -> None:
    """A hundred runs in two networks with a published port: no lease, link or rule stays."""
    daemon.run("network", "create", "busy")
    bridge = json.loads(daemon.out("network", "inspect", "busy"))[0]["Options"][
        "com.docker.network.bridge.name"
    ]
    daemon.run("run", "--rm", "--network", "busy", "-P", "--expose", "80", "busybox", "true")
    before = tables_of(bridge), tables_of(daemon.bridge)
    assert " . " not in "".join(re.findall("elements = .*", "".join(before)))

    def run(number: int) -> str:
        words = ["--network", "busy", "--network", "bridge", "-P", "--expose", "80", "busybox"]
        if number % 2:
            return daemon.out("run", "--rm", *words, "echo", "done", timeout=120)
        name = f"s{number}"
        daemon.run("run", "-d", "--name", name, *words, "sleep", "999", timeout=120)
        daemon.run("stop", "-t", "0", name, timeout=120)
        daemon.run("rm", name, timeout=120)
        return "done"

    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        assert list(pool.map(run, range(STARTS))) == ["done"] * STARTS
    leases = (daemon.root / "networks").glob("*/leases/*")
    assert list(leases) == []
    assert (tables_of(bridge), tables_of(daemon.bridge)) == before

    def ports() -> str:
        return subprocess.run(["bridge", "link"], capture_output=True, text=True, check=True).stdout

    # The links go with the network namespaces, which the kernel takes apart later.
    wait_until(lambda: bridge not in ports() and daemon.bridge not in ports(), 30, "links go")
    daemon.run("network", "rm", "busy")
