"""Prices in a daemon: what the meter is told and when, and costs that need no scrape to grow."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from aruntime.daemon.pricing import Pricing
from aruntime.errors import Unavailable
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.meter import Meter
from aruntime.metering.prices import PriceBookError
from aruntime.metering.record import LedgerRecord
from tests.metering import CounterTree, metering, start

S = 10**9


def book_text(change_ns: int = 0, name: str = "p") -> str:
    """Return a book with CPU time at 3 euros a second, at 5 from a change on."""
    text = f'provider = "{name}"\ndefault_currency = "EUR"\n[tenants.acme]\nbudget = "7.5"\n'
    edge = f"{datetime.fromtimestamp(change_ns / S, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    spans = [("2026-01-01", edge, 3), (edge, "", 5)] if change_ns else [("2026-01-01", "", 3)]
    for begin, end, price in spans:
        text += '[[price]]\nsku = "cpu"\nmeasure = "cpu"\nbasis = "usage"\nunit = "Core-Seconds"\n'
        text += f'price_id = "cpu-{price}"\nunit_price = "{price}"\ncurrency = "EUR"\n'
        text += f"valid_from = {begin}\n" + (f"valid_to = {end}\n" if end else "")
    return text


@asynccontextmanager
async def pricing_of(tmp_path: Path, meter: Meter) -> AsyncIterator[Pricing]:
    """Run prices beside a meter."""
    pricing = Pricing(tmp_path, meter)
    await pricing.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(pricing.run)
        yield pricing
        nursery.cancel_scope.cancel()


@pytest.fixture(name="counters")
def _counters(tmp_path: Path) -> CounterTree:
    """Return a tree of counters."""
    return CounterTree(tmp_path / "cgroup")


def records(meter: Meter) -> list[LedgerRecord]:
    """Return what the ledger holds."""
    with LedgerReader(meter.ledger_path) as reader:
        return list(reader.records())


async def until(condition: object) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


async def test_loading_cuts_what_runs(counters: CounterTree, tmp_path: Path) -> None:
    """What was used before has no version, what comes after the book's; again changes nothing."""
    async with metering(counters, tmp_path) as meter, pricing_of(tmp_path, meter) as pricing:
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=S)
        book = await pricing.load(book_text().encode(), "book.toml")
        counters.use("a", cpu_ns=2 * S)
        again = await pricing.load(book_text().encode(), "copy.toml")
        await meter.final("a", exit_code=0)

        assert again.version == book.version
        found = [(one.kind, one.cpu_ns, one.price_version) for one in records(meter)]
        assert sorted(found) == [
            ("final", 2 * S, book.version),
            ("price_change", 0, book.version),
            ("start", 0, ""),
            ("usage", S, ""),
        ]
        with pytest.raises(PriceBookError, match="unit_price cannot change"):
            await pricing.load(book_text().replace('"3"', '"4"').encode(), "other.toml")
        assert meter.books.committed().price_version == book.version


async def test_a_crash_before_the_meter_knew(counters: CounterTree, tmp_path: Path) -> None:
    """The book was durable, the ledger not told: the next start tells it."""
    async with metering(counters, tmp_path) as meter:
        pricing = Pricing(tmp_path, meter)
        await pricing.open()
        pricing.store.load(book_text().encode(), "book.toml", now_ns=time.time_ns())
        assert meter.books.committed().price_version == ""
    async with metering(counters, tmp_path) as meter, pricing_of(tmp_path, meter) as pricing:
        assert pricing.store.book is not None
        assert meter.books.committed().price_version == pricing.store.book.version


async def test_a_price_that_begins_cuts(counters: CounterTree, tmp_path: Path) -> None:
    """At its instant, without anybody's doing, although the version stays."""
    async with metering(counters, tmp_path) as meter, pricing_of(tmp_path, meter) as pricing:
        await start(meter, counters, "a")
        change_ns = time.time_ns() + S // 2
        await pricing.load(book_text(change_ns).encode(), "book.toml")
        counters.use("a", cpu_ns=S)
        await until(lambda: sum(one.kind == "price_change" for one in records(meter)) == 2)
        counters.use("a", cpu_ns=4 * S)
        await meter.final("a", exit_code=0)

        edge_ns = change_ns // 1000 * 1000
        assert any(one.cpu_ns == S and one.wall_end >= edge_ns for one in records(meter))
        assert records(meter)[-1].wall_start >= edge_ns
        assert len({one.price_version for one in records(meter) if one.cpu_ns}) == 1


async def test_costs_of_what_runs_and_what_has_ended(counters: CounterTree, tmp_path: Path) -> None:
    """As of the last commit; kept for the next daemon; budgets are the book's."""
    key = ("acme", "cpu", "EUR")
    quick = metering(counters, tmp_path, slow_seconds=0.05)
    async with quick as meter, pricing_of(tmp_path, meter) as pricing:
        assert (pricing.view().costs, pricing.view().budgets) == ({}, ())
        await start(meter, counters, "a")
        counters.use("a", cpu_ns=S // 2)
        await meter.cut("a", "stats")
        await meter.books.commits.commit()
        await pricing.load(book_text().encode(), "book.toml")
        await until(lambda: pricing.view().costs.get(key) == Fraction(3, 2))
        counters.use("a", cpu_ns=S)
        await meter.final("a", exit_code=0)
        await until(lambda: pricing.view().costs.get(key) == Fraction(9, 2))
        ((tenant, currency, amount),) = pricing.view().budgets
        assert (tenant, currency, float(amount)) == ("acme", "EUR", 7.5)
    async with metering(counters, tmp_path) as meter, pricing_of(tmp_path, meter) as pricing:
        await until(lambda: pricing.view().costs == {key: Fraction(9, 2)})


async def test_a_book_that_was_changed_on_disk(counters: CounterTree, tmp_path: Path) -> None:
    """Its hash is its name: the daemon says so instead of billing by it."""
    async with metering(counters, tmp_path) as meter, pricing_of(tmp_path, meter) as pricing:
        book = await pricing.load(book_text().encode(), "book.toml")
        path = tmp_path / "prices" / f"{book.version}.toml"
        path.write_text(path.read_text().replace('"3"', '"4"'))
        with pytest.raises(Unavailable, match="was changed: its hash is not its name"):
            await Pricing(tmp_path, meter).open()


async def test_a_full_disk_keeps_the_old_book(
    counters: CounterTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is refused in one line; the meter hears nothing."""
    async with metering(counters, tmp_path) as meter, pricing_of(tmp_path, meter) as pricing:
        old = await pricing.load(book_text().encode(), "book.toml")

        def refuse(_fd: int) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            with pytest.raises(Unavailable, match="cannot keep price book"):
                await pricing.load(book_text(name="q").encode(), "other.toml")
        assert pricing.store.book == old
        assert meter.books.committed().price_version == old.version
        await pricing.load_file(str(tmp_path / "missing.toml"))
        assert pricing.store.book == old
