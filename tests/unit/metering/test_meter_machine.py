"""A state machine over the meter: whatever happens, no total falls and the sums are the kernel's.

The machine creates, starts, uses, execs into, pauses, updates, runs out of memory, ends, restarts
and removes containers, polls, scrapes, bills, exports, changes prices, lets hours pass, steps the
wall clock, lets the disk refuse, and kills the meter or the host between any two steps, at any
statement of a commit and in the middle of an end, which is gone through again; an oracle keeps what
the kernel counted. In the end the ledger verifies, its records are the totals, each life's records
follow each other in time, and whoever was sent them has every event once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aruntime.errors import InvalidParameter
from aruntime.metering.amending import Wanted, amend
from aruntime.metering.corrections import Amount, Author
from aruntime.metering.reading import read_process_io
from tests.metering import (
    CounterTree,
    abandon,
    faults_in,
    records_in,
    remove_cgroup,
    sums_by_tenant,
    sums_of_totals,
)
from tests.unit.metering.meter_world import (
    EXECS,
    TENANTS,
    Clocks,
    Dying,
    Killed,
    MeterWorld,
    assert_contiguous,
    ended_execs,
    totals_on_page,
)


class MeterMachine(MeterWorld):
    """See the module."""

    created = Bundle("created")
    living = Bundle("living")
    ended = Bundle("ended")

    def named(self) -> str:
        """A new name."""
        self.number += 1
        return f"c{self.number - 1}"

    @rule(target=living)
    def launch(self) -> str:
        """A new container that runs at once."""
        name = self.named()
        self.begin(name)
        return name

    @rule(target=created)
    def create(self) -> str:
        """A new container that is not started yet: it has no cgroup."""
        name = self.named()
        self.waiting.add(name)
        self.meter.declare(self.subject(name, live=False), "created")
        return name

    @rule(name=consumes(created), target=living)
    def start(self, name: str) -> str:
        """Its first start."""
        self.waiting.remove(name)
        self.begin(name)
        return name

    @rule(name=living, cpu=st.integers(0, 1 << 40), memory=st.integers(0, 1 << 34))
    def use(self, name: str, cpu: int, memory: int) -> None:
        """The kernel counts."""
        self.counters.use(name, cpu_ns=cpu, memory=memory % 1000, page_faults=cpu % 7)
        self.kernel[self.tenant(name)] += cpu

    @rule(name=living, which=st.integers(0, EXECS - 1), times=st.integers(1, 2))
    def exec(self, name: str, which: int, times: int) -> None:
        """An exec ends, and is offered again as long as it is a zombie: it counts once."""
        for _ in range(times):
            self.do(self.meter.exec_final, name, self.execs[which])
        one = (name, self.lives[name], which)
        if one not in self.counted:
            self.counted.add(one)
            self.written[self.tenant(name)] += read_process_io(self.execs[which]).write_bytes

    @rule(name=living)
    def starve(self, name: str) -> None:
        """The kernel kills one of its processes for want of memory."""
        self.counters.use(name, oom=1)
        self.starved.add(name)

    @rule(hangs_up=st.booleans(), anew=st.booleans())
    def export(self, hangs_up: bool, anew: bool) -> None:
        """A batch goes out; perhaps it is not acknowledged, or all go once more (R5)."""
        if anew:
            (self.path / "exports" / "receiver.json").unlink(missing_ok=True)
            self.courier = self.receiver.courier(self.path)
        self.receiver.hangs_up = hangs_up
        self.courier.step()

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
            assert metered.get(tenant, {}).get("proc_write", 0) == self.written[tenant]

    @precondition(lambda self: not self.refusing)
    @rule(place=st.integers(0, 1 << 20), left=st.integers(0, 3))
    def correct(self, place: int, left: int) -> None:
        """Somebody finds that a record counted too much, or too little after all."""
        self.do(self.meter.books.commits.commit)
        records = [one for one in records_in(self.path) if one.kind != "correction"]
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

    @rule(name=consumes(living), late=st.integers(0, 1000), deaths=st.integers(0, 3), target=ended)
    def end(self, name: str, late: int, deaths: int) -> str:
        """Exit, final reading, a last bit of CPU, recheck, cgroup removed.

        A meter that dies before init is reaped leaves the next one to go through it again.
        """
        code = 137 if name in self.starved else 0
        self.do(self.meter.final, name, exit_code=code)
        for _ in range(deaths):
            if not self.meter.books.file.durable.unwritten:
                self.crash()
            self.do(self.meter.final, name, exit_code=code)
        self.counters.use(name, cpu_ns=late)
        self.kernel[self.tenant(name)] += late
        self.do(remove_cgroup, self.meter, self.counters, name)
        del self.alive[name]
        self.exited.add(name)
        self.ooms += name in self.starved
        self.starved.discard(name)
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
        abandon(self.meter)
        self.refusing = False
        self.meter = self.open()
        self.take_back()

    @precondition(lambda self: not (self.refusing or self.meter.books.file.durable.unwritten))
    @rule(statements=st.integers(1, 16), done=st.booleans())
    def crash_in_commit(self, statements: int, done: bool) -> None:
        """SIGKILL at any statement of a commit: it has happened, or it has not."""
        for name in self.alive:
            self.do(self.meter.cut, name, "update")
        file = self.meter.books.file
        real = file._connection
        assert real is not None
        file._connection = Dying(real, statements, done=done)  # type: ignore[assignment]  # plays one
        with contextlib.suppress(Killed):
            self.do(self.meter.books.commits.commit)
        self.crash()

    @precondition(lambda self: not self.meter.books.file.durable.unwritten)
    @rule()
    def lose_host(self) -> None:
        """The host goes down: nothing beyond the last commit is known, or billed (R9)."""
        durable = self.meter.books.file.durable
        self.kernel = {
            name: durable.tenants[name].cpu_ns if name in durable.tenants else 0 for name in TENANTS
        }
        found = sums_by_tenant([*records_in(self.path), *self.meter.books.committed().open_records])
        self.written = {name: found.get(name, {}).get("proc_write", 0) for name in TENANTS}
        self.starved.clear()
        abandon(self.meter)
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
            self.lives[name] += 1

    @invariant()
    def nothing_shown_falls(self) -> None:
        """No exported counter is lower than it was at the last look, on the page or in the view."""
        view = self.meter.view()
        now: dict[tuple[str, ...], float] = {**totals_on_page(view)}
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
        everything = records_in(self.path)
        records = [record for record in everything if not record.corrects]
        sums = sums_by_tenant(records)
        for tenant, used in self.kernel.items():
            totals = sums_of_totals(tenants[tenant]) if tenant in tenants else {}
            assert totals.get("cpu_ns", 0) == used
            assert {name: sums[tenant].get(name, 0) for name in totals} == totals
        assert faults_in(self.path) == []
        assert_contiguous(records)
        assert [record.end_reason for record in records].count("oom") == self.ooms
        self.receiver.assert_has_all(self.path, everything)
        self.directory.cleanup()


def test_meter_machine(
    new_counters: Callable[[], CounterTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the machine."""
    clocks = Clocks()
    monkeypatch.setattr(time, "clock_gettime_ns", clocks.clock_gettime_ns)
    monkeypatch.setattr(time, "time_ns", clocks.time_ns)
    with ended_execs(tmp_path) as execs:
        assert all(read_process_io(pid).write_bytes for pid in execs)
        members = {
            "new_counters": staticmethod(new_counters), "clocks": clocks, "execs": execs
        }  # fmt: skip
        machine = type("Machine", (MeterMachine,), members)
        run_state_machine_as_test(
            machine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
        )


@pytest.fixture(autouse=True)
def _no_database_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep hypothesis from writing into the working directory."""
    monkeypatch.chdir(tmp_path)
