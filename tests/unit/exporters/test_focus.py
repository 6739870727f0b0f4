"""Bills as FOCUS rows and files: exact there and back, null where nothing is known."""

from __future__ import annotations

import csv
import io
import json
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from aruntime_exporters.focus import FocusCsv, FocusParquet, RowsRefused, checked_rows, focus_rows
from aruntime_exporters.focus_check import check
from aruntime_exporters.focus_columns import COLUMNS, Row
from aruntime_exporters.focus_files import csv_lines, decimal_text, read_csv, read_parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from aruntime.errors import Unavailable
from aruntime.metering.export import exporter_class
from aruntime.metering.rating import RatedLine, sum_exactly
from tests.billing import HEAD_HASH, HOUR_NS, NOVEMBER, bill_of, records_of_days
from tests.ledgers import correction

seeds = st.integers(0, 2**32)


def usage_rows(rows: list[Row]) -> list[Row]:
    """Return the rows of lines."""
    return [row for row in rows if row["ChargeCategory"] == "Usage"]


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_from_record_to_row_and_back(seed: int) -> None:
    """Every generated bill passes the strict check; CSV and Parquet give the same rows back."""
    bill = bill_of(records_of_days(seed, runs=3, hours=4))
    rows = checked_rows(bill)
    lines = [line for one in bill.invoices for line in one.lines]

    written, packed = io.BytesIO(), io.BytesIO()
    FocusCsv().write(bill, written)
    FocusParquet().write(bill, packed)
    packed.seek(0)
    assert read_csv(written.getvalue().decode()) == rows
    assert read_parquet(packed) == rows
    for line, row in zip(lines, usage_rows(rows), strict=True):
        assert numbers(row) == amounts(line)


def numbers(row: Row) -> list[Decimal]:
    """Return what a row's texts say."""
    names = ("PricingQuantity", "ConsumedQuantity", "ListUnitPrice", "ContractedUnitPrice",
             "ListCost", "BilledCost")  # fmt: skip
    return [Decimal(row[name] or "") for name in names]


def amounts(line: RatedLine) -> list[Decimal]:
    """Return the same of the line it was made from."""
    return [line.quantity, line.consumed, line.list_unit_price, line.contracted_unit_price,
            line.list_cost, line.cost]  # fmt: skip


def test_another_reader_of_csv_sees_the_same() -> None:
    """The standard library reads our quoting: commas, quotes and letters of all alphabets."""
    rows = list(focus_rows(bill_of(records_of_days(7))))
    read = list(csv.DictReader(io.StringIO("".join(csv_lines(rows)))))
    assert read == [{name: text or "" for name, text in row.items()} for row in rows]
    assert any('a "quoted", name' in (json.loads(row["Tags"] or "{}").get("team", ""))
               for row in usage_rows(rows))  # fmt: skip


def test_the_rows_of_an_invoice_are_its_payable() -> None:
    """One adjustment per invoice, last, also where rounding changed nothing; all vouched for."""
    bill = bill_of(records_of_days(5))
    rows = checked_rows(bill)
    for invoice_id, invoice in bill.numbered():
        own = [row for row in rows if row["InvoiceId"] == invoice_id]
        assert [row["ChargeCategory"] for row in own].count("Adjustment") == 1
        assert own[-1]["ChargeCategory"] == "Adjustment"
        assert sum_exactly(Decimal(row["BilledCost"] or "") for row in own) == invoice.payable
        assert {row["x_InvoicePayable"] for row in own} == {decimal_text(invoice.payable)}
        assert {row["BillingCurrency"] for row in own} == {invoice.currency}
    assert {row["x_LedgerHeadHash"] for row in rows} == {HEAD_HASH}
    assert {name for row in rows for name in row} == {column.name for column in COLUMNS}


def test_a_correction_is_a_row_of_its_own() -> None:
    """Of class Correction, naming the record; negative; the file still passes."""
    records = records_of_days(11)
    start = records[0].wall_start
    sold = msgspec.structs.replace(
        records[0], seq=8000, wall_start=start - 31 * 24 * HOUR_NS,
        wall_end=start - 31 * 24 * HOUR_NS + HOUR_NS, running_ns=HOUR_NS, kind="usage",
        net={"eth0": (0, 2 << 30, 0, 0)},
    )  # fmt: skip
    late = correction(sold, late_ns=NOVEMBER.end_ns - 24 * HOUR_NS, net_transmit=-(1 << 30))
    rows = checked_rows(bill_of([*records, late]))
    (row,) = (
        row
        for row in rows
        if row["ChargeClass"] == "Correction" and row["SkuId"] == "egress"
    )  # fmt: skip
    assert row["x_CorrectsLedgerSequence"] == "8000"
    assert row["PricingQuantity"] == "-1.0"
    assert Decimal(row["BilledCost"] or "") == -Decimal(row["ListUnitPrice"] or "")
    assert (row["ChargePeriodStart"] or "") < (row["BillingPeriodStart"] or "")
    assert (row["ChargeDescription"] or "").endswith("(corrected: a test)")


def test_a_correction_of_a_month_not_billed_yet_is_no_row() -> None:
    """FOCUS has class Correction for invoiced periods only: the record's row is right at once."""
    records = records_of_days(11)
    sold = next(one for one in records if one.net)
    back = correction(sold, net_transmit=-(sold.net["eth0"][1] // 2))
    rows = checked_rows(bill_of([*records, back]))
    assert {row["ChargeClass"] for row in rows} == {None}
    more, less = quantities(checked_rows(bill_of(records))), quantities(rows)
    key = (str(sold.seq), "egress")
    assert {one for one in more if more[one] != less.get(one)} == {key}
    left = sold.net["eth0"][1] - sold.net["eth0"][1] // 2
    assert abs(less[key] - Decimal(left) / (1 << 30)) <= Decimal("1e-15")


def quantities(rows: list[Row]) -> dict[tuple[str, str], Decimal]:
    """Return what was priced, free or not, by record and SKU."""
    found: dict[tuple[str, str], Decimal] = {}
    for row in usage_rows(rows):
        key = (row["x_LedgerSequence"] or "", row["SkuId"] or "")
        found[key] = found.get(key, Decimal(0)) + Decimal(row["PricingQuantity"] or "")
    return found


def test_a_clock_that_was_set_back_is_no_double_charge() -> None:
    """Records before and after a step may bear the same times; the rows say which is which."""
    records = records_of_days(13, runs=1, hours=3)
    last = records[-1]
    again = msgspec.structs.replace(
        last, seq=last.seq + 2, wall_start=last.wall_start - 60 * 10**9,
        wall_end=last.wall_end - 60 * 10**9, boot_start_ns=last.boot_end_ns,
    )  # fmt: skip
    bill = bill_of([*records, again])
    assert {violation.rule for violation in check(list(focus_rows(bill)))} & {"overlap", "gap"}
    stepped = bill._replace(clock_steps=(last.seq + 1,))
    assert check(list(focus_rows(stepped))) == []


def test_rows_that_break_a_rule_are_not_written() -> None:
    """The check stands before the file: a payable that is not the rows' is refused."""
    bill = bill_of(records_of_days(17, runs=1))
    wrong = msgspec.structs.replace(bill.invoices[0], payable=bill.invoices[0].payable + 1)
    file = io.BytesIO()
    with pytest.raises(RowsRefused, match=r"^bill not written, it breaks FOCUS 1\.2: .*\(sum\)"):
        FocusCsv().write(bill._replace(invoices=(wrong,)), file)
    assert not file.getvalue()


def test_an_empty_month_is_a_file_of_a_header() -> None:
    """Nothing was used: both files are there, with all columns and no rows."""
    bill = bill_of([])
    written, packed = io.BytesIO(), io.BytesIO()
    FocusCsv().write(bill, written)
    FocusParquet().write(bill, packed)
    packed.seek(0)
    assert written.getvalue().decode().count("\n") == 1
    assert read_parquet(packed) == []


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the extra's name."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unavailable, match=r"pip install 'aruntime\[bill\]'"):
        FocusParquet().write(bill_of([]), io.BytesIO())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no header"),
        ("a,a\n1,2\n", "line 1: a column is there twice"),
        ("a,b\n1\n", "record 2: 1 fields, not 2"),
        ('a,b\n"1"2,3\n', "line 2: text after a quote"),
        ('a,b\n"1,3\n', "line 2: a quote is not closed"),
    ],
)
def test_what_is_no_csv_is_refused(text: str, message: str) -> None:
    """With the place."""
    with pytest.raises(ValueError, match=message):
        read_csv(text)


def test_null_and_empty_are_two_things() -> None:
    """An empty field is null, two quotes are an empty string."""
    assert read_csv('a,b,c\n,"",x\n,,\n') == [
        {"a": None, "b": "", "c": "x"},
        {"a": None, "b": None, "c": None},
    ]


def test_formats_are_found_by_their_names() -> None:
    """The values of ``bill --format`` are entry points."""
    assert exporter_class("file", "focus-csv") is FocusCsv
    assert exporter_class("file", "focus-parquet") is FocusParquet


def test_parquet_types_are_checked(tmp_path: Path) -> None:
    """A file whose decimals are floats is not ours."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "other.parquet")
    parquet.write_table(arrow.table({"BilledCost": [1.5]}), path)
    with pytest.raises(ValueError, match="column BilledCost is double, not decimal"):
        read_parquet(path)
