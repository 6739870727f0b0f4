"""The meter's operations, on a tree of counter files, with the real driver, reader and ledger."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from aruntime.errors import Unavailable
from aruntime.metering.meter import Meter
from tests.metering import CounterTree, about, metering, start, tenant_cpu


async def test_life_of_a_container(counters: CounterTree, tmp_path: Path) -> None:
    """From launch to removal: the totals are the counters, and the tenant keeps them."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=1000, memory=8192, inactive_file=4096)
        await meter.cut("a", "start")
        counters.use("a", cpu_ns=500, oom=2)
        final = await meter.final("a", exit_code=137)
        counters.remove("a")
        meter.unregister("a")
        meter.forget("a")

        assert final.totals.cpu_ns == 1500
        assert (final.exit_code, final.oom_kills, final.durable) == (137, 2, True)
        assert tenant_cpu(meter) == 1500
        assert final.totals.memory_bytens2 > 0
    async with metering(counters, tmp_path) as meter:
        assert tenant_cpu(meter) == 1500
        assert meter.view().tenants["acme"].containers == 1


async def test_usage_before_the_first_reading_counts(counters: CounterTree, tmp_path: Path) -> None:
    """What the launch itself used is the container's: counters are taken from zero."""
    async with metering(counters, tmp_path) as meter:
        subject = about(counters, "a")
        counters.use("a", cpu_ns=123)
        await meter.register(subject)

        assert (await meter.final("a", exit_code=None)).totals.cpu_ns == 123


async def test_final_twice_is_final_once(counters: CounterTree, tmp_path: Path) -> None:
    """A final reading repeated after a crash adds nothing but growth."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100, memory=1 << 20)
        await meter.cut("a", "start")
        first = await meter.final("a", exit_code=0)
        second = await meter.final("a", exit_code=0)

        assert first.totals == second.totals


async def test_last_microseconds_are_found_by_the_recheck(
    counters: CounterTree, tmp_path: Path
) -> None:
    """Growth between the final reading and the cgroup's removal is durable, once."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
        await meter.final("a", exit_code=0)

        assert not await meter.recheck("a")

        counters.use("a", cpu_ns=7)

        assert await meter.recheck("a")
        assert not await meter.recheck("a")
        assert tenant_cpu(meter) == 107
    async with metering(counters, tmp_path) as meter:
        assert tenant_cpu(meter) == 107


async def test_forgotten_container_is_never_added_again(
    counters: CounterTree, tmp_path: Path
) -> None:
    """Late operations on a removed container do not bring its usage back a second time."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
        await meter.final("a", exit_code=0)
        meter.forget("a")
        meter.forget("a")
        await meter.books.commits.commit()
        await meter.cut("a", "update")
        await meter.recheck("a")
        await meter.final("a", exit_code=0)
        await meter.books.commits.commit()

        assert tenant_cpu(meter) == 100


async def test_paused_time_is_split_off(counters: CounterTree, tmp_path: Path) -> None:
    """Time from frozen to thaw is paused, the rest running; the state is told."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        meter.state("a", "pausing")
        meter.state("a", "paused")
        paused = meter.view().tenant_containers
        await trio.sleep(0.01)
        meter.state("a", "running")
        final = await meter.final("a", exit_code=0)

        assert paused == {("acme", "paused"): 1}
        assert 10_000_000 <= final.totals.paused_ns < 5_000_000_000
        assert final.totals.running_ns > 0
        assert final.totals.pauses == 1
        assert meter.view().tenant_containers == {("acme", "exited"): 1}


async def test_views_of_the_dead_linger(counters: CounterTree, tmp_path: Path) -> None:
    """CounterTree and exit code stay for the linger, levels go at once; then everything goes."""
    async with metering(counters, tmp_path, linger_seconds=0.05) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100, memory=4096)
        await meter.cut("a", "start")
        alive = meter.view().containers[0]
        await meter.final("a", exit_code=3)
        dead = meter.view().containers[0]
        await trio.sleep(0.06)

        assert alive.stats is not None
        assert alive.exit_code is None
        assert dead.stats is None
        assert dead.fast is None
        assert (dead.exit_code, dead.account.totals.cpu_ns) == (3, 100)
        assert list(meter.view().containers) == []
        assert tenant_cpu(meter) == 100


async def test_snapshot(counters: CounterTree, tmp_path: Path) -> None:
    """The numbers for ``stats``: levels while it lives, totals always."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100, memory=10_000, inactive_file=4_000)
        await meter.cut("a", "start")
        shown = meter.snapshot("a")

        assert shown is not None
        assert (
            shown.memory_usage_bytes,
            shown.memory_working_set_bytes,
            shown.memory_limit_bytes,
            shown.pids,
            shown.status,
        ) == (10_000, 6_000, 0, 1, "running")
        assert meter.snapshot("b") is None

        await meter.final("a", exit_code=0)
        ended = meter.snapshot("a")

        assert ended is not None
        assert (ended.memory_usage_bytes, ended.pids, ended.totals.cpu_ns) == (0, 0, 100)


async def test_names_and_limits_follow(counters: CounterTree, tmp_path: Path) -> None:
    """rename and update change what is shown, not what was counted."""
    async with metering(counters, tmp_path) as meter:
        subject = about(counters, "a")
        await meter.register(subject)
        meter.rename("a", "other")

        assert meter.view().containers[0].about.name == "other"

        meter.update(subject)

        assert meter.view().containers[0].about.name == "n-a"


async def test_unknown_containers_are_left_alone(counters: CounterTree, tmp_path: Path) -> None:
    """Operations on a container that was never registered do nothing."""
    async with metering(counters, tmp_path) as meter:
        meter.state("x", "running")
        meter.rename("x", "y")
        meter.unregister("x")
        meter.forget("x")
        await meter.cut("x", "pause")

        assert not await meter.recheck("x")
        assert not await meter.exec_final("x", os.getpid())
        assert meter.view().tenants == {}


async def test_zombies_figures_are_added_once(counters: CounterTree, tmp_path: Path) -> None:
    """An exec'd process's storage traffic comes from its zombie's /proc/PID/io, once."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        junk = tmp_path / "junk"
        process = await trio.to_thread.run_sync(zombie, junk)
        try:
            written = read_io(process.pid)

            assert await meter.exec_final("a", process.pid)
            assert await meter.exec_final("a", process.pid)
        finally:
            process.communicate()
        final = await meter.final("a", exit_code=0)

        assert written == final.totals.process[1]
        assert not await meter.exec_final("a", process.pid)


def zombie(junk: Path) -> subprocess.Popen[bytes]:
    """A process that has written to the disk and is not reaped."""
    process = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={junk}", "bs=64k", "count=4"], stderr=subprocess.DEVNULL
    )
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


def read_io(pid: int) -> int:
    """write_bytes of a process."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


async def test_loops_poll_commit_and_drop(counters: CounterTree, tmp_path: Path) -> None:
    """With the loops running, numbers become durable without anyone asking, dead ones go."""
    async with (
        metering(
            counters, tmp_path, poll_seconds=0.01, slow_seconds=0.02, linger_seconds=0
        ) as meter,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(meter.run)
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=100)
        await until(lambda: tenant_durable(meter) == 100)
        await meter.final("a", exit_code=0)
        meter.forget("a")
        await until(lambda: "a" not in meter._subjects)
        nursery.cancel_scope.cancel()

    assert sum(meter.health.poll_duration.state().counts) > 2
    assert meter.health.last_poll_ns > 0


async def until(condition: Callable[[], bool]) -> None:
    """Let the loops run until something is so."""
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.002)


def tenant_durable(meter: Meter) -> int:
    """CPU of the tenant that is on disk."""
    totals = meter.books.file.durable.tenants.get("acme")
    return totals.cpu_ns if totals is not None else 0


async def test_unreadable_counters_are_told_by_controller(
    counters: CounterTree, tmp_path: Path
) -> None:
    """A file that is not in the kernel's format is counted and costs the others nothing."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "bad")
        await start(meter, counters, "good")
        counters.use("good", cpu_ns=5)
        await trio.Path(
            counters.driver.cgroup("bad").directories["memory"], "memory.usage_in_bytes"
        ).write_text("much\n")
        meter.rounds.tick(list(meter._subjects.values()))

        assert sum(meter.health.polls_failed.values()) == 1
        assert tenant_cpu(meter) == 5

        final = await meter.final("bad", exit_code=0)

        assert meter.view().containers[0].account.status == "exited"
        assert final.totals.cpu_ns == 0
        assert meter.view().containers[0].account.estimated == ("unreadable",)


async def test_removed_cgroup_is_no_error(counters: CounterTree, tmp_path: Path) -> None:
    """A cgroup that vanished between two readings is no sample; its numbers stay."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=9)
        await meter.cut("a", "start")
        counters.remove("a")
        meter.rounds.tick(list(meter._subjects.values()))

        assert sum(meter.health.polls_failed.values()) == 0
        assert tenant_cpu(meter) == 9


async def test_broken_ledger_is_refused(counters: CounterTree, tmp_path: Path) -> None:
    """Opening a meter on something that is no ledger fails with advice."""
    await trio.Path(tmp_path / "ledger.db").write_bytes(b"x" * 4096)

    with pytest.raises(Unavailable, match="ledger"):
        async with metering(counters, tmp_path):
            pass
