"""What the state machine over the meter plays with: clocks, a disk that dies, a receiver, execs.

Everything that a user has for real is real: the meter, its ledger, the page of metrics, the events
of an exporter and the cursor it keeps, the zombies of execs with what the kernel says of them.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import trio
from aruntime_exporters.openmeter import OpenMeterExporter, OpenMeterOptions
from aruntime_exporters.prometheus import TEXT, PrometheusExporter
from hypothesis.stateful import RuleBasedStateMachine

from aruntime.metering.chain import SUMMED, sums_of
from aruntime.metering.courier import Courier
from aruntime.metering.export import View
from aruntime.metering.meter import Meter
from aruntime.metering.push import NotDelivered, PushOptions
from aruntime.metering.record import LedgerRecord
from aruntime.metering.subject import MeterSubject
from tests.metering import CounterTree

EXECS = 3
BOOT_NS = 10**12
WALL_NS = 1_790_000_000 * 10**9
TENANTS = ("acme", "other")


class Clocks:
    """Boot time and wall time, to be moved; a microsecond passes between two looks at either.

    Nothing else moves them: the same steps of a machine always find the same times.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Be as at the beginning of every machine."""
        self.passed_ns = 0
        self.stepped_ns = 0

    def _pass(self) -> int:
        self.passed_ns += 1000
        return self.passed_ns

    def clock_gettime_ns(self, _clock: int) -> int:
        """As time.clock_gettime_ns."""
        return BOOT_NS + self._pass()

    def time_ns(self) -> int:
        """As time.time_ns."""
        return WALL_NS + self._pass() + self.stepped_ns


class Killed(BaseException):
    """The process is no more: nothing may catch this and go on."""


class Dying:
    """A connection whose process is killed at its n-th statement, before or after it is done."""

    def __init__(self, real: sqlite3.Connection, statements: int, *, done: bool) -> None:
        self._real, self._left, self._done = real, statements, done

    def execute(self, *words: Any) -> Any:
        """As the real one's."""
        return self._at(self._real.execute, words)

    def executemany(self, *words: Any) -> Any:
        """As the real one's."""
        return self._at(self._real.executemany, words)

    def _at(self, statement: Any, words: tuple[Any, ...]) -> Any:
        self._left -= 1
        if self._left > 0 or (self._left == 0 and self._done):
            answer = statement(*words)
        if self._left <= 0:
            raise Killed
        return answer

    @property
    def in_transaction(self) -> bool:
        """Whoever is dead rolls nothing back."""
        return False

    def close(self) -> None:
        """Let go of the file, as the kernel does for the dead: what was not committed is not there.

        A connection with a statement that somebody still refers to would keep its locks.
        """
        if self._real.in_transaction:
            self._real.rollback()
        self._real.close()


class Receiver(OpenMeterExporter):
    """An exporter of events whose receiver is in memory, and knows events by source and id.

    Attributes:
        known: the events by source and id. One that comes again must be the same.
        hangs_up: the next batch is stored and not acknowledged.
    """

    def __init__(self) -> None:
        super().__init__("receiver", OpenMeterOptions(url="http://127.0.0.1:9/"))
        self.known: dict[tuple[str, str], bytes] = {}
        self.hangs_up = False

    def send(self, items: Sequence[bytes]) -> None:
        """Store them."""
        for item in items:
            assert self.known.setdefault(key_of(item), item) == item
        if self.hangs_up:
            self.hangs_up = False
            raise NotDelivered("hung up")

    def courier(self, path: Path) -> Courier:
        """What brings a ledger's records here, as after a start of the daemon."""
        ledger, directory = str(path / "ledger.db"), str(path / "exports")
        return Courier("receiver", self, PushOptions(batch=4), ledger=ledger, directory=directory)

    def assert_has_all(self, path: Path, records: Iterable[LedgerRecord]) -> None:
        """Export the rest: then every event of every record is here, and no other one."""
        going = self.courier(path)
        self.hangs_up = False
        while not (step := going.step()).wait_seconds:
            assert step.error is None
        assert step.error is None
        assert self.known == {key_of(item): item for one in records for item in self.items(one)}


def key_of(item: bytes) -> tuple[str, str]:
    """What names an event."""
    event = msgspec.json.decode(item)
    return event["source"], event["id"]


def totals_on_page(view: View) -> dict[tuple[str, ...], float]:
    """Every total of containers and tenants on the page of metrics, by its name and labels."""
    page = b"".join(PrometheusExporter(lambda: view).render(TEXT)).decode()
    found: dict[tuple[str, ...], float] = {}
    for line in page.splitlines():
        series, _, value = line.rpartition(" ")
        kind = series.removeprefix("aruntime_").partition("_")[0]
        if "_total{" in series and kind in ("container", "tenant"):
            found[kind, series] = float(value)
    return found


@contextmanager
def ended_execs(directory: Path) -> Iterator[list[int]]:
    """Zombies that each have written something else; reaped in the end."""
    execs = [
        subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={directory}/{n}", "bs=4096", f"count={n}"],
            stderr=subprocess.DEVNULL,
        )
        for n in range(1, EXECS + 1)
    ]
    try:
        for one in execs:
            os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        yield [one.pid for one in execs]
    finally:
        for one in execs:
            one.wait()


class MeterWorld(RuleBasedStateMachine):
    """A machine without rules: the meter, and an oracle of what happened to its containers.

    Attributes:
        new_counters, clocks, execs: given by the test, the same for all machines of a run.
        kernel, written, corrected: per tenant, CPU time and bytes of execs that the kernel counted,
            and by how much CPU time was corrected.
        alive, exited, waiting: containers by their state, the living with their status.
        lives: of each container, how many there were.
        counted: execs that were counted: of which container, in which of its lives, which one.
        starved, ooms: living containers whose end is for want of memory, and how many ended so.
        shown: every total at its last look.
    """

    new_counters: Callable[[], CounterTree]
    clocks: Clocks
    execs: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.clocks.start()
        self.counters = self.new_counters()
        self.directory = tempfile.TemporaryDirectory()
        self.number = 0
        self.kernel = dict.fromkeys(TENANTS, 0)
        self.alive: dict[str, str] = {}
        self.exited: set[str] = set()
        self.shown: dict[tuple[str, ...], float] = {}
        self.refusing = False
        self.boot = 1
        self.prices = 0
        self.requests: dict[str, int] = {}
        self.corrected = dict.fromkeys(TENANTS, 0)
        self.waiting: set[str] = set()
        self.lives = dict[str, int]()
        self.counted: set[tuple[str, int, int]] = set()
        self.written = dict.fromkeys(TENANTS, 0)
        self.starved: set[str] = set()
        self.ooms = 0
        self.receiver = Receiver()
        self.courier = self.receiver.courier(self.path)
        self.meter = self.open()

    @property
    def path(self) -> Path:
        """Where the ledger is."""
        return Path(self.directory.name)

    def open(self) -> Meter:
        """A meter on the one ledger."""
        meter = Meter(str(self.path / "ledger.db"), self.counters.driver, cores=1 << 30)
        meter.books.boot_id = f"boot{self.boot}"
        trio.run(meter.open)
        return meter

    def do(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run one of the meter's operations to its end."""

        async def run() -> Any:
            return await operation(*args, **options)

        return trio.run(run)

    def subject(self, name: str, *, live: bool = True) -> MeterSubject:
        """What the supervisor would say of a container."""
        cgroup = self.counters.driver.cgroup(name) if live else None
        return MeterSubject(
            id=name,
            name=name,
            tenant=self.tenant(name),
            cgroup=cgroup,
            cpu_request_milli=self.requests.get(name, 0),
        )

    def tenant(self, name: str) -> str:
        """Whose container it is."""
        return TENANTS[int(name[1:]) % len(TENANTS)]

    def begin(self, name: str, *, restarted: bool = False) -> None:
        """Make a cgroup, register it, let the program run."""
        self.counters.add(name)
        self.do(self.meter.register, self.subject(name), restarted=restarted)
        self.meter.state(name, "running")
        self.alive[name] = "running"
        self.exited.discard(name)
        self.lives[name] = self.lives.get(name, 0) + 1

    def take_back(self) -> None:
        """What a daemon does at its start."""
        for name, status in self.alive.items():
            self.do(self.meter.resume_registration, self.subject(name), status)
        for name in self.exited:
            self.meter.declare(self.subject(name, live=False), "exited")
        for name in self.waiting:
            self.meter.declare(self.subject(name, live=False), "created")
        self.do(self.meter.settle, [*self.alive, *self.exited, *self.waiting])
        self.courier = self.receiver.courier(self.path)


def assert_contiguous(records: list[LedgerRecord]) -> None:
    """Each life's records follow each other without a gap, and fill their time."""
    lives: dict[tuple[str, str], list[LedgerRecord]] = {}
    for record in records:
        if record.container_id:
            lives.setdefault((record.container_id, record.incarnation), []).append(record)
    for life in lives.values():
        assert [record.kind == "start" for record in life] == [True, *[False] * (len(life) - 1)]
        kinds = [record.kind for record in life]
        assert kinds.count("final") <= 1
        for record in life[kinds.index("final") + 1 :] if "final" in kinds else ():
            assert sums_of(record).keys() - {"samples"}  # an end gone through again is no record
        for before, after in pairwise(life):
            assert before.boot_end_ns == after.boot_start_ns
        for record in life:
            lasted = record.boot_end_ns - record.boot_start_ns
            assert record.wall_end - record.wall_start == lasted
            spent = record.running_ns + record.paused_ns
            assert spent <= lasted
            assert min(getattr(record, name) for name in SUMMED) >= 0
