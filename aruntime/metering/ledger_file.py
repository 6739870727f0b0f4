"""``ROOT/ledger.db``, opened for writing: what must survive every crash, in one SQLite file.

Accounts, the records cut from them, tenant totals and the head of the chain change in one
transaction (rule R4, :mod:`aruntime.metering.totals`). One thread at a time may write; callers
serialise :meth:`LedgerFile.write` and its like (group commit is :mod:`aruntime.metering.commit`'s).

Out of scope: reading it beside a daemon (:mod:`aruntime.metering.ledger_reader`), deleting old
records (:mod:`aruntime.metering.retention`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from aruntime.errors import Unavailable
from aruntime.metering.account import Account
from aruntime.metering.chain import Checkpoint, append
from aruntime.metering.intervals import Interval
from aruntime.metering.migration import migrate
from aruntime.metering.record import LedgerRecord, genesis
from aruntime.metering.schema import insert_records, next_head, prepare, set_state
from aruntime.metering.totals import Durable, Note, Record, TenantTotals, apply, joined


class LedgerFile:
    """Owns the SQLite connection. All methods block; call them off the event loop.

    Attributes:
        durable: the last committed state, replaced as a whole under ``lock`` so that whoever
            adds live numbers to it sees one instant.
        host_id: made once with the file.
        created_ns: Unix time of that.
        state: values of the table ``state`` as of opening, decoded.
        checkpoint: the last one, None before the first.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.durable = Durable({}, {}, {})
        self.host_id = ""
        self.created_ns = 0
        self.state: dict[str, Any] = {}
        self.checkpoint: Checkpoint | None = None
        self._connection: sqlite3.Connection | None = None
        self._sequences: dict[str, int] = {}
        self._tenant_of: dict[str, str] = {}

    def open(self) -> None:
        """Open or make the file and load it; an older schema is brought up to the present one.

        Raises:
            Unavailable: the file cannot be made or read, is no ledger, or has a newer schema.
        """
        try:
            # SQLite gives its log beside the file the mode that the file has at that moment.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._connection = connection
            prepare(connection, self.path, migrate)
            self._load(connection)
        except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise Unavailable(
                f"cannot open ledger {self.path}: {reason}; check the disk, or move the file away"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; what is unwritten is lost, as after a crash."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, records: Iterable[Record], notes: Iterable[Note] = ()) -> sqlite3.Error | None:
        """Commit records, notes and whatever was refused before, in one transaction.

        Never raises for a failing disk: what it was given is kept in memory, visible in
        ``durable``, and goes with the next call (rule R18). Returns the error if so.
        """
        now = self.durable
        batch = dict(now.unwritten)
        for record in records:
            batch[record.container_id] = joined(batch.get(record.container_id), record)
        all_notes = (*now.notes, *notes)
        if not batch and not all_notes:
            return None
        tenants, accounts = dict(now.tenants), dict(now.accounts)
        intervals, sequences = dict(now.intervals), dict(self._sequences)
        drafts = [note.record for note in all_notes if note.record is not None]
        for record in batch.values():
            known = intervals.get(record.container_id)
            written = known.nth if known is not None else 0
            drafts += [draft.record for draft in record.drafts if draft.nth > written]
            apply(record, tenants, accounts, sequences)
            if record.interval is not None:
                intervals[record.container_id] = record.interval
            if record.forget:
                intervals.pop(record.container_id, None)
        head, sealed = append(now.head, self.host_id, drafts)
        after = Durable(tenants, accounts, {}, intervals, head)
        try:
            with self.transaction() as connection:
                _store(connection, batch.values(), after, now, sequences)
                if sealed:
                    insert_records(connection, sealed)
                    set_state(connection, "head", head)
                for note in all_notes:
                    for key, value in note.state.items():
                        set_state(connection, key, value)
        except sqlite3.Error as error:
            with self.lock:
                self.durable = now._replace(unwritten=batch, notes=all_notes)
            return error
        self._sequences = sequences
        with self.lock:
            self.durable = after
        return None

    def append(self, record: LedgerRecord) -> LedgerRecord:
        """Append one record of no account, durable when this returns; as it stands in the chain.

        Raises:
            Unavailable: the disk refuses. Unlike with :meth:`write` the record is dropped then:
                whoever made it is told, and may try again.
        """
        now = self.durable
        head, (sealed,) = append(now.head, self.host_id, [record])
        try:
            with self.transaction() as connection:
                insert_records(connection, [sealed])
                set_state(connection, "head", head)
        except sqlite3.Error as error:
            raise Unavailable(f"cannot write to the ledger {self.path}: {error}") from error
        with self.lock:
            self.durable = now._replace(head=head)
        return sealed.record

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the single writer, durable when the block ends.

        Raises:
            sqlite3.Error: the file is closed or the disk refuses; nothing has changed then.
        """
        connection = self._connection
        if connection is None:
            raise sqlite3.ProgrammingError("the ledger is closed")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def forgetting(self, container_id: str) -> Record:
        """The record that drops an account loaded from the file and not taken back."""
        account = self.durable.accounts[container_id]
        tenant = self._tenant_of[container_id]
        return Record(container_id, tenant, account, "remove", forget=True)

    def _load(self, connection: sqlite3.Connection) -> None:
        query = "SELECT id, created_ns FROM host"
        self.host_id, self.created_ns = connection.execute(query).fetchone()
        decode = msgspec.json.decode
        tenants = {
            name: decode(totals, type=TenantTotals)
            for name, totals in connection.execute("SELECT tenant, totals FROM tenants")
        }
        accounts: dict[str, Account] = {}
        rows = connection.execute("SELECT container_id, tenant, seq, account FROM containers")
        for container_id, tenant, seq, account in rows:
            accounts[container_id] = decode(account, type=Account)
            self._sequences[container_id] = seq
            self._tenant_of[container_id] = tenant
        intervals = {
            container_id: decode(interval, type=Interval)
            for container_id, interval in connection.execute("SELECT * FROM intervals")
        }
        self.state = {
            key: decode(value) for key, value in connection.execute("SELECT * FROM state")
        }
        query = "SELECT checkpoint FROM checkpoints ORDER BY n DESC LIMIT 1"
        if row := connection.execute(query).fetchone():
            self.checkpoint = decode(row[0], type=Checkpoint)
        head = next_head(connection, genesis(self.host_id, self.created_ns))
        with self.lock:
            self.durable = Durable(tenants, accounts, {}, intervals, head)


def _store(
    connection: sqlite3.Connection,
    records: Iterable[Record],
    after: Durable,
    before: Durable,
    sequences: dict[str, int],
) -> None:
    """Write what is kept per tenant and per container."""
    encode = msgspec.json.encode
    batch = list(records)
    connection.executemany(
        "INSERT OR REPLACE INTO tenants VALUES (?, ?)",
        [(name, encode(after.tenants[name]).decode()) for name in {one.tenant for one in batch}],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                record.container_id,
                record.tenant,
                record.account.incarnation,
                sequences[record.container_id],
                record.reason,
                encode(record.account).decode(),
            )
            for record in batch
            if not record.forget
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO intervals VALUES (?, ?)",
        [
            (record.container_id, encode(record.interval).decode())
            for record in batch
            if record.interval is not None
            and not record.forget
            and record.interval is not before.intervals.get(record.container_id)
        ],
    )
    forgotten = [(record.container_id,) for record in batch if record.forget]
    connection.executemany("DELETE FROM containers WHERE container_id = ?", forgotten)
    connection.executemany("DELETE FROM intervals WHERE container_id = ?", forgotten)
