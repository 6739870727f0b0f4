"""The durable totals: one transaction, refusals, a disk that says no."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import Unavailable
from aruntime.metering.account import Account, Totals
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.schema import SCHEMA_VERSION
from aruntime.metering.totals import Record, TenantTotals, add_growth


def account(cpu_ns: int, memory_bytens2: int = 0) -> Account:
    """An account that has used some CPU."""
    return Account(
        incarnation="boot:1",
        status="running",
        totals=Totals(cpu_ns=cpu_ns, memory_bytens2=memory_bytens2),
    )


def record(container_id: str, cpu_ns: int, tenant: str = "acme", *, forget: bool = False) -> Record:
    """A record with some CPU time."""
    return Record(container_id, tenant, account(cpu_ns), "poll", forget=forget)


def opened(path: Path) -> LedgerFile:
    """The file, open."""
    file = LedgerFile(str(path))
    file.open()
    return file


def refuse(file: LedgerFile) -> None:
    """Make SQLite answer "database or disk is full" from now on."""
    assert file._connection is not None
    pages = file._connection.execute("PRAGMA page_count").fetchone()[0]
    file._connection.execute(f"PRAGMA max_page_count = {pages}")


def allow(file: LedgerFile) -> None:
    """Undo :func:`refuse`."""
    assert file._connection is not None
    file._connection.execute("PRAGMA max_page_count = 1000000")


def bulky(container_id: str, cpu_ns: int) -> Record:
    """A record that needs new pages."""
    padded = msgspec.structs.replace(account(cpu_ns), estimated=("x" * 20000,))
    return Record(container_id, "acme", padded, "poll")


def test_totals_come_back(tmp_path: Path) -> None:
    """What was written is there after a clean close, with the host's identity."""
    file = opened(tmp_path / "ledger.db")
    assert file.write([record("a", 5), record("b", 7), record("c", 1, "other")]) is None
    host_id = file.host_id
    file.close()
    again = opened(tmp_path / "ledger.db")
    try:
        assert TenantTotals(cpu_ns=12, containers=2) == again.durable.tenants["acme"]
        assert TenantTotals(cpu_ns=1, containers=1) == again.durable.tenants["other"]
        assert account(7) == again.durable.accounts["b"]
        assert host_id == again.host_id
    finally:
        again.close()


def test_written_twice_counts_once(tmp_path: Path) -> None:
    """Records are absolute: repeating one, also after a restart, adds nothing."""
    file = opened(tmp_path / "ledger.db")
    file.write([record("a", 5)])
    file.write([record("a", 5)])
    file.close()
    file = opened(tmp_path / "ledger.db")
    try:
        file.write([record("a", 5)])

        assert TenantTotals(cpu_ns=5, containers=1) == file.durable.tenants["acme"]
    finally:
        file.close()


def test_forgotten_container_leaves_its_usage(tmp_path: Path) -> None:
    """A removed container's account goes; its tenant keeps what it used."""
    file = opened(tmp_path / "ledger.db")
    file.write([record("a", 5)])
    file.write([record("a", 9, forget=True)])
    file.close()
    file = opened(tmp_path / "ledger.db")
    try:
        assert file.durable.accounts == {}
        assert file.durable.tenants["acme"].cpu_ns == 9
    finally:
        file.close()


def test_forgetting_a_loaded_account(tmp_path: Path) -> None:
    """An account whose container is unknown after a restart is dropped, its tenant unchanged."""
    file = opened(tmp_path / "ledger.db")
    file.write([record("a", 5, "other")])
    file.close()
    file = opened(tmp_path / "ledger.db")
    try:
        file.write([file.forgetting("a")])

        assert file.durable.accounts == {}
        assert TenantTotals(cpu_ns=5, containers=1) == file.durable.tenants["other"]
    finally:
        file.close()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1 << 70), st.booleans()), max_size=20)
)
def test_tenant_is_the_sum_of_its_containers(growths: list[tuple[str, int, bool]]) -> None:
    """Whatever is committed in whatever order, the tenant's total is the sum of final totals."""
    tenant = TenantTotals()
    accounts: dict[str, Account] = {}
    for container_id, growth, _ in growths:
        before = accounts.get(container_id)
        grown = (before.totals.cpu_ns if before else 0) + growth
        accounts[container_id] = account(grown, memory_bytens2=grown * 3)
        tenant = add_growth(tenant, before, accounts[container_id])

    assert sum(a.totals.cpu_ns for a in accounts.values()) == tenant.cpu_ns
    assert sum(a.totals.memory_bytens2 for a in accounts.values()) == tenant.memory_bytens2
    assert len(accounts) == tenant.containers


def test_full_disk_keeps_counting_in_memory(tmp_path: Path) -> None:
    """A refused write loses nothing: it is kept, shown as unwritten, and written later."""
    file = opened(tmp_path / "ledger.db")
    try:
        file.write([record("a", 5)])
        refuse(file)
        error = file.write([bulky("a", 11), bulky("b", 2)])

        assert isinstance(error, sqlite3.OperationalError)
        assert file.durable.tenants["acme"].cpu_ns == 5
        assert {"a", "b"} == file.durable.unwritten.keys()
        assert file.durable.unwritten["a"].account.totals.cpu_ns == 11

        assert file.write([bulky("a", 12)]) is not None
        allow(file)

        assert file.write([]) is None
        assert file.durable.unwritten == {}
        assert file.durable.tenants["acme"].cpu_ns == 14
    finally:
        file.close()


def test_full_disk_and_crash_falls_back_to_what_was_durable(tmp_path: Path) -> None:
    """After a refused write and a crash the file is whole and holds the last good commit."""
    file = opened(tmp_path / "ledger.db")
    file.write([record("a", 5)])
    refuse(file)
    file.write([bulky("a", 11)])
    file.close()
    file = opened(tmp_path / "ledger.db")
    try:
        assert file.durable.tenants["acme"].cpu_ns == 5
        assert account(5) == file.durable.accounts["a"]
    finally:
        file.close()


def test_closed_file_refuses_without_raising(tmp_path: Path) -> None:
    """A write after close is kept like any refused one."""
    file = opened(tmp_path / "ledger.db")
    file.close()

    assert isinstance(file.write([record("a", 5)]), sqlite3.ProgrammingError)
    assert {"a"} == file.durable.unwritten.keys()


def test_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    """A file of a later aruntime is named in the error and left as it is."""
    path = tmp_path / "ledger.db"
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(Unavailable, match=f"schema {SCHEMA_VERSION + 1}"):
        opened(path)

    assert before == path.read_bytes()


def test_foreign_database_is_refused(tmp_path: Path) -> None:
    """Somebody else's SQLite file is not written to."""
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()

    with pytest.raises(Unavailable, match="no ledger"):
        opened(path)


def test_garbage_is_refused(tmp_path: Path) -> None:
    """A file that is no database gives one line of advice."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database, " * 1000)

    with pytest.raises(Unavailable, match="cannot open ledger"):
        opened(path)


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    """A path that cannot be made gives one line of advice."""
    with pytest.raises(Unavailable, match="cannot open ledger"):
        opened(tmp_path / "nowhere" / "ledger.db")


def test_commits_are_synced_to_a_log(tmp_path: Path) -> None:
    """The pragmas that durability rests on are in force, and the file is private."""
    file = opened(tmp_path / "ledger.db")
    try:
        assert file._connection is not None

        assert file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        for name in (file.path, f"{file.path}-wal", f"{file.path}-shm"):
            assert os.stat(name).st_mode & 0o777 == 0o600, name
    finally:
        file.close()
