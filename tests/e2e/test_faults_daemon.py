"""The daemon is killed while it starts containers: the next one collects everything.

The instants are random but seeded; ARUNTIME_TEST_KILLS asks for more of them, and
ARUNTIME_TEST_SEED for others.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading

import pytest

from tests.harness import RunningDaemon, wait_until
from tests.traces import assert_no_more_than, children_of, traces

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("ARUNTIME_TEST_KILLS", "12"))
SEED = int(os.environ.get("ARUNTIME_TEST_SEED", "20"))
LATEST_SECONDS = 0.15
"""A start takes a fraction of this."""
SPIN = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done"
KINDS = (
    ["--rm", "busybox", "sh", "-c", SPIN],
    ["--rm", "--userns", "auto", "--network", "none", "busybox", "sh", "-c", SPIN],
    ["-d", "busybox", "sh", "-c", f"{SPIN}; sleep 99"],
    ["--name", "twin", "busybox", "sh", "-c", SPIN],
)


def assert_total_is_exact(daemon: RunningDaemon) -> None:
    """Compare the tenant's total with the kernel's count of all that ever ran in our groups."""
    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    shown = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    assert round(shown * 1e9) == pytest.approx(kernel, abs=1000)


def test_daemon_killed_in_mid_launch(daemon: RunningDaemon) -> None:
    """At whatever instant it dies, its successor leaves no stray and counts every nanosecond."""
    daemon.run("run", "--rm", "busybox", "true")
    before = traces(daemon)
    seeded = random.Random(SEED)
    for turn in range(KILLS):
        clients = [
            daemon.popen("run", *seeded.choice(KINDS), stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
            for _ in range(2)
        ]  # fmt: skip
        delay = seeded.uniform(0, LATEST_SECONDS)
        threading.Event().wait(delay)  # the instant of death
        daemon.kill()
        for client in clients:
            _, errors = client.communicate(timeout=20)
            if client.returncode not in (0, 137):
                lines = errors.decode().splitlines()
                assert all(line.startswith("aruntime: ") for line in lines), errors
        daemon.start()
        ids = daemon.out("ps", "-aq", "--no-trunc").split()
        if ids:
            daemon.run("rm", "-f", *ids)
        assert_no_more_than(before, daemon, f"turn {turn}, seed {SEED}, {delay:.3f} s:")
    assert_total_is_exact(daemon)


def test_exec_whose_daemon_dies(daemon: RunningDaemon) -> None:
    """Execs of a dead daemon are waited for by the next one; their container can then end."""
    daemon.run("run", "-d", "--name", "box", "busybox", "sleep", "999")
    init = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "box"))
    seeded = random.Random(SEED)
    for _ in range(4):
        client = daemon.popen(
            "exec", "box", "sleep", "0.3", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        threading.Event().wait(seeded.uniform(0, LATEST_SECONDS))  # the instant of death
        daemon.kill()
        client.wait(20)
        daemon.start()
        wait_until(lambda: children_of(daemon.shim_pid) == {init}, what="the exec is reaped")
    assert daemon.out("exec", "box", "echo", "well") == "well"
    daemon.run("stop", "-t", "0", "box")
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "box") == "137"
    daemon.run("rm", "box")
    assert_total_is_exact(daemon)


def test_removal_that_is_cut_off(daemon: RunningDaemon) -> None:
    """rm -f of many containers under a daemon that dies: the next rm finds no half ones."""
    before = traces(daemon)
    seeded = random.Random(SEED)
    for _ in range(3):
        names = [
            daemon.out("run", "-d", "-v", "/data", "busybox", "sleep", "999") for _ in range(4)
        ]
        client = daemon.popen(
            "rm", "-f", "-v", *names, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        threading.Event().wait(seeded.uniform(0.03, LATEST_SECONDS))  # the instant of death
        daemon.kill()
        client.wait(20)
        daemon.start()
        left = daemon.out("ps", "-aq", "--no-trunc").split()
        if left:
            daemon.run("rm", "-f", "-v", *left)
        assert_no_more_than(before, daemon)
