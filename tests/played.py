"""Twelve containers that use everything that is metered, and a Prometheus that watches them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests import dashboards
from tests.harness import RunningDaemon, wait_until
from tests.networks import beyond, elsewhere
from tests.prometheus import Prometheus

WATCH_SECONDS = 25
INTERVAL = "5s"
WINDOW = "20s"
BOOK = """
provider = "Example Hosting"
default_currency = "EUR"

[tenants.acme]
budget = "100"

""" + "".join(
    f"""
[[price]]
sku = "{sku}"
price_id = "{sku}-1"
measure = "{measure}"
basis = "max"
unit = "{unit}"
unit_price = "{price}"
currency = "EUR"
valid_from = 2026-01-01T00:00:00Z
"""
    for sku, measure, unit, price in (
        ("cpu", "cpu", "Core-Hours", "0.04"),
        ("memory", "memory", "GiB-Hours", "0.005"),
    )
)
"""Prices of a core-hour and a GiB-hour."""
LOAD = {
    "busy": ["--tenant", "acme", "--cpus", "0.2"],
    "reserved": ["--tenant", "acme", "--cpu-request", "0.5", "--memory-reservation", "32m"],
    "writer": ["--tenant", "acme", "-v", "data:/data"],
    "buffered": ["--tenant", "globex", "-v", "data:/data"],
    "reader": ["--tenant", "globex", "-v", "data:/data"],
    "near": ["--tenant", "globex", "-m", "32m", "--memory-swap", "32m"],
    "fat": ["--tenant", "globex", "-m", "8m", "--memory-swap", "8m", "--restart", "on-failure:2"],
    "frozen": ["--tenant", "initech"],
    "server": ["--tenant", "initech"],
    "client": ["--tenant", "initech"],
    "forks": ["--tenant", "initech", "--pids-limit", "5"],
    "failed": [],
}
"""The twelve, with their flags."""
SCRIPTS = {
    "busy": "while :; do :; done",
    "reserved": "while :; do :; done & sleep 0.2; kill $!; sleep 99",
    "writer": "while :; do dd if=/dev/zero of=/data/a bs=64k count=4 oflag=direct 2>/dev/null;"
    " sleep 0.5; done",
    "buffered": "while :; do dd if=/dev/zero of=/data/b bs=64k count=4 2>&-; sleep 0.5; done",
    "reader": "dd if=/dev/zero of=/data/c bs=64k count=4 2>/dev/null; sync;"
    " while :; do dd if=/data/c of=/dev/null bs=64k iflag=direct 2>/dev/null; sleep 0.5; done",
    "near": "dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null;"
    " while :; do cat /bin/busybox >/dev/null; sleep 0.5; done",
    "fat": "sleep 2; exec tail /dev/zero",
    "frozen": "while :; do sleep 0.1; done",
    "server": "while :; do nc -l -p 7000 >/dev/null; done",
    "client": "while :; do head -c 20000 /dev/zero | nc -w 1 $SERVER 7000;"
    " ping -c 1 -s 1000 $OUTSIDE >/dev/null; sleep 0.3; done",
    "forks": "while :; do (for i in 1 2 3 4 5 6 7; do sleep 0.2 & done) 2>&-; sleep 0.5; done",
    "failed": "exit 3",
}


class Played:
    """A Prometheus that has watched the load, and the span of time to ask about."""

    def __init__(
        self, daemon: RunningDaemon, prometheus: Prometheus, start: float, end: float
    ) -> None:
        self.daemon = daemon
        self.prometheus = prometheus
        self.start = start
        self.end = end

    def answer(self, asked: dashboards.Asked, **variables: str) -> list[dict[str, Any]]:
        """Series that Prometheus answers with over the whole span."""
        expr = dashboards.plain(asked.expr, interval=INTERVAL, window=WINDOW, **variables)
        return self.prometheus.query_range(expr, self.start, self.end)


def one_second_rules(directory: Path) -> list[Path]:
    """Copies of the rule files that are evaluated each second: a minute is too long for a test."""
    copies = []
    for path in sorted(dashboards.RULES.glob("*.yml")):
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            group["interval"] = "1s"
        copy = directory / path.name
        copy.write_text(yaml.safe_dump(content, sort_keys=False))
        copies.append(copy)
    return copies


def start_load(daemon: RunningDaemon, outside: str) -> None:
    """Start the twelve; one of them sends to an address beyond the host."""
    server = ""
    for name, flags in LOAD.items():
        words = ["run", "-d", "--name", name, *flags]
        words += ["-e", f"SERVER={server}", "-e", f"OUTSIDE={outside}", "busybox"]
        daemon.run(*words, "sh", "-c", SCRIPTS[name])
        if name == "server":
            server = daemon.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)


@contextlib.contextmanager
def playing(busybox_tar: bytes, directory: Path) -> Iterator[Played]:
    """Run the twelve for a while; Prometheus and the daemon stay while the block runs."""
    with elsewhere() as (_, host), _watching(busybox_tar, directory, beyond(host)) as found:
        yield found


@contextlib.contextmanager
def _watching(busybox_tar: bytes, directory: Path, outside: str) -> Iterator[Played]:
    daemon = RunningDaemon()
    prometheus = None
    try:
        daemon.start("--slow-interval=1")
        daemon.load_busybox(busybox_tar)
        daemon.run("price", "load", "-", stdin=BOOK.encode())
        daemon.run("ledger", "checkpoint")
        prometheus = Prometheus(
            directory,
            (daemon.run_dir / "metrics.addr").read_text().strip(),
            rules=one_second_rules(directory),
        )
        # It looks for targets every five seconds only; nothing may have happened before it looks.
        wait_until(lambda: newest(prometheus), 20, "a first scrape")
        start = time.time()
        start_load(daemon, outside)
        end = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            daemon.run("pause", "frozen")
            time.sleep(2)  # a state that Prometheus must see
            daemon.run("resume", "frozen")
            daemon.run("run", "--rm", "--tenant", "acme", "busybox", "true")
            time.sleep(2)
        scraped = time.time()
        wait_until(lambda: newest(prometheus) > scraped, what="a last scrape")
        yield Played(daemon, prometheus, start, time.time())
    finally:
        if prometheus is not None:
            prometheus.close()
        daemon.destroy()


def newest(prometheus: Prometheus) -> float:
    """Unix time of the last scrape."""
    found = prometheus.query("timestamp(up)")
    return float(found[0]["value"][1]) if found else 0.0
