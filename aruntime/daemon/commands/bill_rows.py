"""A bill for people and for programs: ``bill --format table|json``. Pure.

The table adds a tenant's lines up by price and shows six decimals; JSON has every line and every
digit, numbers as decimal strings. Out of scope: FOCUS (exporters of the kind ``file``).
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any, NamedTuple

import msgspec

from aruntime.daemon.commands.listing import align
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.metering.bill import Bill
from aruntime.metering.price_store import SHORT_VERSION
from aruntime.metering.prices_check import instant_text
from aruntime.metering.quantities import NS
from aruntime.metering.rating import EXACT, PRECISION, Invoice, RatedLine

SHOWN_DECIMALS = Decimal("0.000001")
WIDE = Context(prec=PRECISION)
HEADING = "TENANT\tSKU\tPRICE ID\tQUANTITY\tUNIT\tUNIT PRICE\tCOST"


class _Sum(NamedTuple):
    """Lines of one price."""

    line: RatedLine
    quantity: Decimal
    cost: Decimal


def bill_table(bill: Bill) -> str:
    """Write a bill as a table, an invoice after the other, and what vouches for it."""
    lines = [HEADING]
    for invoice_id, invoice in bill.numbered():
        tenant = invoice.tenant
        number = f"invoice {bill.issue.numbers[invoice_id]}" if bill.issue is not None else ""
        for one in _by_price(invoice):
            note = " (free)" if one.line.is_free else " (correction)" * one.line.is_correction
            lines.append(
                f"{tenant}\t{one.line.sku}{note}\t{one.line.price_id}\t{_shown(one.quantity)}\t"
                f"{one.line.unit}\t{one.line.contracted_unit_price:f}\t"
                f"{_shown(one.cost)} {invoice.currency}"
            )
        lines.append(f"{tenant}\trounding\t\t\t\t\t{_shown(invoice.adjustment)} {invoice.currency}")
        due = "CREDIT" if invoice.payable < 0 else "TO BE PAID"
        lines.append(f"{tenant}\t{due}\t{number}\t\t\t\t{invoice.payable:f} {invoice.currency}")
    return (
        align(lines)
        + f"\n{bill.period} {_state(bill)}; price book {bill.book.version[:SHORT_VERSION]};"
        + f" ledger record {bill.head_seq} {bill.head_hash}\n"
    )


def _state(bill: Bill) -> str:
    """Whether it may still change."""
    if bill.issue is not None:
        when = instant_text(bill.issue.time_ns // NS * NS)
        return f"issued {when} by {escape_controls(bill.issue.author)} as bill {bill.issue.n}"
    if bill.is_provisional:
        return "provisional: not all of the month's usage is in the ledger"
    return "final"


def _by_price(invoice: Invoice) -> list[_Sum]:
    """The lines added up, in the order of their SKUs and prices."""
    sums: dict[tuple[str, str, bool, bool], _Sum] = {}
    for line in invoice.lines:
        key = (line.sku, line.price_id, line.is_free, line.is_correction)
        before = sums.get(key, _Sum(line, Decimal(0), Decimal(0)))
        sums[key] = _Sum(
            line,
            EXACT.add(before.quantity, line.quantity),
            EXACT.add(before.cost, line.cost),
        )
    return [sums[key] for key in sorted(sums)]


def _shown(amount: Decimal) -> str:
    """Six decimals, for people."""
    return format(amount.quantize(SHOWN_DECIMALS, context=WIDE), "f")


def bill_json(bill: Bill) -> str:
    """Write a bill with every line, exactly."""
    document = {
        "Period": str(bill.period),
        "Start": rfc3339_nano(bill.period.start_ns),
        "End": rfc3339_nano(bill.period.end_ns),
        "Provisional": bill.is_provisional,
        "Issued": _issued(bill),
        "HostID": bill.host_id,
        "LedgerHeadSequence": bill.head_seq,
        "LedgerHeadHash": bill.head_hash,
        "PriceBookVersion": bill.book.version,
        "PriceBookName": bill.book.name,
        "Invoices": [
            _invoice(bill, invoice_id, invoice) for invoice_id, invoice in bill.numbered()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _issued(bill: Bill) -> dict[str, Any] | None:
    if bill.issue is None:
        return None
    return {
        "Number": bill.issue.n,
        "Time": rfc3339_nano(bill.issue.time_ns),
        "By": bill.issue.author,
        "FirstSequence": bill.first_seq,
        "LastSequence": bill.last_seq,
    }


def _invoice(bill: Bill, invoice_id: str, invoice: Invoice) -> dict[str, Any]:
    return {
        "InvoiceID": invoice_id,
        "Number": bill.issue.numbers[invoice_id] if bill.issue is not None else None,
        "Kind": "credit note" if invoice.payable < 0 else "invoice",
        "Tenant": invoice.tenant,
        "AccountName": invoice.account_name,
        "Issuer": invoice.invoice_issuer,
        "Currency": invoice.currency,
        "Total": _text(invoice.total),
        "Adjustment": _text(invoice.adjustment),
        "Payable": _text(invoice.payable),
        "Rounding": invoice.rounding,
        "LedgerHeadHash": bill.head_hash,
        "Lines": [_line(line) for line in invoice.lines],
    }


def _line(line: RatedLine) -> dict[str, Any]:
    return {
        "SKU": line.sku,
        "PriceID": line.price_id,
        "Description": line.description,
        "ContainerID": line.container_id,
        "Name": line.container_name,
        "Labels": line.labels,
        "Start": rfc3339_nano(line.start_ns),
        "End": rfc3339_nano(line.end_ns),
        "Quantity": _text(line.quantity),
        "Unit": line.unit,
        "Consumed": _text(line.consumed),
        "ConsumedUnit": line.consumed_unit,
        "ListUnitPrice": _text(line.list_unit_price),
        "UnitPrice": _text(line.contracted_unit_price),
        "ListCost": _text(line.list_cost),
        "Cost": _text(line.cost),
        "MeteredNanoseconds": line.metered_ns,
        "BilledNanoseconds": line.billed_ns,
        "FreeTier": line.is_free,
        "Correction": line.is_correction,
        "Corrects": line.corrects,
        "Note": line.note,
        "Estimated": list(line.estimated),
        "LedgerSequence": line.seq,
    }


def _text(amount: Decimal) -> str:
    return format(amount, "f")
