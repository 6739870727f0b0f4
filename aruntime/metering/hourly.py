"""What a container costs an hour at the rate of its last seconds: a number to look at, not to bill.

List prices without quantum, minimum and free tier. Pure. Out of scope: sums
(:mod:`aruntime.metering.accrual`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aruntime.metering.account import Account, Totals
from aruntime.metering.charges import metered
from aruntime.metering.intervals import Interval, record_of
from aruntime.metering.prices import Price, PriceBook
from aruntime.metering.subject import MeterSubject
from aruntime.metering.terms import terms_of

HOUR_SECONDS = 3600


class Span(NamedTuple):
    """What a container used between two readings."""

    about: MeterSubject
    before: Totals
    after: Totals
    seconds: float


class HourlyCost(NamedTuple):
    """An amount an hour."""

    amount: float
    currency: str


def hourly_costs(book: PriceBook, spans: Iterable[Span], instant_ns: int) -> dict[str, HourlyCost]:
    """Price spans with what is valid at an instant (Unix ns); by container id."""
    valid: dict[str, list[Price]] = {}
    for price in book.valid_at(instant_ns):
        valid.setdefault(price.currency, []).append(price)
    found = {}
    for span in spans:
        currency = book.currency_of(span.about.tenant)
        amount = _cost(span, valid.get(currency, [])) * HOUR_SECONDS / span.seconds
        found[span.about.id] = HourlyCost(amount, currency)
    return found


def _cost(span: Span, prices: Iterable[Price]) -> float:
    begun = Interval(
        nth=0, terms=terms_of(span.about), incarnation="", boot_ns=0, wall_ns=0, totals=span.before
    )
    record = record_of(begun, Account(totals=span.after))
    return sum(
        float(metered(record, price)[0] / price.unit_size) * float(price.unit_price)
        for price in prices
    )
