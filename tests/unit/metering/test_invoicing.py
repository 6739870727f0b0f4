"""Bills from a ledger: recomputed by a second implementation, and the same bytes every time."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from aruntime.daemon.bill_process import MODULE, Request
from aruntime.daemon.commands.bill_rows import bill_json, bill_table
from aruntime.errors import Unavailable
from aruntime.metering.bill import Bill, Period, parse_period, period_of
from aruntime.metering.chain import HOUR_NS, Rollup
from aruntime.metering.invoicing import make_bill
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices import PriceBook
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.rating import rate
from aruntime.metering.record import LedgerRecord
from tests.billing import NOVEMBER, book_text, price_book, records_of_days, write_ledger
from tests.ledgers import correction
from tests.naive_bill import naive_bill, raw_records

S = 10**9
OCTOBER = Period(2026, 10)
AFTER_NS = NOVEMBER.end_ns + 1

RUN_BOOK = """
provider = "Example"
default_currency = "EUR"
[[price]]
sku = "time"
price_id = "old"
measure = "container"
unit = "Minutes"
unit_price = "1"
currency = "EUR"
valid_from = 2026-01-01
valid_to = 2026-11-01
quantum = "1m"
[[price]]
sku = "time"
price_id = "new"
measure = "container"
unit = "Minutes"
unit_price = "3"
currency = "EUR"
valid_from = 2026-11-01
quantum = "1m"
"""


def bill(
    ledger: Path, book: PriceBook, period: Period = NOVEMBER, *, now_ns: int = AFTER_NS
) -> Bill:
    """Make the bill of a ledger's month."""
    with LedgerReader(ledger) as reader:
        records = list(reader.records(since_ns=period.start_ns, until_ns=period.end_ns))
        return make_bill(reader, records, book, period, now_ns=now_ns)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_day_of_three_tenants_recomputed_independently(tmp_path: Path, seed: int) -> None:
    """From the raw JSON of the records, by another program, to the last decimal."""
    ledger = tmp_path / "ledger.db"
    write_ledger(ledger, records_of_days(seed, runs=9, hours=14))
    made = bill(ledger, price_book())
    expected = naive_bill(raw_records(ledger), book_text(), NOVEMBER.start_ns, NOVEMBER.end_ns)

    assert [one.tenant for one in made.invoices] == ["acme", "beta", "kyoto"] == sorted(expected)
    for invoice in made.invoices:
        costs: dict[str, Decimal] = {}
        for line in invoice.lines:
            costs[line.sku] = costs.get(line.sku, Decimal(0)) + line.cost
        again = expected[invoice.tenant]
        assert {sku: again[sku] for sku in costs} == costs
        assert (again["total"], again["payable"]) == (invoice.total, invoice.payable)
        assert invoice.total + invoice.adjustment == invoice.payable
        assert invoice.total > 0


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    """Again, from records in another order, and by a second reading of the same book."""
    ledger = tmp_path / "ledger.db"
    records = write_ledger(ledger, records_of_days(5))
    first = bill_json(bill(ledger, price_book()))
    shuffled = random.Random(5).sample(records, len(records))
    with LedgerReader(ledger) as reader:
        again = make_bill(reader, shuffled, price_book(), NOVEMBER, now_ns=AFTER_NS)
    assert bill_json(again) == first
    assert bill_json(bill(ledger, price_book())) == first

    lines = [
        rate(given, price_book(), start_ns=NOVEMBER.start_ns, end_ns=NOVEMBER.end_ns)
        for given in (records, shuffled)
    ]
    assert msgspec.json.encode(lines[0]) == msgspec.json.encode(lines[1])


def by_process(request: Request) -> subprocess.CompletedProcess[bytes]:
    """Have a bill made by the process that the daemon starts."""
    return subprocess.run(
        [sys.executable, "-P", "-m", MODULE],
        input=msgspec.json.encode(request), capture_output=True, check=False,
    )  # fmt: skip


def test_the_process_makes_the_same_bill(tmp_path: Path) -> None:
    """Of the records up to the number it is given, and of what has none; failures are one line."""
    ledger = tmp_path / "ledger.db"
    records = write_ledger(ledger, records_of_days(8, runs=2, hours=3))
    last = msgspec.structs.replace(records[-1], seq=0, prev="", hash="")
    request = Request(
        ledger=str(ledger), head_seq=records[-2].seq, open_records=[last], book=book_text(),
        book_name="prices.toml", period="2026-11", tenant=None, format="json", now_ns=AFTER_NS,
    )  # fmt: skip
    done = by_process(request)
    assert (done.returncode, done.stderr) == (0, b"")
    found = msgspec.json.decode(done.stdout)
    with LedgerReader(ledger) as reader:
        made = make_bill(reader, [*records[:-1], last], price_book(), NOVEMBER, now_ns=AFTER_NS)
    expected = msgspec.json.decode(bill_json(made))
    head = {"LedgerHeadSequence": records[-2].seq, "LedgerHeadHash": records[-2].hash}
    for one in expected["Invoices"]:
        one["LedgerHeadHash"] = records[-2].hash
    assert found == expected | head
    assert found["Provisional"] is True

    failed = by_process(msgspec.structs.replace(request, ledger=str(tmp_path / "none.db")))
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr.startswith(b"cannot read ledger ")
    assert failed.stderr.count(b"\n") == 1


def test_the_head_of_the_ledger_vouches(tmp_path: Path) -> None:
    """Its number and hash are in the bill, and in every invoice of the JSON."""
    ledger = tmp_path / "ledger.db"
    records = write_ledger(ledger, records_of_days(6))
    made = bill(ledger, price_book())
    assert (made.head_seq, made.head_hash) == (records[-1].seq, records[-1].hash)
    document = msgspec.json.decode(bill_json(made))
    assert {one["LedgerHeadHash"] for one in document["Invoices"]} == {records[-1].hash}
    assert records[-1].hash in bill_table(made)


@pytest.mark.parametrize(
    ("now_ns", "extra", "expected"),
    [
        (AFTER_NS, [], False),
        (NOVEMBER.end_ns - 1, [], True),
        (AFTER_NS, [LedgerRecord(container_id="c", tenant="acme", wall_end=1)], True),
    ],
)
def test_what_makes_a_bill_provisional(
    tmp_path: Path, now_ns: int, extra: list[LedgerRecord], expected: bool
) -> None:
    """A month that goes on, or usage that has no number yet."""
    ledger = tmp_path / "ledger.db"
    records = write_ledger(ledger, records_of_days(7, runs=1))
    with LedgerReader(ledger) as reader:
        made = make_bill(reader, [*records, *extra], price_book(), NOVEMBER, now_ns=now_ns)
    assert made.is_provisional is expected
    assert ("provisional" in bill_table(made)) is expected


def run_record(start_ns: int, end_ns: int, **fields: object) -> LedgerRecord:
    """Return a record of the one run of these tests."""
    birth = OCTOBER.end_ns - 90 * S
    values: dict[str, object] = {
        "container_id": "c", "incarnation": f"boot:1:{birth}", "tenant": "acme",
        "wall_start": start_ns, "wall_end": end_ns, "boot_start_ns": start_ns,
        "boot_end_ns": end_ns, "running_ns": end_ns - start_ns,
    }  # fmt: skip
    return LedgerRecord(**(values | fields))  # type: ignore[arg-type]  # fields by name


def test_a_run_of_two_months_is_rounded_up_once(tmp_path: Path) -> None:
    """90 s in October and 15 s in November are two minutes, the rest of them November's."""
    ledger, edge = tmp_path / "ledger.db", OCTOBER.end_ns
    write_ledger(
        ledger,
        [run_record(edge - 90 * S, edge), run_record(edge, edge + 15 * S, kind="final")],
    )  # fmt: skip
    book = parse_book(RUN_BOOK, "book.toml")
    assert bill(ledger, book, OCTOBER).invoices[0].total == Decimal("1.5")
    (invoice,) = bill(ledger, book).invoices
    assert invoice.total == 3 * Decimal("0.5")
    assert [line.billed_ns for line in invoice.lines] == [30 * S]


def test_a_correction_changes_no_month_that_was_billed(tmp_path: Path) -> None:
    """It is in the month in which it was made, at the price of the record it amends."""
    ledger, edge = tmp_path / "ledger.db", OCTOBER.end_ns
    book = parse_book(RUN_BOOK.replace('measure = "container"', 'measure = "network_transmit"')
                      .replace('unit = "Minutes"', 'unit = "KB"')
                      .replace('quantum = "1m"', ""), "book.toml")  # fmt: skip
    sold = run_record(edge - 90 * S, edge, net={"eth0": (0, 5000, 0, 0)})
    write_ledger(ledger, [sold])
    before = bill(ledger, book, OCTOBER)
    late = NOVEMBER.start_ns + 9 * HOUR_NS
    back = correction(msgspec.structs.replace(sold, seq=1), late_ns=late, net_transmit=-2000)
    ledger.unlink()
    write_ledger(ledger, [sold, back])

    assert bill(ledger, book, OCTOBER).invoices == before.invoices
    (invoice,) = bill(ledger, book).invoices
    (line,) = invoice.lines
    assert (line.cost, line.price_id, line.is_correction) == (Decimal(-2), "old", True)
    assert (line.start_ns, line.end_ns, line.note) == (edge - 90 * S, edge, "a test")
    assert invoice.payable == Decimal(-2)
    assert "(correction)" in bill_table(bill(ledger, book))


def test_a_step_of_the_clock_is_told_to_exporters(tmp_path: Path) -> None:
    """Only those between the month's records."""
    ledger, at = tmp_path / "ledger.db", NOVEMBER.start_ns
    step = LedgerRecord(kind="clock_step", wall_start=at, wall_end=at)
    write_ledger(
        ledger,
        [step, run_record(at, at + S), step, run_record(at + S, at + 2 * S), step],
    )  # fmt: skip
    assert bill(ledger, parse_book(RUN_BOOK, "book.toml")).clock_steps == (3,)


def test_no_bill_from_hours_that_were_deleted(tmp_path: Path) -> None:
    """It would lack what was allocated; the bill of then is to be used."""
    ledger = tmp_path / "ledger.db"
    write_ledger(ledger, [])
    rollup = Rollup(
        hour_ns=NOVEMBER.start_ns, tenant="acme", container_id="c", price_version="",
        name="c", records=1, first_seq=1, last_seq=1, estimated=0, sums={},
    )  # fmt: skip
    with sqlite3.connect(ledger) as connection:
        connection.execute(
            "INSERT INTO rollups VALUES (?, 'acme', 'c', '', ?)",
            (rollup.hour_ns, msgspec.json.encode(rollup).decode()),
        )
    connection.close()
    with pytest.raises(Unavailable, match="2026-11 were rolled up"):
        bill(ledger, price_book())
    assert bill(ledger, price_book(), OCTOBER).invoices == ()


def test_the_table_shows_the_largest_numbers(tmp_path: Path) -> None:
    """More digits than a decimal context has by default."""
    ledger, at = tmp_path / "ledger.db", NOVEMBER.start_ns
    text = RUN_BOOK.replace('measure = "container"', 'measure = "network_transmit"')
    text = text.replace('unit = "Minutes"', 'unit = "B"').replace('quantum = "1m"', "")
    write_ledger(ledger, [run_record(at, at + S, net={"eth0": (0, 10**26 + 7, 0, 0)})])
    table = bill_table(bill(ledger, parse_book(text, "book.toml")))
    assert "300000000000000000000000021.000000 EUR" in table


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-00", "26-11", "2026-11-01", "9999-01"])
def test_what_is_no_month(text: str) -> None:
    """Said with the form of one."""
    with pytest.raises(ValueError, match="give a month such as 2026-11"):
        parse_period(text)


def test_months_follow_each_other() -> None:
    """Also over the end of a year, without a gap."""
    december = parse_period("2026-12")
    assert (str(december.next), december.end_ns) == ("2027-01", december.next.start_ns)
    assert period_of(december.start_ns) == december
    assert period_of(december.end_ns - 1) == december
