"""What Prometheus sees of containers is what the kernel counted, to the last unit."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.harness import RunningDaemon, wait_until
from tests.prometheus import Prometheus
from tests.traces import CGROUP_ROOT

pytestmark = pytest.mark.e2e

SHORT_CONTAINERS = 40
BURN = "i=0; while [ $i -lt {loops} ]; do i=$((i+1)); done"
LOOPS_PER_MILLISECOND = 1000
"""Roughly, of busybox's shell; what matters is that every container's use is different."""


@pytest.fixture
def prometheus(daemon: RunningDaemon, tmp_path: Path) -> Iterator[Prometheus]:
    """Yield a Prometheus that scrapes the daemon."""
    server = Prometheus(tmp_path, (daemon.run_dir / "metrics.addr").read_text().strip())
    yield server
    server.close()


def test_forty_short_containers_are_all_counted(
    daemon: RunningDaemon, prometheus: Prometheus
) -> None:
    """Prometheus's tenant total equals the parent group's cpuacct.usage, all forty counted."""
    seeded = random.Random(1)
    milliseconds = [seeded.randrange(50, 1000) for _ in range(SHORT_CONTAINERS)]

    def run_short(duration: int) -> None:
        script = BURN.format(loops=duration * LOOPS_PER_MILLISECOND)
        daemon.run("run", "--rm", "--tenant", "acme", "busybox", "sh", "-c", script)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run_short, milliseconds))

    kernel = Decimal(daemon.cgroup_file("cpuacct", "cpuacct.usage")) / 10**9
    assert kernel > 5
    scraped = time.time()

    def value() -> Decimal:
        found = prometheus.query('aruntime_tenant_cpu_seconds_total{tenant="acme"}')
        fresh = prometheus.query("timestamp(up)")
        if not found or float(fresh[0]["value"][1]) < scraped:
            return Decimal(-1)
        return Decimal(found[0]["value"][1])

    wait_until(lambda: value() >= 0, what="a scrape after the last container")
    assert abs(value() - kernel) < Decimal("0.000001")
    started = prometheus.query('sum(aruntime_tenant_containers{tenant="acme"})')
    assert float(started[0]["value"][1]) == 0


def test_paused_container_uses_no_cpu(daemon: RunningDaemon) -> None:
    """While paused a busy loop uses 0 ns; /metrics equals the kernel's counter exactly."""
    daemon.run("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do :; done")
    container = daemon.out("inspect", "-f", "{{.Id}}", "busy")

    daemon.run("pause", "busy")
    before = int(daemon.cgroup_file("cpuacct", "cpuacct.usage", container))
    time.sleep(1.2)  # the time that must not be used
    after = int(daemon.cgroup_file("cpuacct", "cpuacct.usage", container))
    shown = daemon.metric("aruntime_container_cpu_usage_seconds_total", name="busy")
    daemon.run("resume", "busy")

    assert after == before
    assert abs(Decimal(str(shown)) - Decimal(after) / 10**9) < Decimal("0.000001")
    # Shown as of the last commit, which the resume asks for and does not wait for.
    paused = "aruntime_container_paused_seconds_total"
    wait_until(lambda: daemon.metric(paused, name="busy") >= 1.2, what="the time paused")
    assert daemon.metric("aruntime_container_pauses_total", name="busy") == 1


def test_promtool_finds_nothing(daemon: RunningDaemon) -> None:
    """promtool check metrics has no complaint about running, paused and exited containers."""
    daemon.run("run", "-d", "--name", "one", "busybox", "sleep", "99")
    daemon.run("run", "--name", "two", "busybox", "true")
    daemon.run("pause", "one")

    checked = subprocess.run(
        [require_program("promtool"), "check", "metrics"],
        input=daemon.metrics(),
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_buffered_writes_and_exec_are_counted(daemon: RunningDaemon) -> None:
    """What init's tree and an exec wrote to the page cache is in process_write_bytes.

    The few pages above are the launch's own: mount points made in the writable layer.
    """
    mib = 1 << 20
    daemon.run("run", "-d", "--name", "writer", "busybox", "sh", "-c",
               "dd if=/dev/zero of=/a bs=1M count=3 2>/dev/null; echo done; sleep 99")  # fmt: skip
    wait_until(lambda: daemon.out("logs", "writer") == "done", what="the writes of init's tree")
    daemon.run("exec", "writer", "dd", "if=/dev/zero", "of=/b", "bs=1M", "count=2")
    daemon.run("stop", "-t", "0", "writer")

    written = daemon.metric("aruntime_container_process_write_bytes_total", name="writer")
    assert 5 * mib <= written < 5 * mib + (64 << 10)


def host_split(daemon: RunningDaemon) -> tuple[float, float, int, int]:
    """Attributed and unattributed CPU seconds, and the host's own count before and after, in ns."""
    root = CGROUP_ROOT / "cpuacct" / "cpuacct.usage"
    before = int(root.read_text())
    name = "aruntime_host_cpu_seconds_total"
    modes = ("attributed", "unattributed")
    attributed, unattributed = (daemon.metric(name, mode=mode) for mode in modes)
    return attributed, unattributed, before, int(root.read_text())


def test_host_time_is_conserved(daemon: RunningDaemon) -> None:
    """Containers and what no container used are together what the host counted, within 1 %."""
    start = host_split(daemon)
    burn = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"
    for _ in range(3):
        daemon.run("run", "--rm", "busybox", "sh", "-c", f"{burn} & {burn}; wait")
    end = host_split(daemon)
    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    split = end[0] + end[1] - start[0] - start[1]
    least, most = end[2] - start[3], end[3] - start[2]

    assert round(end[0] * 1e9) == kernel
    # The host's counter is read somewhere in the scrape, so between the two of ours around it.
    assert least * 0.99 <= split * 1e9 <= most * 1.01


def test_oom_kill_is_seen(daemon: RunningDaemon) -> None:
    """A container that exceeds its memory is killed: exit 137, OOMKilled, the counter says 1."""
    limits = ("-m", "16m", "--memory-swap", "16m")
    eat = "x=$(head -c 64000000 /dev/zero | tr '\\0' x); echo ${#x}"
    daemon.run("run", "--name", "fat", *limits, "busybox", "sh", "-c", eat, code=None)

    assert daemon.out("inspect", "-f", "{{.State.OOMKilled}}", "fat") == "true"
    assert daemon.metric("aruntime_container_oom_kills_total", name="fat") >= 1
