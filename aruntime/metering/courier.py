"""One push exporter's way through the ledger: read, send, keep the cursor, try again.

:meth:`Courier.step` takes records after the cursor, at most a batch of items, hands them to the
exporter and, when it has acknowledged them, writes the cursor durably. A crash in between sends
the same items again: at least once, never less. Memory is bounded by the batch.

An item that the receiver refuses is found by sending halves, kept in ``NAME.rejected``, and passed
by. That holds only while the receiver takes something else, of the same batch or of what comes
after it: one that refuses all is wrongly configured, or broken, and then nothing is passed by.

Everything blocks, in one worker thread at a time; :attr:`Courier.state` may be read in any. Out of
scope: when to step and what to log (:mod:`aruntime.daemon.exporting`).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from aruntime.errors import AruntimeError, Unavailable, os_error_text
from aruntime.metering.cursor import Cursor, CursorFile
from aruntime.metering.export import ExportState
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.push import NotDelivered, PushExporter, PushOptions, Rejected

PROBES = 20
"""Containers of which an item is tried when a receiver has refused a whole batch."""
PROBED_RECORDS = 1000
"""How far after the batch they are looked for."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""A receiver that asks for more is asked again after this."""


class Step(NamedTuple):
    """What one step came to."""

    wait_seconds: float
    """Until the next one is due; 0 when more is waiting."""
    records: int = 0
    """Records that were acknowledged, or given up in part."""
    rejected: Sequence[str] = ()
    """Why items were given up, one each."""
    error: Exception | None = None
    """Why nothing was acknowledged."""
    notes: Sequence[str] = ()
    """What else an administrator should know."""


class _Batch(NamedTuple):
    items: list[Any]
    cursor: Cursor
    records: int
    more: bool
    notes: list[str]


class Courier:
    """State: the cursor, the row of failures, the figures that are exported.

    Args:
        name: of the configuration table.
        exporter: closed by :meth:`close`.
        options: its settings.
        ledger: path of ``ledger.db``.
        directory: where cursors lie; made when the first is written.
    """

    def __init__(
        self,
        name: str,
        exporter: PushExporter[Any],
        options: PushOptions,
        *,
        ledger: str,
        directory: str,
    ) -> None:
        self.name = name
        self.exporter = exporter
        self.options = options
        self.state = ExportState(name, options.type or name, exporter.target)
        self._ledger = ledger
        self._file = CursorFile(directory, name)
        self._cursor: Cursor | None = None
        self._is_saved = True
        self._failures_in_row = 0

    def step(self) -> Step:
        """Deliver one batch. Never raises an :class:`Exception`: failures are in the answer."""
        try:
            if not self._is_saved and self._cursor is not None:
                self._save(self._cursor)
            with LedgerReader(self._ledger) as reader:
                batch = self._next_batch(reader)
            rejected = self._deliver(batch)
            self._advance(batch)
        except Exception as error:
            return self._failed(error)
        self._failures_in_row = 0
        self.state = self.state._replace(last_success_ns=time.time_ns(), error="")
        wait = 0.0 if batch.more else self.options.interval
        return Step(wait, batch.records, rejected, notes=batch.notes)

    def close(self) -> None:
        """Close the exporter's connections."""
        self.exporter.close()

    def _next_batch(self, reader: LedgerReader) -> _Batch:
        """What comes after the cursor: whole records, until their items fill a batch."""
        notes: list[str] = []
        head, _ = reader.head()
        cursor = self._cursor_in(reader, notes)
        if head < cursor.seq:
            raise Unavailable(
                f"record {cursor.seq} was exported, the ledger ends at {head}: it was set back;"
                f" remove {self._file.path} to export it again from its start"
            )
        items: list[Any] = []
        last, count = cursor, 0
        for record in reader.records(after_seq=cursor.seq, limit=self.options.batch):
            if record.seq != last.seq + 1:
                notes.append(
                    f"records {last.seq + 1} to {record.seq - 1} were removed before their export"
                )
            items += self.exporter.items(record)
            last = Cursor(host_id=cursor.host_id, seq=record.seq, hash=record.hash)
            count += 1
            if len(items) >= self.options.batch:
                break
        self.state = self.state._replace(sequence=cursor.seq, pending=head - cursor.seq)
        more = count > 0 and last.seq < head
        return _Batch(items, last, count, more, notes)

    def _cursor_in(self, reader: LedgerReader, notes: list[str]) -> Cursor:
        """The cursor in this ledger; read and checked once, then kept."""
        if self._cursor is not None:
            return self._cursor
        host_id, _ = reader.host()
        found = self._file.read()
        if found is not None and found.host_id != host_id:
            notes.append(f"this is another ledger ({host_id}): it is exported from its start")
            found = Cursor(host_id=host_id)
        elif found is None:
            found = Cursor(host_id=host_id)
            if self.options.start == "newest":
                seq, digest = reader.head()
                found = Cursor(host_id=host_id, seq=seq, hash=digest)
                self._save(found)
        for record in reader.records(after_seq=found.seq - 1, limit=1) if found.seq else ():
            if record.seq == found.seq and record.hash != found.hash:
                raise Unavailable(
                    f"record {found.seq} is not the one that was exported: the ledger was set back"
                    f" or changed; remove {self._file.path} to export it again from its start"
                )
        self._cursor = found
        return found

    def _deliver(self, batch: _Batch) -> list[str]:
        """Send items; returns why some were given up.

        Raises:
            NotDelivered: they must be sent again.
        """
        if not batch.items:
            return []
        before = self.state.delivered
        refused = self._send(batch.items)
        if not refused:
            return []
        if self.state.delivered == before and not self._takes_others(batch.cursor.seq):
            raise NotDelivered(f"the receiver refuses everything: {refused[0][1]}")
        self._file.reject((self.exporter.shown(item), reason) for item, reason in refused)
        self.state = self.state._replace(rejected=self.state.rejected + len(refused))
        return [reason for _item, reason in refused]

    def _takes_others(self, after_seq: int) -> bool:
        """Whether the receiver takes an item of what comes later, the newest of each container.

        What it takes now comes again in its turn.
        """
        newest: dict[str, Any] = {}
        with LedgerReader(self._ledger) as reader:
            for record in reader.records(after_seq=after_seq, limit=PROBED_RECORDS):
                if items := self.exporter.items(record):
                    newest.pop(record.container_id, None)  # the order is that of the newest
                    newest[record.container_id] = items[0]
        return any(not self._send([item]) for item in list(newest.values())[-PROBES:])

    def _send(self, items: list[Any]) -> list[tuple[Any, str]]:
        """Send items, in halves where they are refused; returns those refused alone."""
        try:
            self.exporter.send(items)
        except Rejected as error:
            if len(items) == 1:
                return [(items[0], error.message)]
            half = len(items) // 2
            return self._send(items[:half]) + self._send(items[half:])
        self.state = self.state._replace(delivered=self.state.delivered + len(items))
        return []

    def _advance(self, batch: _Batch) -> None:
        """Everything is acknowledged: what is sent next comes after it, also if the disk is full.

        Raises:
            OSError: the cursor is not durable; the next step tries again.
        """
        if batch.cursor == self._cursor:
            return
        self._cursor, self._is_saved = batch.cursor, False
        pending = self.state.pending - (batch.cursor.seq - self.state.sequence)
        self.state = self.state._replace(sequence=batch.cursor.seq, pending=pending)
        self._save(batch.cursor)

    def _save(self, cursor: Cursor) -> None:
        self._file.write(cursor)
        self._is_saved = True

    def _failed(self, error: Exception) -> Step:
        """Count a failure; the pause doubles with each in a row, a random half of it varies."""
        options = self.options
        ceiling = min(options.retry_max, options.retry_min * 2.0 ** min(self._failures_in_row, 30))
        wait = random.uniform(ceiling / 2, ceiling)
        if isinstance(error, NotDelivered):
            wait = max(wait, min(error.retry_after, MAX_RETRY_AFTER_SECONDS))
        self._failures_in_row += 1
        self.state = self.state._replace(failures=self.state.failures + 1, error=worded(error))
        return Step(wait, error=error)


def worded(error: Exception) -> str:
    """An error as one line."""
    if isinstance(error, AruntimeError):
        return error.message
    if isinstance(error, OSError):
        return os_error_text(error)
    if isinstance(error, sqlite3.Error | msgspec.MsgspecError):
        return f"cannot read the ledger: {error}"
    return f"internal error ({type(error).__name__}: {error})"


def is_foreseen(error: Exception) -> bool:
    """Whether an error is the world's fault; others are bugs and logged with their traceback."""
    return isinstance(error, AruntimeError | OSError | sqlite3.Error | msgspec.MsgspecError)
