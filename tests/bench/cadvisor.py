"""What metering other programs' cgroups costs, beside cAdvisor on the same ones in the same run.

A thousand cgroups, each with a process that sleeps, are metered by an aruntimed
(``--meter-cgroups``, a reading a second) and by a cAdvisor with a housekeeping interval of a
second, both at once; what the kernel charges either process is compared, then how long each takes
to answer a scrape. cAdvisor adds a jitter of its own, so it looks every 1.5 s on average; its
dynamic interval, which looks away from idle groups, is off. Run as root:

    python -m tests.bench.cadvisor [--groups N] [--seconds N] [--cadvisor FILE]

Debian 12 has no package of it; that of Debian 11 needs nothing that is not there:

    apt-get download cadvisor    # with Debian 11 in sources.list
    dpkg-deb -x cadvisor_*.deb x # x/usr/bin/cadvisor
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.request
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
START_SECONDS = 120
SETTLE_SECONDS = 12
"""Longer than a slow interval, so that every group was read completely."""
SCRAPES = 5
OURS = "aruntime_container_cpu_usage_seconds_total{"
THEIRS = "container_start_time_seconds{"


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


def make_groups(parent: str, count: int) -> list[subprocess.Popen[bytes]]:
    """Make cgroups with a sleeping process each, in every hierarchy.

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
        words = ["/bin/sh", "-c", f"{''.join(joined)} exec {find('busybox')} sleep 100000"]
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


def compare(ours: Meter, theirs: Meter | None, groups: int, seconds: float) -> bool:
    """Measure both at the same time; print what it is, and whether the goals are met."""
    meters = [meter for meter in (ours, theirs) if meter is not None]
    for meter in meters:
        wait_until(lambda meter=meter: meter.shows(groups), START_SECONDS, meter.name)  # type: ignore[misc]
    time.sleep(SETTLE_SECONDS)
    begun = time.monotonic()
    before = [meter.cpu_seconds() for meter in meters]
    time.sleep(seconds)
    spent = time.monotonic() - begun
    used = [(meter.cpu_seconds() - at) / spent for meter, at in zip(meters, before, strict=True)]
    print(f"{groups} cgroups, {spent:.0f} s, load average {os.getloadavg()[0]:.1f}\n")
    print("| | CPU, ms per second | µs per group and second | memory, MB | scrape, ms | MB |")
    print("|---|---|---|---|---|---|")
    times = {}
    for meter, cpu in zip(meters, used, strict=True):
        memory = meter.memory_bytes() / 1e6
        scrapes = [meter.scrape() for _ in range(SCRAPES)]
        times[meter.name] = statistics.median(each for each, _ in scrapes)
        print(
            f"| {meter.name} | {cpu * 1e3:.1f} | {cpu / groups * 1e6:.1f} | {memory:.0f} "
            f"| {times[meter.name] * 1e3:.0f} | {len(scrapes[0][1]) / 1e6:.1f} |"
        )
    fast = times[ours.name] <= SCRAPE_SECONDS
    print(f"\nscrape within {SCRAPE_SECONDS:g} s: {'met' if fast else 'NOT MET'}")
    if theirs is None:
        print("CPU against cAdvisor: NOT MEASURED, there is no cAdvisor (see --help)")
        return fast
    ratio = used[1] / used[0]
    cheap = ratio >= GOAL
    print(f"a tenth of cAdvisor's CPU: {ratio:.1f} times less, {'met' if cheap else 'NOT MET'}")
    return fast and cheap


def measure(groups: int, seconds: float, program: str) -> bool:
    """Run the comparison in a place of its own."""
    with Place() as place:
        parent = f"{place.cgroup_parent}/groups"
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes += make_groups(parent, groups)
            daemon = RunningDaemon()
            daemon.extra = [f"--meter-cgroups={parent}/*"]
            with running(daemon):
                assert daemon.process is not None
                address = (daemon.run_dir / "metrics.addr").read_text().strip()
                ours = Meter("aruntime", daemon.process.pid, f"http://{address}/metrics", OURS)
                theirs = open_cadvisor(place, program, parent) if program else None
                met = compare(ours, theirs, groups, seconds)
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
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root")
    sys.exit(0 if measure(chosen.groups, chosen.seconds, chosen.cadvisor) else 1)


if __name__ == "__main__":
    main()
