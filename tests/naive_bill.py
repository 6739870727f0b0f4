"""A second implementation of bills, to hold the first one to: slow, plain, and on its own.

Written from docs/billing.md alone: it reads the ledger's raw JSON and the book's TOML, and shares
no line with the product. One function, one loop over prices and records, exact fractions.
"""

from __future__ import annotations

import datetime
import json
import sqlite3
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

S = 10**9
SECONDS = {"Seconds": 1, "Minutes": 60, "Hours": 3600, "Days": 86400}
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
TIMES = {"ns": 1, "us": 10**3, "ms": 10**6, "s": S, "m": 60 * S, "h": 3600 * S}
CENTS = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}
CLASS = {
    "cpu": "compute", "container": "compute", "memory": "memory", "block_read": "storage",
    "block_write": "storage", "process_write": "storage", "network_transmit": "network",
    "network_receive": "network",
}  # fmt: skip
BILLED_PAUSED = {
    "full": {"compute", "memory", "storage", "network"},
    "memory_only": {"memory", "storage"},
    "storage_only": {"storage"},
    "free": set[str](),
}


def raw_records(ledger: Path) -> list[dict[str, Any]]:
    """Read the ledger's table as it is."""
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT record FROM records ORDER BY seq")
        return [json.loads(text) for (text,) in rows]
    finally:
        connection.close()


def unit_size(unit: str) -> int:
    """Return core-seconds, byte-seconds, bytes or seconds in a unit."""
    size = 1
    for word in unit.split("-"):
        size *= SECONDS.get(word, BYTES.get(word, 1))
    return size


def nanoseconds(text: str) -> int:
    """Read a duration of a book."""
    number = text.rstrip("nusmh")
    return int(Fraction(number) * TIMES[text[len(number) :]])


def instant(value: Any) -> int:
    """Read a time of a book."""
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    value = value.replace(tzinfo=datetime.UTC)
    return int((value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds()) * S


def used(record: dict[str, Any], price: dict[str, Any], time: int) -> tuple[Fraction, Fraction]:
    """Return what a record used, and what one more nanosecond of its run would add."""
    measure, basis = price["measure"], price.get("basis")
    cores = Fraction(record["cpu_request_milli"] or record["cpu_limit_milli"], 1000)
    size = record["mem_request"] or record["mem_limit"]
    asked_size = record["mem_request"]
    running, span = record["running_ns"], record["running_ns"] + record["paused_ns"]
    if measure == "container":
        return Fraction(time, S), Fraction(1, S)
    if measure == "cpu" and basis == "usage":
        return Fraction(record["cpu_ns"], S), Fraction(0)
    if measure == "cpu" and basis == "allocation":
        return cores * time / S, cores / S
    if measure == "cpu":
        asked = Fraction(record["cpu_request_milli"], 1000)
        return Fraction(record["cpu_alloc_ns"], S) + asked * (time - running) / S, asked / S
    if measure == "memory":
        whole, more = {
            "usage": (Fraction(record["mem_bytens2"], 2 * S), Fraction(0)),
            "allocation": (Fraction(size * span, S), Fraction(size, S)),
            "max": (Fraction(record["mem_alloc_bytens2"], 2 * S), Fraction(asked_size, S)),
        }[basis or ""]  # fmt: skip
        return (whole * time / span if span else whole), more
    counted = {
        "block_read": sum(row[0] for row in record["blk"].values()),
        "block_write": sum(row[1] for row in record["blk"].values()),
        "process_write": record["proc_write"],
        "network_receive": sum(row[0] for row in record["net"].values()),
        "network_transmit": sum(row[1] for row in record["net"].values()),
    }[measure]
    return Fraction(counted if time == span or running else 0), Fraction(0)


def to_decimal(value: Fraction) -> Decimal:
    """Round to fifteen decimals, half to even."""
    with localcontext() as context:
        context.prec = 200
        return Decimal(round(value * 10**15)) / Decimal(10**15)


def naive_bill(
    records: Iterable[dict[str, Any]], book_text: str, start: int, end: int
) -> dict[str, dict[str, Decimal]]:
    """Return, per tenant, the cost of each SKU, their ``total`` and what is ``payable``.

    Runs that began before the month are not made here.
    """
    book = tomllib.loads(book_text)
    ordered = sorted(
        (record for record in records if record["container_id"]),
        key=lambda one: (one["wall_end"], one["seq"]),
    )
    bill: dict[str, dict[str, Decimal]] = {}
    with localcontext() as context:
        context.prec = 200
        for record_tenant in sorted({one["tenant"] for one in ordered}):
            terms = book.get("tenants", {}).get(record_tenant, {})
            currency = terms.get("currency", book["default_currency"])
            costs: dict[str, Decimal] = defaultdict(Decimal)
            own = [one for one in ordered if one["tenant"] == record_tenant]
            prices = [one for one in book["price"] if one["currency"] == currency]
            for sku in sorted({one["sku"] for one in prices}):
                chain = sorted(
                    (one for one in prices if one["sku"] == sku),
                    key=lambda one: instant(one["valid_from"]),
                )
                costs[sku] = cost_of_sku(own, chain, book.get("paused", "memory_only"), start, end)
            if not any(one["wall_end"] >= start and one["wall_start"] < end for one in own):
                continue
            total = sum(costs.values(), Decimal(0))
            cent = Decimal(1).scaleb(-CENTS[currency])
            payable = total.quantize(cent, rounding=ROUND_HALF_EVEN)
            bill[record_tenant] = {**costs, "total": total, "payable": payable}
    return bill


SUMS = (
    "running_ns", "paused_ns", "cpu_ns", "cpu_alloc_ns", "mem_bytens2", "mem_alloc_bytens2",
    "proc_write",
)  # fmt: skip
BLK = ("blk_read", "blk_write")
NET = ("net_receive", "net_transmit")


def changed(record: dict[str, Any], by: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the differences of a correction."""
    return {
        **record,
        **{name: record[name] + by[name] for name in SUMS},
        "blk": {**record["blk"], "correction": by["blk"].get("", [0, 0])},
        "net": {**record["net"], "correction": by["net"].get("", [0, 0])},
    }


def corrected(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put corrections of the same span into their records; the others stay."""
    found = {one["seq"]: one for one in records if not one.get("amended")}
    late = []
    for one in sorted(records, key=lambda one: int(one["seq"])):
        if not one.get("amended"):
            continue
        known = found.get(one["corrects"])
        if known and (known["wall_start"], known["wall_end"]) == (
            one["wall_start"],
            one["wall_end"],
        ):
            found[known["seq"]] = changed(known, one)
        else:
            late.append(one)
    return sorted([*found.values(), *late], key=lambda one: (one["wall_end"], one["seq"]))


def bounds(price: dict[str, Any]) -> tuple[int, int]:
    """Return from when to when a price is valid."""
    return instant(price["valid_from"]), (
        instant(price["valid_to"]) if "valid_to" in price else 1 << 62
    )


def difference(record: dict[str, Any], price: dict[str, Any], paused: str) -> Fraction:
    """Return what a late correction adds under one price."""
    found = record["amended"]
    before = {
        **record,
        **{name: found.get(name, 0) for name in (*SUMS, "wall_start", "wall_end")},
        "blk": {"": [found.get(name, 0) for name in BLK]},
        "net": {"": [found.get(name, 0) for name in NET]},
    }
    valid_from, valid_to = bounds(price)
    low, high = max(before["wall_start"], valid_from), min(before["wall_end"], valid_to)
    if low > high or not valid_from <= low < valid_to:
        return Fraction(0)
    if low == high and before["wall_start"] != before["wall_end"]:
        return Fraction(0)
    ran, added = found.get("run_ns"), record["running_ns"]
    after = changed(before, record)
    return quantity_of(after, price, paused, low, high, ran and ran + added) - quantity_of(
        before, price, paused, low, high, ran
    )


def quantity_of(
    record: dict[str, Any],
    price: dict[str, Any],
    paused: str,
    low: int,
    high: int,
    ran: int | None,
) -> Fraction:
    """Return what a price bills of a part of a record, in the price's unit."""
    begin, finish = record["wall_start"], record["wall_end"]
    time = record["running_ns"]
    if CLASS[price["measure"]] in BILLED_PAUSED[price.get("paused", paused)]:
        time += record["paused_ns"]
    quantity, per_ns = used(record, price, time)
    if finish > begin:
        quantity = quantity * (high - low) / (finish - begin)
    if ran is not None and high == finish:
        quantum = nanoseconds(price.get("quantum", "1ns"))
        least = nanoseconds(price.get("minimum", "0s"))
        billed = max(least, -(-ran // quantum) * quantum) if ran else 0
        quantity += per_ns * (billed - ran)
    return quantity / unit_size(price["unit"])


def cost_of_sku(
    records: list[dict[str, Any]], prices: list[dict[str, Any]], paused: str, start: int, end: int
) -> Decimal:
    """Return what a tenant's records cost under the prices of one SKU."""
    cost, free_left = Decimal(0), Fraction(prices[0].get("free", "0"))
    ran: dict[tuple[str, str], int] = defaultdict(int)
    for record in corrected(records):
        run = record["container_id"], record["incarnation"]
        begin, finish = record["wall_start"], record["wall_end"]
        if record.get("amended"):
            ran[run] += 0 if record["amended"].get("run_ns") else record["running_ns"]
            for price in prices if start <= begin < end else ():
                more = to_decimal(difference(record, price, paused))
                cost += more * Decimal(price["unit_price"])
            continue
        ran[run] += record["running_ns"]
        is_rounded = record["kind"] == "final" and record["end_reason"] != "host_lost"
        for price in prices:
            valid_from, valid_to = bounds(price)
            low, high = max(begin, start, valid_from), min(finish, end, valid_to)
            if low > high or (low == high and begin != finish) or not valid_from <= low < valid_to:
                continue
            rounded = (ran[run] or None) if is_rounded else None
            quantity = quantity_of(record, price, paused, low, high, rounded)
            free = min(quantity, free_left)
            free_left -= free
            cost += to_decimal(quantity - free) * Decimal(price["unit_price"])
    return cost
