"""Many clients at once: nothing is lost, nothing is left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e


def test_hundred_runs_in_parallel(daemon: RunningDaemon) -> None:
    """A hundred runs, sixteen at a time: every output and exit code is right, nothing stays."""

    def run(number: int) -> tuple[str, int]:
        script = f"echo {number}; exit {number % 7}"
        done = daemon.run("run", "--rm", "busybox", "sh", "-c", script, code=None, timeout=120)
        return done.stdout, done.returncode

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(run, range(100)))

    assert found == [(f"{number}\n", number % 7) for number in range(100)]
    assert daemon.out("ps", "-aq") == ""
    wait_until(lambda: not list((daemon.root / "containers").iterdir()), what="files are deleted")
    assert list((daemon.root / "networks" / daemon.bridge / "leases").iterdir()) == []
    assert list(Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}/*/")) == []
    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    shown = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    assert round(shown * 1e9) == kernel


def test_operations_on_one_container_exclude_each_other(daemon: RunningDaemon) -> None:
    """Starts, stops and restarts of one container at once leave it in one state, removable."""
    daemon.run("create", "--name", "box", "busybox", "sleep", "99")
    operations = [("start", "box"), ("stop", "-t", "0", "box"), ("restart", "-t", "0", "box")] * 4

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda words: daemon.run(*words, code=None), operations))

    state = daemon.out("inspect", "-f", "{{.State.Status}} {{.State.Running}}", "box")
    assert state in ("running true", "exited false")
    daemon.run("rm", "-f", "box")
    assert daemon.out("ps", "-aq") == ""
