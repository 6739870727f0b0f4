"""What docs/billing.md says is so: its price book, its worked example, its tables."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import msgspec
from aruntime_exporters.focus_columns import COLUMNS

from aruntime.metering.charges import month_start_ns
from aruntime.metering.presets import preset_names
from aruntime.metering.prices import PAUSED_POLICIES, ROUNDINGS, SOLD, PriceBook
from aruntime.metering.prices_parse import BOOK_FIELDS, PRICE_FIELDS, TENANT_FIELDS, parse_book
from aruntime.metering.quantities import UNITS
from aruntime.metering.rating import invoice, rate
from aruntime.metering.record import LedgerRecord

PAGE = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()
S = 10**9
NOVEMBER = month_start_ns(2026, 11)


def page_book() -> PriceBook:
    """Return the book of the page; the tenant of the example pays in euros."""
    match = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return parse_book(match[1].replace('currency = "USD" ', 'currency = "EUR" '), "page.toml")


def test_every_key_is_explained() -> None:
    """The example names all keys of a book, a tenant and a price but one."""
    for fields in (BOOK_FIELDS, TENANT_FIELDS, PRICE_FIELDS):
        for key in fields.keys() - {"start_event", "tenants", "price"}:
            assert re.search(rf"\b{key}\b", PAGE), key
    assert page_book().tenants["acme"].budget == 1500


def test_the_worked_example() -> None:
    """Each number of the table, by the product."""
    book = page_book()
    common = {
        "container_id": "c", "incarnation": f"b:1:{NOVEMBER}", "tenant": "beta",
        "cpu_request_milli": 500,
    }  # fmt: skip
    middle, end = NOVEMBER + 60 * S + S // 2, NOVEMBER + 90 * S + S // 2
    records = [
        msgspec.convert(fields | common, LedgerRecord)
        for fields in (
            {"wall_start": NOVEMBER, "wall_end": middle, "running_ns": middle - NOVEMBER,
             "cpu_ns": 20 * S, "cpu_alloc_ns": 30 * S + S // 4},
            {"wall_start": middle, "wall_end": end, "running_ns": end - middle, "kind": "final",
             "cpu_ns": 30 * S, "cpu_alloc_ns": 30 * S},
        )
    ]  # fmt: skip
    span = NOVEMBER, NOVEMBER + 30 * 86400 * S
    lines = rate(records, book, start_ns=span[0], end_ns=span[1])
    assert all(line.is_free for line in lines)
    assert sum(line.consumed for line in lines) == Decimal("60.5")

    prices = tuple(msgspec.structs.replace(one, free=Decimal(0)) for one in book.prices)
    dear = msgspec.structs.replace(book, prices=prices)
    whole = msgspec.structs.replace(
        records[1], wall_start=NOVEMBER, running_ns=end - NOVEMBER, cpu_alloc_ns=60 * S + S // 4
    )
    (line,) = rate([whole], dear, start_ns=span[0], end_ns=span[1])
    (bill,) = invoice([line], dear)
    assert f"× 0.0437 = {line.cost:f} EUR" in PAGE
    assert f"= {line.quantity} Core-Hours" in PAGE
    assert f"an adjustment of −{-bill.adjustment:f} |" in PAGE
    assert bill.payable == Decimal("0.00")


def test_every_name_is_there() -> None:
    """Measures, policies, roundings, presets, times and our own columns."""
    words = set(re.findall(r"[\w-]+", PAGE))
    names = [*SOLD, *PAUSED_POLICIES, *ROUNDINGS, *preset_names()]
    names += [column.name for column in COLUMNS if column.name.startswith("x_")]
    names += [unit for unit in UNITS if "-" not in unit and "iB" in unit]
    assert set(names) - words == set()
