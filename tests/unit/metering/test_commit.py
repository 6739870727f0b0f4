"""Group commit: fewer writes than commits, nothing lost by cancellation or a refusing disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

import trio
import trio.testing

from aruntime.metering.account import Account, Totals
from aruntime.metering.commit import GroupCommit
from aruntime.metering.health import Health
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.totals import Note, Record


def record(name: str, cpu_ns: int = 1) -> Record:
    """A record with some CPU time."""
    return Record(name, "acme", Account(totals=Totals(cpu_ns=cpu_ns)), "poll")


class GatedFile(LedgerFile):
    """A real file whose first write waits until it is let go."""

    def __init__(self, path: str, gate: trio.Event) -> None:
        super().__init__(path)
        self._gate = gate
        self.batches: list[int] = []

    def write(self, records: Iterable[Record], notes: Iterable[Note] = ()) -> sqlite3.Error | None:
        """Wait, note the size, write."""
        batch = list(records)
        if not self.batches:
            trio.from_thread.run(self._gate.wait)
        self.batches.append(len(batch))
        return super().write(batch, notes)


async def test_commits_gather_while_one_is_written(tmp_path: Path) -> None:
    """Fifty commits during a slow write become one second write, and all are durable."""
    gate = trio.Event()
    file = GatedFile(str(tmp_path / "ledger.db"), gate)
    file.open()
    health = Health()
    commits = GroupCommit(file, health)
    results: list[bool] = []

    async def commit(name: str) -> None:
        results.append(await commits.commit(record(name)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit, "first")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(50):
            nursery.start_soon(commit, f"c{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert commits.pending == 50
        gate.set()
    file.close()

    assert file.batches == [1, 50]
    assert results == [True] * 51
    assert file.durable.tenants["acme"].cpu_ns == 51
    assert sum(health.commit_duration.state().counts) == 2
    assert health.last_commit_ns > 0
    assert commits.pending == 0


async def test_cancelled_commit_is_written_by_the_next(tmp_path: Path) -> None:
    """A caller that is cancelled while it waits leaves its record to whoever comes next."""
    gate = trio.Event()
    file = GatedFile(str(tmp_path / "ledger.db"), gate)
    file.open()
    commits = GroupCommit(file, Health())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.commit, record("first"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await commits.commit(record("left"))
        gate.set()
    await commits.commit(record("next"))
    file.close()

    assert {"first", "left", "next"} == file.durable.accounts.keys()


async def test_offered_records_go_along(tmp_path: Path) -> None:
    """An offer waits for nothing; the newest of two offers for a container is what is written."""
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    commits = GroupCommit(file, Health())
    commits.offer(record("a", 1))
    commits.offer(record("a", 5))
    assert commits.pending == 1
    assert await commits.commit(record("b", 2))
    file.close()

    assert file.durable.tenants["acme"].cpu_ns == 7


async def test_refusal_is_counted_and_told(tmp_path: Path) -> None:
    """When the disk refuses, the caller goes on with False and the record stays pending."""
    file = LedgerFile(str(tmp_path / "ledger.db"))
    health = Health()
    commits = GroupCommit(file, health)

    assert not await commits.commit(record("a"))
    assert health.write_errors == 1
    assert commits.pending == 1
    file.open()
    try:
        assert not file.durable.unwritten  # opening is a restart: memory does not survive it
    finally:
        file.close()


async def test_work_and_commit_in_one_turn(tmp_path: Path) -> None:
    """What the work offers is in the write that follows, with what was offered before."""
    gate = trio.Event()
    gate.set()
    file = GatedFile(str(tmp_path / "ledger.db"), gate)
    file.open()
    commits = GroupCommit(file, Health())
    commits.offer(record("before"))
    assert await commits.commit_after(lambda: commits.offer(record("by work")))
    assert file.batches == [2]
    assert file.durable.accounts.keys() == {"before", "by work"}
    assert commits.pending == 0
    file.close()


async def test_commits_that_come_during_work(tmp_path: Path) -> None:
    """They wait for the write, whichever group they are in; those offered late go with a later."""
    gate = trio.Event()
    file = GatedFile(str(tmp_path / "ledger.db"), gate)
    file.open()
    commits = GroupCommit(file, Health())
    working, worked = threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        worked.wait()
        commits.offer(record("worked"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.commit_after, work)
        await trio.to_thread.run_sync(working.wait)
        nursery.start_soon(commits.commit, record("meanwhile"))
        # Work that meets a writer takes a turn of its own and a later write.
        nursery.start_soon(commits.commit_after, lambda: commits.offer(record("second")))
        await trio.sleep(0.05)
        worked.set()
        await trio.sleep(0.05)
        gate.set()
    assert file.durable.accounts.keys() == {"worked", "meanwhile", "second"}
    assert commits.pending == 0
    file.close()


async def test_cancelled_work_is_done(tmp_path: Path) -> None:
    """A final reading that has begun is committed, whoever gives up."""
    gate = trio.Event()
    gate.set()
    file = GatedFile(str(tmp_path / "ledger.db"), gate)
    file.open()
    commits = GroupCommit(file, Health())
    with trio.move_on_after(0):
        await commits.commit_after(lambda: commits.offer(record("a")))
    assert file.durable.accounts.keys() == {"a"}
    file.close()
