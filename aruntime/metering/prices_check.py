"""Rules between the prices of a book, and between a book and the one before it.

For each SKU and currency the prices must follow each other without gap or overlap, every currency
that somebody pays in must have every SKU, and nothing that was valid already may change: bills of
the past must come out the same for ever.

Out of scope: keys and values (:mod:`aruntime.metering.prices_parse`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise

from aruntime.metering.prices import Price, PriceBook, PriceBookError, Terms

Complain = Callable[[int, str], None]
"""Takes a line and what is wrong there."""

_LABELS = frozenset({"line", "description", "valid_to_ns"})
"""Fields that may differ in a price that is valid already (its end is looked at apart)."""


def instant_text(instant_ns: int | None) -> str:
    """An instant as a book writes it; ``open`` for none."""
    if instant_ns is None:
        return "open"
    seconds, rest = divmod(instant_ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"


def check_prices(
    complain: Complain,
    prices: Iterable[Price],
    default_currency: str,
    tenants: Mapping[str, Terms],
) -> None:
    """Check the prices that could be read against each other."""
    ordered = sorted(prices, key=lambda price: price.line)
    _check_ids(complain, ordered)
    spans: dict[str, dict[str, list[Price]]] = {}
    for price in sorted(ordered, key=lambda price: price.valid_from_ns):
        spans.setdefault(price.sku, {}).setdefault(price.currency, []).append(price)
    for by_currency in spans.values():
        for chain in by_currency.values():
            _check_chain(complain, chain)
        _check_currencies(complain, by_currency)
    if ordered:
        _check_paid_in(complain, ordered, default_currency, tenants)


def _check_ids(complain: Complain, prices: Iterable[Price]) -> None:
    ids: dict[str, Price] = {}
    measures: dict[str, Price] = {}
    for price in prices:
        first = ids.setdefault(price.price_id, price)
        if first is not price:
            complain(price.line, f"price_id '{price.price_id}' is that of line {first.line} too")
        kind = measures.setdefault(price.sku, price)
        if kind.measure != price.measure:
            complain(
                price.line,
                f"sku '{price.sku}' measures {price.measure} here and {kind.measure} on line"
                f" {kind.line}; give it a sku of its own",
            )


def _check_chain(complain: Complain, chain: list[Price]) -> None:
    """Prices of one SKU in one currency, by their beginning."""
    for before, after in pairwise(chain):
        what = f"sku '{after.sku}' in {after.currency}"
        if before.valid_to_ns is None or before.valid_to_ns > after.valid_from_ns:
            complain(
                after.line,
                f"overlap: {what} is priced from {instant_text(after.valid_from_ns)} here, but"
                f" until {instant_text(before.valid_to_ns)} on line {before.line}",
            )
        elif before.valid_to_ns < after.valid_from_ns:
            complain(
                after.line,
                f"gap: {what} has no price from {instant_text(before.valid_to_ns)} (line"
                f" {before.line}) to {instant_text(after.valid_from_ns)}",
            )


def _check_currencies(complain: Complain, by_currency: Mapping[str, list[Price]]) -> None:
    """A SKU is sold from when to when, in whichever currency."""
    (first, chain), *others = by_currency.items()
    begin, end = chain[0].valid_from_ns, chain[-1].valid_to_ns
    for currency, other in others:
        if other[0].valid_from_ns != begin:
            complain(
                other[0].line,
                f"gap: sku '{other[0].sku}' is priced from {instant_text(other[0].valid_from_ns)}"
                f" in {currency}, but from {instant_text(begin)} in {first} (line {chain[0].line})",
            )
        if other[-1].valid_to_ns != end:
            complain(
                other[-1].line,
                f"gap: sku '{other[-1].sku}' is priced until {instant_text(other[-1].valid_to_ns)}"
                f" in {currency}, but until {instant_text(end)} in {first} (line {chain[-1].line})",
            )


def _check_paid_in(
    complain: Complain,
    prices: list[Price],
    default_currency: str,
    tenants: Mapping[str, Terms],
) -> None:
    """Every currency that somebody pays in has every SKU."""
    needed = {default_currency: 1} if default_currency else {}
    for tenant in tenants.values():
        needed.setdefault(tenant.currency, tenant.line)
    priced: dict[str, set[str]] = {}
    for price in prices:
        priced.setdefault(price.sku, set()).add(price.currency)
    for currency, line in needed.items():
        for sku, currencies in priced.items():
            if currency not in currencies:
                complain(line, f"nothing says what sku '{sku}' costs in {currency}")


def check_succession(old: PriceBook, new: PriceBook, now_ns: int, tenants: Collection[str]) -> None:
    """Check that a new book changes nothing of what the old one has billed.

    Args:
        old: the book in force.
        new: the one to follow it, checked by itself.
        now_ns: Unix time of now.
        tenants: that have used anything yet; their currency is fixed.

    Raises:
        PriceBookError: something would be billed anew.
    """
    found: list[tuple[int, str]] = []
    _check_past(found, old, new, now_ns)
    for tenant in sorted(tenants):
        before, after = old.currency_of(tenant), new.currency_of(tenant)
        if before != after:
            line = new.tenants[tenant].line if tenant in new.tenants else 1
            found.append(
                (line, f"tenant '{tenant}' was billed in {before} and cannot pay in {after}")
            )
    if old.rounding != new.rounding:
        found.append((1, f"rounding was {old.rounding}: changing it would change old invoices"))
    if found:
        raise PriceBookError([f"{new.name}:{line}: {text}" for line, text in sorted(found)])


def _check_past(found: list[tuple[int, str]], old: PriceBook, new: PriceBook, now_ns: int) -> None:
    begun = {price.price_id: price for price in old.prices if price.valid_from_ns < now_ns}
    given = {price.price_id: price for price in new.prices}
    for price_id, before in begun.items():
        after = given.get(price_id)
        if after is None:
            found.append(
                (1, f"price '{price_id}' was valid from {instant_text(before.valid_from_ns)} and"
                    " cannot be left out; give it a valid_to instead")
            )  # fmt: skip
        else:
            found += [(after.line, text) for text in _differences(before, after, now_ns)]
    for price_id, after in given.items():
        if price_id not in begun and after.valid_from_ns < now_ns:
            found.append(
                (after.line, f"price '{price_id}' would be valid from"
                    f" {instant_text(after.valid_from_ns)}, in the past")
            )  # fmt: skip


def _differences(before: Price, after: Price, now_ns: int) -> list[str]:
    fields = [
        name
        for name in Price.__struct_fields__
        if name not in _LABELS and getattr(before, name) != getattr(after, name)
    ]
    texts = [
        f"price '{after.price_id}' is valid since {instant_text(before.valid_from_ns)}: its"
        f" {name.removesuffix('_ns')} cannot change; end it and add a price with another price_id"
        for name in fields
    ]
    ends = [price.valid_to_ns for price in (before, after) if price.valid_to_ns is not None]
    if before.valid_to_ns != after.valid_to_ns and ends and min(ends) < now_ns:
        texts.append(
            f"price '{after.price_id}' was valid until {instant_text(before.valid_to_ns)}: its"
            f" end cannot become {instant_text(after.valid_to_ns)}, since the past stays"
        )
    return texts
