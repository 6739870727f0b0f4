"""Costs an hour: what the same seconds cost on a bill, times the hour."""

from __future__ import annotations

import pytest

from aruntime.metering.account import Totals
from aruntime.metering.hourly import HourlyCost, Span, hourly_costs
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.subject import MeterSubject

S = 10**9
NOW = 1_795_000_000 * S
BOOK = parse_book(
    "\n".join(
        ['provider = "p"', 'default_currency = "EUR"', "[tenants.kyoto]", 'currency = "JPY"']
        + [
            f'[[price]]\nsku = "{sku}"\nprice_id = "{sku}-{currency}"\ncurrency = "{currency}"\n'
            f'measure = "{sku}"\nbasis = "{basis}"\nunit = "{unit}"\nunit_price = "{price}"\n'
            "valid_from = 2026-01-01"
            for sku, basis, unit in (("cpu", "max", "Core-Hours"), ("memory", "usage", "GiB-Hours"))
            for currency, price in (("EUR", "0.5"), ("JPY", "80"))
        ]
    ),
    "book.toml",
)


def about(tenant: str) -> MeterSubject:
    """Return a container that asks for half a core."""
    return MeterSubject(id=tenant, name=tenant, tenant=tenant, image="x", cpu_request_milli=500)


def test_running_containers_of_two_currencies() -> None:
    """Two cores and a GiB for two seconds cost as much as they do in an hour."""
    before = Totals(cpu_ns=7, running_ns=S, memory_bytens2=11, cpu_alloc_ns=13)
    after = Totals(
        cpu_ns=7 + 4 * S, running_ns=3 * S, memory_bytens2=11 + 2 * (1 << 30) * 2 * S,
        cpu_alloc_ns=13 + 4 * S,
    )  # fmt: skip
    spans = [Span(about(tenant), before, after, 2.0) for tenant in ("acme", "kyoto")]
    found = hourly_costs(BOOK, spans, NOW)
    assert found["acme"].amount == pytest.approx(2 * 0.5 + 0.5)
    assert found["kyoto"].amount == pytest.approx(2 * 80 + 80)
    assert {tenant: one.currency for tenant, one in found.items()} == {
        "acme": "EUR", "kyoto": "JPY",
    }  # fmt: skip


def test_a_paused_container_pays_for_its_memory() -> None:
    """As the price's policy says."""
    after = Totals(paused_ns=S, memory_bytens2=2 * (1 << 30) * S)
    found = hourly_costs(BOOK, [Span(about("acme"), Totals(), after, 1.0)], NOW)
    assert found["acme"].amount == pytest.approx(0.5)


def test_before_the_first_price_nothing_costs() -> None:
    """The prices of the instant hold."""
    span = Span(about("acme"), Totals(), Totals(cpu_ns=S, running_ns=S), 1.0)
    assert hourly_costs(BOOK, [span], 0) == {"acme": HourlyCost(0.0, "EUR")}
