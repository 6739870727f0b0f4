"""Group commit: many containers' records, one transaction, off the event loop.

Whoever waits first writes for all who came before the write began; while a write runs, the next
group gathers. So a thousand containers that end together cost a few syncs of the disk, and one
that ends alone waits for no timer.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import trio

from aruntime.metering.health import Health
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.totals import Note, Record, joined

Result = TypeVar("Result")


class _Group:
    """Records that go to the disk together."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.notes: list[Note] = []
        self.durable: bool | None = None


class GroupCommit:
    """The single writer of a :class:`LedgerFile`. State: the gathering group and a lock.

    Attributes:
        order: held, by whatever thread, from when a record is taken from its container until it
            is in the gathering group: so a later group never has an older account.
    """

    def __init__(self, file: LedgerFile, health: Health) -> None:
        self._file = file
        self._health = health
        self._group = _Group()
        self._writer = trio.Lock()
        self.order = threading.RLock()

    def offer(self, record: Record) -> None:
        """Hand over a record for the next write, without waiting for one."""
        with self.order:
            records = self._group.records
            records[record.container_id] = joined(records.get(record.container_id), record)

    def offer_note(self, note: Note) -> None:
        """Hand over a record of the host itself."""
        with self.order:
            self._group.notes.append(note)

    @property
    def pending(self) -> int:
        """Containers whose last cut is not durable yet."""
        return len(self._group.records.keys() | self._file.durable.unwritten.keys())

    async def exclusively(self, call: Callable[[], Result]) -> Result:
        """Run another writer of the file in a worker thread, between two writes.

        A call once begun is finished; the caller is cancelled after it.
        """
        async with self._writer:
            return await trio.to_thread.run_sync(call)

    async def commit(self, *records: Record) -> bool:
        """Write the records and everything offered before; True when they are on disk.

        False: the disk refuses; the records stay in memory and go with a later write. A
        cancelled caller leaves its records to the next writer; a write once begun is finished.
        """
        for record in records:
            self.offer(record)
        group = self._group
        async with self._writer:
            if group.durable is None:
                with self.order:
                    self._group = _Group()
                with trio.CancelScope(shield=True):
                    error = await trio.to_thread.run_sync(self._write, group)
                group.durable = error is None
        return group.durable

    async def commit_after(self, work: Callable[[], object]) -> bool:
        """Do some work that offers records, and commit: in one turn of a worker thread if it can.

        Cancelled, both are done all the same. Returns as :meth:`commit`.
        """
        durable = False
        with trio.CancelScope(shield=True):
            try:
                self._writer.acquire_nowait()
            except trio.WouldBlock:
                await trio.to_thread.run_sync(work)
                return await self.commit()
            try:
                durable = await trio.to_thread.run_sync(self._work_and_write, work)
            finally:
                self._writer.release()
        return durable

    def _work_and_write(self, work: Callable[[], object]) -> bool:
        work()
        with self.order:
            group, self._group = self._group, _Group()
        group.durable = self._write(group) is None
        return group.durable

    def _write(self, group: _Group) -> sqlite3.Error | None:
        start = time.monotonic_ns()
        error = self._file.write(group.records.values(), group.notes)
        self._health.commit_duration.observe_ns(time.monotonic_ns() - start)
        if error is None:
            self._health.last_commit_ns = time.time_ns()
        else:
            self._health.write_errors += 1
        return error
