"""Accounts of foreign cgroups: what is billed of them, and what is said to be unknown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from aruntime.metering.foreign.meter import ForeignMeter
from aruntime.metering.integrals import UNREAD
from aruntime.metering.subject import MeterSubject
from tests.metering import CounterTree, about, tenant_cpu


@asynccontextmanager
async def metering(counters: CounterTree, path: Path) -> AsyncIterator[ForeignMeter]:
    """An open meter whose loops do not run."""
    meter = ForeignMeter(str(path / "ledger.db"), counters.driver, cores=1000)
    await meter.open()
    try:
        yield meter
    finally:
        await meter.aclose()


def foreign(counters: CounterTree, name: str, *, new: bool = True) -> MeterSubject:
    """A subject whose cgroup is another program's."""
    subject = about(counters, name, new=new)
    assert subject.cgroup is not None
    cgroup = msgspec.structs.replace(subject.cgroup, is_foreign=True)
    return msgspec.structs.replace(subject, cgroup=cgroup)


async def test_the_past_is_nobodys(counters: CounterTree, tmp_path: Path) -> None:
    """An old group begins with what its counters show; later growth counts."""
    async with metering(counters, tmp_path) as meter:
        subject = foreign(counters, "a")
        counters.use("a", cpu_ns=700, memory=1 << 20, oom=3)
        await meter.take_in(subject, is_new=False)
        assert tenant_cpu(meter) == 0
        counters.use("a", cpu_ns=50)
        assert await meter.read_emptied("a", 0, lambda: True)
        await meter.vanish("a", is_read=True)
        assert tenant_cpu(meter) == 50
    async with metering(counters, tmp_path) as meter:
        assert tenant_cpu(meter) == 50


async def test_a_new_group_counts_from_zero(counters: CounterTree, tmp_path: Path) -> None:
    """All that a group shows that was made while we looked is usage."""
    async with metering(counters, tmp_path) as meter:
        subject = foreign(counters, "a")
        counters.use("a", cpu_ns=700)
        await meter.take_in(subject, is_new=True)
        assert await meter.read_emptied("a", 0, lambda: True)
        assert tenant_cpu(meter) == 700


async def test_removed_unread_is_flagged_and_counted(counters: CounterTree, tmp_path: Path) -> None:
    """Nothing is made up for what nobody read; memory is held from the last sample on."""
    async with metering(counters, tmp_path) as meter:
        await meter.take_in(foreign(counters, "a"), is_new=True)
        counters.use("a", cpu_ns=10, memory=4096)
        await meter.cut("a", "stats")
        before = meter.snapshot("a")
        counters.use("a", cpu_ns=90)
        counters.remove("a")
        assert not await meter.read_emptied("a", 0, lambda: True)
        await meter.vanish("a", is_read=False)
        after = meter.snapshot("a")
        assert before is not None
        assert after is not None
        assert (after.status, after.totals.cpu_ns) == ("exited", 10)
        assert after.totals.memory_bytens2 > before.totals.memory_bytens2
        account = meter.view().containers[0].account
        assert account.estimated == (UNREAD,)
        assert meter.health.anomalies["unread_cgroup"] == 1


async def test_a_missed_group_is_counted_and_forgotten(
    counters: CounterTree, tmp_path: Path
) -> None:
    """It had an account for a moment, with nothing in it."""
    async with metering(counters, tmp_path) as meter:
        subject = foreign(counters, "a")
        counters.remove("a")
        await meter.miss(subject)
        assert meter.health.anomalies["unread_cgroup"] == 1
        assert tenant_cpu(meter) == 0
        assert meter.view().tenant_containers == {}


async def test_a_container_that_comes_back_goes_on(counters: CounterTree, tmp_path: Path) -> None:
    """The same id in a new cgroup: totals are carried on, counters begin at zero."""
    async with metering(counters, tmp_path) as meter:
        for used in (100, 40):
            await meter.take_in(foreign(counters, "a"), is_new=True)
            counters.use("a", cpu_ns=used)
            assert await meter.read_emptied("a", 0, lambda: True)
            counters.remove("a")
            await meter.vanish("a", is_read=True)
        assert tenant_cpu(meter) == 140
        meter.forget("a")
        await meter.take_in(foreign(counters, "a"), is_new=True)
        counters.use("a", cpu_ns=7)
        await meter.cut("a", "stats")
        assert tenant_cpu(meter) == 147


async def test_known_only_if_it_is_this_very_cgroup(counters: CounterTree, tmp_path: Path) -> None:
    """After a restart an account tells whether the cgroup is the one it was of."""
    async with metering(counters, tmp_path) as meter:
        await meter.take_in(foreign(counters, "a"), is_new=True)
        counters.use("a", cpu_ns=100)
    async with metering(counters, tmp_path) as meter:
        again = foreign(counters, "a", new=False)
        assert meter.knows(again)
        counters.use("a", cpu_ns=20)
        await meter.resume_registration(again, "running")
        assert tenant_cpu(meter) == 120
        assert meter.view().containers[0].started_ns > 0
    counters.remove("a")
    async with metering(counters, tmp_path) as meter:
        assert not meter.knows(foreign(counters, "a"))
