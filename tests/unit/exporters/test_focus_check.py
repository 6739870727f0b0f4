"""The strict check of FOCUS rows takes every bill we make and finds every single thing broken."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import aruntime_exporters.focus_check
import aruntime_exporters.focus_rules
import pytest
from aruntime_exporters.focus import focus_rows
from aruntime_exporters.focus_check import check
from aruntime_exporters.focus_columns import COLUMNS, Column, Row

from tests.billing import bill_of, records_of_days

Rows = list[dict[str, str | None]]
Mutate = Callable[[Rows], object]


@functools.cache
def made() -> tuple[Row, ...]:
    """Return the rows of a bill that passes."""
    rows = tuple(focus_rows(bill_of(records_of_days(5, runs=3, hours=2))))
    assert check(rows) == []
    return rows


@pytest.fixture
def rows() -> Rows:
    """Return a copy of the rows to break."""
    return [dict(row) for row in made()]


def usage(rows: Rows, number: int = 0, **wanted: str) -> dict[str, str | None]:
    """Return one of the rows of usage that cost something and have these values."""
    found = [
        row
        for row in rows
        if row["ChargeCategory"] == "Usage"
        and row["x_FreeTier"] == "false"
        and all(row[name] == value for name, value in wanted.items())
    ]
    return found[number]


def put(column: str, value: str | None) -> Mutate:
    """Return a mutation of one cell in the middle of a file."""
    return lambda rows: usage(rows, 5).update({column: value})


def adjust(column: str, value: str | None) -> Mutate:
    """Return a mutation of the last row, an adjustment."""
    return lambda rows: rows[-1].update({column: value})


def everywhere(column: str, value: str | None) -> Mutate:
    """Return a mutation of a whole column."""

    def mutate(rows: Rows) -> None:
        for row in rows:
            row[column] = value

    return mutate


def costs(row: dict[str, str | None], text: str, *, without: str = "") -> None:
    """Give a row another cost, in all columns but one."""
    names = {"BilledCost", "EffectiveCost", "ContractedCost", "ListCost"}
    names |= {"PricingCurrencyEffectiveCost"}
    for name in names - {without}:
        row[name] = text


def more(text: str | None, by: str) -> str:
    """Return a decimal with something added."""
    return format(Decimal(text or "0") + Decimal(by), "f")


def tiny(column: str) -> Mutate:
    """Return a mutation of the last decimal of a cost: what floats would have rounded away."""

    def mutate(rows: Rows) -> None:
        row = usage(rows, 5)
        row[column] = more(row[column], "0.000000000000000000000000001")

    return mutate


def correction_sum(rows: Rows) -> None:
    """Charge a cent more in a row where no product is asked for."""
    row = rows[-1]
    costs(row, more(row["BilledCost"], "0.01"))


def half_cent(rows: Rows) -> None:
    """Let an invoice pay a part of a cent, its rows adding up to that."""
    last = next(row for row in reversed(rows) if row["BillingCurrency"] == "EUR")
    costs(last, more(last["BilledCost"], "0.005"))
    payable = more(last["x_InvoicePayable"], "0.005")
    for row in rows:
        if row["InvoiceId"] == last["InvoiceId"]:
            row["x_InvoicePayable"] = payable


def shift_back(rows: Rows) -> None:
    """Let a line begin a nanosecond before the end of the one before it."""
    row = next(row for row in rows if row["x_PreviousMeteredEnd"] is not None)
    row["x_MeteredStart"] = str(int(row["x_MeteredStart"] or 0) - 1)


def shorten(rows: Rows) -> None:
    """Let a line end a nanosecond earlier."""
    row = next(row for row in rows if row["x_PreviousMeteredEnd"] is not None)
    row["x_MeteredEnd"] = str(int(row["x_MeteredEnd"] or 0) - 1)
    row["x_MeteredNanoseconds"] = row["x_BilledNanoseconds"] = "0"


def lose_free_row(rows: Rows) -> None:
    """Take a row away that costs nothing, in the middle of its run."""
    chained = {(row["x_Incarnation"], row["x_PreviousMeteredEnd"]) for row in rows}
    gone = next(
        index
        for index, row in enumerate(rows)
        if row["x_FreeTier"] == "true" and (row["x_Incarnation"], row["x_MeteredEnd"]) in chained
    )
    del rows[gone]


def charge_twice(rows: Rows) -> None:
    """Repeat a row, and take it off the adjustment again."""
    again = dict(usage(rows, 5))
    rows.insert(0, again)
    last = next(row for row in reversed(rows) if row["InvoiceId"] == again["InvoiceId"])
    costs(last, more(last["BilledCost"], f"-{again['BilledCost']}"))


def other_issuer(rows: Rows) -> None:
    """Let somebody else issue the invoices."""
    for row in rows:
        row["InvoiceIssuerName"] = "A Reseller"


def negative(rows: Rows) -> None:
    """Give a row a negative quantity with fitting costs."""
    row = usage(rows, 5)
    for name in ("PricingQuantity", "BilledCost", "EffectiveCost", "ContractedCost", "ListCost",
                 "PricingCurrencyEffectiveCost"):  # fmt: skip
        row[name] = f"-{row[name]}"


MUTANTS: dict[str, tuple[str, Mutate]] = {
    # column, null, empty
    "a column is missing": ("column", lambda rows: [row.pop("Tags") for row in rows]),
    "a column is missing in one row": ("column", lambda rows: rows[4].pop("Tags")),
    "a column is unknown": ("column", everywhere("Provider", "Example")),
    "a custom column is misspelt": ("column", everywhere("x_host_id", "a")),
    "a required cell is null": ("null", put("ServiceName", None)),
    "a cost is null": ("null", put("EffectiveCost", None)),
    "a text is empty": ("empty", put("ResourceName", "")),
    "a text is blank": ("empty", put("RegionName", "  ")),
    # numbers
    "a cost is an integer": ("format", put("BilledCost", "1")),
    "a number has a plus": ("format", put("PricingQuantity", "+1.0")),
    "a number has a separator": ("format", put("ListCost", "1,000.0")),
    "a number has an exponent": ("format", put("ListUnitPrice", "1E-3")),
    "a number has a sign of money": ("format", put("BilledCost", "€1.0")),
    "a number is NaN": ("format", put("BilledCost", "NaN")),
    "a number begins with a zero": ("format", put("BilledCost", "00.1")),
    # times
    "a time is a float": ("format", put("ChargePeriodStart", "1794787200.0")),
    "a time has a fraction": ("format", put("ChargePeriodStart", "2026-11-16T00:00:00.5Z")),
    "a time has an offset": ("format", put("ChargePeriodStart", "2026-11-16T00:00:00+00:00")),
    "a time has a blank": ("format", put("ChargePeriodEnd", "2026-11-16 00:00:00Z")),
    "a time is no day": ("format", put("BillingPeriodEnd", "2026-11-31T00:00:00Z")),
    "a boolean is a word": ("format", put("x_Estimated", "yes")),
    # values, one row among right ones
    "a category is wrong": ("value", put("ChargeCategory", "usage")),
    "a class is wrong": ("value", put("ChargeClass", "correction")),
    "a frequency is wrong": ("value", put("ChargeFrequency", "Hourly")),
    "a service category is wrong": ("value", put("ServiceCategory", "Computing")),
    "a subcategory is wrong": ("value", put("ServiceSubcategory", "Container")),
    "a pricing category is wrong": ("value", put("PricingCategory", "On-Demand")),
    "a unit is none": ("unit", put("PricingUnit", "GiB/h")),
    "a unit of time is singular": ("unit", put("ConsumedUnit", "GiB-Hour")),
    "a currency is a sign": ("currency", put("BillingCurrency", "€")),
    "a currency is none": ("currency", put("PricingCurrency", "EUX")),
    # key-value
    "tags are no JSON": ("json", put("Tags", "{team:web}")),
    "tags are an array": ("json", put("Tags", '["web"]')),
    "a tag is there twice": ("json", put("Tags", '{"a":"1","a":"2"}')),
    "a tag is not JSON's": ("json", put("Tags", '{"a":NaN}')),
    "tags are nested": ("nested", put("Tags", '{"team":{"name":"web"}}')),
    "a tag is a list": ("nested", put("Tags", '{"team":["web"]}')),
    "a tag is null": ("tag", put("Tags", '{"team":null}')),
    "a tag is a number": ("tag", put("Tags", '{"team":1}')),
    "a detail is not ours": ("tag", put("SkuPriceDetails", '{"Measure":"cpu"}')),
    # nulls that depend on others
    "a quantity has no unit": ("together", put("PricingUnit", None)),
    "consumption has no unit": ("together", put("ConsumedUnit", None)),
    "a resource has no type": ("together", put("ResourceType", None)),
    "a region has no name": ("together", put("RegionName", None)),
    "an account has no name": ("together", put("SubAccountId", "a")),
    "a name has no resource": ("together", adjust("ResourceName", "web")),
    "details have no price": ("together", adjust("SkuPriceDetails", '{"x_Basis":"usage"}')),
    "usage has no price": ("sale", put("ListUnitPrice", None)),
    "usage has no SKU": ("sale", put("SkuId", None)),
    "a tax has a price": ("sale", put("ChargeCategory", "Tax")),
    "usage has no consumption": ("consumed", put("ConsumedQuantity", None)),
    "an adjustment consumes": ("consumed", adjust("ConsumedQuantity", "1.0")),
    "a commitment is used": ("commitment", put("CommitmentDiscountStatus", "Used")),
    "a purchase is usage-based": ("frequency", put("ChargeCategory", "Purchase")),
    "a subcategory of another": ("subcategory", put("ServiceCategory", "Storage")),
    # money
    "a list cost is far off": ("product", put("ListCost", "99.0")),
    "a list cost is rounded": ("product", tiny("ListCost")),
    "a contracted cost is rounded": ("product", tiny("ContractedCost")),
    "a list price is wrong": ("product", put("ListUnitPrice", "0.05")),
    "an effective cost is another": ("same", tiny("EffectiveCost")),
    "a billed cost is another": ("same", tiny("BilledCost")),
    "a price in another currency": ("same", put("PricingCurrencyListUnitPrice", "7.0")),
    "currencies differ": ("same", put("PricingCurrency", "USD")),
    "somebody else is paid": ("issuer", other_issuer),
    "a quantity is negative": ("negative", negative),
    "a consumed quantity is negative": ("negative", put("ConsumedQuantity", "-1.0")),
    # periods
    "a charge ends before it begins": (
        "period", put("ChargePeriodEnd", "2026-11-15T00:00:00Z"),
    ),
    "a charge is of another month": ("period", put("ChargePeriodStart", "2026-10-31T23:00:00Z")),
    "a charge reaches over the month": ("period", put("ChargePeriodEnd", "2026-12-01T01:00:00Z")),
    "a billing period is no month": (
        "period", everywhere("BillingPeriodEnd", "2026-12-01T00:00:01Z"),
    ),
    "a billing period is two months": (
        "period", everywhere("BillingPeriodEnd", "2027-01-01T00:00:00Z"),
    ),
    "the exact span is elsewhere": ("metered", put("ChargePeriodStart", "2026-11-17T22:00:00Z")),
    "usage has no exact span": ("metered", put("x_MeteredStart", None)),
    "more time than there was": ("metered", put("x_MeteredNanoseconds", str(10**16))),
    "less time billed than metered": ("metered", put("x_BilledNanoseconds", "0")),
    "a correction amends nothing": ("amends", put("ChargeClass", "Correction")),
    "usage amends something": ("amends", put("x_CorrectsLedgerSequence", "3")),
    "an adjustment follows a line": ("line", adjust("x_PreviousMeteredEnd", "1")),
    "usage names no record": ("line", put("x_LedgerSequence", None)),
    # identifiers
    "a price is of two SKUs": ("one", put("SkuId", "other")),
    "a price has two amounts": ("one", lambda rows: (
        usage(rows, 5).update(ListUnitPrice="1.0", PricingCurrencyListUnitPrice="1.0")
    )),
    "a SKU has two meters": ("one", put("SkuMeter", "other")),
    "a service has two subcategories": ("one", put("ServiceSubcategory", "Virtual Machines")),
    "an invoice of two tenants": ("one", put("BillingAccountId", "somebody")),
    "an invoice of two months": ("one", put("BillingPeriodStart", "2026-10-01T00:00:00Z")),
    "a region has two names": ("one", put("RegionName", "Elsewhere")),
    "two heads of one ledger": ("one", put("x_LedgerHeadHash", "00" * 32)),
    # the whole
    "a row is there twice": ("double", charge_twice),
    "lines overlap": ("overlap", shift_back),
    "there is a hole between lines": ("gap", shorten),
    "a free row was lost": ("gap", lose_free_row),
    "an adjustment was lost": ("sum", lambda rows: rows.pop()),
    "a row was lost": ("sum", lambda rows: rows.remove(usage(rows, 5))),
    "a cent too much": ("sum", correction_sum),
    "a part of a cent is paid": ("minor", half_cent),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_caught_by_its_rule(rows: Rows, name: str) -> None:
    """A file with one thing broken is refused, and by the rule that is there for it."""
    rule, mutate = MUTANTS[name]
    mutate(rows)
    assert rule in {violation.rule for violation in check(rows)}


def test_every_rule_has_a_mutant() -> None:
    """No rule is there that nothing proves."""
    rules = set()
    for module in (aruntime_exporters.focus_check, aruntime_exporters.focus_rules):
        rules |= set(re.findall(r'yield "(\w+)"', Path(str(module.__file__)).read_text()))
    what = {"overlap", "gap"}
    assert {rule for rule, _ in MUTANTS.values()} == rules | what


def test_rows_are_compared_with_what_the_invoices_say(rows: Rows) -> None:
    """A payable that differs from the rows', an invoice without rows and one nobody made."""
    first = rows[0]["InvoiceId"] or ""
    stated = {row["InvoiceId"] or "": Decimal(row["x_InvoicePayable"] or "") for row in rows}
    assert check(rows, stated) == []
    found = check(rows, {**stated, first: stated[first] + 1, "another": Decimal(1)})
    assert [(v.rule, v.column) for v in found] == [("sum", "BilledCost"), ("sum", "InvoiceId")]
    del stated[first]
    assert [v.rule for v in check(rows, stated)] == ["sum"]


def test_a_violation_says_where(rows: Rows) -> None:
    """Row, column, what and rule, on one line."""
    rows[4]["ServiceName"] = None
    shown = [str(violation) for violation in check(rows)]
    assert shown[0] == "row 5: ServiceName: may not be null (null)"


NOT_PROTECTED = frozenset({
    "BillingAccountName", "ChargeDescription", "PublisherName", "ResourceId", "SkuPriceDetails",
    "Tags", "x_EstimateReasons", "x_Estimated", "x_ImageDigest", "x_Provisional",
    "x_PriceBookVersion", "x_BilledNanoseconds", "ResourceName", "ConsumedQuantity",
    "PricingCategory", "ChargeFrequency", "x_LedgerHeadSequence", "x_HostId", "RegionId",
    "ConsumedUnit", "ProviderName", "ServiceName", "SkuMeter", "x_FreeTier", "x_Incarnation",
    "x_LedgerSequence", "x_MeteredNanoseconds", "PricingUnit", "InvoiceIssuerName",
})  # fmt: skip
"""Columns where one allowed value may stand for another: no rule can know which was meant."""


@pytest.mark.parametrize("column", COLUMNS, ids=[column.name for column in COLUMNS])
def test_no_cell_can_be_anything(rows: Rows, column: Column) -> None:
    """Garbage in any cell that has a form, and any other row's value in one that computes.

    Of a line, of one that is free, of one that follows another, and of an adjustment.
    """
    name = column.name
    chosen = [usage(rows, 5), rows[-1]]
    chosen += [next(row for row in rows if row["x_FreeTier"] == "true")]
    chosen += [next(row for row in rows if row["x_PreviousMeteredEnd"] is not None)]
    values: list[str | None] = []
    if column.kind != "text" or column.values is not None:
        values += ["", "~", "1e5"]
    if name not in NOT_PROTECTED:
        values += [row[name] for row in (*chosen, rows[0], rows[len(rows) // 2])]
    for row in chosen:
        before = row[name]
        for value in dict.fromkeys(values):
            row[name] = value
            assert value == before or check(rows), f"{row['ChargeCategory']}: {value!r}"
        row[name] = before
