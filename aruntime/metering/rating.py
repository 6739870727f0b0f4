"""Rating: ledger records and a price book make charges, lines and invoices. Pure.

The same records and the same book give the same lines to the last byte, in whatever order the
records come. Quantities stay exact fractions until a line is written; there they get
:data:`QUANTITY_DECIMALS` decimals, and from then on every product and sum is exact (a Decimal
context that traps whatever would be inexact). Only the payable amount of an invoice is rounded,
by the rule that the book names, and the difference is shown as its adjustment.

Rules:

- An interval that spans a price boundary, a month or the end of what is asked is split in
  proportion to time, and says so in ``estimated``; the meter cuts records where it can, so that
  this happens after a time without a daemon only.
- Quantum and minimum act on the running time of a *run* (one incarnation) when it has ended: what
  is missing is charged with its final record, at what was allocated then. A run that the loss of
  its host ended is charged no more than was metered.
- A free tier is used up in the order of time, per tenant, SKU and calendar month (UTC).
- What is billed of paused time says the price (``paused``).
- A correction that bears the span of the record it amends is rated together with it, as if the
  record had been right. One that bears another time, since that month was billed before, is a line
  of its own there: the difference it makes at the price of the record it amends, quantum and
  minimum included, beside the free tier.

Out of scope: which records to ask for (:func:`~aruntime.metering.charges.history_needed` says
what rating has to know about), formats of bills, issuing them.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec

from aruntime.metering.charges import Charge, Run, State, charges
from aruntime.metering.currencies import MINOR_DIGITS
from aruntime.metering.prices import ROUNDINGS, PriceBook
from aruntime.metering.quantities import MEASURES
from aruntime.metering.record import LedgerRecord

QUANTITY_DECIMALS = 15
"""Of a line's quantity: a nanosecond is 3e-13 hours."""

PRECISION = 100
"""Digits of a sum; a product has some 60 at most. More would raise, never round."""

EXACT = decimal.Context(
    prec=PRECISION, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow]
)
"""For products and sums of money: it never rounds."""


class RatedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a bill. ``quantity`` x unit price = cost, exactly, for list and contracted.

    What the free tier covers is a line of its own with ``contracted_unit_price`` 0.
    """

    tenant: str
    container_id: str
    container_name: str
    labels: dict[str, str]
    image_digest: str
    incarnation: str
    seq: int
    """Of the record, 0 if it is not cut yet."""
    corrects: int
    """Of a correction: the ``seq`` it amends."""
    is_correction: bool
    sku: str
    price_id: str
    book_version: str
    measure: str
    """As the book names it; ``quantity_name`` is the measure of a record."""
    quantity_name: str
    basis: str
    description: str
    unit: str
    quantity: Decimal
    consumed: Decimal
    """The same quantity in ``consumed_unit``."""
    consumed_unit: str
    list_unit_price: Decimal
    contracted_unit_price: Decimal
    list_cost: Decimal
    cost: Decimal
    """What is charged: ``quantity`` x ``contracted_unit_price``."""
    currency: str
    start_ns: int
    """Of the usage, ns UTC; of a correction, of what it amends."""
    end_ns: int
    metered_ns: int
    billed_ns: int
    is_free: bool
    """Covered by the free tier."""
    estimated: tuple[str, ...]
    """Why a part is an estimate, those of the record included."""
    note: str = ""
    """Why the record was corrected, or the reason of the correction."""


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant pays: the lines' cost and the adjustment make the payable, exactly."""

    tenant: str
    account_name: str
    currency: str
    provider: str
    invoice_issuer: str
    book_version: str
    rounding: str
    lines: tuple[RatedLine, ...]
    total: Decimal
    """Sum of the lines' cost."""
    adjustment: Decimal
    """What rounding adds."""
    payable: Decimal


def rate(
    records: Iterable[LedgerRecord],
    book: PriceBook,
    *,
    start_ns: int,
    end_ns: int,
    before: Mapping[Run, int] | None = None,
) -> list[RatedLine]:
    """Rate what was used from ``start_ns`` to ``end_ns`` (ns UTC, the end exclusive).

    Args:
        records: of the span. Earlier ones make no lines but count for what has a memory: the free
            tier of the first month, and quantum and minimum of runs that end in the span.
        book: the prices.
        start_ns: first instant that is rated.
        end_ns: first instant that is not.
        before: running time, before the first record given, of runs that began earlier.

    Raises:
        decimal.Inexact: a sum has more digits than money can have.
    """
    state = State(before)
    found: list[RatedLine] = []
    for charge in charges(records, book, state, cuts=(start_ns, end_ns)):
        if charge.lies_within(start_ns, end_ns):
            found += _lines(charge, book)
    return found


def _lines(charge: Charge, book: PriceBook) -> Iterator[RatedLine]:
    if charge.paid:
        yield _line(charge, book, charge.paid, is_free=False)
    if charge.free:
        yield _line(charge, book, charge.free, is_free=True)


def _line(charge: Charge, book: PriceBook, quantity: Fraction, *, is_free: bool) -> RatedLine:
    record, price = charge.record, charge.price
    written = to_decimal(quantity)
    contracted = Decimal(0) if is_free else price.unit_price
    return RatedLine(
        tenant=record.tenant,
        container_id=record.container_id,
        container_name=record.name,
        labels=record.labels,
        image_digest=record.image_digest,
        incarnation=record.incarnation,
        seq=record.seq,
        corrects=record.corrects,
        is_correction=record.kind == "correction",
        sku=price.sku,
        price_id=price.price_id,
        book_version=book.version,
        measure=price.measure,
        quantity_name=price.quantity_name,
        basis=price.basis,
        description=price.description,
        unit=price.unit,
        quantity=written,
        consumed=to_decimal(quantity * price.unit_size),
        consumed_unit=MEASURES[price.quantity_name].unit,
        list_unit_price=price.unit_price,
        contracted_unit_price=contracted,
        list_cost=EXACT.multiply(written, price.unit_price),
        cost=EXACT.multiply(written, contracted),
        currency=price.currency,
        start_ns=charge.start_ns,
        end_ns=charge.end_ns,
        metered_ns=charge.metered_ns,
        billed_ns=charge.billed_ns,
        is_free=is_free,
        estimated=(*record.estimated, *charge.split),
        note=record.reason,
    )


def to_decimal(value: Fraction) -> Decimal:
    """A quantity with :data:`QUANTITY_DECIMALS` decimals at most, half to even, no exponent."""
    digits = round(value * 10**QUANTITY_DECIMALS)
    places = QUANTITY_DECIMALS
    while places and digits % 10 == 0:
        digits, places = digits // 10, places - 1
    return EXACT.scaleb(Decimal(digits), -places)


def invoice(lines: Iterable[RatedLine], book: PriceBook) -> list[Invoice]:
    """Make one invoice per tenant and currency, in this order.

    Raises:
        decimal.Inexact: a sum has more digits than money can have.
    """
    grouped: dict[tuple[str, str], list[RatedLine]] = {}
    for line in lines:
        grouped.setdefault((line.tenant, line.currency), []).append(line)
    return [
        _invoice(tenant, currency, grouped[tenant, currency], book)
        for tenant, currency in sorted(grouped)
    ]


def _invoice(tenant: str, currency: str, lines: list[RatedLine], book: PriceBook) -> Invoice:
    total = sum_exactly(line.cost for line in lines)
    payable = rounded(total, currency, book.rounding)
    return Invoice(
        tenant=tenant,
        account_name=book.account_name(tenant),
        currency=currency,
        provider=book.provider,
        invoice_issuer=book.invoice_issuer,
        book_version=book.version,
        rounding=book.rounding,
        lines=tuple(lines),
        total=total,
        adjustment=EXACT.subtract(payable, total),
        payable=payable,
    )


def sum_exactly(amounts: Iterable[Decimal]) -> Decimal:
    """A sum that never rounds.

    Raises:
        decimal.Inexact: it has more than :data:`PRECISION` digits.
    """
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def rounded(amount: Decimal, currency: str, rounding: str) -> Decimal:
    """An amount that can be paid: a multiple of the currency's minor unit.

    Args:
        amount: exact.
        currency: of ISO 4217.
        rounding: a name of :data:`~aruntime.metering.prices.ROUNDINGS`.
    """
    minor = Decimal(1).scaleb(-MINOR_DIGITS[currency])
    context = decimal.Context(prec=PRECISION, traps=[decimal.InvalidOperation])
    return amount.quantize(minor, rounding=ROUNDINGS[rounding], context=context)
