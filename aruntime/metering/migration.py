"""From schema 1, which knew totals only, to schema 2, which has a history.

What was used before becomes records too, so that the sum over the records is the tenant's total
from the beginning: one ``correction`` per container that is known, and one per tenant for
containers that are gone. They are flagged ``migrated``: when the usage fell within their span,
nobody knows any more.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import msgspec

from aruntime.metering.account import Account, Totals
from aruntime.metering.chain import append, sums_of
from aruntime.metering.clock import boottime_ns
from aruntime.metering.intervals import Interval, Terms, open_interval, record_of
from aruntime.metering.record import LedgerRecord, genesis
from aruntime.metering.schema import insert_records, load_head, set_state
from aruntime.metering.totals import TenantTotals, add_growth


def migrate(connection: sqlite3.Connection) -> None:
    """Write the records of what schema 1 knew; part of the caller's transaction.

    Raises:
        msgspec.DecodeError: the file is not what schema 1 wrote.
        sqlite3.Error: it cannot be written.
    """
    host_id, created_ns = connection.execute("SELECT id, created_ns FROM host").fetchone()
    known: dict[str, TenantTotals] = {}
    records: list[LedgerRecord] = []
    for container_id, tenant, account in _accounts(connection):
        known[tenant] = add_growth(known.get(tenant, TenantTotals()), None, account)
        interval, record = _opening(container_id, tenant, account, created_ns)
        records.append(record)
        text = msgspec.json.encode(interval).decode()
        connection.execute("INSERT INTO intervals VALUES (?, ?)", (container_id, text))
    query = "SELECT tenant, totals FROM tenants ORDER BY tenant"
    for tenant, text in connection.execute(query).fetchall():
        totals = _allocated(msgspec.json.decode(text, type=TenantTotals))
        _store(connection, "UPDATE tenants SET totals = ? WHERE tenant = ?", totals, tenant)
        records.append(_remainder(tenant, totals, known.get(tenant, TenantTotals()), created_ns))
    head = load_head(connection, genesis(host_id, created_ns))
    head, sealed = append(head, host_id, [record for record in records if sums_of(record)])
    insert_records(connection, sealed)
    set_state(connection, "head", head)


def _accounts(connection: sqlite3.Connection) -> Iterator[tuple[str, str, Account]]:
    query = "SELECT container_id, tenant, account FROM containers ORDER BY container_id"
    for container_id, tenant, text in connection.execute(query).fetchall():
        account = msgspec.json.decode(text, type=Account)
        totals = msgspec.structs.replace(
            account.totals,
            cpu_alloc_ns=account.totals.cpu_ns,
            memory_alloc_bytens2=account.totals.memory_bytens2,
        )
        # Requests were not counted before: the greater of none and the usage is the usage.
        account = msgspec.structs.replace(account, totals=totals, requested_ns=totals.running_ns)
        query = "UPDATE containers SET account = ? WHERE container_id = ?"
        _store(connection, query, account, container_id)
        yield container_id, tenant, account


def _allocated(totals: TenantTotals) -> TenantTotals:
    return msgspec.structs.replace(
        totals,
        cpu_allocated_ns=totals.cpu_ns,
        memory_allocated_bytens2=totals.memory_bytens2,
    )


def _store(connection: sqlite3.Connection, query: str, value: object, key: str) -> None:
    connection.execute(query, (msgspec.json.encode(value).decode(), key))


def _opening(
    container_id: str, tenant: str, account: Account, created_ns: int
) -> tuple[Interval, LedgerRecord]:
    """The interval that is open from now on, and the record of all before it."""
    terms, wall_ns = Terms(tenant=tenant), time.time_ns()
    before = open_interval(
        msgspec.structs.replace(account, totals=Totals()), terms, created_ns, nth=0
    )
    # If the account is of another boot its times are too, and the label is nothing but the present.
    wall_end = wall_ns - max(0, boottime_ns() - account.time_ns)
    record = msgspec.structs.replace(
        record_of(before, account, kind="correction"),
        container_id=container_id,
        wall_end=max(created_ns, wall_end),
        boot_start_ns=0,
        estimated=("migrated",),
    )
    ended = account.status in ("exited", "created")
    return open_interval(account, terms, record.wall_end, nth=1, ended=ended), record


def _remainder(
    tenant: str, totals: TenantTotals, known: TenantTotals, created_ns: int
) -> LedgerRecord:
    """What a tenant used in containers that are gone."""
    lived = totals.container_ns - known.container_ns
    paused = totals.paused_ns - known.paused_ns
    read = totals.block_read_bytes - known.block_read_bytes
    written = totals.block_write_bytes - known.block_write_bytes
    received = totals.network_receive_bytes - known.network_receive_bytes
    sent = totals.network_transmit_bytes - known.network_transmit_bytes
    return LedgerRecord(
        kind="correction",
        tenant=tenant,
        wall_start=created_ns,
        wall_end=max(created_ns, time.time_ns()),
        running_ns=lived - paused,
        paused_ns=paused,
        cpu_ns=totals.cpu_ns - known.cpu_ns,
        cpu_alloc_ns=totals.cpu_allocated_ns - known.cpu_allocated_ns,
        mem_bytens2=totals.memory_bytens2 - known.memory_bytens2,
        mem_alloc_bytens2=totals.memory_allocated_bytens2 - known.memory_allocated_bytens2,
        blk={"": (read, written, 0, 0, 0)} if read or written else {},
        net={"": (received, sent, 0, 0)} if received or sent else {},
        end_reason="cut",
        estimated=("migrated",),
    )
