"""A strict check of a FOCUS 1.2 file, row by row and as a whole.

The public validator asks whether *some* row has an allowed value, never multiplies where
ChargeClass is null, and takes times and tags of any form. This looks at every cell, computes with
exact decimals, and sums: what passes can be invoiced. :func:`check` returns what is wrong, an
empty list if nothing is; it never raises for what a file holds.

Out of scope: reading files (:mod:`aruntime_exporters.focus_files`), the columns themselves
(:mod:`aruntime_exporters.focus_columns`), the rules of single rows
(:mod:`aruntime_exporters.focus_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from aruntime.metering.currencies import MINOR_DIGITS
from aruntime_exporters.focus_columns import COLUMNS, CUSTOM_COLUMN, Row
from aruntime_exporters.focus_rules import ROW_RULES, Cells, Found


class Violation(NamedTuple):
    """One thing that is wrong."""

    rule: str
    """Its name; every one is proven by a mutant in the tests."""
    row: int
    """From 1; 0: the file as a whole."""
    column: str
    text: str

    def __str__(self) -> str:
        """One line for people."""
        place = f"row {self.row}" if self.row else "file"
        return f"{place}: {self.column}: {self.text} ({self.rule})"


def check(rows: Sequence[Row], payable: Mapping[str, Decimal] | None = None) -> list[Violation]:
    """Check a file.

    Args:
        rows: in the order of the file.
        payable: what each invoice says is to be paid; then invoices and rows must name the same.
    """
    found = [Violation(rule, 0, column, text) for rule, column, text in _header(rows)]
    for number, row in enumerate(rows, 1):
        cells = Cells(row)
        for rules in ROW_RULES:
            found += (Violation(rule, number, column, text) for rule, column, text in rules(cells))
    for file_rules in FILE_RULES:
        found += (Violation(rule, 0, column, text) for rule, column, text in file_rules(rows))
    found += (Violation(rule, 0, column, text) for rule, column, text in _sums(rows, payable))
    return found


def _header(rows: Sequence[Row]) -> Found:
    """Every row has all columns of the profile and no unknown one."""
    known = {column.name for column in COLUMNS}
    seen = {name for row in rows for name in row}
    for name in sorted(seen - known):
        if not CUSTOM_COLUMN.fullmatch(name):
            yield "column", name, "is no column of FOCUS 1.2, and custom ones begin with x_"
    for column in COLUMNS:
        if any(column.name not in row for row in rows):
            yield "column", column.name, "is missing"


ONE = (
    (("SkuPriceId",), "SkuId"),
    (("SkuPriceId",), "BillingCurrency"),
    (("SkuPriceId",), "PricingUnit"),
    (("SkuPriceId",), "ListUnitPrice"),
    (("SkuId",), "SkuMeter"),
    (("ServiceName",), "ServiceCategory"),
    (("ServiceName",), "ServiceSubcategory"),
    (("RegionId",), "RegionName"),
    (("BillingAccountId", "InvoiceIssuerName"), "BillingAccountName"),
    (("InvoiceId",), "BillingAccountId"),
    (("InvoiceId",), "BillingCurrency"),
    (("InvoiceId",), "BillingPeriodStart"),
    (("InvoiceId",), "x_InvoicePayable"),
    (("InvoiceId",), "x_InvoiceNumber"),
    (("x_InvoiceNumber", "x_HostId"), "InvoiceId"),
    (("x_HostId",), "x_LedgerHeadHash"),
)
"""For each value of the first there is one of the second."""


def _one(rows: Sequence[Row]) -> Found:
    """Identifiers mean one thing throughout the file."""
    for keys, name in ONE:
        seen: dict[tuple[str | None, ...], str | None] = {}
        for row in rows:
            key = tuple(row.get(column) for column in keys)
            if None not in key and seen.setdefault(key, row.get(name)) != row.get(name):
                yield "one", name, f"{'/'.join(keys)} {key[0]!r} has more than one"
                break


SPAN_KEY = ("x_HostId", "ResourceId", "x_Incarnation", "SkuId", "x_ClockSteps")


def _spans(rows: Sequence[Row]) -> Found:
    """Each run of a container is charged once for every instant, per SKU, and no row is missing."""
    charged: dict[tuple[str | None, ...], dict[tuple[int, int], int | None]] = {}
    seen: set[tuple[str | None, ...]] = set()
    for row in rows:
        cells = Cells(row)
        start, end = cells.integer("x_MeteredStart"), cells.integer("x_MeteredEnd")
        if start is None or end is None or cells.is_correction:
            continue
        key = tuple(row.get(name) for name in SPAN_KEY)
        line = (*key, row.get("x_LedgerSequence"), str(start), str(end), row.get("x_FreeTier"))
        if line in seen:
            yield "double", "x_LedgerSequence", f"record {line[-4]} is charged twice for {key[3]}"
        seen.add(line)
        before = cells.integer("x_PreviousMeteredEnd")
        if charged.setdefault(key, {}).setdefault((start, end), before) != before:
            yield "gap", "x_PreviousMeteredEnd", f"record {line[-4]} follows two others"
    for key, spans in charged.items():
        yield from _unbroken(f"{key[1]}, {key[3]}", spans)


def _unbroken(name: str, spans: Mapping[tuple[int, int], int | None]) -> Found:
    """Spans do not overlap, and each names the end of the one before."""
    before: int | None = None
    for (start, end), previous in sorted(spans.items()):
        if before is not None and start < before:
            yield "overlap", "x_MeteredStart", f"{name} is charged twice for {before - start} ns"
        elif previous != before:
            text = f"{name}: the row before ends at {before}, not at {previous}"
            yield "gap", "x_PreviousMeteredEnd", text
        before = end


def _sums(rows: Sequence[Row], payable: Mapping[str, Decimal] | None) -> Found:
    """What an invoice's rows add up to is what is paid, which can be paid in its currency."""
    sums: dict[str, Fraction] = {}
    stated: dict[str, Decimal | None] = {}
    for row in rows:
        invoice, cells = row.get("InvoiceId"), Cells(row)
        if invoice is not None:
            billed = Fraction(cells.number("BilledCost") or 0)
            sums[invoice] = sums.get(invoice, Fraction(0)) + billed
            stated.setdefault(invoice, cells.number("x_InvoicePayable"))
            digits = MINOR_DIGITS.get(row.get("BillingCurrency") or "", 2)
            paid = stated[invoice]
            if paid is not None and Fraction(paid) * 10**digits % 1:
                yield "minor", "x_InvoicePayable", f"{paid} cannot be paid: {invoice}"
    for invoice, total in sums.items():
        expected = stated[invoice] if payable is None else payable.get(invoice)
        if expected is None or total != expected or stated[invoice] != expected:
            text = f"rows of {invoice} add up to {float(total)}, payable is {expected}"
            yield "sum", "BilledCost", text
    for invoice in sorted((payable or {}).keys() - sums.keys()):
        yield "sum", "InvoiceId", f"{invoice} has no rows"


FILE_RULES: tuple[Callable[[Sequence[Row]], Found], ...] = (_one, _spans)
