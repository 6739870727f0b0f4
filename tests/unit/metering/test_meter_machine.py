"""A state machine over the meter: whatever happens, no total falls and the sums are the kernel's.

The machine makes, uses, pauses, ends, restarts and removes containers, polls, scrapes, lets the
disk refuse, and kills the meter between any two steps; an oracle keeps what the kernel counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
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

from aruntime.metering.meter import Meter
from aruntime.metering.subject import MeterSubject
from tests.metering import CounterTree

TENANTS = ("acme", "other")


class MeterMachine(RuleBasedStateMachine):
    """See the module."""

    new_counters: Callable[[], CounterTree]

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
        self.meter = self.open()

    def open(self) -> Meter:
        """A meter on the one ledger."""
        path = str(Path(self.directory.name) / "ledger.db")
        meter = Meter(path, self.counters.driver, cores=1 << 30)
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
        return MeterSubject(id=name, name=name, tenant=self.tenant(name), cgroup=cgroup)

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
        """A cycle of the loop, with its commit."""
        live = [subject for subject in self.meter._subjects.values() if subject.is_live]
        for subject in self.meter._tick(live):
            self.meter._offer(subject, "poll")

    @rule()
    def commit(self) -> None:
        """The writer gets its turn."""
        self.do(self.meter._commits.commit)

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
        connection = self.meter._file._connection
        assert connection is not None
        self.refusing = not self.refusing
        connection.execute(f"PRAGMA query_only = {int(self.refusing)}")

    @precondition(lambda self: not self.meter._file.durable.unwritten)
    @rule()
    def crash(self) -> None:
        """SIGKILL and the next daemon: what was not committed is gone, the kernel's is not."""
        for subject in self.meter._subjects.values():
            subject.release()
        self.meter._file.close()
        self.refusing = False
        self.meter = self.open()
        for name, status in self.alive.items():
            self.do(self.meter.resume_registration, self.subject(name), status)
        for name in self.exited:
            self.meter.declare(self.subject(name, live=False), "exited")
        self.do(self.meter.settle, [*self.alive, *self.exited])

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
        """A last poll: the tenants' totals are what the kernel counted, exactly."""
        live = [subject for subject in self.meter._subjects.values() if subject.is_live]
        self.meter._tick(live)
        shown = self.meter.view().tenants
        for tenant, used in self.kernel.items():
            assert used == (shown[tenant].cpu_ns if tenant in shown else 0)
        trio.run(self.meter.aclose)
        self.directory.cleanup()


def test_meter_machine(new_counters: Callable[[], CounterTree]) -> None:
    """Run the machine."""
    machine = type("Machine", (MeterMachine,), {"new_counters": staticmethod(new_counters)})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )


@pytest.fixture(autouse=True)
def _no_database_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep hypothesis from writing into the working directory."""
    monkeypatch.chdir(tmp_path)
