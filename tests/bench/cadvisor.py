"""What metering other programs' cgroups costs, beside cAdvisor on the same ones in the same run.

A thousand cgroups, each with a process that sleeps (with ``--busy``, but for a moment every
second), are metered by an aruntimed (``--meter-cgroups``, a reading a second) and by a cAdvisor
with a housekeeping interval of a second, both at once; what the kernel charges either process is
compared, then how long each takes to answer a scrape. What one reading of one group costs counts,
since neither may keep to its second: cAdvisor adds a jitter of up to another one, and falls behind
on a busy machine. Its dynamic interval, which looks away from idle groups, is off. Run as root:

    python -m tests.bench.cadvisor [--groups N] [--seconds N] [--busy] [--cadvisor FILE]

Debian 12 has no package of it; that of Debian 11 needs nothing that is not there:

    apt-get download cadvisor    # with Debian 11 in sources.list
    dpkg-deb -x cadvisor_*.deb x # x/usr/bin/cadvisor
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench.engine import find
from tests.bench.own import running
from tests.bench.place import CGROUPS, Place
from tests.harness import RunningDaemon, wait_until
from tests.registries import free_port

GOAL = 10.0
"""At most a tenth of cAdvisor's CPU time."""
SCRAPE_SECONDS = 1.0
TICKS = os.sysconf("SC_CLK_TCK")
IDLE = "sleep 100000"
BUSY = "tail -f /dev/null"
"""Looks once a second whether there is more: some microseconds of CPU time for each group."""
START_SECONDS = 120
SETTLE_SECONDS = 35
"""Longer than three slow intervals, in which names are looked for: what comes then goes on."""
SCRAPES = 5
OURS = "aruntime_container_cpu_usage_seconds_total{"
THEIRS = "container_start_time_seconds{"
CYCLES = "aruntime_poll_duration_seconds_count"


class Meter(NamedTuple):
    """A program that meters, and a family of which it serves one sample per group."""

    name: str
    pid: int
    url: str
    sample: str

    def cpu_seconds(self) -> float:
        """CPU time the program has used, all its threads, ended ones included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_bytes(self) -> int:
        """Its proportional set size."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024

    def scrape(self) -> tuple[float, str]:
        """Scrape once; seconds and what came."""
        begun = time.perf_counter()
        with urllib.request.urlopen(self.url, timeout=120) as reply:
            text = reply.read().decode()
        return time.perf_counter() - begun, text

    def shows(self, groups: int) -> bool:
        """Whether it serves all groups."""
        try:
            return self.scrape()[1].count(f"\n{self.sample}") >= groups
        except OSError:
            return False


def make_groups(parent: str, count: int, work: str) -> list[subprocess.Popen[bytes]]:
    """Make cgroups with a process each, in every hierarchy.

    What is in them is ended and reaped by the caller.
    """
    trees = sorted(top for top in CGROUPS.iterdir() if (top / "cgroup.procs").exists())
    inherited = ("cpuset.cpus", "cpuset.mems")
    processes = []
    for number in range(count):
        joined = []
        for tree in trees:
            directory = tree / parent.strip("/") / f"{number:04d}"
            directory.mkdir(parents=True)
            for name in inherited if tree.name == "cpuset" else ():
                for group in (directory.parent.parent, directory.parent, directory):
                    (group / name).write_text((tree / name).read_text())
            joined.append(f"echo 0 > {directory}/cgroup.procs; ")
        words = ["/bin/sh", "-c", f"{''.join(joined)} exec {find('busybox')} {work}"]
        processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
    return processes


def open_cadvisor(place: Place, program: str, parent: str) -> Meter:
    """Start cAdvisor in a mount namespace of its own, on the groups alone."""
    base = place.directory("cadvisor")
    port = free_port()
    words = [
        program,
        f"-port={port}",
        "-listen_ip=127.0.0.1",
        "-housekeeping_interval=1s",
        "-allow_dynamic_housekeeping=false",
        f"-raw_cgroup_prefix_whitelist={parent}/",
        f"-docker=unix://{base}/none.sock",
        "-logtostderr",
    ]
    pid = place.runner("cadvisor", private=True).launch(words, base / "log")
    return Meter("cAdvisor", pid, f"http://127.0.0.1:{port}/metrics", THEIRS)


class Span(NamedTuple):
    """What was measured over the same time."""

    seconds: float
    wall: tuple[float, float]
    cpu: dict[str, float]
    """Seconds of CPU time per program."""


def observe(meters: Sequence[Meter], seconds: float) -> Span:
    """Let the programs work and see what the kernel charges them."""
    began, wall = time.monotonic(), time.time()
    before = {meter.name: meter.cpu_seconds() for meter in meters}
    time.sleep(seconds)
    used = {meter.name: meter.cpu_seconds() - before[meter.name] for meter in meters}
    return Span(time.monotonic() - began, (wall, time.time()), used)


def our_cycles(ours: Meter) -> tuple[float, float]:
    """When, and cycles since the start, each of which reads every group."""
    lines = ours.scrape()[1].splitlines()
    count = float(next(line for line in lines if line.startswith(CYCLES)).split()[1])
    return time.monotonic(), count


def their_readings(theirs: Meter, groups: Sequence[str], span: Span) -> float:
    """How often cAdvisor looked at a group in the span, on average of some groups."""
    counts = []
    for group in groups:
        request = urllib.request.Request(
            f"{theirs.url.removesuffix('metrics')}api/v1.3/containers{group}",
            data=b'{"num_stats": 1000}',
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            stats = json.loads(reply.read())["stats"]
        # 2026-11-26T22:31:07.123456789Z, the fraction without zeros at its end
        times = [datetime.fromisoformat(f"{each['timestamp'][:19]}Z") for each in stats]
        counts.append(sum(span.wall[0] <= each.timestamp() < span.wall[1] for each in times))
    return statistics.fmean(counts)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a program from running meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def scrape_seconds(meter: Meter) -> float:
    """Median time of some scrapes."""
    return statistics.median(meter.scrape()[0] for _ in range(SCRAPES))


def compare(ours: Meter, theirs: Meter | None, parent: str, groups: int, seconds: float) -> bool:
    """Measure both at the same time; print what it is, and whether the goals are met."""
    meters = [meter for meter in (ours, theirs) if meter is not None]
    for meter in meters:
        wait_until(partial(meter.shows, groups), START_SECONDS, meter.name)
    time.sleep(SETTLE_SECONDS)
    began, cycles = our_cycles(ours)
    span = observe(meters, seconds)
    ended, more = our_cycles(ours)
    readings = {ours.name: (more - cycles) / (ended - began) * span.seconds}
    scrapes: dict[str, float] = {}
    if theirs is not None:
        some = [f"{parent}/{number:04d}" for number in range(0, groups, max(1, groups // 20))]
        readings[theirs.name] = their_readings(theirs, some, span)
        scrapes[theirs.name] = scrape_seconds(theirs)
    with stopped(theirs.pid) if theirs is not None else contextlib.nullcontext():
        scrapes[ours.name] = scrape_seconds(ours)
    load = os.getloadavg()[0]
    print(f"{groups} cgroups, {span.seconds:.0f} s, load average {load:.1f}\n")
    print(
        "| | CPU, ms a second | readings of a group a second | CPU of one, µs | MB | scrape, ms |"
    )
    print("|---|---|---|---|---|---|")
    each = {}
    for meter in meters:
        cpu, count = span.cpu[meter.name], readings[meter.name]
        each[meter.name] = cpu / max(count, 1) / groups
        print(
            f"| {meter.name} | {cpu / span.seconds * 1e3:.1f} | {count / span.seconds:.2f} "
            f"| {each[meter.name] * 1e6:.1f} | {meter.memory_bytes() / 1e6:.0f} "
            f"| {scrapes[meter.name] * 1e3:.0f} |"
        )
    is_fast = scrapes[ours.name] <= SCRAPE_SECONDS
    print(f"\n/metrics within {SCRAPE_SECONDS:g} s: {'met' if is_fast else 'NOT MET'}")
    if theirs is None:
        print("CPU against cAdvisor: NOT MEASURED, there is no cAdvisor (see --help)")
        return is_fast
    ratio = each[theirs.name] / each[ours.name]
    is_cheap = ratio >= GOAL
    print(f"a tenth of cAdvisor's CPU: {ratio:.1f} times less, {'met' if is_cheap else 'NOT MET'}")
    return is_fast and is_cheap


def measure(groups: int, seconds: float, program: str, work: str) -> bool:
    """Run the comparison in a place of its own."""
    with Place() as place:
        parent = f"{place.cgroup_parent}/groups"
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes += make_groups(parent, groups, work)
            daemon = RunningDaemon()
            daemon.extra = [f"--meter-cgroups={parent}/*"]
            with running(daemon):
                assert daemon.process is not None
                address = (daemon.run_dir / "metrics.addr").read_text().strip()
                ours = Meter("aruntime", daemon.process.pid, f"http://{address}/metrics", OURS)
                theirs = open_cadvisor(place, program, parent) if program else None
                met = compare(ours, theirs, parent, groups, seconds)
                daemon.extra = []
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return met


def main() -> None:
    """Read the command line; the exit code says whether the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cadvisor")
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cadvisor", default=find("cadvisor") or "", help="its program")
    parser.add_argument("--busy", action="store_true", help="every process runs each second")
    chosen = parser.parse_args()
    work = BUSY if chosen.busy else IDLE
    if os.geteuid() != 0:
        parser.error("needs root")
    sys.exit(0 if measure(chosen.groups, chosen.seconds, chosen.cadvisor, work) else 1)


if __name__ == "__main__":
    main()
