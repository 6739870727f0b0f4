"""Corrections in a real daemon: the ledger, usage, bills and verify, and who may make them."""

from __future__ import annotations

import json
import pwd
import sqlite3
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_billing import (
    BURN,
    assert_recomputed,
    bill_of,
    book_text,
    load_book,
    usage,
)
from tests.harness import RunningDaemon
from tests.naive_bill import raw_records
from tests.traces import assert_one_line

pytestmark = pytest.mark.e2e

FAULTY = 1


def test_a_record_is_corrected(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Usage and bill are right at once, the old record stays, /metrics never falls."""
    book = book_text()
    load_book(daemon, tmp_path / "book.toml", book)
    daemon.run("run", "--rm", "--tenant", "acme", "--name", "job", "busybox", "sh", "-c", BURN)
    daemon.run("run", "--rm", "--tenant", "beta", "busybox", "true")
    final = next(one for one in raw_records(daemon.root / "ledger.db") if one["kind"] == "final")
    before, shown = bill_of(daemon), usage(daemon)["acme"]
    metric = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="acme")

    half = Decimal(final["cpu_ns"] // 2).scaleb(-9)
    said = daemon.out(
        "ledger", "correct", str(final["seq"]), "--add", f"cpu_used=-{half}",
        "--reason", "ran on our behalf",
    )  # fmt: skip
    *_, made = raw_records(daemon.root / "ledger.db")
    assert said.startswith(
        f"record {made['seq']} corrects record {final['seq']} of job: cpu_used -"
    )
    assert (made["kind"], made["corrects"]) == ("correction", final["seq"])
    assert (made["author"], made["reason"]) == (pwd.getpwuid(0).pw_name, "ran on our behalf")
    assert final in raw_records(daemon.root / "ledger.db")
    tail = daemon.out("ledger", "tail", "-n1")
    assert f"corrects {final['seq']}: ran on our behalf" in tail
    assert daemon.out("ledger", "tail", "-n1", "--format", "{{.Author}} {{.Corrects}}") == (
        f"{made['author']} {final['seq']}"
    )
    now = usage(daemon)["acme"]
    assert Fraction(shown["CPUUsed"]) - Fraction(now["CPUUsed"]) == Fraction(half)
    assert now["CPUMax"] == shown["CPUMax"]
    assert daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="acme") == metric
    after = bill_of(daemon)
    line = next(
        line for line in after["Invoices"][0]["Lines"]
        if (line["SKU"], line["LedgerSequence"]) == ("cpu", final["seq"])
    )  # fmt: skip
    assert (line["Note"], line["Correction"]) == ("ran on our behalf", False)
    assert payable(after, "acme") < payable(before, "acme")
    assert payable(after, "beta") == payable(before, "beta")
    assert_recomputed(daemon, book, after)

    daemon.run("ledger", "correct", str(final["seq"]), "--void", "--reason", "all of it")
    daemon.kill()
    daemon.start()
    assert Fraction(usage(daemon)["acme"]["CPUUsed"]) == 0
    voided = bill_of(daemon)
    own = [one for one in voided["Invoices"] if one["Tenant"] == "acme"]
    assert {Decimal(one["Payable"]) for one in own} <= {Decimal(0)}
    assert daemon.run("ledger", "verify").returncode == 0
    counted = daemon.metric("aruntime_ledger_records_total", kind="correction")
    assert counted == 2


def payable(bill: dict[str, Any], tenant: str) -> Decimal:
    """Return what a tenant pays."""
    (found,) = (one["Payable"] for one in bill["Invoices"] if one["Tenant"] == tenant)
    return Decimal(found)


def test_what_cannot_be_corrected(daemon: RunningDaemon) -> None:
    """One line that says why, and nothing is written."""
    daemon.run("run", "--rm", "--name", "job", "busybox", "true")
    before = raw_records(daemon.root / "ledger.db")
    seq = str(before[-1]["seq"])
    why = ("--reason", "x")
    for words, said in (
        ((seq, "--add", "cpu_used=-5000", *why), "less than nothing would be left"),
        (("999", "--add", "cpu_used=5", *why), "the ledger has no record 999"),
        (("job", "--void", *why), "'job' is no record number"),
        (("0", "--void", *why), "'0' is no record number"),
        ((seq, "--void"), "say why with --reason"),
        ((seq, "--void", "--reason", "two\nlines"), "--reason must be one line"),
        ((seq, *why), "--add or --set MEASURE=NUMBER, or --void"),
        ((seq, "--void", "--add", "cpu_used=1", *why), "--add or --set MEASURE=NUMBER, or --void"),
        ((seq, "--set", "money=1", *why), "measures are cpu_used"),
    ):
        assert_one_line(daemon.run("ledger", "correct", *words, code=None), said=said)
    assert raw_records(daemon.root / "ledger.db") == before


def test_a_changed_correction_is_found(daemon: RunningDaemon) -> None:
    """Its amount, its author, its reason, what it says it found; and one that is taken out."""
    daemon.run("run", "--rm", "--name", "job", "busybox", "sh", "-c", BURN)
    seq = raw_records(daemon.root / "ledger.db")[-1]["seq"]
    daemon.run("ledger", "correct", str(seq), "--add", "cpu_used=-0.001", "--reason", "an error")
    made = raw_records(daemon.root / "ledger.db")[-1]["seq"]
    daemon.run("ledger", "checkpoint")
    daemon.stop()
    path = daemon.root / "ledger.db"
    whole = path.read_bytes()
    changed = [
        f"UPDATE records SET record = replace(record, '{old}', '{new}') WHERE seq = {made}"
        for old, new in (
            ("-1000000", "-9000000"), ("an error", "no error"), ('"author":"', '"author":"x'),
            ('"amended":{', '"amended":{"run_ns":5,'), (f'"corrects":{seq}', '"corrects":1'),
        )
    ]  # fmt: skip
    for statement in (*changed, f"DELETE FROM records WHERE seq = {made}"):
        path.write_bytes(whole)
        with sqlite3.connect(path, isolation_level=None) as connection:
            assert connection.execute(statement).rowcount == 1, statement
        connection.close()
        daemon.start()
        done = daemon.run("ledger", "verify", code=None)
        daemon.stop()
        assert done.returncode == FAULTY, statement
        assert f"record {made}" in done.stderr, statement
    path.write_bytes(whole)
    daemon.start()
    exported = map(json.loads, daemon.out("ledger", "export").splitlines())
    assert [line["seq"] for line in exported if line.get("reason") == "an error"] == [made]
    assert daemon.run("ledger", "verify").returncode == 0
