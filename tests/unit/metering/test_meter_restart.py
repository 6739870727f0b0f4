"""What the meter makes of its own death, of vanished cgroups and of restarted containers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from aruntime.metering.meter import Meter
from aruntime.metering.subject import MeterSubject
from tests.metering import CounterTree, abandon, about, metering, start, tenant_cpu


async def test_restart_of_the_daemon_is_exact(counters: CounterTree, tmp_path: Path) -> None:
    """A daemon that died with its containers alive finds what they used meanwhile."""
    path = tmp_path
    lost = Meter(str(path / "ledger.db"), counters.driver, cores=1000)
    await lost.open()
    for name in ("committed", "never-committed"):
        await start(lost, counters, name)
        counters.use(name, cpu_ns=100)
    await lost.final("committed", exit_code=0)  # durable; the daemon dies before it is reaped
    abandon(lost)
    for name in ("committed", "never-committed"):
        counters.use(name, cpu_ns=11)
    async with metering(counters, path) as meter:
        settled = [meter.settled]
        for name in ("committed", "never-committed"):
            await meter.resume_registration(about(counters, name, new=False), "running")
        await meter.settle(["committed", "never-committed"])
        settled.append(meter.settled)

        assert settled == [False, True]
        assert tenant_cpu(meter) == 211

        finals = [await meter.final(name, exit_code=0) for name in ("committed", "never-committed")]

        assert [final.totals.cpu_ns for final in finals] == [111, 111]
        assert tenant_cpu(meter) == 222


async def test_gap_is_flagged(counters: CounterTree, tmp_path: Path) -> None:
    """Memory of the time without a daemon is estimated, and the account says so."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
    async with metering(counters, tmp_path) as meter:
        await meter.resume_registration(about(counters, "a", new=False), "running")
        await meter.settle(["a"])
        [container] = meter.view().containers

        assert container.account.estimated == ("daemon_gap",)
        assert meter.health.anomalies["gap"] == 1


@pytest.mark.parametrize("is_known_gone", [True, False])
async def test_lost_cgroup_ends_with_the_last_commit(
    counters: CounterTree, tmp_path: Path, is_known_gone: bool
) -> None:
    """A container whose cgroup vanished while no daemon lived keeps what was committed (R9)."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
    subject = about(counters, "a", new=False)
    counters.use("a", cpu_ns=55)
    counters.remove("a")
    if is_known_gone:
        subject = MeterSubject(id="a", name="a", tenant="acme")
    async with metering(counters, tmp_path) as meter:
        await meter.resume_registration(subject, "running")
        final = await meter.final("a", exit_code=None)

        assert final.totals.cpu_ns == 100
        assert tenant_cpu(meter) == 100
        assert meter.health.anomalies["unknown_cgroup"] == 1


async def test_unknown_accounts_are_dropped_at_settling(
    counters: CounterTree, tmp_path: Path
) -> None:
    """An account nobody knows any more goes; its usage stays with the tenant."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
    async with metering(counters, tmp_path) as meter:
        await meter.settle([])

        assert tenant_cpu(meter) == 100
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT * FROM containers").fetchall() == []
    connection.close()


async def test_restarted_container_goes_on(counters: CounterTree, tmp_path: Path) -> None:
    """A second run adds to the first, over a restart of the daemon too."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
        await meter.final("a", exit_code=1)
        counters.remove("a")
        meter.unregister("a")
        await meter.register(about(counters, "a"), restarted=True)
        meter.state("a", "running")
        counters.use("a", cpu_ns=20)
        await meter.final("a", exit_code=1)
        counters.remove("a")
    async with metering(counters, tmp_path) as meter:
        meter.declare(MeterSubject(id="a", name="a", tenant="acme"), "exited")
        await meter.settle(["a"])
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=3)
        final = await meter.final("a", exit_code=0)

        assert final.totals.cpu_ns == 123
        assert final.totals.restarts == 1
        assert tenant_cpu(meter) == 123
        assert meter.view().tenants["acme"].containers == 1


async def test_no_restart_is_shown_before_it_is_kept(counters: CounterTree, tmp_path: Path) -> None:
    """A daemon that is killed right after a restart takes back nothing that it has shown."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        await meter.final("a", exit_code=1)
        counters.remove("a")
        meter.unregister("a")
        await meter.register(about(counters, "a"), restarted=True)
        shown = [meter.view().containers[0].account.totals.restarts]
        await meter.cut("a", "start")
        await meter.books.commits.commit()
        shown.append(meter.view().containers[0].account.totals.restarts)

        assert shown == [0, 1]
