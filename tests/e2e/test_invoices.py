"""Bills that a real daemon issues: the same bytes ever after, listed, verified, never changed."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from aruntime.metering.bill import Period, period_of
from aruntime.metering.record import LedgerRecord
from tests.billing import NOVEMBER, book_text, records_of_days
from tests.harness import RunningDaemon
from tests.ledgers import write_records
from tests.naive_bill import raw_records
from tests.traces import assert_one_line

pytestmark = pytest.mark.e2e

FAULTY = 1


def last_month() -> Period:
    """Return the month before the one in which the test runs."""
    return period_of(period_of(time.time_ns()).start_ns - 1)


def used_last_month(daemon: RunningDaemon, seed: int = 1) -> list[LedgerRecord]:
    """Put usage of three tenants last month into the ledger of a daemon, which starts again."""
    ns = last_month().start_ns - NOVEMBER.start_ns
    moved = [
        msgspec.structs.replace(one, wall_start=one.wall_start + ns, wall_end=one.wall_end + ns)
        for one in records_of_days(seed, runs=3, hours=5)
    ]
    daemon.stop()
    written = write_records(daemon.root / "ledger.db", moved)
    daemon.start()
    return written


def load_book(daemon: RunningDaemon, text: str) -> None:
    """Put a book in force."""
    path = daemon.base / "book.toml"
    path.write_text(text)
    daemon.run("price", "load", str(path))


def bills(daemon: RunningDaemon, *words: str) -> dict[str, str]:
    """Return a month's bill in every format that is text."""
    return {
        chosen: daemon.out("bill", "--format", chosen, *words)
        for chosen in ("table", "json", "focus-csv")
    }


def test_an_issued_bill_is_the_same_ever_after(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Over new prices, corrections, records that are deleted, kill -9; the naive way, too."""
    month = str(last_month())
    records = used_last_month(daemon)
    load_book(daemon, book_text().replace("2026-01-01", "2020-01-01"))
    before = json.loads(daemon.out("bill", "--period", month, "--format", "json"))
    assert before["Issued"] is None
    daemon.run("bill", "--period", month, "--issue")
    issued = bills(daemon, "--period", month)
    found = json.loads(issued["json"])
    for one in before["Invoices"]:
        own = next(invoice for invoice in found["Invoices"] if invoice["Tenant"] == one["Tenant"])
        assert {**one, "Number": own["Number"]} == {**own, "LedgerHeadHash": one["LedgerHeadHash"]}
    assert [one["Number"] for one in found["Invoices"]] == [1, 2, 3]
    assert (found["Issued"]["Number"], found["Issued"]["By"]) == (1, "root")
    assert "issued 20" in issued["table"]
    parquet = tmp_path / "first.parquet"
    daemon.run("bill", "--period", month, "--format", "focus-parquet", "-o", str(parquet))

    text = (daemon.base / "book.toml").read_text()
    load_book(daemon, text.replace('name = "Acme, ', 'name = "Other, '))
    record = next(one for one in records if one.proc_write)
    said = daemon.out(
        "ledger", "correct", str(record.seq), "--void", "--reason", "the host was at fault"
    )
    assert f"counts in {period_of(time.time_ns())}" in said
    assert daemon.run("ledger", "verify").returncode == 0
    daemon.kill()
    daemon.start()
    assert bills(daemon, "--period", month) == issued
    again_json = daemon.out("bill", "--period", month, "--issue", "--format", "json")
    assert again_json == issued["json"]
    again = tmp_path / "again.parquet"
    daemon.run("bill", "--period", month, "--format", "focus-parquet", "-o", str(again))
    assert again.read_bytes() == parquet.read_bytes()
    tenant = json.loads(daemon.out("bill", "--period", month, "--tenant", "beta",
                                   "--format", "json"))  # fmt: skip
    assert tenant["Invoices"] == [one for one in found["Invoices"] if one["Tenant"] == "beta"]
    credit = json.loads(daemon.out("bill", "--format", "json"))
    assert [line["Correction"] for one in credit["Invoices"] for line in one["Lines"]
            if one["Tenant"] == record.tenant].count(True) > 0  # fmt: skip
    listed_and_shown(daemon, month, issued["json"])


def listed_and_shown(daemon: RunningDaemon, month: str, issued: str) -> None:
    """Each invoice alone, by number and id; one that is not there is said."""
    rows = daemon.out("invoice", "ls", "--format", "{{.Number}} {{.Period}} {{.Tenant}} {{.By}}")
    assert rows.splitlines() == [
        f"1 {month} acme root", f"2 {month} beta root", f"3 {month} kyoto root",
    ]  # fmt: skip
    assert daemon.out("invoice", "ls", "--tenant", "beta", "--format", "{{.Number}}") == "2"
    assert daemon.out("invoice", "ls", "--period", "2020-01", "--format", "{{.Number}}") == ""
    (want,) = (one for one in json.loads(issued)["Invoices"] if one["Number"] == 2)
    for name in ("2", want["InvoiceID"]):
        shown = json.loads(daemon.out("invoice", "show", name, "--format", "json"))
        assert shown["Invoices"] == [want]
    assert "invoice 2" in daemon.out("invoice", "show", "2")
    for words, said in (
        (("invoice", "show", "9"), "no invoice 9 was issued"),
        (("invoice", "ls", "--period", "May"), "give a month such as 2026-11"),
        (("bill", "--issue"), "goes on: its bill can be issued when the month is over"),
        (("bill", "--period", month, "--issue", "--tenant", "acme"), "leave --tenant and --prices"),
    ):
        assert_one_line(daemon.run(*words, code=None), said=said)
    version = daemon.out("price", "list", "--no-trunc", "--format", "{{.Version}}").splitlines()[0]
    refused = daemon.run("bill", "--period", month, "--prices", version, code=None)
    assert_one_line(refused, said="leave --prices out")


def test_a_changed_invoice_is_found(daemon: RunningDaemon) -> None:
    """By verify; and it is not shown as if nothing were. Late usage is said."""
    month = str(last_month())
    used_last_month(daemon, seed=2)
    load_book(daemon, book_text().replace("2026-01-01", "2020-01-01"))
    daemon.run("bill", "--period", month, "--issue")
    found = json.loads(daemon.out("ledger", "verify", "--format", "json"))
    assert (found["OK"], found["Bills"]) == (True, 1)
    late = used_last_month(daemon, seed=3)
    warned = daemon.run("bill", "--period", month)
    assert f"{len(late)} records of {month} came after its bill was made" in warned.stderr
    daemon.stop()
    path = daemon.root / "ledger.db"
    whole = path.read_bytes()
    for statement, said in (
        ("UPDATE bills SET seal = replace(seal, 'root', 'toor')", "bill 1: its signature"),
        ("UPDATE bills SET document = zeroblob(9)", "bill 1: its document"),
        ("DELETE FROM bills", "bills: 1 that checkpoints name are not there"),
    ):
        path.write_bytes(whole)
        with sqlite3.connect(path, isolation_level=None) as connection:
            assert connection.execute(statement).rowcount == 1
        connection.close()
        daemon.start()
        done = daemon.run("ledger", "verify", code=None)
        shown = daemon.run("bill", "--period", month, code=None)
        daemon.stop()
        assert done.returncode == FAULTY
        assert said in done.stderr
        if "document" in said:
            assert_one_line(shown, said="see 'aruntime ledger verify'")
    assert len(raw_records(path)) > len(late)
    daemon.start()
