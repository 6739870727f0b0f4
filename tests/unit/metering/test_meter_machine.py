"""A state machine over the meter: whatever happens, no total falls and the sums are the kernel's.

The machine makes, uses, pauses, updates, ends, restarts and removes containers, polls, scrapes,
bills, changes prices, lets hours pass, steps the wall clock, lets the disk refuse, and kills the
meter or the host between any two steps; an oracle keeps what the kernel counted. In the end the
ledger verifies, its records are the totals, and each life's records follow each other in time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aruntime.errors import InvalidParameter
from aruntime.metering.amending import Wanted, amend
from aruntime.metering.chain import SUMMED
from aruntime.metering.corrections import Amount, Author
from aruntime.metering.meter import Meter
from aruntime.metering.record import LedgerRecord
from aruntime.metering.subject import MeterSubject
from tests.metering import CounterTree, faults_in, records_in, sums_by_tenant, sums_of_totals

TENANTS = ("acme", "other")


class Clocks:
    """Boot time and wall time, to be moved. State: by how much."""

    def __init__(self) -> None:
        self.passed_ns = 0
        self.stepped_ns = 0
        self._boot, self._wall = time.clock_gettime_ns, time.time_ns

    def clock_gettime_ns(self, clock: int) -> int:
        """As time.clock_gettime_ns."""
        return self._boot(clock) + self.passed_ns

    def time_ns(self) -> int:
        """As time.time_ns."""
        return self._wall() + self.passed_ns + self.stepped_ns


class MeterMachine(RuleBasedStateMachine):
    """See the module."""

    new_counters: Callable[[], CounterTree]
    clocks: Clocks

    living = Bundle("living")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.counters = self.new_counters()
        self.directory = tempfile.TemporaryDirectory()
        self.number = 0
        self.kernel = dict.fromkeys(TENANTS, 0)
        self.alive: dict[str, str] = {}
        self.exited: set[str] = set()
        self.shown: dict[tuple[str, ...], int] = {}
        self.refusing = False
        self.boot = 1
        self.prices = 0
        self.requests: dict[str, int] = {}
        self.corrected = dict.fromkeys(TENANTS, 0)
        self.meter = self.open()

    def open(self) -> Meter:
        """A meter on the one ledger."""
        path = str(Path(self.directory.name) / "ledger.db")
        meter = Meter(path, self.counters.driver, cores=1 << 30)
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

    @rule(target=living)
    def launch(self) -> str:
        """A new container."""
        name = f"c{self.number}"
        self.number += 1
        self.begin(name)
        return name

    def begin(self, name: str, *, restarted: bool = False) -> None:
        """Make a cgroup, register it, let the program run."""
        self.counters.add(name)
        self.do(self.meter.register, self.subject(name), restarted=restarted)
        self.meter.state(name, "running")
        self.alive[name] = "running"
        self.exited.discard(name)

    @rule(name=living, cpu=st.integers(0, 1 << 40), memory=st.integers(0, 1 << 34))
    def use(self, name: str, cpu: int, memory: int) -> None:
        """The kernel counts."""
        self.counters.use(name, cpu_ns=cpu, memory=memory % 1000, page_faults=cpu % 7)
        self.kernel[self.tenant(name)] += cpu

    @rule()
    def poll(self) -> None:
        """A cycle of the loop, with its offers."""
        self.do(self.meter.rounds.cycle)

    @rule(seconds=st.one_of(st.integers(0, 20), st.integers(0, 10_000)))
    def pass_time(self, seconds: int) -> None:
        """Time passes, or the host was suspended; hours may turn."""
        self.clocks.passed_ns += seconds * 10**9

    @rule(seconds=st.integers(-(10**8), 10**8))
    def step_clock(self, seconds: int) -> None:
        """Somebody sets the wall clock."""
        self.clocks.stepped_ns += seconds * 10**9

    @rule()
    def change_price(self) -> None:
        """Another price book comes into force."""
        self.prices += 1
        self.do(self.meter.change_price, f"v{self.prices}")

    @rule(name=living, milli=st.integers(0, 3000))
    def update(self, name: str, milli: int) -> None:
        """Another request, as the supervisor makes it."""
        self.do(self.meter.cut, name, "update")
        self.requests[name] = milli
        self.meter.update(self.subject(name))

    @rule()
    def bill(self) -> None:
        """Records up to now add up to what the kernel counted, for each tenant."""
        records = self.do(self.meter.usage_records, 0, 1 << 62)
        metered = sums_by_tenant(record for record in records if not record.corrects)
        billed = sums_by_tenant(records)
        for tenant, used in self.kernel.items():
            assert metered.get(tenant, {}).get("cpu_ns", 0) == used
            right = used + self.corrected[tenant]
            assert billed.get(tenant, {}).get("cpu_ns", 0) == right >= 0

    @precondition(lambda self: not self.refusing)
    @rule(place=st.integers(0, 1 << 20), left=st.integers(0, 3))
    def correct(self, place: int, left: int) -> None:
        """Somebody finds that a record counted too much, or too little after all."""
        self.do(self.meter.books.commits.commit)
        records = [one for one in records_in(Path(self.directory.name)) if one.kind != "correction"]
        used = [one for one in records if one.cpu_ns]
        if not used:
            return
        record = used[place % len(used)]
        wanted = Wanted(record.seq, [Amount("cpu_ns", record.cpu_ns * left // 3, is_whole=True)])
        books = self.meter.books
        author = Author("clerk", "a test", time.time_ns(), books.boot_id, 7)
        try:
            made = self.do(books.commits.exclusively, partial(amend, books.file, wanted, author))
        except InvalidParameter:
            return  # it says so already
        self.corrected[record.tenant] += made.cpu_ns

    @rule()
    def commit(self) -> None:
        """The writer gets its turn."""
        self.do(self.meter.books.commits.commit)

    @rule(name=living, status=st.sampled_from(("running", "pausing", "paused")))
    def change(self, name: str, status: str) -> None:
        """Pause or resume."""
        self.meter.state(name, status)
        self.alive[name] = status

    @rule(name=living)
    def cut(self, name: str) -> None:
        """A forced reading."""
        self.do(self.meter.cut, name, "update")

    @rule(name=consumes(living), late=st.integers(0, 1000), target=ended)
    def end(self, name: str, late: int) -> str:
        """Exit, final reading, a last bit of CPU, recheck, cgroup removed."""
        self.do(self.meter.final, name, exit_code=0)
        self.counters.use(name, cpu_ns=late)
        self.kernel[self.tenant(name)] += late
        self.do(self.meter.recheck, name)
        self.counters.remove(name)
        self.meter.unregister(name)
        del self.alive[name]
        self.exited.add(name)
        return name

    @rule(name=consumes(ended), target=living)
    def restart(self, name: str) -> str:
        """The same container once more."""
        self.begin(name, restarted=True)
        return name

    @rule(name=consumes(ended))
    def remove(self, name: str) -> None:
        """rm."""
        self.meter.forget(name)
        self.exited.discard(name)

    @rule()
    def refuse_or_allow(self) -> None:
        """The disk stops taking writes, or takes them again."""
        connection = self.meter.books.file._connection
        assert connection is not None
        self.refusing = not self.refusing
        connection.execute(f"PRAGMA query_only = {int(self.refusing)}")

    @precondition(lambda self: not self.meter.books.file.durable.unwritten)
    @rule()
    def crash(self) -> None:
        """SIGKILL and the next daemon: what was not committed is gone, the kernel's is not."""
        for subject in self.meter._subjects.values():
            subject.release()
        self.meter.books.file.close()
        self.refusing = False
        self.meter = self.open()
        self.take_back()

    def take_back(self) -> None:
        """What a daemon does at its start."""
        for name, status in self.alive.items():
            self.do(self.meter.resume_registration, self.subject(name), status)
        for name in self.exited:
            self.meter.declare(self.subject(name, live=False), "exited")
        self.do(self.meter.settle, [*self.alive, *self.exited])

    @precondition(lambda self: not self.meter.books.file.durable.unwritten)
    @rule()
    def lose_host(self) -> None:
        """The host goes down: nothing beyond the last commit is known, or billed (R9)."""
        for subject in self.meter._subjects.values():
            subject.release()
        durable = self.meter.books.file.durable
        self.kernel = {
            name: durable.tenants[name].cpu_ns if name in durable.tenants else 0 for name in TENANTS
        }
        self.meter.books.file.close()
        for name in self.alive:
            self.counters.remove(name)
        self.boot += 1
        self.refusing = False
        self.shown = {}  # what was shown live beyond the last commit is gone with its host
        self.meter = self.open()
        self.take_back()
        for name in self.alive:
            self.counters.add(name)
            self.do(self.meter.register, self.subject(name))
            self.meter.state(name, "running")
            self.alive[name] = "running"

    @invariant()
    def nothing_shown_falls(self) -> None:
        """No exported counter is lower than it was at the last look."""
        view = self.meter.view()
        now: dict[tuple[str, ...], int] = {}
        for tenant, totals in view.tenants.items():
            now["tenant", tenant, "cpu"] = totals.cpu_ns
            now["tenant", tenant, "memory"] = totals.memory_bytens2
            now["tenant", tenant, "time"] = totals.container_ns
            now["tenant", tenant, "paused"] = totals.paused_ns
        for container in view.containers:
            own = container.account.totals
            now["container", container.about.id, "cpu"] = own.cpu_ns
            now["container", container.about.id, "memory"] = own.memory_bytens2
            now["container", container.about.id, "faults"] = sum(own.counters)
        for key, value in self.shown.items():
            if key[0] == "tenant" or key in now:
                assert now[key] >= value, key
        self.shown = {**self.shown, **now}

    @invariant()
    def tenants_never_exceed_the_kernel(self) -> None:
        """What is shown was used."""
        for tenant, totals in self.meter.view().tenants.items():
            assert totals.cpu_ns <= self.kernel[tenant]

    def teardown(self) -> None:
        """A last poll: totals and records are what the kernel counted, exactly."""
        connection = self.meter.books.file._connection
        assert connection is not None
        connection.execute("PRAGMA query_only = 0")
        self.bill()
        trio.run(self.meter.aclose)
        tenants = self.meter.books.file.durable.tenants
        path = Path(self.directory.name)
        everything = records_in(path)
        records = [record for record in everything if not record.corrects]
        sums = sums_by_tenant(records)
        for tenant, used in self.kernel.items():
            totals = sums_of_totals(tenants[tenant]) if tenant in tenants else {}
            assert totals.get("cpu_ns", 0) == used
            assert {name: sums[tenant].get(name, 0) for name in totals} == totals
        assert faults_in(path) == []
        self.assert_contiguous(records)
        self.directory.cleanup()

    def assert_contiguous(self, records: list[LedgerRecord]) -> None:
        """Each life's records follow each other without a gap, and fill their time."""
        lives: dict[tuple[str, str], list[LedgerRecord]] = {}
        for record in records:
            if record.container_id:
                lives.setdefault((record.container_id, record.incarnation), []).append(record)
        for life in lives.values():
            assert [record.kind == "start" for record in life] == [True, *[False] * (len(life) - 1)]
            for before, after in pairwise(life):
                assert before.boot_end_ns == after.boot_start_ns
            for record in life:
                lasted = record.boot_end_ns - record.boot_start_ns
                assert record.wall_end - record.wall_start == lasted
                spent = record.running_ns + record.paused_ns
                assert spent <= lasted
                assert min(getattr(record, name) for name in SUMMED) >= 0


def test_meter_machine(
    new_counters: Callable[[], CounterTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the machine."""
    clocks = Clocks()
    monkeypatch.setattr(time, "clock_gettime_ns", clocks.clock_gettime_ns)
    monkeypatch.setattr(time, "time_ns", clocks.time_ns)
    members = {"new_counters": staticmethod(new_counters), "clocks": clocks}
    machine = type("Machine", (MeterMachine,), members)
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )


@pytest.fixture(autouse=True)
def _no_database_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep hypothesis from writing into the working directory."""
    monkeypatch.chdir(tmp_path)
