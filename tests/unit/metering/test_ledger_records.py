"""The records a meter writes: when they are cut, what they say, and that they add up."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from aruntime.metering.chain import HOUR_NS
from aruntime.metering.clock import WallClock, boottime_ns
from aruntime.metering.meter import Meter
from aruntime.metering.record import LedgerRecord
from aruntime.metering.subject import MeterSubject
from tests.metering import (
    CounterTree,
    abandon,
    about,
    faults_in,
    metering,
    records_in,
    remove_cgroup,
    start,
    sums_by_tenant,
    sums_of_totals,
)


def kinds(records: list[LedgerRecord]) -> list[tuple[str, str]]:
    """Kinds and reasons in order."""
    return [(record.kind, record.end_reason) for record in records]


def assert_adds_up(path: Path, meter: Meter) -> None:
    """The records are whole, and their sums are the tenants' totals."""
    assert faults_in(path) == []
    totals = {name: sums_of_totals(one) for name, one in meter.books.file.durable.tenants.items()}
    sums = sums_by_tenant(records_in(path))
    for name, expected in totals.items():
        assert {key: sums[name].get(key, 0) for key in expected} == expected


async def test_life_of_a_container(counters: CounterTree, tmp_path: Path) -> None:
    """Start, pause, resume and end cut; intervals are contiguous and the sums are the kernel's."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100, memory=1000)
        meter.state("a", "paused")
        await meter.cut("a", "pause")
        counters.use("a", cpu_ns=1)
        await meter.cut("a", "resume")
        meter.state("a", "running")
        counters.use("a", cpu_ns=7)
        await meter.final("a", exit_code=3, stopped=True)
    records = records_in(tmp_path)
    running, paused, last = records[1:]

    assert kinds(records) == [
        ("start", ""),
        ("usage", "cut"),
        ("usage", "cut"),
        ("final", "stop"),
    ]
    assert [record.cpu_ns for record in records] == [0, 100, 1, 7]
    assert [record.state for record in records[1:]] == ["running", "paused", "running"]
    assert running.paused_ns == 0
    assert paused.running_ns == 0
    assert paused.paused_ns == paused.boot_end_ns - paused.boot_start_ns > 0
    assert last.exit_code == 3
    assert len({record.incarnation for record in records}) == 1
    for before, after in pairwise(records):
        assert (before.boot_end_ns, before.wall_end) == (after.boot_start_ns, after.wall_start)
        assert after.seq == before.seq + 1
    assert_adds_up(tmp_path, meter)


async def test_update_and_rename_cut(counters: CounterTree, tmp_path: Path) -> None:
    """Limits and names are the interval's: a change of them ends it, a repetition does not."""
    async with metering(counters, tmp_path) as meter:
        subject = about(counters, "a")
        await meter.register(subject)
        meter.state("a", "running")
        resources = {"cpu": {"quota": 150_000, "period": 100_000}, "memory": {"limit": 1 << 20}}
        limited = msgspec.structs.replace(subject, resources=resources, cpu_request_milli=250)
        await meter.cut("a", "update")
        meter.update(limited)
        meter.update(limited)
        await meter.cut("a", "update")
        meter.rename("a", "other")
        counters.use("a", cpu_ns=5)
    records = [record for record in records_in(tmp_path) if record.kind == "usage"]

    assert [record.name for record in records] == ["n-a", "n-a", "other"]
    assert [record.cpu_limit_milli for record in records] == [0, 1500, 1500]
    assert [record.cpu_request_milli for record in records] == [0, 250, 250]
    assert [record.mem_request for record in records] == [0, 1 << 20, 1 << 20]
    assert records[-1].end_reason == "daemon_stop"
    # Whoever requests a quarter of a core is charged it, used or not.
    assert 0 <= records[1].cpu_alloc_ns - records[1].running_ns // 4 <= 1
    assert records[1].cpu_alloc_ns > records[1].cpu_ns
    assert records[1].mem_alloc_bytens2 == 2 * (1 << 20) * records[1].running_ns
    assert_adds_up(tmp_path, meter)


async def test_restart_begins_an_incarnation(counters: CounterTree, tmp_path: Path) -> None:
    """Two runs of a container are two incarnations, each with a start and a final record."""
    async with metering(counters, tmp_path) as meter:
        for used in (5, 9):
            await start(meter, counters, "a")
            counters.use("a", cpu_ns=used)
            await meter.final("a", exit_code=0)
            counters.use("a", cpu_ns=1)
            await remove_cgroup(meter, counters, "a")
        meter.forget("a")
    records = records_in(tmp_path)

    assert [record.kind for record in records] == ["start", "final", "usage"] * 2
    assert [record.cpu_ns for record in records] == [0, 5, 1, 0, 9, 1]
    assert len({record.incarnation for record in records}) == 2
    assert_adds_up(tmp_path, meter)


async def test_gap_of_a_daemon_has_a_record(counters: CounterTree, tmp_path: Path) -> None:
    """What was used while no daemon lived is in a record of its own, which is an estimate."""
    lost = Meter(str(tmp_path / "ledger.db"), counters.driver, cores=1000)
    await lost.open()
    await start(lost, counters, "a")
    counters.use("a", cpu_ns=100, memory=100)
    await lost.cut("a", "poll")
    await lost.books.commits.commit()
    abandon(lost)
    counters.use("a", cpu_ns=30)
    async with metering(counters, tmp_path) as meter:
        await meter.resume_registration(about(counters, "a", new=False), "running")
        await meter.settle(["a"])
        counters.use("a", cpu_ns=4)
        await meter.final("a", exit_code=0)
    records = records_in(tmp_path)

    assert [record.kind for record in records] == ["start", "usage", "gap", "final"]
    assert [record.cpu_ns for record in records] == [0, 100, 30, 4]
    assert [record.estimated for record in records] == [(), (), ("daemon_gap",), ()]
    assert records[2].mem_bytens2 > 0
    assert_adds_up(tmp_path, meter)


async def test_lost_host_ends_at_the_last_commit(counters: CounterTree, tmp_path: Path) -> None:
    """A container of another boot is closed where its last commit was, and not billed beyond."""
    async with metering(counters, tmp_path) as meter:
        meter.books.boot_id = "another-boot"
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
    committed = records_in(tmp_path)[-1]
    counters.use("a", cpu_ns=55)
    counters.remove("a")
    async with metering(counters, tmp_path) as meter:
        subject = MeterSubject(id="a", name="a", tenant="acme")
        await meter.resume_registration(subject, "running")
        await meter.settle(["a"])
    records = records_in(tmp_path)

    assert kinds(records)[-1] == ("final", "host_lost")
    assert records[-1].boot_end_ns == committed.boot_end_ns
    assert sum(record.cpu_ns for record in records) == 100
    assert_adds_up(tmp_path, meter)


async def test_unclaimed_account_ends(counters: CounterTree, tmp_path: Path) -> None:
    """An account that no container claims ends in the ledger where it stood."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
    async with metering(counters, tmp_path) as meter:
        await meter.settle([])
        assert meter.books.file.durable.intervals == {}
    records = records_in(tmp_path)

    assert kinds(records)[-1] == ("final", "exit")
    assert sum(record.cpu_ns for record in records) == 100
    assert_adds_up(tmp_path, meter)


async def test_hour_cuts(counters: CounterTree, tmp_path: Path) -> None:
    """A record ends with the UTC hour; a late reading splits it, in numbers that add up."""
    async with metering(counters, tmp_path) as meter:
        now = boottime_ns()
        # The hour ended 10 ms ago, and another one 5 hours before it.
        meter.books.clock = WallClock(wall_ns=500_000 * HOUR_NS + 10_000_000, boot_ns=now)
        await start(meter, counters, "a")
        subject = meter._subjects["a"]
        begun = now - 5 * HOUR_NS - 7
        older = partial(msgspec.structs.replace, time_ns=begun, sample_ns=begun, cpu_at_ns=begun)
        subject.update_account(older)
        subject.cuts.start(subject.account)
        counters.use("a", cpu_ns=1_000_003, memory=11)
        meter.rounds.tick([subject])
        meter.books.offer(subject, "poll")
    usage = [record for record in records_in(tmp_path) if record.kind == "usage"]

    assert [record.wall_end % HOUR_NS for record in usage[:-1]] == [0] * 5
    assert [record.estimated for record in usage] == [("split",)] * 5 + [()]
    assert sum(record.cpu_ns for record in usage) == 1_000_003
    assert all(record.running_ns == HOUR_NS for record in usage[1:-1])


async def test_clock_step_is_a_record(counters: CounterTree, tmp_path: Path) -> None:
    """A step of the wall is recorded; new intervals have the new time, durations do not notice."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        meter.books.clock = WallClock(wall_ns=0, boot_ns=boottime_ns())
        subject = meter._subjects["a"]
        subject.cuts._wall_at = meter.books.clock.at
        await meter.rounds.cycle()
        counters.use("a", cpu_ns=3)
    records = records_in(tmp_path)
    [step] = [record for record in records if record.kind == "clock_step"]
    usage = [record for record in records if record.kind == "usage"]

    assert step.wall_start < HOUR_NS < step.wall_end
    assert step.boot_start_ns == step.boot_end_ns
    assert (step.container_id, step.tenant) == ("", "")
    assert usage[0].boot_end_ns == usage[1].boot_start_ns
    assert usage[1].wall_start > step.wall_end - 60 * 10**9
    assert meter.health.anomalies["clock_step"] == 1
    assert_adds_up(tmp_path, meter)


async def test_clock_is_the_boots(counters: CounterTree, tmp_path: Path) -> None:
    """A restarted daemon goes on with the labels of its boot: intervals stay contiguous."""
    async with metering(counters, tmp_path) as meter:
        await meter.settle([])
        offset = meter.books.clock.at(0)
        kept = offset - 500_000_000
        meter.books.clock = WallClock(wall_ns=kept, boot_ns=0)
        meter.books.commits.offer_note(meter.books.clock_note())
    async with metering(counters, tmp_path) as meter:
        assert meter.books.clock.at(0) == kept


async def test_price_change_cuts(counters: CounterTree, tmp_path: Path) -> None:
    """No record straddles a price: the change is between two readings of the same instant."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=10)
        assert await meter.change_price("v1")
        counters.use("a", cpu_ns=5)
    async with metering(counters, tmp_path) as meter:
        assert meter.books.price_version == "v1"
    records = records_in(tmp_path)
    usage = [record for record in records if record.kind == "usage"]

    assert [(record.cpu_ns, record.price_version) for record in usage] == [(10, ""), (5, "v1")]
    assert [record.price_version for record in records if record.kind == "price_change"] == ["v1"]


async def test_usage_up_to_now(counters: CounterTree, tmp_path: Path) -> None:
    """What is asked for includes what is not cut yet, once, and agrees with the totals."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=10)
        await meter.cut("a", "poll")
        meter._subjects["a"].cut()
        meter.books.offer(meter._subjects["a"], "poll")
        counters.use("a", cpu_ns=5)
        records = await meter.usage_records(0, 1 << 62)
        sums = sums_by_tenant(records)["acme"]

        assert [(record.seq, record.cpu_ns) for record in records] == [(1, 0), (2, 10), (0, 5)]
        assert sums["cpu_ns"] == meter.view().tenants["acme"].cpu_ns == 15
        assert await meter.usage_records(0, 1) == []
        assert await meter.usage_records(0, 1 << 62, "other") == []


@pytest.mark.parametrize("refusals", [1, 3])
async def test_full_disk_keeps_records(
    counters: CounterTree, tmp_path: Path, refusals: int
) -> None:
    """Records that the disk refuses are written when it takes them, in order and once."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        assert await meter.books.commit(meter._subjects["a"], "start")
        connection = meter.books.file._connection
        assert connection is not None
        connection.execute("PRAGMA query_only = 1")
        for _ in range(refusals):
            counters.use("a", cpu_ns=10)
            await meter.cut("a", "update")
            meter._subjects["a"].cut()
            assert not await meter.books.commit(meter._subjects["a"], "update")
        assert meter.books.commits.pending == 1
        connection.execute("PRAGMA query_only = 0")
        counters.use("a", cpu_ns=1)
        assert (await meter.final("a", exit_code=0)).durable
    records = records_in(tmp_path)

    assert [record.cpu_ns for record in records] == [0, *[10] * refusals, 1]
    assert_adds_up(tmp_path, meter)
