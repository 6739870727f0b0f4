"""Bills that were issued: the same bytes for ever, numbered, and what is changed is found."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from aruntime_exporters.focus import FocusCsv

from aruntime.daemon.commands.bill_rows import bill_json, bill_table
from aruntime.errors import Conflict, Unavailable
from aruntime.metering import exported
from aruntime.metering.amending import Wanted, amend
from aruntime.metering.archive import ISSUED, KEPT, Seal, bill_of, document_of, latest, prepare
from aruntime.metering.bill import Bill, Issue, Period
from aruntime.metering.chain import checkpoint_hash, next_checkpoint, signed_bytes
from aruntime.metering.corrections import Author, parse_amount
from aruntime.metering.exported import ExportedLedger
from aruntime.metering.invoicing import make_bill
from aruntime.metering.issuing import store
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.migration import migrate
from aruntime.metering.record import LedgerRecord
from aruntime.metering.schema import (
    APPLICATION_ID,
    SCHEMA_1,
    SCHEMA_2,
    SCHEMA_VERSION,
    insert_checkpoint,
)
from aruntime.metering.schema import (
    prepare as prepare_file,
)
from aruntime.metering.signing import Signer, is_signed, load_or_make
from aruntime.metering.totals import Note
from aruntime.metering.verifying import verified
from tests.billing import NOVEMBER, price_book, records_of_days, write_ledger
from tests.metering import faults_in

HOUR = 3600 * 10**9
AFTER = NOVEMBER.end_ns + 5
DECEMBER = Period(2026, 12)


@pytest.fixture(name="signer", scope="session")
def _signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return load_or_make(tmp_path_factory.mktemp("keys") / "ledger.key")


def made_bill(path: Path, period: Period = NOVEMBER) -> Bill:
    """The bill of a month as its records make it."""
    with LedgerReader(path / "ledger.db") as reader:
        records = list(reader.records(since_ns=period.start_ns, until_ns=period.end_ns))
        return make_bill(reader, records, price_book(), period, now_ns=period.end_ns + 5)


def issue(
    path: Path, signer: Signer, period: Period = NOVEMBER, *, kind: str = ISSUED, bill: object = 0
) -> Seal:
    """Store the bill of a month."""
    text = document_of(bill if isinstance(bill, Bill) else made_bill(path, period))
    file = LedgerFile(str(path / "ledger.db"))
    file.open()
    try:
        return store(file, prepare(text), kind=kind, author="clerk", signer=signer, now_ns=AFTER)
    finally:
        file.close()


def stored(path: Path, period: Period = NOVEMBER) -> Bill:
    """The bill of a month as it is stored."""
    with LedgerReader(path / "ledger.db") as reader:
        found = latest(reader.bills(str(period)), str(period))
    assert found is not None
    return bill_of(found)


def later(records: list[LedgerRecord], days: int) -> list[LedgerRecord]:
    """The records some days later."""
    ns = days * 24 * HOUR
    return [
        msgspec.structs.replace(one, wall_start=one.wall_start + ns, wall_end=one.wall_end + ns)
        for one in records
    ]


def focus(bill: Bill) -> bytes:
    """A bill as FOCUS CSV."""
    file = io.BytesIO()
    FocusCsv().write(bill, file)
    return file.getvalue()


def test_it_is_the_bill_that_was_made(tmp_path: Path, signer: Signer) -> None:
    """Line by line, in every format, with its number beside it; numbers have no gap."""
    first = records_of_days(1)
    write_ledger(tmp_path / "ledger.db", [*first, *later(first, 20)])
    before = made_bill(tmp_path)
    seal = issue(tmp_path, signer)
    after = stored(tmp_path)
    ids = [invoice_id for invoice_id, _ in before.numbered()]

    assert after.issue == Issue(1, AFTER, "clerk", dict(zip(ids, (1, 2, 3), strict=True)))
    book = msgspec.structs.replace(before.book, prices=())
    assert after._replace(issue=None) == before._replace(book=book)
    for write in (bill_json, bill_table, focus):
        assert write(after._replace(issue=None)) == write(before)
        assert write(after) == write(stored(tmp_path))
    assert "issued 2026-12-01T00:00:00Z by clerk as bill 1" in bill_table(after)
    assert "invoice 3" in bill_table(after)
    assert (seal.first_seq, seal.last_seq) == (1, len(first))
    assert (seal.head_seq, seal.head_hash) == (before.head_seq, before.head_hash)
    assert seal.book_version == price_book().version
    assert issue(tmp_path, signer) == seal
    second = issue(tmp_path, signer, DECEMBER)
    assert [one.number for one in second.invoices] == [4, 5, 6]
    assert faults_in(tmp_path, signer.public) == []
    with LedgerReader(tmp_path / "ledger.db") as reader:
        marks = list(reader.checkpoints())
    assert [one.reason for one in marks] == ["bill", "bill"]


def test_one_that_was_kept_is_issued_as_it_was(tmp_path: Path, signer: Signer) -> None:
    """What retention kept has no number; it gets one, and stays the same otherwise."""
    write_ledger(tmp_path / "ledger.db", records_of_days(2))
    kept = issue(tmp_path, signer, kind=KEPT)
    assert {one.number for one in kept.invoices} == {0}
    assert stored(tmp_path).issue is None
    issued = issue(tmp_path, signer, bill=stored(tmp_path))
    assert (kept.n, issued.n, issued.digest) == (1, 2, kept.digest)
    assert issue(tmp_path, signer, kind=KEPT) == issued
    assert faults_in(tmp_path, signer.public) == []


def test_usage_that_came_meanwhile(tmp_path: Path, signer: Signer) -> None:
    """A correction between the making and the storing is not lost: the bill is not issued."""
    records = write_ledger(tmp_path / "ledger.db", records_of_days(3))
    bill = made_bill(tmp_path)
    record = next(one for one in records if one.net)
    correct(tmp_path, record, "network_transmit=-1")
    with pytest.raises(Conflict, match="changed while its bill was made: try again"):
        issue(tmp_path, signer, bill=bill)
    issue(tmp_path, signer)


def correct(path: Path, record: LedgerRecord, amount: str) -> LedgerRecord:
    """Correct a record, at a time after the month."""
    file = LedgerFile(str(path / "ledger.db"))
    file.open()
    author = Author("clerk", "counted twice", AFTER + HOUR, "boot", 7)
    try:
        return amend(file, Wanted(record.seq, [parse_amount(amount)]), author)
    finally:
        file.close()


def test_an_issued_month_is_corrected_in_the_next_one(tmp_path: Path, signer: Signer) -> None:
    """Before: in its bill. After: a credit of the present month, and not a byte changes."""
    records = write_ledger(tmp_path / "ledger.db", records_of_days(4))
    record = next(one for one in records if one.proc_write > 2000)
    early = correct(tmp_path, record, "process_write=-1000")
    assert (early.wall_start, early.wall_end) == (record.wall_start, record.wall_end)
    issue(tmp_path, signer)
    before = bill_json(stored(tmp_path))
    late = correct(tmp_path, record, "process_write=-1000")
    assert (late.wall_start, late.wall_end) == (AFTER + HOUR, AFTER + HOUR)
    assert late.amended["proc_write"] == record.proc_write - 1000

    assert bill_json(stored(tmp_path)) == before
    (invoice,) = made_bill(tmp_path, DECEMBER).invoices
    (line,) = invoice.lines
    assert line.is_correction
    assert line.cost < 0
    issue(tmp_path, signer, DECEMBER)
    assert '"Kind": "invoice"' in bill_json(stored(tmp_path, DECEMBER))
    assert faults_in(tmp_path, signer.public) == []


def put(path: str, value: str) -> str:
    """SQL that changes a field of every seal."""
    return f"UPDATE bills SET seal = json_set(seal, '$.{path}', {value})"


TAMPERING = [
    (put("author", "'x'"), "bill 1: its signature is not of its content"),
    (put("invoices[0].payable", "'0.01'"), "bill 1: its signature is not of its content"),
    (put("key", "''"), "bill 1: is not signed"),
    ("UPDATE bills SET document = x'00' WHERE n = 1", "bill 1: its document was changed"),
    ("UPDATE bills SET document = (SELECT document FROM bills WHERE n = 2) WHERE n = 1",
     "bill 1: its document was changed: its hash is not the one that was signed"),
    ("DELETE FROM bills WHERE n = 1", "bill 2: comes after bill 0"),
    ("DELETE FROM bills WHERE n = 2", "bills: 1 that checkpoints name are not there"),
    ("DELETE FROM bills", "bills: 2 that checkpoints name are not there"),
    ("UPDATE bills SET n = 3 WHERE n = 2", "bill 2: the columns it is found by"),
    ("UPDATE bills SET period = '2026-01'", "bill 1: the columns it is found by"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "said"), TAMPERING)
def test_what_is_changed_is_found(
    tmp_path: Path, signer: Signer, statement: str, said: str
) -> None:
    """In the seal, the document, the order, the number; and what was deleted."""
    first = records_of_days(5, runs=3, hours=2)
    write_ledger(tmp_path / "ledger.db", [*first, *later(first, 20)])
    issue(tmp_path, signer)
    issue(tmp_path, signer, DECEMBER)
    assert faults_in(tmp_path, signer.public) == []
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount > 0
    found = faults_in(tmp_path, signer.public)
    assert any(said in fault for fault in found), found


def forged(seal: Seal, **fields: object) -> Seal:
    """A seal that says something else, without a signature."""
    return msgspec.structs.replace(seal, key="", signature="", **fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda seal: forged(seal, head_hash="0" * 64), "record 1 was another|was another when"),
        (lambda seal: forged(seal, invoices=()), "its invoices are not those of its document"),
        (lambda seal: forged(seal, host_id="other"), "is of another ledger, other"),
        (lambda seal: forged(seal, invoices=tuple(
            msgspec.structs.replace(one, number=one.number + 1) for one in seal.invoices
        )), "its invoices are not numbered from 1"),
    ],
)  # fmt: skip
def test_a_forged_seal_is_found_without_a_key(
    tmp_path: Path, signer: Signer, change: Callable[[Seal], Seal], said: str
) -> None:
    """By what it says of the ledger and of its document."""
    write_ledger(tmp_path / "ledger.db", records_of_days(6, runs=3, hours=2))
    seal = change(issue(tmp_path, signer))
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        text = msgspec.json.encode(seal, order="sorted").decode()
        connection.execute("UPDATE bills SET seal = ?", (text,))
    found = faults_in(tmp_path)
    assert any(part in fault for fault in found for part in said.split("|")), found


def test_an_export_has_the_bills(tmp_path: Path, signer: Signer) -> None:
    """It verifies anywhere, and what was changed in it is found."""
    write_ledger(tmp_path / "ledger.db", records_of_days(7, runs=3, hours=2))
    issue(tmp_path, signer)
    with LedgerReader(tmp_path / "ledger.db") as reader, reader.instant():
        lines = list(exported.lines(reader))
    found = verified(ExportedLedger(lines, "x"), {signer.public}, is_signed)
    assert (found.faults, found.bills) == ((), 1)
    changed = [line.replace(b'"author":"clerk"', b'"author":"other"') for line in lines]
    found = verified(ExportedLedger(changed, "x"), {signer.public}, is_signed)
    assert str(found.faults[0]).startswith("bill 1: its signature")
    without = [line for line in lines if b'"kind":"bill"' not in line]
    found = verified(ExportedLedger(without, "x"), {signer.public}, is_signed)
    assert [str(one) for one in found.faults] == ["bills: 1 that checkpoints name are not there"]


def test_a_ledger_of_schema_2_gets_its_table(tmp_path: Path, signer: Signer) -> None:
    """Records and checkpoints of before still verify; read without the step it has no bills."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (*SCHEMA_1, *SCHEMA_2):
            connection.execute(statement)
        connection.execute("INSERT INTO host VALUES ('the-host', 1700000000000000000)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
    with LedgerReader(path) as reader:
        assert list(reader.seals()) == []
        assert list(reader.bills()) == []
    file = LedgerFile(str(path))
    file.open()
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,) == (3,)
    records = write_ledger(path, records_of_days(8, runs=3, hours=2))
    mark = next_checkpoint(
        None, host=("the-host", 1700000000000000000), reason="hour",
        at=(records[0].seq, records[0].hash, {}), signer=signer,
    )  # fmt: skip
    assert b"bill" not in signed_bytes(mark)
    assert issue(tmp_path, signer).n == 1
    assert faults_in(tmp_path, signer.public) == []


def test_a_later_checkpoint_names_the_bill_too(tmp_path: Path, signer: Signer) -> None:
    """And so it is missed although the checkpoint of its storing was cut off as well."""
    write_ledger(tmp_path / "ledger.db", records_of_days(9, runs=3, hours=2))
    issue(tmp_path, signer)
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    before = file.checkpoint
    assert before is not None
    made = next_checkpoint(
        before, host=(file.host_id, file.created_ns), reason="hour",
        at=(before.seq, before.hash, before.sums), signer=signer,
    )  # fmt: skip
    assert (made.bill, made.prev) == (before.bill, checkpoint_hash(before))
    with file.transaction() as connection:
        insert_checkpoint(connection, made)
    assert file.write([], [Note(LedgerRecord(kind="price_change"))]) is None
    file.close()
    assert faults_in(tmp_path, signer.public) == []
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        connection.execute("DELETE FROM bills")
        prepare_file(connection, "x", migrate)
    assert "bills: 1 that checkpoints name are not there" in faults_in(tmp_path, signer.public)


def test_a_full_disk_issues_nothing(tmp_path: Path, signer: Signer) -> None:
    """Neither a bill nor a checkpoint; the number is not used up."""
    write_ledger(tmp_path / "ledger.db", records_of_days(1, runs=3, hours=2))
    text = document_of(made_bill(tmp_path))
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    assert file._connection is not None
    file._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(Unavailable, match="cannot write to the ledger"):
        store(
            file, prepare(text), kind=ISSUED, author="x", signer=signer, now_ns=AFTER
        )  # fmt: skip
    assert file.checkpoint is None
    file.close()
    with LedgerReader(tmp_path / "ledger.db") as reader:
        assert list(reader.seals()) == []
        assert list(reader.checkpoints()) == []
    assert issue(tmp_path, signer).n == 1
