"""A ledger of schema 1, which knew totals only, becomes one with records that add up to them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from aruntime.errors import Unavailable
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.schema import APPLICATION_ID, SCHEMA_1
from tests.metering import (
    CounterTree,
    about,
    faults_in,
    metering,
    records_in,
    sums_by_tenant,
    sums_of_totals,
)

LIVING = (
    '{"incarnation":"boot:7:5000","status":"running","time_ns":9000,"sample_ns":9000,'
    '"sample_bytes":512,"cpu_at_ns":9000,"cpu_raw":70,"block_raw":{"vda":[5,6,1,1,0]},'
    '"totals":{"cpu_ns":70,"running_ns":4000,"memory_bytens2":123456789012345678901234,'
    '"block":{"vda":[5,6,1,1,0]},"network":{"eth0":[7,8,1,1,0,0]},"process":[1,9,0,9]}}'
)
ENDED = (
    '{"incarnation":"old:3:1","status":"exited","time_ns":50,'
    '"totals":{"cpu_ns":30,"running_ns":40,"paused_ns":10}}'
)
TENANTS = {
    "acme": '{"container_ns":4000,"cpu_ns":170,"memory_bytens2":123456789012345678901235,'
    '"block_read_bytes":5,"block_write_bytes":106,"network_receive_bytes":7,'
    '"network_transmit_bytes":8,"containers":2}',
    "other": '{"container_ns":50,"paused_ns":10,"cpu_ns":30,"containers":1}',
}
"""acme has one living container and one that is gone, which used 100 ns and wrote 100 bytes."""


def write_schema_1(path: Path) -> None:
    """A file as version 1 left it."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in SCHEMA_1:
        connection.execute(statement)
    connection.execute("INSERT INTO host VALUES ('the-host', 1700000000000000000)")
    connection.executemany("INSERT INTO tenants VALUES (?, ?)", TENANTS.items())
    rows = [
        ("a", "acme", "boot:7:5000", 12, "poll", LIVING),
        ("b", "other", "old:3:1", 3, "exit", ENDED),
    ]
    connection.executemany("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_records_hold_what_was_before(tmp_path: Path) -> None:
    """Per container and per tenant's rest one correction, flagged; the sums are the totals."""
    write_schema_1(tmp_path / "ledger.db")
    with LedgerReader(tmp_path / "ledger.db") as reader:
        assert list(reader.records()) == []
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    tenants = file.durable.tenants
    file.close()
    records = records_in(tmp_path)
    sums = sums_by_tenant(records)

    assert faults_in(tmp_path) == []
    assert {(record.kind, record.estimated) for record in records} == {
        ("correction", ("migrated",))
    }
    assert [(record.container_id, record.cpu_ns) for record in records] == [
        ("a", 70),
        ("b", 30),
        ("", 100),
    ]
    for name, totals in tenants.items():
        expected = sums_of_totals(totals)
        assert {key: sums[name].get(key, 0) for key in expected} == expected
    assert tenants["acme"].cpu_allocated_ns == 170
    assert records[0].incarnation == "boot:7:5000"


async def test_daemon_goes_on_after_migration(counters: CounterTree, tmp_path: Path) -> None:
    """The container that lived on is taken back; its later records add to the migrated ones."""
    subject = about(counters, "a")
    write_schema_1(tmp_path / "ledger.db")
    async with metering(counters, tmp_path) as meter:
        counters.use("a", cpu_ns=11)
        await meter.resume_registration(subject, "running")
        await meter.settle(["a"])
        await meter.final("a", exit_code=0)
        totals = meter.books.file.durable.tenants["acme"]
    records = [record for record in records_in(tmp_path) if record.container_id == "a"]

    assert [record.kind for record in records] == ["correction", "final", "start", "gap", "final"]
    assert totals.cpu_ns == 181
    assert sums_by_tenant(records_in(tmp_path))["acme"]["cpu_ns"] == 181
    assert faults_in(tmp_path) == []


def test_interrupted_migration_leaves_schema_1(tmp_path: Path) -> None:
    """A file that cannot be migrated stays as it is, and the refusal says why."""
    path = tmp_path / "ledger.db"
    write_schema_1(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE containers SET account = 'no account' WHERE container_id = 'b'")
    connection.close()
    file = LedgerFile(str(path))
    with pytest.raises(Unavailable, match="cannot open ledger"):
        file.open()

    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    assert connection.execute(query).fetchall() == [("containers",), ("host",), ("tenants",)]
    connection.close()
