"""Two hundred idle containers under one daemon cost no thread and no process of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import RunningDaemon
from tests.traces import assert_no_more_than, children_of, traces

pytestmark = pytest.mark.e2e

COUNT = 200
IN_PARALLEL = 4
THREADS_MOST = 64
"""The daemon's pool of threads that wait for the disk has a bound that containers do not move."""


def threads_of(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def pss_of(pid: int) -> int:
    """Return the proportional set size of a process in bytes; see proc_pid_smaps_rollup(5)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (line,) = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024


def processes_of(daemon: RunningDaemon) -> set[int]:
    """Return every process started with this daemon's run directory: daemon, shim, any other."""
    mark = os.fsencode(str(daemon.run_dir))
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if mark in entry.read_bytes():
                found.add(int(entry.parent.name))
    return found


def test_idle_containers(
    daemon: RunningDaemon, record_property: Callable[[str, object], None]
) -> None:
    """Daemon and shim stay two processes; a container is one process, its init."""
    daemon.run("run", "--rm", "busybox", "true")
    assert daemon.process is not None
    shim = daemon.shim_pid
    before = traces(daemon)
    memory = pss_of(daemon.process.pid) + pss_of(shim)

    def start(_: int) -> str:
        return daemon.out("run", "-d", "--network", "none", "busybox", "sleep", "9999")

    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        ids = list(pool.map(start, range(COUNT)))

    assert len(daemon.out("ps", "-q").split()) == COUNT
    assert threads_of(shim) == 1
    assert threads_of(daemon.process.pid) <= THREADS_MOST
    assert processes_of(daemon) == {daemon.process.pid, shim}
    children = children_of(shim)
    assert len(children) == COUNT
    assert all(not children_of(pid) and threads_of(pid) == 1 for pid in children)
    assert children_of(daemon.process.pid) <= {shim}

    grown = pss_of(daemon.process.pid) + pss_of(shim) - memory
    text = f"{grown / COUNT / 1000:.1f} kB of daemon and shim for each of {COUNT} idle containers"
    record_property("memory", text)
    print(text)  # noqa: T201 -- shown with -s and in the report of a failure

    metrics = daemon.metrics()
    assert all(f'container_cpu_usage_seconds_total{{id="{name[:12]}"' in metrics for name in ids)
    daemon.run("rm", "-f", *ids, timeout=120)
    assert_no_more_than(before, daemon)
