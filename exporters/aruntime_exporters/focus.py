"""FOCUS 1.2: a bill as rows of cost and usage that any FinOps tool reads.

One row per rated line, and one Adjustment per invoice with what rounding the payable amount made
of it: lines are never rounded to cents, so price times quantity is the cost to the last decimal
and an invoice's rows add up to what is paid. Charge periods are the UTC hours that hold a line,
``x_MeteredStart`` and ``x_MeteredEnd`` its exact ends. The tenant is the billing account; there are
no accounts below it. Before files are handed out they are checked
(:mod:`aruntime_exporters.focus_check`).

Out of scope: prices and rounding (:mod:`aruntime.metering.rating`).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import BinaryIO

from aruntime.errors import AruntimeError
from aruntime.metering.bill import FILE_KIND, Bill
from aruntime.metering.chain import HOUR_NS
from aruntime.metering.quantities import MEASURES
from aruntime.metering.rating import Invoice, RatedLine
from aruntime_exporters.focus_check import check
from aruntime_exporters.focus_columns import COLUMNS, COMPUTE, TIME_FORMAT, Row
from aruntime_exporters.focus_files import csv_lines, decimal_text, write_parquet

Values = dict[str, str | None]


def focus_rows(bill: Bill) -> Iterator[Row]:
    """The rows of a bill, in the order of its lines, each invoice's adjustment last."""
    for invoice_id, invoice in bill.numbered():
        common = _invoice_values(bill, invoice_id, invoice)
        spans = _Spans(bill.clock_steps)
        for line in invoice.lines:
            yield {**common, **_line_values(line), **spans.values(line)}
        yield {**common, **_adjustment_values(bill, invoice)}


class _Spans:
    """Where the line before ended, per run, SKU and setting of the clock.

    So no row can go missing unseen, and a clock that was set back is no double charge.
    """

    def __init__(self, clock_steps: Sequence[int]) -> None:
        self._clock_steps = clock_steps
        self._last: dict[tuple[str, str, str, int], tuple[int, int, str | None]] = {}

    def values(self, line: RatedLine) -> Values:
        """The columns of a line; lines of one span (paid and free) have the same."""
        steps = len(self._clock_steps)
        if line.seq:
            steps = bisect_left(self._clock_steps, line.seq)
        if line.is_correction:
            return {"x_ClockSteps": str(steps)}
        key = (line.container_id, line.incarnation, line.sku, steps)
        start, end, before = self._last.get(key, (-1, -1, None))
        if (start, end) != (line.start_ns, line.end_ns):
            before = str(end) if end >= 0 else None
            self._last[key] = (line.start_ns, line.end_ns, before)
        return {"x_ClockSteps": str(steps), "x_PreviousMeteredEnd": before}


def _invoice_values(bill: Bill, invoice_id: str, invoice: Invoice) -> Values:
    """What all rows of an invoice have in common; the rest is null."""
    book = bill.book
    region = book.region_id or None
    return {
        **dict.fromkeys(column.name for column in COLUMNS),
        "BillingAccountId": invoice.tenant,
        "BillingAccountName": invoice.account_name,
        "BillingCurrency": invoice.currency,
        "BillingPeriodStart": time_text(bill.period.start_ns),
        "BillingPeriodEnd": time_text(bill.period.end_ns),
        "InvoiceId": invoice_id,
        "InvoiceIssuerName": invoice.invoice_issuer,
        "PricingCurrency": invoice.currency,
        "ProviderName": invoice.provider,
        "PublisherName": book.publisher,
        "RegionId": region,
        "RegionName": (book.region_name or region) if region else None,
        "ServiceCategory": COMPUTE,
        "ServiceName": book.service_name,
        "ServiceSubcategory": "Containers",
        "x_HostId": bill.host_id,
        "x_InvoiceNumber": str(bill.issue.numbers[invoice_id]) if bill.issue is not None else None,
        "x_InvoicePayable": decimal_text(invoice.payable),
        "x_LedgerHeadHash": bill.head_hash,
        "x_LedgerHeadSequence": str(bill.head_seq),
        "x_PriceBookVersion": invoice.book_version,
        "x_Provisional": _boolean(bill.is_provisional),
    }


def _line_values(line: RatedLine) -> Values:
    return {
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if line.is_correction else None,
        "ChargeDescription": _description(line),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": time_text(line.start_ns // HOUR_NS * HOUR_NS),
        "ChargePeriodEnd": time_text(max(-(-line.end_ns // HOUR_NS), line.start_ns // HOUR_NS + 1)
                                     * HOUR_NS),
        "ConsumedQuantity": decimal_text(line.consumed),
        "ConsumedUnit": line.consumed_unit,
        "PricingCategory": "Standard",
        "PricingQuantity": decimal_text(line.quantity),
        "PricingUnit": line.unit,
        "ResourceId": line.container_id,
        "ResourceName": line.container_name or None,
        "ResourceType": "Container",
        "SkuId": line.sku,
        "SkuMeter": MEASURES[line.quantity_name].text,
        "SkuPriceDetails": _json({"x_Measure": line.measure, "x_Basis": line.basis or "usage"}),
        "SkuPriceId": line.price_id,
        "Tags": _json(line.labels) if line.labels else None,
        "x_BilledNanoseconds": str(line.billed_ns),
        "x_CorrectsLedgerSequence": str(line.corrects) if line.is_correction else None,
        "x_Estimated": _boolean(bool(line.estimated)),
        "x_EstimateReasons": ",".join(line.estimated) or None,
        "x_FreeTier": _boolean(line.is_free),
        "x_ImageDigest": line.image_digest or None,
        "x_Incarnation": line.incarnation or None,
        "x_LedgerSequence": str(line.seq),
        "x_MeteredEnd": str(line.end_ns),
        "x_MeteredNanoseconds": str(line.metered_ns),
        "x_MeteredStart": str(line.start_ns),
        **_costs(line.list_cost, line.cost, line.list_unit_price, line.contracted_unit_price),
    }  # fmt: skip


def _adjustment_values(bill: Bill, invoice: Invoice) -> Values:
    """The row that makes the sum of an invoice what is paid, also where it is nothing."""
    return {
        "ChargeCategory": "Adjustment",
        "ChargeDescription": f"Rounding of the payable amount ({invoice.rounding})",
        "ChargeFrequency": "One-Time",
        "ChargePeriodStart": time_text(bill.period.start_ns),
        "ChargePeriodEnd": time_text(bill.period.end_ns),
        "x_Estimated": "false",
        "x_FreeTier": "false",
        **_costs(invoice.adjustment, invoice.adjustment, None, None),
    }


def _costs(
    listed: Decimal, cost: Decimal, list_price: Decimal | None, price: Decimal | None
) -> Values:
    """Costs and unit prices; nothing is prepaid, and prices are in the bill's currency."""
    cost_text = decimal_text(cost)
    price_text = None if price is None else decimal_text(price)
    list_price_text = None if list_price is None else decimal_text(list_price)
    return {
        "BilledCost": cost_text,
        "ContractedCost": cost_text,
        "ContractedUnitPrice": price_text,
        "EffectiveCost": cost_text,
        "ListCost": decimal_text(listed),
        "ListUnitPrice": list_price_text,
        "PricingCurrencyContractedUnitPrice": price_text,
        "PricingCurrencyEffectiveCost": cost_text,
        "PricingCurrencyListUnitPrice": list_price_text,
    }


def _description(line: RatedLine) -> str:
    text = line.description or f"{line.sku}: {MEASURES[line.quantity_name].text}"
    text += " (free tier)" * line.is_free
    return f"{text} (corrected: {line.note})" if line.note else text


def time_text(instant_ns: int) -> str:
    """A Unix time in ns, to the second below, as FOCUS writes times."""
    return datetime.fromtimestamp(instant_ns // 10**9, tz=UTC).strftime(TIME_FORMAT)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _json(pairs: dict[str, str]) -> str:
    return json.dumps(pairs, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


class RowsRefused(AruntimeError):
    """A bill whose rows break the rules of FOCUS; it is not written."""


def checked_rows(bill: Bill) -> list[Row]:
    """The rows of a bill, after the strict check.

    Raises:
        RowsRefused: they break a rule; names the first.
    """
    rows = list(focus_rows(bill))
    payable = {invoice_id: invoice.payable for invoice_id, invoice in bill.numbered()}
    if found := check(rows, payable):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise RowsRefused(f"bill not written, it breaks FOCUS 1.2: {found[0]}{more}")
    return rows


class FocusCsv:
    """``--format focus-csv``; an :class:`aruntime.metering.bill.FileExporter`."""

    kind = FILE_KIND

    def write(self, bill: Bill, file: BinaryIO) -> None:
        """Write a bill as one CSV file, UTF-8.

        Raises:
            RowsRefused: see :func:`checked_rows`.
            OSError: the file cannot be written.
        """
        file.writelines(line.encode() for line in csv_lines(checked_rows(bill)))


class FocusParquet:
    """``--format focus-parquet``; an :class:`aruntime.metering.bill.FileExporter`."""

    kind = FILE_KIND

    def write(self, bill: Bill, file: BinaryIO) -> None:
        """Write a bill as one Parquet file.

        Raises:
            RowsRefused: see :func:`checked_rows`.
            Unavailable: pyarrow is not installed.
            OSError: the file cannot be written.
        """
        write_parquet(checked_rows(bill), file)
