"""What metering costs with many containers: CPU per cycle, delay of the event loop, scrape time.

Makes real, empty cgroups under a parent of its own and meters them with the real meter; nothing
is faked but the containers' emptiness. Run as root:

    python tests/bench/metering.py [CONTAINERS] [SECONDS]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import trio
from aruntime_exporters.prometheus import PrometheusExporter

from aruntime.cgroups.detect import detect
from aruntime.cgroups.driver import Driver, open_driver
from aruntime.daemon import priority
from aruntime.daemon.garbage import ShortRounds
from aruntime.daemon.metrics_http import MetricsServer
from aruntime.metering.meter import Meter
from aruntime.metering.subject import MeterSubject

PROBE_SECONDS = 0.001

CLIENT = """
import sys, time, urllib.request
request = urllib.request.Request(
    sys.argv[1], headers={"accept": sys.argv[2], "accept-encoding": sys.argv[3]}
)
for _ in range(5):
    start = time.perf_counter()
    body = urllib.request.urlopen(request).read()
    print(len(body), time.perf_counter() - start)
"""
"""A scraper in a process of its own: in ours it would compete for the interpreter lock."""


class LoopProbe:
    """Measures how late the event loop wakes a task that sleeps a millisecond.

    Time in which the loop's thread was ready and other programs had the processors is no stall of
    ours: the kernel counts it (schedstat's run_delay), and it is taken off.
    """

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.others: list[float] = []

    async def run(self) -> None:
        """Probe until cancelled."""
        fd = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        try:
            while True:
                waited = run_delay_seconds(fd)
                due = trio.current_time() + PROBE_SECONDS
                await trio.sleep_until(due)
                late = trio.current_time() - due
                others = min(late, run_delay_seconds(fd) - waited)
                self.delays.append(late - others)
                self.others.append(others)
        finally:
            os.close(fd)

    def summary(self) -> str:
        """Median, 99th percentile and maximum in milliseconds; starts over."""
        delays, self.delays = sorted(self.delays), []
        others, self.others = max(self.others, default=0.0), []
        if not delays:
            return "no samples"
        at = (0.5, 0.99, 1.0)
        shown = [delays[min(len(delays) - 1, int(len(delays) * part))] * 1e3 for part in at]
        text = "median {:.2f} ms, p99 {:.2f} ms, max {:.2f} ms".format(*shown)
        return f"{text} (besides, other programs kept it waiting for {others * 1e3:.0f} ms at most)"


def run_delay_seconds(fd: int) -> float:
    """How long a thread has waited for a processor, by its schedstat."""
    return int(os.pread(fd, 256, 0).split()[1]) / 1e9


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(count: int, seconds: float) -> None:
    """Run the benchmark."""
    sys.setswitchinterval(0.001)
    driver = open_driver(detect(), f"/aruntime-test-{os.getpid()}")
    with tempfile.TemporaryDirectory() as directory:
        meter = Meter(f"{directory}/ledger.db", driver)
        await meter.open()
        ids = [f"{number:064x}" for number in range(count)]
        try:
            async with trio.open_nursery() as nursery:
                await measure(meter, driver, ids, seconds, directory, nursery)
                nursery.cancel_scope.cancel()
        finally:
            await meter.aclose()
            for container_id in ids:
                driver.destroy(driver.cgroup(container_id))
            for path in {*driver.cgroup("x").directories.values()}:
                parent = Path(path).parent
                if parent.exists():
                    parent.rmdir()


async def measure(
    meter: Meter,
    driver: Driver,
    ids: list[str],
    seconds: float,
    directory: str,
    nursery: trio.Nursery,
) -> None:
    """Meter the cgroups, then scrape; print what it cost."""
    for container_id in ids:
        cgroup = driver.create(container_id, {})
        about = MeterSubject(id=container_id, name=f"bench-{container_id[-4:]}", cgroup=cgroup)
        await meter.register(about)
        meter.state(container_id, "running")
    await meter.settle(ids)
    ShortRounds().begin()  # as the daemon does once its containers are taken back
    probe = LoopProbe()
    nursery.start_soon(probe.run)
    await trio.sleep(seconds / 4)
    probe_only = probe.summary()
    before = cpu_seconds()
    await trio.sleep(seconds / 2)
    idle = cpu_seconds() - before
    print(f"{len(ids)} containers; event loop alone: {probe_only}")
    probe.summary()
    await nursery.start(meter.run)
    await trio.sleep(max(3.0, meter.rounds.slow_seconds + 1))
    probe.summary()
    before = cpu_seconds()
    await trio.sleep(seconds)
    per_second = (cpu_seconds() - before) / seconds - idle / (seconds / 2)
    each = per_second / len(ids) * 1e6
    print(f"metering: {per_second * 1e3:.1f} ms of CPU a second, {each:.1f} µs per container")
    print(f"event loop while metering: {probe.summary()}")
    polls = meter.health.poll_duration.state()
    cycle = polls.sum_ns / sum(polls.counts) / 1e6
    print(f"one cycle: {cycle:.1f} ms on average, {meter.health.overruns} overruns")
    exporter = PrometheusExporter(meter.view)
    server = MetricsServer([exporter], is_ready=lambda: meter.settled)
    address = await nursery.start(server.serve, "127.0.0.1:0", f"{directory}/metrics.addr")
    for encoding in ("identity", "gzip"):
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            await scrape(f"http://{address}/metrics", accept, encoding, probe)


async def scrape(url: str, accept: str, encoding: str, probe: LoopProbe) -> None:
    """Scrape five times and print the best time and the delay of the loop."""
    probe.summary()
    cpu = cpu_seconds()
    done = await trio.run_process(
        [sys.executable, "-c", CLIENT, url, accept, encoding], capture_stdout=True
    )
    used = (cpu_seconds() - cpu) / 5
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    wall = min(float(row[1]) for row in rows)
    print(
        f"scrape {accept.partition(';')[0]} {encoding}: {rows[0][0]} bytes in {wall * 1e3:.0f} ms,"
        f" {used * 1e3:.0f} ms of CPU; event loop: {probe.summary()}"
    )


def leave_session() -> None:
    """Go on in a session of our own, with the weight that the daemon asks for."""
    if os.getsid(0) != os.getpid():
        again = subprocess.run([sys.executable, *sys.argv], start_new_session=True, check=False)
        sys.exit(again.returncode)
    print(f"more weight than others: {'yes' if priority.prefer() else 'no'}")


if __name__ == "__main__":
    leave_session()
    trio.run(
        main,
        int(sys.argv[1]) if len(sys.argv) > 1 else 1000,
        float(sys.argv[2]) if len(sys.argv) > 2 else 10.0,
    )
