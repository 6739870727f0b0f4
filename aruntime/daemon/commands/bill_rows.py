"""A bill for people and for programs: ``bill --format table|json``. Pure.

The table adds a tenant's lines up by price and shows six decimals; JSON has every line and every
digit, numbers as decimal strings. Out of scope: FOCUS (exporters of the kind ``file``).
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any, NamedTuple

import msgspec

from aruntime.daemon.commands.listing import align
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.metering.bill import Bill
from aruntime.metering.price_store import SHORT_VERSION
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
    for invoice in bill.invoices:
        tenant = invoice.tenant
        for one in _by_price(invoice):
            note = " (free)" if one.line.is_free else " (correction)" * one.line.is_correction
            lines.append(
                f"{tenant}\t{one.line.sku}{note}\t{one.line.price_id}\t{_shown(one.quantity)}\t"
                f"{one.line.unit}\t{one.line.contracted_unit_price:f}\t"
                f"{_shown(one.cost)} {invoice.currency}"
            )
        lines.append(f"{tenant}\trounding\t\t\t\t\t{_shown(invoice.adjustment)} {invoice.currency}")
        lines.append(f"{tenant}\tTO BE PAID\t\t\t\t\t{invoice.payable:f} {invoice.currency}")
    state = "provisional: not all of the month's usage is in the ledger" * bill.is_provisional
    return (
        align(lines)
        + f"\n{bill.period} {state or 'final'}; price book {bill.book.version[:SHORT_VERSION]};"
        + f" ledger record {bill.head_seq} {bill.head_hash}\n"
    )


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
        "HostID": bill.host_id,
        "LedgerHeadSequence": bill.head_seq,
        "LedgerHeadHash": bill.head_hash,
        "PriceBookVersion": bill.book.version,
        "PriceBookName": bill.book.name,
        "Invoices": [
            _invoice(invoice_id, invoice, bill.head_hash) for invoice_id, invoice in bill.numbered()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _invoice(invoice_id: str, invoice: Invoice, head_hash: str) -> dict[str, Any]:
    return {
        "InvoiceID": invoice_id,
        "Tenant": invoice.tenant,
        "AccountName": invoice.account_name,
        "Issuer": invoice.invoice_issuer,
        "Currency": invoice.currency,
        "Total": _text(invoice.total),
        "Adjustment": _text(invoice.adjustment),
        "Payable": _text(invoice.payable),
        "Rounding": invoice.rounding,
        "LedgerHeadHash": head_hash,
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
