"""What a storm of scrapers costs those who start containers.

    .venv/bin/python -m tests.bench.storm [--clients 200] [--rounds 15] [--containers 100]

A daemon with that many idle containers, and `run --rm true` timed in turns: quiet, and while 200
clients scrape /metrics over connections of their own, each once a second as a hurried Prometheus
would. The clients are one process that sleeps between its scrapes and reads what comes; on a small
machine its own work is part of the delay. The figure is the ratio of the medians of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.conftest import require_program
from tests.harness import RunningDaemon, busybox_archive

CLIENTS = """
import sys, trio
address, count = sys.argv[1], int(sys.argv[2])
host, _, port = address.rpartition(":")
asked = b"GET /metrics HTTP/1.1\\r\\nhost: x\\r\\naccept-encoding: gzip\\r\\n\\r\\n"
done = 0

async def scrape(number):
    global done
    stream = await trio.open_tcp_stream(host, int(port))
    due = trio.current_time() + number / count
    while True:
        await trio.sleep_until(due)
        due += 1
        await stream.send_all(asked)
        received = await stream.receive_some(65536)
        head, _, body = received.partition(b"\\r\\n\\r\\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\\r\\n")[0])
        left = length - len(body)
        while left > 0:
            left -= len(await stream.receive_some(65536))
        done += 1

async def main():
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(scrape, number)
        await trio.sleep(2)
        print("ready", flush=True)
        try:
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        finally:
            print(done, flush=True)
            nursery.cancel_scope.cancel()

trio.run(main)
"""


@contextlib.contextmanager
def storm(daemon: RunningDaemon, clients: int) -> Iterator[list[int]]:
    """Scrape while the block runs; afterwards the list has the number of scrapes answered."""
    address = (daemon.run_dir / "metrics.addr").read_text().strip()
    answered: list[int] = []
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENTS, address, str(clients)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "ready\n"
        yield answered
        process.stdin.close()
        answered.append(int(process.stdout.readline()))


def timed_run(daemon: RunningDaemon) -> float:
    """Seconds of one container from its command to its end."""
    start = time.perf_counter()
    daemon.run("run", "--rm", "busybox", "true")
    return time.perf_counter() - start


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--containers", type=int, default=100)
    chosen = parser.parse_args()
    daemon = RunningDaemon()
    try:
        daemon.start("--log-level=warning")
        daemon.load_busybox(busybox_archive(require_program("busybox")))
        for _ in range(chosen.containers):
            daemon.run("run", "-d", "busybox", "sleep", "9999")
        timed_run(daemon)
        quiet: list[float] = []
        stormy: list[float] = []
        scrapes = 0
        for _ in range(chosen.rounds):
            quiet += [timed_run(daemon) for _ in range(4)]
            with storm(daemon, chosen.clients) as answered:
                stormy += [timed_run(daemon) for _ in range(4)]
            scrapes += answered[0]
    finally:
        daemon.destroy()
    calm, busy = statistics.median(quiet) * 1e3, statistics.median(stormy) * 1e3
    sys.stdout.write(
        f"{chosen.containers} idle containers, {chosen.clients} clients, {scrapes} scrapes\n"
        f"run --rm true, median of {len(quiet)}: quiet {calm:.1f} ms, in the storm {busy:.1f} ms,"
        f" ratio {busy / calm:.2f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
