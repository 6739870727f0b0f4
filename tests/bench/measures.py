"""What is measured, and in which order: every round asks all engines, shuffled, one sample each.

Times are of the engine's own command line, from before its start to after its end. Engines are
alternated because other work on the machine and its clock's moods then hit all of them alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import engine, image, network, pulling
from tests.bench.engine import IDLE, Engine, Names
from tests.bench.figures import Results
from tests.bench.place import CommandFailed, Place

PARALLEL = {1: 8, 4: 24, 16: 48}
"""Containers of one sample by how many run at once."""
LOGS_TIMES = 20
"""How often /lines is written for one sample."""
GAP_SECONDS = 0.15
"""Pause before a sample: what is measured is a command now and then, as a person gives it."""
SETTLE_SECONDS = 3.0
"""Time for daemons to come to rest before their memory is read."""
DOZEN = 12


@dataclass
class Plan:
    """How much is measured."""

    rounds: int
    heavy_rounds: int
    idle_containers: int
    log_times: int
    seed: int
    say: Callable[[str], None]


class Bench:
    """A run over some engines, with its results."""

    def __init__(self, engines: Sequence[Engine], plan: Plan, place: Place) -> None:
        self.engines = engines
        self.plan = plan
        self.place = place
        self.results = Results()
        self.names = Names()
        self._random = random.Random(plan.seed)

    def run(self, kinds: Sequence[str]) -> Results:
        """Measure the kinds asked for (names of KINDS) in the order of KINDS."""
        self._measure(ALONE, kinds)
        for each in self.engines:
            each.runner.measure([each.detach(IDLE, "sleep", "100000")])
        self._measure(KINDS, kinds)
        for each in self.engines:
            each.runner.measure([each.command("remove", IDLE)])
        return self.results

    def _measure(self, known: Mapping[str, Measure], kinds: Sequence[str]) -> None:
        for kind in known:
            if kind in kinds:
                self.plan.say(kind)
                known[kind](self)

    def turns(self, measure: str, rounds: int) -> Iterator[Engine]:
        """Engines that can do a measure, in a new order each round, the first time unmeasured."""
        able = [each for each in self.engines if measure not in each.lacks]
        for _ in range(rounds):
            self._random.shuffle(able)
            for each in able:
                time.sleep(GAP_SECONDS)
                yield each

    def add_seconds(self, measure: str, each: Engine, seconds: float) -> None:
        """Note a time; it is shown in milliseconds."""
        self.results.add(measure, each.name, "ms", seconds * 1e3)


def latency(bench: Bench) -> None:
    """Start-to-exit of `run --rm busybox true`, while another container runs."""
    time_runs(bench, engine.LATENCY_BRIDGE, "bridge")
    time_runs(bench, engine.LATENCY_NONE, "none")


def latency_alone(bench: Bench) -> None:
    """The same while no other container of the engine runs."""
    time_runs(bench, engine.LATENCY_ALONE, "bridge")


def time_runs(bench: Bench, measure: str, network: str) -> None:
    """Add the times of single runs to a measure."""
    for each in bench.turns(measure, 1):
        each.runner.measure([each.run(network, "true")])
    for each in bench.turns(measure, bench.plan.rounds):
        seconds, _ = each.runner.measure([each.run(network, "true")])
        bench.add_seconds(measure, each, seconds)


def network_cost(bench: Bench) -> None:
    """What `run` takes longer with a bridge than without: pairs, one right after the other."""
    for each in bench.turns(engine.NETWORK_COST, bench.plan.rounds):
        if engine.LATENCY_BRIDGE in each.lacks:
            continue
        words = [each.run("bridge", "true"), each.run("none", "true")]
        _, (bridge, none) = each.runner.measure(words)
        bench.add_seconds(engine.NETWORK_COST, each, bridge - none)


def exec_(bench: Bench) -> None:
    """Start-to-exit of `exec true`."""
    for each in bench.turns(engine.EXEC, 1):
        each.runner.measure([each.exec(IDLE, "true")])
    for each in bench.turns(engine.EXEC, bench.plan.rounds):
        seconds, _ = each.runner.measure([each.exec(IDLE, "true")])
        bench.add_seconds(engine.EXEC, each, seconds)


def pause(bench: Bench) -> None:
    """`pause` and `resume` of an idle container."""
    for each in bench.turns(engine.PAUSE, bench.plan.rounds):
        words = [each.command("pause", IDLE), each.command("resume", IDLE)]
        _, (paused, resumed) = each.runner.measure(words)
        bench.add_seconds(engine.PAUSE, each, paused)
        bench.add_seconds(engine.RESUME, each, resumed)


def ps(bench: Bench) -> None:
    """`ps` with one container running."""
    for each in bench.turns(engine.PS, bench.plan.rounds):
        seconds, _ = each.runner.measure([each.command("ps")])
        bench.add_seconds(engine.PS, each, seconds)


def throughput(bench: Bench) -> None:
    """Containers started and finished per second; bridge networking where there is one."""
    for parallel, count in PARALLEL.items():
        measure = engine.THROUGHPUT.format(parallel)
        for each in bench.turns(measure, bench.plan.heavy_rounds):
            kind = "none" if engine.LATENCY_BRIDGE in each.lacks else "bridge"
            words = [each.run(kind, "true") for _ in range(count)]
            seconds, _ = each.runner.measure(words, parallel)
            bench.results.add(measure, each.name, "1/s", count / seconds, more_is_better=True)


def memory(bench: Bench) -> None:
    """Proportional set size of an engine's own processes, for each idle container more."""
    count = bench.plan.idle_containers
    for each in bench.turns(engine.MEMORY, 1):
        each.runner.measure([each.run("bridge", "true") for _ in range(DOZEN)], 4)
        time.sleep(SETTLE_SECONDS)
        empty = pss_bytes(each.processes())
        names = bench.names.take(count)
        each.runner.measure([each.detach(name, "sleep", "100000") for name in names], 4)
        time.sleep(SETTLE_SECONDS)
        full = pss_bytes(each.processes())
        for some in (names[at : at + DOZEN] for at in range(0, count, DOZEN)):
            each.runner.measure([each.command("remove", *some)])
        bench.results.add("engine with one container", each.name, "MB", empty / 1e6)
        bench.results.add(engine.MEMORY, each.name, "kB", (full - empty) / count / 1e3)


def pss_bytes(pids: Sequence[int]) -> int:
    """Proportional set size of processes (proc_pid_smaps(5)); one that ended counts nothing."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def network_(bench: Bench) -> None:
    """Gigabits that a container sends to the host, per second and per second of a processor."""
    if lacking := network.missing():
        bench.plan.say(f"network is left out, not installed: {lacking}")
        return
    for each in bench.turns(engine.NETWORK, bench.plan.rounds):
        if engine.LATENCY_BRIDGE in each.lacks:
            continue
        found = network.carried(each)
        for measure, figure in (
            (engine.NETWORK, found.bits_per_second),
            (engine.NETWORK_CPU, found.bits_per_cpu_second),
        ):
            bench.results.add(measure, each.name, "Gbit/s", figure / 1e9, more_is_better=True)


def logs(bench: Bench) -> None:
    """Bytes per second of a detached container that logs lines of 100 bytes, start to exit."""
    expected = image.LINE * (image.LINES_BYTES // len(image.LINE))
    for each in bench.turns(engine.LOGS, 1):
        _, name = logged(bench, each, 1)
        if each.runner.output(each.command("logs", name)) != expected:
            raise CommandFailed(f"{each.name} did not log what the container wrote")
        each.runner.measure([each.command("remove", name)])
    times = bench.plan.log_times
    for each in bench.turns(engine.LOGS, bench.plan.heavy_rounds):
        seconds, name = logged(bench, each, times)
        rate = image.LINES_BYTES * times / seconds / 1e6
        bench.results.add(engine.LOGS, each.name, "MB/s", rate, more_is_better=True)
        each.runner.measure([each.command("remove", name)])


def logged(bench: Bench, each: Engine, times: int) -> tuple[float, str]:
    """Run a container that logs; returns the seconds to its exit and its name."""
    [name] = bench.names.take(1)
    started = each.detach(name, *image.log_command(times))
    seconds, _ = each.runner.measure([started, each.command("wait", name)])
    return seconds, name


def pull(bench: Bench) -> None:
    """`pull` of an image that the engine does not have, from a registry on the loopback."""
    able = [each for each in bench.engines if engine.PULL not in each.lacks]
    if lacking := pulling.missing():
        bench.plan.say(f"pull is left out, not installed: {lacking}")
        return
    with pulling.registries(bench.place, able) as served:
        for number, each in enumerate(bench.turns(engine.PULL, bench.plan.heavy_rounds + 1)):
            before = pulling.cpu_seconds(each, served.pids)
            seconds, _ = each.runner.measure([each.command("pull", served.names[each.name])])
            used = pulling.cpu_seconds(each, served.pids) - before
            if number < len(able):
                bench.results.add(engine.PULL_FIRST, each.name, "s", seconds)
            else:
                bench.results.add(engine.PULL, each.name, "s", seconds)
                bench.results.add(engine.PULL_CPU, each.name, "s", used)
            each.runner.measure([each.command("rmi", served.names[each.name])])


Measure = Callable[[Bench], None]

ALONE: dict[str, Measure] = {"latency-alone": latency_alone}
"""Measured before any container is left running."""
KINDS: dict[str, Measure] = {
    "memory": memory,
    "latency": latency,
    "exec": exec_,
    "pause": pause,
    "ps": ps,
    "throughput": throughput,
    "logs": logs,
    "network": network_,
    "network-cost": network_cost,
    "pull": pull,
}
"""In this order by default. Memory comes first: a daemon that has been busy keeps freed memory, in
which idle containers would then cost nothing."""
ALL = (*ALONE, *KINDS)
"""Names of what can be measured, in the order in which it is."""
