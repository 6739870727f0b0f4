"""Whatever is done to the clocks: usage is the same, periods are contiguous, time is boot time.

A script of two containers' lives is played twice under a real meter, with clocks that stand still
between two steps of the script: once as it is, once without anybody setting the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.metering.account import Ints
from aruntime.metering.chain import HOUR_NS, add_sums, sums_of
from aruntime.metering.meter import Meter
from aruntime.metering.record import LedgerRecord
from aruntime.metering.subject import MeterSubject
from tests.metering import CounterTree, abandon, faults_in, records_in, remove_cgroup

NAMES = ("c0", "c1")
YEAR_NS = 365 * 24 * HOUR_NS
WALL_NS = 56 * YEAR_NS
BOOT_NS = 10**12


class Op(NamedTuple):
    """A step of the script; what the numbers mean depends on what it does."""

    does: str
    name: str = NAMES[0]
    amount: int = 0
    memory: int = 0


names = st.sampled_from(NAMES)
scripts = st.lists(
    st.one_of(
        st.builds(Op, st.just("use"), names, st.integers(0, 1 << 40), st.integers(0, 1 << 34)),
        st.builds(Op, st.just("pass"), amount=st.integers(0, 3 * HOUR_NS)),
        st.builds(Op, st.just("poll")),
        st.builds(Op, st.sampled_from(("running", "paused")), names),
        st.builds(Op, st.just("set_clock"), amount=st.integers(0, 150 * YEAR_NS)),
        st.builds(Op, st.just("crash")),
        st.builds(Op, st.just("reboot"), amount=st.integers(0, 2 * BOOT_NS)),
    ),
    max_size=25,
)


class Clocks:
    """Boot time and wall time, which stand still until they are moved."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Be as at the beginning of every script."""
        self.boot_ns, self.wall_ns = BOOT_NS, WALL_NS

    def clock_gettime_ns(self, _clock: int) -> int:
        """As time.clock_gettime_ns."""
        return self.boot_ns

    def time_ns(self) -> int:
        """As time.time_ns."""
        return self.wall_ns


class Life(NamedTuple):
    """A life of a container by the oracle's word: its incarnation's boot and when it was."""

    name: str
    boot: int
    born_ns: int
    ended_ns: int


class Played:
    """A script that is played under a meter. State: the meter, and what the oracle knows."""

    def __init__(self, counters: CounterTree, path: Path, clocks: Clocks) -> None:
        self._counters, self._path, self._clocks = counters, path, clocks
        self._network = dict.fromkeys(NAMES, 0)
        self._boot = 0
        self.anchors: list[list[tuple[int, int]]] = []
        """Per boot: since when, in boot time, wall time was ahead of it by how much."""
        self.lives: list[Life] = []
        clocks.start()

    async def _open(self) -> None:
        path = str(self._path / "ledger.db")
        self._meter = Meter(path, self._counters.driver, cores=1 << 30, network=self._sent)
        self._meter.books.boot_id = f"boot{self._boot}"
        await self._meter.open()

    def _sent(self, name: str) -> dict[str, Ints]:
        """Counters of a container's interface."""
        return {"eth0": (0, self._network[name], 0, 1, 0, 0, 0, 0)}

    def _subject(self, name: str) -> MeterSubject:
        cgroup = self._counters.driver.cgroup(name)
        return MeterSubject(
            id=name, name=name, tenant="acme", cgroup=cgroup, cpu_request_milli=500
        )  # fmt: skip

    async def _start(self) -> None:
        """A boot: containers begin."""
        self._boot += 1
        clocks = self._clocks
        self.anchors.append([(0, clocks.wall_ns - clocks.boot_ns)])
        await self._open()
        self._born_ns, self._status = clocks.boot_ns, dict.fromkeys(NAMES, "running")
        for name in NAMES:
            self._counters.add(name)
            self._network[name] = 0
            await self._meter.register(self._subject(name))
            self._meter.state(name, "running")

    async def _die(self) -> None:
        """The meter is killed, after a reading and a commit of everything."""
        for name in NAMES:
            await self._meter.cut(name, "stats")
        await self._meter.books.commits.commit()
        abandon(self._meter)

    def _note_lives(self) -> None:
        now = self._clocks.boot_ns
        self.lives += [Life(name, self._boot, self._born_ns, now) for name in NAMES]

    async def _play(self, op: Op) -> None:
        """Do one step."""
        clocks, meter = self._clocks, self._meter
        match op.does:
            case "use" if self._status[op.name] == "running":
                self._network[op.name] += op.memory
                self._counters.use(op.name, cpu_ns=op.amount, page_faults=op.amount % 7)
                self._counters.set(op.name, memory=op.memory)
            case "pass":
                clocks.boot_ns += op.amount
                clocks.wall_ns += op.amount
            case "poll":
                await meter.rounds.cycle()
                offset = clocks.wall_ns - clocks.boot_ns
                if abs(offset - self.anchors[-1][-1][1]) > 10**9:
                    self.anchors[-1].append((clocks.boot_ns, offset))
            case "running" | "paused":
                if op.does == "running":
                    await meter.cut(op.name, "resume")
                meter.state(op.name, op.does)
                self._status[op.name] = op.does
            case "set_clock":
                clocks.wall_ns = op.amount
            case "crash":
                await self._die()
                await self._open()
                for name in NAMES:
                    status = self._status[name]
                    await self._meter.resume_registration(self._subject(name), status)
                await self._meter.settle(NAMES)
            case "reboot":
                await self._die()
                self._note_lives()
                for name in NAMES:
                    self._counters.remove(name)
                clocks.boot_ns = op.amount
                await self._start()

    async def run(self, script: list[Op]) -> list[LedgerRecord]:
        """Play it from beginning to end; what is in the ledger then."""
        await self._start()
        for op in script:
            await self._play(op)
        await self._end()
        assert faults_in(self._path) == []
        return records_in(self._path)

    async def _end(self) -> None:
        """End the containers and the meter."""
        for name in NAMES:
            await self._meter.final(name, exit_code=0)
            await remove_cgroup(self._meter, self._counters, name)
        self._note_lives()
        await self._meter.aclose()


def quantities(records: Iterable[LedgerRecord]) -> dict[str, dict[str, int]]:
    """What adds up, per container; a reading at a cut is a sample on both sides."""
    sums: dict[str, dict[str, int]] = {}
    for record in records:
        name = record.container_id
        sums[name] = add_sums(sums.get(name, {}), sums_of(record))
        sums[name].pop("samples", None)
    sums.pop("", None)  # records of the host itself
    return sums


def check_life(records: list[LedgerRecord], life: Life, anchors: list[tuple[int, int]]) -> None:
    """The records of a life fill it without gap or overlap, with the labels of their time."""
    assert (records[0].boot_start_ns, records[-1].boot_end_ns) == (life.born_ns, life.ended_ns)
    for before, after in pairwise(records):
        assert before.boot_end_ns == after.boot_start_ns
    lasted = sum(record.running_ns + record.paused_ns for record in records)
    assert lasted == life.ended_ns - life.born_ns
    ends = [since for since, _ in anchors[1:]] + [1 << 63]
    for record in records:
        span = record.boot_end_ns - record.boot_start_ns
        assert record.running_ns + record.paused_ns == span == record.wall_end - record.wall_start
        ahead = record.wall_start - record.boot_start_ns
        assert any(
            ahead == offset and since <= record.boot_start_ns and record.boot_end_ns <= end
            for (since, offset), end in zip(anchors, ends, strict=True)
        )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts)
def test_clocks_change_labels_only(
    new_counters: Callable[[], CounterTree],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    script: list[Op],
) -> None:
    """Steps of decades, suspends, deaths and boots: quantities unchanged, periods contiguous.

    The sum of all durations is the time between birth and end by CLOCK_BOOTTIME, and no record
    reaches over a step: it has the labels from before or those from after.
    """
    clocks = Clocks()
    monkeypatch.setattr(time, "clock_gettime_ns", clocks.clock_gettime_ns)
    monkeypatch.setattr(time, "time_ns", clocks.time_ns)
    found = []
    for ops in (script, [op for op in script if op.does != "set_clock"]):
        played = Played(new_counters(), tmp_path_factory.mktemp("ledger"), clocks)
        records = trio.run(played.run, ops)
        for life in played.lives:
            of_life = [
                record
                for record in records
                if record.container_id == life.name
                and record.incarnation.startswith(f"boot{life.boot}:")
            ]
            check_life(of_life, life, played.anchors[life.boot - 1])
        found.append(quantities(records))

    assert found[0] == found[1]
