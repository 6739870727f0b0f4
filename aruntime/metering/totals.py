"""What must survive every crash: tenant totals and container accounts, in one SQLite file.

One transaction holds the new account of a container (baseline and totals) *and* the growth of its
tenant's totals, so after ``kill -9`` at any instruction a difference is either there, with the
baseline it grew from, or it is computed again from the old baseline. Nothing is lost, doubled or
lowered. Records carry absolute accounts, not differences: writing one twice changes nothing.

One thread at a time may write; callers serialise :meth:`TotalsFile.write` (group commit is
:mod:`aruntime.metering.commit`'s). The file is ``ROOT/ledger.db``; schema 1 holds no history, the
ledger's records come with schema 2, which migrates it. A newer schema is refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from aruntime.errors import Unavailable
from aruntime.metering.account import Account, Ints, Totals
from aruntime.metering.schema import prepare


class TenantTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Usage of all containers of a tenant, ended and removed ones included."""

    container_ns: int = 0
    """Time containers were alive, running or paused."""
    paused_ns: int = 0
    cpu_ns: int = 0
    memory_bytens2: int = 0
    block_read_bytes: int = 0
    block_write_bytes: int = 0
    network_receive_bytes: int = 0
    network_transmit_bytes: int = 0
    containers: int = 0
    """Containers that were ever committed."""


class Record(NamedTuple):
    """The state of one container at a cut, to be made durable."""

    container_id: str
    tenant: str
    account: Account
    reason: str
    """Why it was cut: poll, start, pause, resume, update, exec, exit, remove, daemon_stop."""
    forget: bool = False
    """The container was removed: keep its usage with the tenant, drop its account."""


class Durable(NamedTuple):
    """What is on disk, and what the disk still refuses. Never changed, only replaced."""

    tenants: dict[str, TenantTotals]
    accounts: dict[str, Account]
    unwritten: dict[str, Record]


def tenant_share(totals: Totals) -> Ints:
    """A container's part of each field of :class:`TenantTotals` but the last, in order."""
    return (
        totals.running_ns + totals.paused_ns,
        totals.paused_ns,
        totals.cpu_ns,
        totals.memory_bytens2,
        sum(row[0] for row in totals.block.values()),
        sum(row[1] for row in totals.block.values()),
        sum(row[0] for row in totals.network.values()),
        sum(row[1] for row in totals.network.values()),
    )


_NOTHING = (0,) * 8


def add_growth(tenant: TenantTotals, before: Account | None, after: Account) -> TenantTotals:
    """Tenant totals with the growth of one container between two of its accounts."""
    base = tenant_share(before.totals) if before is not None else _NOTHING
    share = tenant_share(after.totals)
    grown = (
        total + new - old
        for total, new, old in zip(msgspec.structs.astuple(tenant), share, base, strict=False)
    )
    fields = dict(zip(TenantTotals.__struct_fields__, grown, strict=False))
    return TenantTotals(**fields, containers=tenant.containers + (before is None))


class TotalsFile:
    """Owns the SQLite connection. All methods block; call them off the event loop.

    Attributes:
        durable: the last committed state, replaced as a whole under ``lock`` so that whoever
            adds live numbers to it sees one instant.
        host_id: made once with the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.durable = Durable({}, {}, {})
        self.host_id = ""
        self._connection: sqlite3.Connection | None = None
        self._sequences: dict[str, int] = {}
        self._tenant_of: dict[str, str] = {}

    def open(self) -> None:
        """Open or make the file and load it.

        Raises:
            Unavailable: the file cannot be made or read, is no ledger, or has a newer schema.
        """
        try:
            # SQLite gives its log beside the file the mode that the file has at that moment.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._connection = connection
            prepare(connection, self.path)
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

    def write(self, records: Iterable[Record]) -> sqlite3.Error | None:
        """Commit records and whatever was refused before, in one transaction.

        Never raises for a failing disk: the records are kept in memory, visible in
        ``durable.unwritten``, and go with the next call (rule R18). Returns the error if so.
        """
        batch = dict(self.durable.unwritten)
        for record in records:
            batch[record.container_id] = record
        if not batch:
            return None
        tenants, accounts = dict(self.durable.tenants), dict(self.durable.accounts)
        sequences = dict(self._sequences)
        for record in batch.values():
            _apply(record, tenants, accounts, sequences)
        try:
            self._commit(batch, tenants, sequences)
        except sqlite3.Error as error:
            with self.lock:
                self.durable = self.durable._replace(unwritten=batch)
            return error
        self._sequences = sequences
        with self.lock:
            self.durable = Durable(tenants, accounts, {})
        return None

    def forgetting(self, container_id: str) -> Record:
        """The record that drops an account loaded from the file and not taken back."""
        account = self.durable.accounts[container_id]
        tenant = self._tenant_of[container_id]
        return Record(container_id, tenant, account, "remove", forget=True)

    def _commit(
        self, batch: dict[str, Record], tenants: dict[str, TenantTotals], sequences: dict[str, int]
    ) -> None:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the ledger is closed")
        encode = msgspec.json.encode
        touched = {record.tenant for record in batch.values()}
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO tenants VALUES (?, ?)",
                [(name, encode(tenants[name]).decode()) for name in touched],
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
                    for record in batch.values()
                    if not record.forget
                ],
            )
            connection.executemany(
                "DELETE FROM containers WHERE container_id = ?",
                [(record.container_id,) for record in batch.values() if record.forget],
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _load(self, connection: sqlite3.Connection) -> None:
        self.host_id = connection.execute("SELECT id FROM host").fetchone()[0]
        tenants = {
            name: msgspec.json.decode(totals, type=TenantTotals)
            for name, totals in connection.execute("SELECT tenant, totals FROM tenants")
        }
        accounts: dict[str, Account] = {}
        rows = connection.execute("SELECT container_id, tenant, seq, account FROM containers")
        for container_id, tenant, seq, account in rows:
            accounts[container_id] = msgspec.json.decode(account, type=Account)
            self._sequences[container_id] = seq
            self._tenant_of[container_id] = tenant
        with self.lock:
            self.durable = Durable(tenants, accounts, {})


def _apply(
    record: Record,
    tenants: dict[str, TenantTotals],
    accounts: dict[str, Account],
    sequences: dict[str, int],
) -> None:
    """What the file will hold after a record."""
    before = accounts.get(record.container_id)
    tenants[record.tenant] = add_growth(
        tenants.get(record.tenant, TenantTotals()), before, record.account
    )
    sequences[record.container_id] = sequences.get(record.container_id, 0) + 1
    accounts[record.container_id] = record.account
    if record.forget:
        del accounts[record.container_id], sequences[record.container_id]
