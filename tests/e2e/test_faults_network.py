"""The daemon is killed between any two steps of what it does to networks.

The steps are chosen at random but seeded; ARUNTIME_TEST_NETWORK_KILLS asks for more of them (0: for
every one), ARUNTIME_TEST_SEED for others.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until
from tests.netfaults import FaultyDaemon
from tests.traces import assert_no_more_than, traces

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("ARUNTIME_TEST_NETWORK_KILLS", "5"))
SEED = int(os.environ.get("ARUNTIME_TEST_SEED", "20"))


def life(daemon: RunningDaemon) -> list[list[str]]:
    """Return the commands of two networks' and one container's life."""
    name = "com.docker.network.bridge.name"
    return [
        ["network", "create", "--ipv6", "-o", f"{name}={daemon.bridge}a", "web"],
        ["run", "-d", "--name", "one", "--network", "web", "-P", "--expose", "80", "busybox",
         "sleep", "999"],
        ["network", "create", "-o", f"{name}={daemon.bridge}b", "side"],
        ["network", "connect", "side", "one"],
        ["network", "disconnect", "web", "one"],
        ["stop", "-t", "0", "one"],
        ["start", "one"],
        ["rm", "-f", "one"],
        ["network", "rm", "web", "side"],
    ]  # fmt: skip


def play(daemon: RunningDaemon) -> bool:
    """Give the commands one after the other; return whether all came to their end."""
    return all(not daemon.run(*words, code=None).returncode for words in life(daemon))


def on_host(daemon: RunningDaemon) -> dict[str, set[str]]:
    """Return the tables, links, rules for ports and records of networks of this daemon."""
    tables = subprocess.run(
        ["/usr/sbin/nft", "list", "tables"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ports = subprocess.run(
        ["/usr/sbin/nft", "list", "table", "ip", f"{daemon.bridge}-ports"],
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    return {
        "tables": {line for line in tables if daemon.bridge in line},
        "bridges": {name for name in os.listdir("/sys/class/net") if daemon.bridge in name},
        "records": set(os.listdir(daemon.root / "networks")),
        "ports": {line.strip() for line in ports.splitlines() if "elements" in line},
        "leases": {str(path) for path in (daemon.root / "networks").glob("*/leases/*")},
    }


def runs(daemon: RunningDaemon) -> bool:
    """Whether something can be executed in the container."""
    return daemon.run("exec", "one", "true", code=None).returncode == 0


def assert_consistent(daemon: RunningDaemon) -> None:
    """Fail unless every network is whole, and a container has the links its record names."""
    for name in daemon.out("network", "ls", "-f", "type=custom", "--format", "{{.Name}}").split():
        about = json.loads(daemon.out("network", "inspect", name))[0]
        bridge = about["Options"]["com.docker.network.bridge.name"]
        assert Path("/sys/class/net", bridge).exists()
        for family in ("ip", "bridge"):
            subprocess.run(
                ["/usr/sbin/nft", "list", "table", family, bridge], check=True, capture_output=True
            )
    # A run that was cut off is ended beside the daemon's start.
    wait_until(lambda: not daemon.out("ps", "-q") or runs(daemon), what="it runs or has ended")
    if daemon.out("ps", "-q"):
        about = json.loads(daemon.out("inspect", "one"))[0]["NetworkSettings"]
        inside = daemon.out("exec", "one", "ip", "-4", "-o", "address")
        for place in about["Networks"].values():
            assert place["IPAddress"] in inside
        assert inside.count("eth") == 2 * len(about["Networks"])
        for place in about["Networks"].values():
            gateway = place["Gateway"]
            daemon.run("exec", "one", "ping", "-c", "1", "-W", "5", gateway)


def test_killed_between_any_two_steps(daemon: RunningDaemon) -> None:
    """Its successor removes or ends what was begun, and the names are free again."""
    daemon.run("run", "--rm", "-P", "--expose", "80", "busybox", "true")
    assert play(daemon)
    before, host_before = traces(daemon), on_host(daemon)
    daemon.kill()
    with closing(FaultyDaemon(daemon)) as faulty:
        faulty.arm(0)
        assert play(daemon)
        count = len(faulty.steps)
    assert count > 50, "the steps are not seen"
    seeded = random.Random(SEED)
    chosen = sorted(seeded.sample(range(1, count + 1), KILLS)) if KILLS else range(1, count + 1)
    for step in chosen:
        with closing(FaultyDaemon(daemon)) as faulty:
            faulty.arm(step)
            play(daemon)
        where = f"step {step} of {count}, seed {SEED}, after {faulty.steps[-3:]}"
        daemon.start()
        try:
            assert_consistent(daemon)
        except BaseException as error:
            error.add_note(where)
            raise
        left = daemon.out("ps", "-aq").split()
        if left:
            daemon.run("rm", "-f", *left)
        daemon.run("network", "prune", "-f")
        assert_no_more_than(before, daemon, where)
        with contextlib.suppress(AssertionError):  # what differs is said below
            wait_until(lambda: on_host(daemon) == host_before, 30)
        assert on_host(daemon) == host_before, where
        daemon.kill()
    daemon.start()
