"""A price book: what is sold, in which unit, at what price, from when to when.

A book is written in TOML (:mod:`aruntime.metering.prices_parse` reads it and finds what is wrong
with it) and is immutable: its version is the hash of its text. For every SKU and currency the
prices follow each other without gap or overlap; what a tenant pays in says the book, so that a
rate of exchange never enters a bill.

Everything is exact: prices are decimals, times integers of nanoseconds UTC.

Out of scope: applying prices (:mod:`aruntime.metering.rating`), keeping books
(:mod:`aruntime.metering.price_store`).
"""

from __future__ import annotations

import decimal
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec

from aruntime.errors import InvalidParameter
from aruntime.metering.quantities import MEASURES, UNITS

BASES = ("usage", "allocation", "max")

PAUSED_POLICIES: dict[str, frozenset[str]] = {
    "full": frozenset({"compute", "memory", "storage", "network"}),
    "memory_only": frozenset({"memory", "storage"}),
    "storage_only": frozenset({"storage"}),
    "free": frozenset(),
}
"""Classes of measures that are billed while a container is paused."""

ROUNDINGS: dict[str, str] = {
    "half_even": decimal.ROUND_HALF_EVEN,
    "half_up": decimal.ROUND_HALF_UP,
    "half_down": decimal.ROUND_HALF_DOWN,
    "up": decimal.ROUND_UP,
    "down": decimal.ROUND_DOWN,
}
"""Rules for the payable amount; ``up`` and ``down`` are away from and towards zero."""


class Sold(NamedTuple):
    """A measure as price books name it."""

    family: str
    """compute, memory, storage or network: what :data:`PAUSED_POLICIES` speaks of."""
    measures: dict[str, str]
    """Names of :data:`~aruntime.metering.quantities.MEASURES` by basis; "" if it has none."""
    is_integral: bool = False
    """It grows with time by itself, so that a paused part of a record has a share of it."""


def _counted(family: str, name: str) -> Sold:
    return Sold(family, {"": name})


SOLD: dict[str, Sold] = {
    "cpu": Sold("compute", {basis: f"cpu_{word}" for basis, word in
                            zip(BASES, ("used", "allocated", "max"), strict=True)}, True),
    "memory": Sold("memory", {basis: f"memory_{word}" for basis, word in
                              zip(BASES, ("used", "allocated", "max"), strict=True)}, True),
    "memory_charged": Sold("memory", {"": "memory_charged"}, True),
    "container": Sold("compute", {"": "container"}, True),
    "paused": _counted("", "paused"),
    "block_read": _counted("storage", "block_read"),
    "block_write": _counted("storage", "block_write"),
    "block_reads": _counted("storage", "block_reads"),
    "block_writes": _counted("storage", "block_writes"),
    "process_read": _counted("storage", "process_read"),
    "process_write": _counted("storage", "process_write"),
    "network_receive": _counted("network", "network_receive"),
    "network_transmit": _counted("network", "network_transmit"),
    "network_receive_packets": _counted("network", "network_receive_packets"),
    "network_transmit_packets": _counted("network", "network_transmit_packets"),
    "network_egress": _counted("network", "network_egress"),
    "network_egress_packets": _counted("network", "network_egress_packets"),
}  # fmt: skip
"""What can be sold, by the name in a book's ``measure``."""


class PriceBookError(InvalidParameter):
    """A price book is wrong.

    Attributes:
        problems: all that was found, ``name:line: what`` each, in the order of lines.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """One price of one SKU in one currency during one span of time."""

    sku: str
    price_id: str
    measure: str
    """A name of :data:`SOLD`."""
    basis: str
    """One of :data:`BASES`, or "" for a measure that has none."""
    unit: str
    """A name of :data:`~aruntime.metering.quantities.UNITS`."""
    unit_price: Decimal
    currency: str
    valid_from_ns: int
    valid_to_ns: int | None = None
    """First instant at which it is not valid any more; None: open."""
    quantum_ns: int = 1
    """The running time of a run is rounded up to a multiple of this."""
    minimum_ns: int = 0
    """A run's running time counts as at least this."""
    free: Decimal = Decimal(0)
    """So many units are free, per tenant and calendar month (UTC)."""
    paused: str = "memory_only"
    start_event: str = "start"
    """When the time of a run begins; only the start is metered."""
    description: str = ""
    line: int = 0
    """Where it stands in its book."""

    @property
    def quantity_name(self) -> str:
        """The quantity of a record that is billed."""
        return SOLD[self.measure].measures[self.basis]

    @property
    def unit_size(self) -> Fraction:
        """Units of the quantity in one unit of the price."""
        return Fraction(UNITS[self.unit].size, UNITS[MEASURES[self.quantity_name].unit].size)

    @property
    def bills_paused(self) -> bool:
        """Whether time in which a container is paused is billed."""
        return self.measure == "paused" or (
            SOLD[self.measure].family in PAUSED_POLICIES[self.paused]
        )

    def is_valid_at(self, instant_ns: int) -> bool:
        """Whether it is the SKU's price at an instant (ns UTC)."""
        return self.valid_from_ns <= instant_ns and (
            self.valid_to_ns is None or instant_ns < self.valid_to_ns
        )


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a book says about one tenant."""

    currency: str
    name: str = ""
    """The customer's name on bills, "" for the tenant itself."""
    budget: Decimal | None = None
    """Per month, in the tenant's currency; for display and alerts only."""
    line: int = 0


class PriceBook(msgspec.Struct, frozen=True, kw_only=True):
    """A checked price book."""

    version: str
    """SHA-256 of its text, hexadecimal."""
    name: str
    """The file it came from."""
    provider: str
    """FOCUS ProviderName: who offers the service."""
    publisher: str
    invoice_issuer: str
    service_name: str
    region_id: str = ""
    region_name: str = ""
    default_currency: str
    rounding: str = "half_even"
    """A name of :data:`ROUNDINGS`."""
    tenants: dict[str, Terms] = {}
    prices: tuple[Price, ...] = ()
    """By SKU, currency and time."""

    def currency_of(self, tenant: str) -> str:
        """What a tenant pays in."""
        terms = self.tenants.get(tenant)
        return terms.currency if terms is not None else self.default_currency

    def account_name(self, tenant: str) -> str:
        """What a tenant is called on bills."""
        terms = self.tenants.get(tenant)
        return (terms.name if terms is not None else "") or tenant

    def budget_of(self, tenant: str) -> Decimal | None:
        """A tenant's budget per month, None if the book has none."""
        terms = self.tenants.get(tenant)
        return terms.budget if terms is not None else None

    def prices_in(self, currency: str) -> dict[str, tuple[Price, ...]]:
        """Prices of every SKU in a currency, by time."""
        found: dict[str, list[Price]] = {}
        for price in self.prices:
            if price.currency == currency:
                found.setdefault(price.sku, []).append(price)
        return {sku: tuple(prices) for sku, prices in found.items()}

    def valid_at(self, instant_ns: int) -> tuple[Price, ...]:
        """The prices of an instant (ns UTC)."""
        return tuple(price for price in self.prices if price.is_valid_at(instant_ns))

    def boundaries(self) -> tuple[int, ...]:
        """Instants at which a price begins or ends, in order."""
        found = {price.valid_from_ns for price in self.prices}
        found |= {price.valid_to_ns for price in self.prices if price.valid_to_ns is not None}
        return tuple(sorted(found))
