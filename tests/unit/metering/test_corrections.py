"""Corrections: what may be corrected, that bills are what the right record would have made."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import AruntimeError, Conflict, InvalidParameter, NotFound
from aruntime.metering.amending import Wanted, amend
from aruntime.metering.chain import sums_of
from aruntime.metering.corrections import (
    Amount,
    Author,
    change_text,
    current_sums,
    folded,
    parse_amount,
    with_correction,
)
from aruntime.metering.invoicing import make_bill
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices import PriceBook
from aruntime.metering.rating import rate
from aruntime.metering.record import LedgerRecord, canonical, decode
from aruntime.metering.usage import Window, usage_rows
from tests.billing import NOVEMBER, book_text, price_book, records_of_days, write_ledger
from tests.ledgers import correction, usage, write_records
from tests.metering import faults_in
from tests.naive_bill import naive_bill, raw_records
from tests.unit.metering.test_rating_properties import books, costs, ledgers, runs

S = 10**9
LATE = NOVEMBER.end_ns + 5
CLERK = Author("clerk", "counted twice", LATE, "boot", 7)


def amended(
    path: Path, seq: int, *amounts: Amount, is_void: bool = False, author: Author = CLERK
) -> LedgerRecord:
    """Amend a record of a ledger."""
    file = LedgerFile(str(path / "ledger.db"))
    file.open()
    try:
        return amend(file, Wanted(seq, amounts, is_void), author)
    finally:
        file.close()


def test_it_is_a_record_like_any_other(tmp_path: Path) -> None:
    """Chained behind the last one; it says what, why, who and when; the old one stays."""
    record, _ = write_records(tmp_path / "ledger.db", [usage(1), usage(2)])
    made = amended(tmp_path, 1, parse_amount("cpu_used=-1"), parse_amount("cpu_max=0.5"))
    with LedgerReader(tmp_path / "ledger.db") as reader:
        assert reader.record(1) == record
        assert reader.record(3) == made
        assert reader.record(4) is None
        assert reader.head() == (3, made.hash)

    assert (made.seq, made.kind, made.corrects) == (3, "correction", 1)
    assert (made.author, made.reason, made.made_ns) == ("clerk", "counted twice", LATE)
    assert (made.cpu_ns, made.cpu_alloc_ns) == (-S, S // 2)
    assert made.amended["cpu_ns"] == record.cpu_ns
    assert (made.wall_start, made.wall_end) == (record.wall_start, record.wall_end)
    assert change_text(made) == "cpu_used -1 Core-Seconds, cpu_max 0.5 Core-Seconds"
    assert decode(canonical(made), made.hash) == made
    assert faults_in(tmp_path) == []


def test_records_without_one_are_as_before() -> None:
    """The new fields are not in their JSON: ledgers of before still verify."""
    text = canonical(usage(1))
    assert not {"author", "reason", "made_ns", "amended"} & set(msgspec.json.decode(text))


REFUSED = [
    (9, ["cpu_used=-1"], NotFound, "the ledger has no record 9"),
    (1, ["cpu_used=-9"], Conflict, r"cpu_used 1.234567891 Core-Seconds: less than nothing"),
    (1, ["block_write=-8193"], Conflict, "less than nothing would be left, block_write -1 B"),
    (1, ["running=1"], Conflict, "lasted running 60 Seconds: it cannot have run"),
    (1, ["cpu_used=0"], InvalidParameter, "record 1 would not change"),
    (1, ["cpu_used=1e3000000000"], InvalidParameter, "is no decimal"),
    (1, ["cpu_used=x"], InvalidParameter, "'x' is no decimal"),
    (1, ["cpu_used=nan"], InvalidParameter, "'nan' is no decimal"),
    (1, ["cpu_used=0.1234567891"], InvalidParameter, "in parts of 1/1000000000"),
    (1, ["cpu_allocated=1"], InvalidParameter, "measures are cpu_used, cpu_max, memory_used"),
    (2, ["cpu_used=1"], Conflict, r"record 2 \(price_change\) is of no usage"),
    (3, ["cpu_used=-1"], Conflict, "record 3 is a correction itself: correct record 1"),
    (4, ["cpu_used=6"], Conflict, "cpu_max of record 4 would be less than cpu_used"),
]


@pytest.mark.parametrize(("seq", "texts", "error", "said"), REFUSED)
def test_what_is_refused(
    tmp_path: Path, seq: int, texts: list[str], error: type[AruntimeError], said: str
) -> None:
    """Unknown records, sums below nothing, what is finer than a unit: nothing is written."""
    first = usage(1)
    back = correction(msgspec.structs.replace(first, seq=1), net_transmit=-1)
    asked = usage(4, cpu_alloc_ns=10 * S)
    write_records(tmp_path / "ledger.db", [first, LedgerRecord(kind="price_change"), back, asked])
    before = raw_records(tmp_path / "ledger.db")
    with pytest.raises(error, match=said):
        amended(tmp_path, seq, *map(parse_amount, texts))
    assert raw_records(tmp_path / "ledger.db") == before


def test_a_full_disk_drops_it(tmp_path: Path) -> None:
    """Who corrects is told, and the next commit does not bring what was refused."""
    write_records(tmp_path / "ledger.db", [usage(1)])
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    assert file._connection is not None
    file._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(AruntimeError, match="cannot write to the ledger"):
        amend(file, Wanted(1, [parse_amount("cpu_used=-1")]), CLERK)
    file._connection.execute("PRAGMA query_only = 0")
    assert file.write([], []) is None
    file.close()
    assert len(raw_records(tmp_path / "ledger.db")) == 1


def test_earlier_corrections_count(tmp_path: Path) -> None:
    """Twice the half is the whole, a third time is too much; void takes back what is left."""
    write_records(tmp_path / "ledger.db", [usage(1, cpu_ns=2 * S)])
    half = parse_amount("cpu_used=-1")
    amended(tmp_path, 1, half)
    made = amended(tmp_path, 1, half)
    assert made.amended["cpu_ns"] == S
    with pytest.raises(Conflict, match="less than nothing"):
        amended(tmp_path, 1, half)
    amended(tmp_path, 1, is_void=True)
    with LedgerReader(tmp_path / "ledger.db") as reader:
        record, *corrections = reader.records()
    assert current_sums(record, corrections) == {}
    with pytest.raises(InvalidParameter, match="would not change"):
        amended(tmp_path, 1, is_void=True)
    amended(
        tmp_path, 1, *(parse_amount(f"cpu_{name}=3", is_whole=True) for name in ("used", "max"))
    )
    assert faults_in(tmp_path) == []


def test_where_it_counts() -> None:
    """With its record in a month that can still be billed, at its own instant after that."""
    record = records_of_days(1, runs=1)[0]
    late = correction(record, late_ns=LATE, proc_read=5)
    assert (late.wall_start, late.wall_end) == (LATE, LATE)
    assert folded([record, late]) == [record, late]
    early = correction(record, proc_read=5)
    (one,) = folded([early, record])
    assert (one.proc_read, one.seq, one.reason) == (record.proc_read + 5, record.seq, "a test")


amounts = st.dictionaries(
    st.sampled_from(["cpu_ns", "mem_bytens2", "net_transmit", "blk_reads", "running_ns"]),
    st.floats(-1, 2),
    min_size=1,
)


def drawn(record: LedgerRecord, shares: dict[str, float]) -> dict[str, int]:
    """Turn shares of what is there into differences that are possible."""
    sums = sums_of(record)
    changes = {name: int(sums.get(name, 0) * share) for name, share in shares.items()}
    if changes.get("running_ns", 0) > 0:
        changes["running_ns"] = 0
    for used, most in (("cpu_ns", "cpu_alloc_ns"), ("mem_bytens2", "mem_alloc_bytens2")):
        if changes.get(used, 0) > 0:
            changes[most] = changes[used]
    return {name: change for name, change in changes.items() if change}


@given(ledgers(), books(), st.data(), amounts)
def test_a_month_that_is_open_is_billed_as_if_the_record_had_been_right(
    records: list[LedgerRecord], book: PriceBook, data: st.DataObject, shares: dict[str, float]
) -> None:
    """Free tier, quantum, minimum, paused time, prices: to the last byte."""
    place = data.draw(st.integers(0, len(records) - 1))
    record = records[place]
    if not (changes := drawn(record, shares)):
        return
    made = correction(record, **changes)
    right = with_correction(record, made)
    start, end = NOVEMBER.start_ns - 3600 * S, NOVEMBER.end_ns
    found = rate([*records, made], book, start_ns=start, end_ns=end)

    assert found == rate(
        [*records[:place], right, *records[place + 1 :]], book, start_ns=start, end_ns=end
    )
    assert not any(line.is_correction for line in found)


@given(runs(0), books(plain=True), st.data(), amounts)
def test_a_late_one_is_the_difference(
    records: list[LedgerRecord], book: PriceBook, data: st.DataObject, shares: dict[str, float]
) -> None:
    """What a closed month cost and the correction are what it should have cost, exactly."""
    record = records[data.draw(st.integers(0, len(records) - 1))]
    if not (changes := drawn(record, shares)):
        return
    assert_difference(records, record, book, changes, run_ns=0)


@given(runs(0), books(), amounts)
def test_a_late_one_of_a_run_that_ended_is_rounded_with_it(
    records: list[LedgerRecord], book: PriceBook, shares: dict[str, float]
) -> None:
    """Quantum and minimum of what is left, too: a voided run costs nothing."""
    last = records[-1]
    if not (changes := drawn(last, shares)):
        return
    free = tuple(msgspec.structs.replace(price, free=Decimal(0)) for price in book.prices)
    book = msgspec.structs.replace(book, prices=free)
    ran = sum(one.running_ns for one in records) if last.kind == "final" else 0
    assert_difference(records, last, book, changes, run_ns=ran)


def assert_difference(
    records: list[LedgerRecord],
    record: LedgerRecord,
    book: PriceBook,
    changes: dict[str, int],
    run_ns: int,
) -> None:
    """Cost of the records and of the late correction is the cost of the right records."""
    late = correction(record, late_ns=NOVEMBER.end_ns + 86400 * S, run_ns=run_ns, **changes)
    right = with_correction(record, msgspec.structs.replace(late))
    together = costs([*records, late], book)
    should = costs([right if one is record else one for one in records], book)
    keys = {*together, *should}
    assert {key: together.get(key, Fraction(0)) for key in keys} == {
        key: should.get(key, Fraction(0)) for key in keys
    }


@pytest.mark.parametrize("seed", range(4))
def test_recomputed_independently(tmp_path: Path, seed: int) -> None:
    """A second implementation makes the same bill of records and corrections, early and late."""
    path = tmp_path / "ledger.db"
    before = records_of_days(seed, runs=4)
    shift = -20 * 86400 * S
    older = [
        msgspec.structs.replace(
            one, seq=len(before) + number, container_id=f"{seed}{one.container_id[2:]}",
            wall_start=one.wall_start + shift, wall_end=one.wall_end + shift,
        )
        for number, one in enumerate(records_of_days(seed + 90, runs=4), 1)
    ]  # fmt: skip
    records = [*older, *before]
    numbered = [msgspec.structs.replace(one, seq=number) for number, one in enumerate(records, 1)]
    made = []
    for number, one in enumerate(numbered):
        if one.net and number % 2:
            late_ns = one.wall_end + 9 * 86400 * S if number % 4 == 1 else 0
            lives = [same for same in numbered if same.container_id == one.container_id]
            ran = sum(same.running_ns for same in lives) if late_ns else 0
            made.append(
                correction(
                    one, late_ns=late_ns, run_ns=ran, running_ns=-(one.running_ns // 3),
                    cpu_ns=-(one.cpu_ns // 7), cpu_alloc_ns=-(one.cpu_alloc_ns // 9),
                    mem_bytens2=-(one.mem_bytens2 // 2), net_transmit=12345,
                    proc_write=-(one.proc_write // 5),
                )
            )  # fmt: skip
    write_ledger(path, [*numbered, *made])
    with LedgerReader(path) as reader:
        found = list(reader.records(since_ns=NOVEMBER.start_ns, until_ns=NOVEMBER.end_ns))
        bill = make_bill(reader, found, price_book(), NOVEMBER, now_ns=LATE)
    again = naive_bill(raw_records(path), book_text(), NOVEMBER.start_ns, NOVEMBER.end_ns)

    assert len(made) > 4
    assert {one.tenant for one in bill.invoices} == set(again)
    for invoice in bill.invoices:
        sums: dict[str, Decimal] = {}
        for line in invoice.lines:
            sums[line.sku] = sums.get(line.sku, Decimal(0)) + line.cost
        assert {sku: again[invoice.tenant][sku] for sku in sums} == sums
        assert again[invoice.tenant]["payable"] == invoice.payable
    assert any(line.is_correction for one in bill.invoices for line in one.lines)


@given(st.integers(0, 120 * S), st.integers(-S, 0))
def test_usage_at_the_edge_of_a_window(edge: int, less: int) -> None:
    """A record that is divided is divided as corrected: windows add up, and nothing is negative."""
    record = msgspec.structs.replace(usage(1, cpu_ns=S), seq=1)
    made = correction(record, cpu_ns=less) if less else record
    records = [record, made] if less else [record]
    start = record.wall_start - 30 * S
    parts = [Window(start, start + edge), Window(start + edge, start + 121 * S)]
    found = [
        sum(row.counts["cpu_used"] for row in usage_rows(records, [], window, "tenant"))
        for window in parts
        if window.since_ns < window.until_ns
    ]
    assert sum(found) == S + less
    assert min(found) >= 0
