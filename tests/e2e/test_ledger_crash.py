"""kill -9 of the daemon at random points under load: in the end not a nanosecond or byte differs.

Two clients start containers all the time, others run on, are paused, exec'd into and end, while
the daemon is killed again and again at seeded random instants and started anew. In the end the sum
over the ledger's records is the kernel's own count, and the chain is whole.

``ARUNTIME_KILLS=200`` kills more often (``-o log_cli=true --log-level=INFO`` says how it went); the
result is in docs/metering.md.
"""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import time
from typing import Any

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

log = logging.getLogger(__name__)

KILLS = int(os.environ.get("ARUNTIME_KILLS", "20"))
WRITTEN = 1 << 20
"""Bytes that each job writes, buffered."""
STEADY = "while :; do usleep 3000; done"
JOB = f"i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/f bs={WRITTEN} count=1"


CLIENT = """
n=0
while [ ! -e "$1/over" ]; do
    n=$((n + 1))
    rm=$([ $((n % 2)) = 0 ] || echo --rm)
    if "$2" run -d $rm --name "job$3x$n" busybox sh -c "$4"; then
        echo "job$3x$n" >> "$1/started"
    else
        echo >> "$1/refused"
        sleep 0.05
    fi
done
"""
"""Starts containers until the file ``over`` is there, and notes which were."""


class Load:
    """Clients that start jobs. State: their processes."""

    def __init__(self, daemon: RunningDaemon, clients: int = 2) -> None:
        self._base = daemon.base
        self._processes = [
            subprocess.Popen(
                ["sh", "-c", CLIENT, "load", daemon.base, daemon.client, str(number), JOB],
                env=daemon.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(clients)
        ]

    def stop(self) -> None:
        """Return when no client runs any more."""
        (self._base / "over").touch()
        for process in self._processes:
            process.wait()

    def noted(self, name: str) -> list[str]:
        """Lines of the clients' notes."""
        path = self._base / name
        return path.read_text().splitlines() if path.exists() else []


def act(daemon: RunningDaemon, dice: random.Random) -> subprocess.Popen[bytes]:
    """One more thing that changes an interval; it may fail, the daemon dies meanwhile."""
    words = dice.choice(
        (
            ("pause", "steady"),
            ("resume", "steady"),
            ("exec", "-d", "worker", "sh", "-c", JOB),
            ("update", "--cpu-shares", str(dice.randrange(2, 1000)), "worker"),
            ("restart", "-t", "0", "worker"),
            ("ledger", "checkpoint"),
        )
    )
    return daemon.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def records(daemon: RunningDaemon) -> list[dict[str, Any]]:
    """All records on disk."""
    text = daemon.out("ledger", "tail", "-n", "all", "--format", "json")
    return [json.loads(line) for line in text.splitlines()]


def test_kills_differ_by_nothing(daemon: RunningDaemon) -> None:
    """See the module."""
    dice = random.Random(KILLS)
    daemon.run("run", "-d", "--name", "steady", "busybox", "sh", "-c", STEADY)
    daemon.run("run", "-d", "--name", "worker", "busybox", "sleep", "9999")
    load = Load(daemon)
    try:
        for _ in range(KILLS):
            acting = act(daemon, dice)
            time.sleep(dice.random())
            daemon.kill()
            acting.wait()
            daemon.start()
    finally:
        load.stop()
    wait_until(lambda: not daemon.out("ps", "-q", "-f", "name=job"), 120, "the jobs' end")
    if left := daemon.out("ps", "-aq").split():
        daemon.run("rm", "-f", *left)
    daemon.run("ledger", "checkpoint")
    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    found = records(daemon)

    assert sum(record["cpu_ns"] for record in found) == kernel
    started = set(load.noted("started"))
    assert_jobs_are_whole(found, started)
    verdict = daemon.run("ledger", "verify", code=None)
    assert verdict.returncode == 0, verdict.stderr
    shown = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    assert shown == kernel / 1e9
    log.info(
        "%d kills, %d containers started, %d refused, %d records, %d ns of CPU, difference 0",
        KILLS, len(started), len(load.noted("refused")), len(found), kernel,
    )  # fmt: skip


def assert_jobs_are_whole(found: list[dict[str, Any]], started: set[str]) -> None:
    """Each job that ran to its end wrote what it wrote, once, and has one final record."""
    jobs: dict[str, list[dict[str, Any]]] = {}
    for record in found:
        if record["name"].startswith("job"):
            jobs.setdefault(record["name"], []).append(record)
    assert started <= jobs.keys()
    for name, of_job in jobs.items():
        finals = [record for record in of_job if record["kind"] == "final"]
        assert len(finals) == 1, name
        if finals[0]["exit_code"] == 0:
            written = sum(record["proc_write"] for record in of_job)
            # Pages of the file system's own that it dirtied come on top.
            assert WRITTEN <= written < 2 * WRITTEN, name
