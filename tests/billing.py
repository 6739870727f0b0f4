"""What tests of bills share: a price book, records of a day, the bill they make."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from aruntime.metering.bill import Bill, Period
from aruntime.metering.chain import Head, append
from aruntime.metering.migration import migrate
from aruntime.metering.prices import PriceBook
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.rating import invoice, rate
from aruntime.metering.record import LedgerRecord, genesis
from aruntime.metering.schema import insert_records, prepare, set_state

HOUR_NS = 3600 * 10**9
NOVEMBER = Period(2026, 11)
HOST_ID = "0d9f3a52-9b6e-4a52-8f3c-6d2f5f0f7a11"
HEAD_HASH = "ab" * 32

BOOK = """
provider = "Example Hosting"
service_name = "Containers"
region_id = "eu-1"
region_name = "Europe 1"
default_currency = "EUR"
rounding = "half_even"

[tenants.acme]
name = "Acme, \\"Inc.\\""

[tenants.kyoto]
currency = "JPY"

"""

SKUS = (
    # sku, measure, basis, unit, price in EUR, price in JPY, more keys
    ("cpu", "cpu", "max", "Core-Hours", "0.0437", "7.1", 'quantum = "1s"\nminimum = "1m"'),
    ("memory", "memory", "usage", "GiB-Hours", "0.004871", "0.81", 'paused = "memory_only"'),
    ("read", "block_read", "", "GiB", "0.011", "2", ""),
    ("write", "process_write", "", "GiB", "0.012", "2.5", ""),
    ("egress", "network_transmit", "", "GiB", "0.083", "13", 'free = "0.25"'),
    ("time", "container", "", "Hours", "0.00031", "0.05", 'paused = "full"'),
)


def book_text() -> str:
    """Return a book of six SKUs in two currencies; CPU becomes dearer in the middle of a day."""
    text = BOOK
    for sku, measure, basis, unit, euro, yen, more in SKUS:
        for currency, price in (("EUR", euro), ("JPY", yen)):
            for half, (start, end) in enumerate(
                (("2026-01-01", "2026-11-16T12:00:00Z"), ("2026-11-16T12:00:00Z", ""))
                if sku == "cpu"
                else (("2026-01-01", ""),)
            ):
                text += f'[[price]]\nsku = "{sku}"\nprice_id = "{sku}-{currency}-{half}"\n'
                text += f'measure = "{measure}"\n' + (f'basis = "{basis}"\n' if basis else "")
                text += f'unit = "{unit}"\ncurrency = "{currency}"\n'
                text += f'unit_price = "{price}{half}"\n' if "." in price else (
                    f'unit_price = "{price}.{half}"\n'
                )  # fmt: skip
                text += f"valid_from = {start}\n" + (f"valid_to = {end}\n" if end else "")
                text += f"{more}\n\n"
    return text


def price_book() -> PriceBook:
    """Return the book of :func:`book_text`."""
    return parse_book(book_text(), "prices.toml")


def records_of_run(
    seeded: random.Random, *, tenant: str, name: str, start_ns: int, hours: float, seq: int
) -> Iterator[LedgerRecord]:
    """Make the records of one run, cut at hours and sometimes at a pause, as the meter would."""
    container = f"{seeded.getrandbits(256):064x}"
    end_ns = start_ns + int(hours * HOUR_NS)
    boot_ns = seeded.randrange(10**12, 10**14)
    offset = start_ns - boot_ns
    at, state = start_ns, "running"
    while at < end_ns:
        until = min(end_ns, (at // HOUR_NS + 1) * HOUR_NS)
        if seeded.random() < 0.4:
            until = seeded.randrange(at + 1, until + 1)
        span = until - at
        running = span if state == "running" else 0
        cpu = seeded.randrange(running + 1)
        request = 500
        memory = seeded.randrange(1 << 34) * span * 2
        yield LedgerRecord(
            seq=seq,
            kind="final" if until == end_ns else "usage",
            host_id=HOST_ID,
            boot_id="9c5e0f6e-1f0a-4a0e-9b1e-2f3a4b5c6d7e",
            container_id=container,
            incarnation=f"9c5e0f6e-1f0a-4a0e-9b1e-2f3a4b5c6d7e:77:{boot_ns}",
            name=name,
            tenant=tenant,
            labels={"team": seeded.choice(["web", 'a "quoted", name', "ünïcode"])},
            state=state,
            wall_start=at,
            wall_end=until,
            boot_start_ns=at - offset,
            boot_end_ns=until - offset,
            running_ns=running,
            paused_ns=span - running,
            cpu_ns=cpu,
            cpu_request_milli=request,
            cpu_alloc_ns=max(cpu, -(-request * running // 1000)),
            mem_bytens2=memory,
            mem_usage_bytens2=memory * 2,
            mem_alloc_bytens2=memory,
            blk={"sda": (seeded.randrange(1 << 30), seeded.randrange(1 << 30), 7, 8, 0)}
            if running
            else {},
            proc_write=seeded.randrange(1 << 32) if running else 0,
            net={"eth0": (seeded.randrange(1 << 28), seeded.randrange(1 << 28), 5, 6)}
            if running
            else {},
            estimated=("daemon_gap",) if seeded.random() < 0.1 else (),
        )
        seq += 1
        at, state = until, "paused" if state == "running" and seeded.random() < 0.3 else "running"


def records_of_days(seed: int, *, runs: int = 6, hours: float = 30) -> list[LedgerRecord]:
    """Make the records of some runs of three tenants in the middle of November 2026."""
    seeded = random.Random(seed)
    found: list[LedgerRecord] = []
    for number in range(runs):
        tenant = ("acme", "beta", "kyoto")[number % 3]
        start_ns = NOVEMBER.start_ns + 15 * 24 * HOUR_NS + seeded.randrange(20 * HOUR_NS)
        found += records_of_run(
            seeded,
            tenant=tenant,
            name=f"job-{number}",
            start_ns=start_ns,
            hours=seeded.uniform(0.0001, hours),
            seq=len(found) + 1,
        )
    return found


def write_ledger(path: Path, records: Iterable[LedgerRecord]) -> list[LedgerRecord]:
    """Write a ledger that has these records, numbered and chained anew; returns them so."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        prepare(connection, str(path), migrate)
        host_id, created_ns = connection.execute("SELECT id, created_ns FROM host").fetchone()
        head, sealed = append(Head(hash=genesis(host_id, created_ns)), host_id, records)
        connection.execute("BEGIN")
        insert_records(connection, sealed)
        set_state(connection, "head", head)
        connection.execute("COMMIT")
    finally:
        connection.close()
    return [one.record for one in sealed]


def bill_of(records: list[LedgerRecord], *, period: Period = NOVEMBER) -> Bill:
    """Rate records with the book and make the bill of a month."""
    book = price_book()
    lines = rate(records, book, start_ns=period.start_ns, end_ns=period.end_ns)
    return Bill(
        period=period,
        book=book,
        invoices=tuple(invoice(lines, book)),
        host_id=HOST_ID,
        head_seq=len(records),
        head_hash=HEAD_HASH,
        is_provisional=False,
    )
