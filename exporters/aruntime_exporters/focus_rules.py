"""The rules of one FOCUS row: cells, nulls, money, periods. Pure; see the checker.

Each rule is a function of :class:`Cells` that yields what is wrong as (rule, column, text).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from aruntime.metering.chain import HOUR_NS
from aruntime.metering.currencies import MINOR_DIGITS
from aruntime_exporters.focus_columns import COLUMNS, FORMATS, TIME_FORMAT, UNIT, Column, Row

Found = Iterator[tuple[str, str, str]]
"""Rule, column, text."""


class Cells:
    """One row, its texts read as what they are; a cell that is malformed reads as None."""

    def __init__(self, row: Row) -> None:
        self.row = row

    def text(self, column: str) -> str | None:
        """The text itself."""
        return self.row.get(column)

    def number(self, column: str) -> Decimal | None:
        """A decimal."""
        text = self.row.get(column)
        if text is None or not FORMATS["decimal"].fullmatch(text):
            return None
        return Decimal(text)

    def integer(self, column: str) -> int | None:
        """A whole number."""
        text = self.row.get(column)
        return int(text) if text and FORMATS["integer"].fullmatch(text) else None

    def moment(self, column: str) -> datetime | None:
        """A time (UTC, without saying so)."""
        return read_time(self.row.get(column))

    @property
    def is_correction(self) -> bool:
        """Whether the row amends a period that was invoiced before."""
        return self.row.get("ChargeClass") == "Correction"

    @property
    def is_sale(self) -> bool:
        """Whether prices and quantities must be there."""
        sold = self.row.get("ChargeCategory") in ("Usage", "Purchase")
        return sold and not self.is_correction


def read_time(text: str | None) -> datetime | None:
    """The time that a text names, None if it has another form or names none."""
    if text is None or not FORMATS["time"].fullmatch(text):
        return None
    try:
        return datetime.strptime(text, TIME_FORMAT)  # noqa: DTZ007 (all are UTC)
    except ValueError:
        return None


def _cells(cells: Cells) -> Found:
    """Nulls, forms and allowed values of single cells."""
    for column in COLUMNS:
        text = cells.row.get(column.name)
        if text is None:
            if not column.nullable and column.name in cells.row:
                yield "null", column.name, "may not be null"
        elif not text.strip():
            yield "empty", column.name, "is empty; what is not known is null"
        else:
            yield from _cell(column, text)


def _cell(column: Column, text: str) -> Found:
    pattern = FORMATS.get(column.kind)
    if pattern is not None and not pattern.fullmatch(text):
        yield "format", column.name, f"{text!r} is no {column.kind}"
    elif column.kind == "time" and read_time(text) is None:
        yield "format", column.name, f"{text!r} is no time of the calendar"
    elif column.values is not None and text not in column.values:
        yield "value", column.name, f"{text!r} is not allowed"
    elif column.kind == "json":
        yield from _flat_json(column.name, text)
    elif column.name.endswith("Unit") and not UNIT.fullmatch(text):
        yield "unit", column.name, f"{text!r} is no unit"
    elif column.name.endswith("Currency") and text not in MINOR_DIGITS:
        yield "currency", column.name, f"{text!r} is no currency of ISO 4217"


def _flat_json(column: str, text: str) -> Found:
    """KeyValueFormat: one object, unique keys, no objects or arrays in it."""
    pairs: list[list[tuple[str, Any]]] = []

    def collect(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append(found)
        return dict(found)

    try:
        decoded = json.loads(text, object_pairs_hook=collect, parse_constant=_no_constant)
    except ValueError:
        yield "json", column, "is no JSON"
        return
    if not isinstance(decoded, dict):
        yield "json", column, "is no JSON object"
        return
    top = pairs[-1]
    if len(decoded) != len(top):
        yield "json", column, "has a key twice"
    for key, value in top:
        if isinstance(value, dict | list):
            yield "nested", column, f"{key!r} is not flat"
        elif column == "Tags" and not (isinstance(value, str) or value is True):
            yield "tag", column, f"{key!r} is neither a string nor true"
        elif column == "SkuPriceDetails" and not key.startswith("x_"):
            yield "tag", column, f"{key!r} is our own and must begin with x_"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


TOGETHER = (
    ("PricingQuantity", "PricingUnit"),
    ("ConsumedQuantity", "ConsumedUnit"),
    ("SubAccountId", "SubAccountName"),
    ("RegionId", "RegionName"),
    ("ResourceId", "ResourceType"),
    ("SkuId", "SkuMeter"),
    ("SkuId", "SkuPriceId"),
)
"""Both null or neither."""

OF_SALES = (
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "SkuId",
    "SkuPriceId",
)
"""Not null in Usage and Purchase, null in Tax."""

ONLY_WITH = (
    ("ResourceName", "ResourceId"),
    ("SkuPriceDetails", "SkuPriceId"),
)
"""The first is null where the second is."""


def _nulls(cells: Cells) -> Found:
    """Which columns are null depends on others of the row."""
    text = cells.text
    category = text("ChargeCategory")
    for one, other in TOGETHER:
        if (text(one) is None) != (text(other) is None):
            yield "together", other, f"must be null exactly where {one} is"
    for name, owner in ONLY_WITH:
        if text(name) is not None and text(owner) is None:
            yield "together", name, f"must be null where {owner} is"
    for name in OF_SALES:
        if text(name) is None and cells.is_sale:
            yield "sale", name, f"may not be null where ChargeCategory is {category}"
        if text(name) is not None and category == "Tax":
            yield "sale", name, "must be null where ChargeCategory is Tax"
    consumed = text("ConsumedQuantity") is not None
    if category == "Usage" and not cells.is_correction and not consumed:
        yield "consumed", "ConsumedQuantity", "may not be null where ChargeCategory is Usage"
    if category != "Usage" and consumed:
        yield "consumed", "ConsumedQuantity", "must be null unless ChargeCategory is Usage"
    if text("CommitmentDiscountStatus") is not None:
        yield "commitment", "CommitmentDiscountStatus", "must be null: there is no commitment"


def _categories(cells: Cells) -> Found:
    """Values that exclude each other."""
    text = cells.text
    if text("ChargeFrequency") == "Usage-Based" and text("ChargeCategory") == "Purchase":
        yield "frequency", "ChargeFrequency", "may not be Usage-Based in a Purchase"
    if text("ServiceSubcategory") is not None and text("ServiceCategory") != "Compute":
        yield "subcategory", "ServiceSubcategory", "belongs to the category Compute"


PRODUCTS = (
    ("ListUnitPrice", "ListCost"),
    ("ContractedUnitPrice", "ContractedCost"),
    ("PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost"),
)
"""Times PricingQuantity, the first is the second: to the last decimal."""

SAME_AS = (
    ("EffectiveCost", "BilledCost"),
    ("ContractedCost", "BilledCost"),
    ("PricingCurrencyEffectiveCost", "EffectiveCost"),
    ("PricingCurrencyContractedUnitPrice", "ContractedUnitPrice"),
    ("PricingCurrencyListUnitPrice", "ListUnitPrice"),
)
"""Nothing is prepaid, and prices are in the currency of the bill."""


def _money(cells: Cells) -> Found:
    """Products and equalities, exactly."""
    quantity = cells.number("PricingQuantity")
    for price_name, cost_name in PRODUCTS:
        price, cost = cells.number(price_name), cells.number(cost_name)
        if None not in (price, cost, quantity) and not cells.is_correction:
            assert price is not None
            assert quantity is not None
            if Fraction(price) * Fraction(quantity) != cost:
                yield "product", cost_name, f"is {cost}, not {price} x {quantity}"
    for name, other in SAME_AS:
        if cells.number(name) != cells.number(other):
            yield "same", name, f"is {cells.text(name)}, {other} {cells.text(other)}"
    if quantity is None and cells.number("ListCost") != cells.number("BilledCost"):
        yield "same", "ListCost", "is not BilledCost, and nothing was priced"
    if cells.text("PricingCurrency") != cells.text("BillingCurrency"):
        yield "same", "PricingCurrency", "is not the BillingCurrency"
    if cells.text("ProviderName") != cells.text("InvoiceIssuerName") and cells.number("BilledCost"):
        yield "issuer", "BilledCost", "must be 0 where somebody else issues the invoice"
    for name in ("ListUnitPrice", "ContractedUnitPrice", "PricingQuantity", "ConsumedQuantity"):
        number = cells.number(name)
        if number is not None and number < 0 and not cells.is_correction:
            yield "negative", name, f"is {number}"


def _periods(cells: Cells) -> Found:
    """The charge lies in its billing period, which is a calendar month."""
    start, end = cells.moment("ChargePeriodStart"), cells.moment("ChargePeriodEnd")
    first, last = cells.moment("BillingPeriodStart"), cells.moment("BillingPeriodEnd")
    if start is not None and end is not None and start >= end:
        yield "period", "ChargePeriodEnd", "is not after ChargePeriodStart"
    if first is None or last is None:
        return
    months = (last.year - first.year) * 12 + last.month - first.month
    if months != 1 or any(m.day != 1 or m.hour or m.minute or m.second for m in (first, last)):
        yield "period", "BillingPeriodEnd", "does not end the calendar month that begins"
    if start is not None and start < first and not cells.is_correction:
        yield "period", "ChargePeriodStart", "lies before the billing period"
    if end is not None and end > last:
        yield "period", "ChargePeriodEnd", "lies after the billing period"
    if cells.text("ChargeCategory") == "Adjustment" and (start, end) != (first, last):
        yield "period", "ChargePeriodStart", "of an adjustment is not the billing period"


OF_LINES = (
    "x_BilledNanoseconds", "x_ClockSteps", "x_CorrectsLedgerSequence", "x_EstimateReasons",
    "x_ImageDigest", "x_Incarnation", "x_LedgerSequence", "x_PreviousMeteredEnd",
)  # fmt: skip
"""Null where a row is no line of usage."""


def _precise(cells: Cells) -> Found:
    """The charge period is the hours of the metered span, and a row of usage has one."""
    start, end = cells.integer("x_MeteredStart"), cells.integer("x_MeteredEnd")
    if (start is None) != (cells.text("ChargeCategory") != "Usage") or (start is None) != (
        end is None
    ):
        yield "metered", "x_MeteredStart", "belongs to Usage, with x_MeteredEnd"
    if start is None or end is None:
        for name in OF_LINES:
            if cells.text(name) is not None:
                yield "line", name, "belongs to Usage"
        return
    for name in ("x_ClockSteps", "x_LedgerSequence"):
        if cells.text(name) is None:
            yield "line", name, "may not be null in Usage"
    if cells.is_correction and cells.text("x_PreviousMeteredEnd") is not None:
        yield "line", "x_PreviousMeteredEnd", "must be null in a Correction"
    if (cells.integer("x_CorrectsLedgerSequence") is not None) != cells.is_correction:
        yield "amends", "x_CorrectsLedgerSequence", "belongs to a Correction"
    metered, billed = cells.integer("x_MeteredNanoseconds"), cells.integer("x_BilledNanoseconds")
    if cells.is_correction:
        return
    if metered is None or not 0 <= metered <= end - start:
        yield "metered", "x_MeteredNanoseconds", f"is {metered} in a span of {end - start}"
    if metered is None or billed is None or billed < metered:
        yield "metered", "x_BilledNanoseconds", f"is {billed}, less than metered"
    first, last = cells.moment("ChargePeriodStart"), cells.moment("ChargePeriodEnd")
    if first is not None and last is not None:
        epoch = datetime(1970, 1, 1)  # noqa: DTZ001 (all are UTC)
        bounds = [round((moment - epoch).total_seconds()) * 10**9 for moment in (first, last)]
        begins = start // HOUR_NS
        hours = [begins * HOUR_NS, max(-(-end // HOUR_NS), begins + 1) * HOUR_NS]
        if bounds != hours:
            yield "metered", "x_MeteredStart", "is not in the hours of the charge period"


ROW_RULES: tuple[Callable[[Cells], Found], ...] = (
    _cells, _nulls, _categories, _money, _periods, _precise,
)  # fmt: skip
