"""Compare aruntime with the engines that are installed, alternated in one run.

    python -m tests.bench [--quick] [--rounds N] [--only latency,exec] [--peers docker,crun]

Needs root. Prints tables (Markdown) with medians, best deciles and how many times better aruntime
is; ``--json FILE`` writes everything, samples included. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from tests.bench import docker, engine, goals, image, oci, own, podman, tables
from tests.bench.engine import Engine
from tests.bench.figures import OURS
from tests.bench.measures import ALL, LOGS_TIMES, Bench, Plan
from tests.bench.place import Place

ENGINES: dict[str, tuple[Callable[[], str], Callable[[Place, Path], Engine]]] = {
    OURS: (own.missing, own.opened),
    "docker": (docker.missing, docker.opened),
    "podman": (podman.missing, podman.opened),
    "runc": (partial(oci.missing, "runc"), partial(oci.opened, "runc")),
    "crun": (partial(oci.missing, "crun"), partial(oci.opened, "crun")),
}
"""What is missing of an engine, and how it is opened."""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="samples of the short measures")
    parser.add_argument("--only", default=",".join(ALL), help="measures, comma-separated")
    parser.add_argument("--peers", default=",".join(ENGINES), help="engines, comma-separated")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--containers", type=int, default=200, help="idle containers for memory")
    parser.add_argument("--seed", type=int, default=None, help="of the order of the engines")
    parser.add_argument("--json", metavar="FILE", default=None, help="write everything as JSON")
    chosen = parser.parse_args(argv)
    chosen.only = chosen.only.split(",")
    chosen.peers = [name for name in ENGINES if name in {OURS, *chosen.peers.split(",")}]
    if unknown := [kind for kind in chosen.only if kind not in ALL]:
        parser.error(f"--only knows {', '.join(ALL)}, not {', '.join(unknown)}")
    if os.geteuid() != 0:
        parser.error("needs root")
    return chosen


def plan(chosen: argparse.Namespace) -> Plan:
    """Turn the options into how much is measured."""
    quick = chosen.quick
    rounds = 5 if quick else max(1, chosen.rounds)
    return Plan(
        rounds=rounds,
        heavy_rounds=2 if quick else max(3, rounds // 4),
        idle_containers=20 if quick else chosen.containers,
        log_times=4 if quick else LOGS_TIMES,
        seed=random.randrange(1 << 16) if chosen.seed is None else chosen.seed,
        say=say,
    )


def say(text: str) -> None:
    """Tell the person who waits what happens; the tables alone are on stdout."""
    print(f"bench: {text} …", file=sys.stderr, flush=True)


def open_engines(place: Place, names: Sequence[str]) -> tuple[list[Engine], dict[str, str]]:
    """Open the engines that are installed; those that are not come with what is missing."""
    tar = place.base / "image.tar"
    image.write_tar(str(engine.find("busybox")), tar)
    engines, absent = [], {}
    for name in names:
        missing, opened = ENGINES[name]
        if lacking := missing():
            absent[name] = f"not installed: {lacking}"
            continue
        say(f"starting {name}")
        engines.append(opened(place, tar))
    return engines, absent


def stop(number: int, _frame: FrameType | None) -> None:
    """Leave in an orderly way when asked to end."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run the benchmarks and print the tables."""
    chosen = options()
    if engine.find("busybox") is None:
        sys.exit("busybox is missing: apt-get install busybox-static")
    signal.signal(signal.SIGTERM, stop)
    planned = plan(chosen)
    with Place() as place:
        engines, absent = open_engines(place, chosen.peers)
        results = Bench(engines, planned, place).run(chosen.only)
        about: dict[str, object] = {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "seed": planned.seed,
            "rounds": planned.rounds,
            "versions": {each.name: each.version for each in engines},
            "missing": absent,
        }
        lacks = {each.name: each.lacks for each in engines}
    verdicts = goals.judge(results)
    versions = ", ".join(f"{each.name} {each.version}" for each in engines)
    print(f"{versions}; {planned.rounds} rounds, seed {planned.seed}")
    for name, why in absent.items():
        print(f"{name} is not in the tables: {why}")
    print(f"\n{tables.report(results, lacks, verdicts)}")
    if chosen.json:
        Path(chosen.json).write_text(tables.as_json(results, about, lacks, verdicts) + "\n")


if __name__ == "__main__":
    main()
