"""Nothing of a host is lost: what tenants use, what nobody is billed for and what idles is all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.metering.export import View
from aruntime.metering.meter import Meter
from aruntime.metering.subject import MeterSubject
from aruntime.metering.usage import Window, usage_rows
from tests.metering import CORES, CounterTree, abandon, remove_cgroup

TENANTS = ("acme", "other", "zeta")
S = 10**9


class Turn(NamedTuple):
    """A while of the host's life, by the parts of its capacity; what is left of it idles."""

    span_ns: int
    busy: tuple[int, int, int]
    """Thousandths of a core that each container runs for."""
    host: int
    """Thousandths of a core of everything else on the host."""
    event: str


turns = st.lists(
    st.builds(
        Turn,
        st.integers(0, 4000 * S),
        st.tuples(*(st.integers(0, 1300) for _ in TENANTS)),
        st.integers(0, CORES * 1000 - 3 * 1300),
        st.sampled_from(("", "poll", "poll", "commit", "restart", "crash", "pause")),
    ),
    min_size=1,
    max_size=8,
)
requests = st.tuples(*(st.sampled_from((0, 1, 333, 1000, 2500)) for _ in TENANTS))


class Shared:
    """A host with one container per tenant under a meter. State: what the oracle counted.

    Attributes:
        now_ns: boot time, which the meter is shown.
        used_ns: CPU time of each tenant since the ledger began.
        root_ns: of the whole host, ever.
        idle_ns: what no one used, since the meter began to look.
        since: when and with what it did: boot time, the host's CPU time and the tenants'.
    """

    def __init__(self, counters: CounterTree, path: Path, milli: tuple[int, ...]) -> None:
        self._counters, self._path = counters, str(path / "ledger.db")
        self._milli = dict(zip(TENANTS, milli, strict=True))
        self.now_ns, self.root_ns = 10**12, 77
        self.used_ns = dict.fromkeys(TENANTS, 0)
        self.idle_ns = 0
        self.paused = False
        self.meter: Meter
        self.since: tuple[int, int, int]

    def boottime(self, _clock: int) -> int:
        """As time.clock_gettime_ns."""
        return self.now_ns

    async def open(self) -> None:
        """A daemon begins to look."""
        self.meter = Meter(self._path, self._counters.driver, cores=CORES)
        self.idle_ns = 0
        self.since = (self.now_ns, self.root_ns, sum(self.used_ns.values()))
        await self.meter.open()

    def subject(self, tenant: str) -> MeterSubject:
        """The tenant's one container."""
        cgroup, milli = self._counters.driver.cgroup(tenant), self._milli[tenant]
        return MeterSubject(
            id=tenant, name=tenant, tenant=tenant, cgroup=cgroup, cpu_request_milli=milli
        )

    async def begin(self, tenant: str) -> None:
        """Start the tenant's container."""
        self._counters.add(tenant)
        await self.meter.register(self.subject(tenant))
        self.meter.state(tenant, "running")

    async def take(self, turn: Turn) -> None:
        """Let the turn's time pass and its work be done, then what happens at its end."""
        self.now_ns += turn.span_ns
        for tenant, milli in zip(TENANTS, turn.busy, strict=True):
            used = 0 if self.paused else turn.span_ns * milli // 1000
            self._counters.use(tenant, cpu_ns=used)
            self.used_ns[tenant] += used
            self.root_ns += used
            self.idle_ns -= used
        host = turn.span_ns * turn.host // 1000
        self.root_ns += host
        self.idle_ns += CORES * turn.span_ns - host
        (self._counters.root / "cpuacct/cpuacct.usage").write_text(f"{self.root_ns}\n")
        match turn.event:
            case "poll":
                await self.meter.rounds.cycle()
            case "commit":
                await self.meter.rounds.cycle()
                await self.meter.books.commits.commit()
            case "pause":
                for tenant in TENANTS:
                    await self.meter.cut(tenant, "pause")
                    self.meter.state(tenant, "running" if self.paused else "paused")
                self.paused = not self.paused
            case "restart":
                await self.meter.final(TENANTS[0], exit_code=0)
                await remove_cgroup(self.meter, self._counters, TENANTS[0])
                await self.begin(TENANTS[0])
                if self.paused:
                    self.meter.state(TENANTS[0], "paused")
            case "crash":
                abandon(self.meter)
                await self.open()
                for tenant in TENANTS:
                    status = "paused" if self.paused else "running"
                    await self.meter.resume_registration(self.subject(tenant), status)
                await self.meter.settle(TENANTS)

    def check(self, view: View) -> None:
        """Hold what is shown, after a reading, against the host and against the oracle."""
        began_ns, root_ns, used_ns = self.since
        split = view.daemon.cpu
        assert split is not None
        used = {tenant: totals.cpu_ns for tenant, totals in view.tenants.items()}
        assert {tenant: used.get(tenant, 0) for tenant in TENANTS} == self.used_ns
        assert split.attributed_ns == sum(used.values()) - used_ns
        assert split.attributed_ns + split.unattributed_ns == self.root_ns - root_ns
        capacity_ns = view.daemon.cpu_cores * (self.now_ns - began_ns)
        assert split.attributed_ns + split.unattributed_ns + self.idle_ns == capacity_ns

    async def check_records(self) -> None:
        """Hold the records against the same: what is set aside is at least request and use."""
        records = await self.meter.usage_records(0, 1 << 62)
        rows = {
            row.group.tenant: row for row in usage_rows(records, [], Window(0, 1 << 62), "tenant")
        }
        for tenant, used in self.used_ns.items():
            counts = rows[tenant].counts if tenant in rows else {}
            assert counts.get("cpu_used", 0) == used
            assert counts.get("cpu_max", 0) >= max(used, counts.get("cpu_allocated", 0) // 1000)
        for record in records:
            assert record.cpu_alloc_ns >= record.cpu_ns >= 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=turns, milli=requests)
def test_tenants_unattributed_and_idle_are_the_capacity(
    new_counters: Callable[[], CounterTree],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    script: list[Turn],
    milli: tuple[int, ...],
) -> None:
    """Whoever works, is paused, restarts or dies: at each reading the parts are the whole."""
    shared = Shared(new_counters(), tmp_path_factory.mktemp("ledger"), milli)
    monkeypatch.setattr(time, "clock_gettime_ns", shared.boottime)
    (shared._counters.root / "cpuacct/cpuacct.usage").write_text(f"{shared.root_ns}\n")

    async def play() -> None:
        await shared.open()
        for tenant in TENANTS:
            await shared.begin(tenant)
        for turn in script:
            await shared.take(turn)
            await shared.meter.rounds.cycle()
            shared.check(shared.meter.view())
        await shared.check_records()
        await shared.meter.aclose()

    trio.run(play)
