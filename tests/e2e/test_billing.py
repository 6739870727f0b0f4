"""Usage, metrics and bills of real containers: one number each, to the last unit."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aruntime_exporters.focus_check import check
from aruntime_exporters.focus_files import read_csv, read_parquet

from aruntime.metering.bill import Period, period_of
from aruntime.metering.chain import Rollup
from tests.harness import RunningDaemon, wait_until
from tests.naive_bill import naive_bill, raw_records
from tests.terminal import Terminal

pytestmark = pytest.mark.e2e

SLOW = "--slow-interval=0.3"
BURN = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
WRITE = "dd if=/dev/zero of=/file bs=64k count={} conv=fsync 2>/dev/null"

BOOK_HEAD = """provider = "Example Hosting"
default_currency = "EUR"
paused = "full"

[tenants.acme]
name = "Acme Inc."
budget = "12.50"

[tenants.kyoto]
currency = "JPY"
"""
SKUS = (
    # sku, measure, basis, unit, EUR, JPY, more
    ("cpu", "cpu", "usage", "Core-Seconds", "0.25", "41", ""),
    ("cpu-asked", "cpu", "max", "Core-Hours", "7.1", "900", 'quantum = "1s"\nminimum = "2s"'),
    ("memory", "memory", "usage", "MiB-Seconds", "0.125", "19", ""),
    ("memory-asked", "memory", "allocation", "MiB-Hours", "0.3", "33", 'quantum = "100ms"'),
    ("time", "container", "", "Seconds", "0.5", "75.5", 'free = "0.75"'),
    ("write", "process_write", "", "MiB", "0.3", "47", ""),
    ("egress", "network_transmit", "", "KB", "0.01", "2", ""),
)


def book_text(change: datetime | None = None) -> str:
    """Return a price book; everything costs twice as much from the change on."""
    text = BOOK_HEAD
    spans = [("2026-01-01", "", 1)]
    if change is not None:
        edge = change.strftime("%Y-%m-%dT%H:%M:%SZ")
        spans = [("2026-01-01", edge, 1), (edge, "", 2)]
    for sku, measure, basis, unit, euro, yen, more in SKUS:
        for currency, price in (("EUR", euro), ("JPY", yen)):
            for start, end, factor in spans:
                text += f'\n[[price]]\nsku = "{sku}"\nmeasure = "{measure}"\nunit = "{unit}"\n'
                text += f'basis = "{basis}"\n' if basis else ""
                text += f'price_id = "{sku}-{currency}-{start}"\ncurrency = "{currency}"\n'
                text += f'unit_price = "{Decimal(price) * factor}"\nvalid_from = {start}\n'
                text += f"valid_to = {end}\n" if end else ""
                text += f"{more}\n"
    return text


def load_book(daemon: RunningDaemon, path: Path, text: str) -> None:
    """Put a book in force."""
    path.write_text(text)
    daemon.run("price", "load", str(path))


def usage(daemon: RunningDaemon, *options: str) -> dict[str, dict[str, Any]]:
    """Return the rows of ``usage --by tenant`` by tenant."""
    lines = daemon.out("usage", "--by", "tenant", "--format", "json", *options).splitlines()
    return {row["Tenant"]: row for row in map(json.loads, lines)}


def bill_of(daemon: RunningDaemon, *options: str) -> dict[str, Any]:
    """Return the bill as JSON says it."""
    found: dict[str, Any] = json.loads(daemon.out("bill", "--format", "json", *options))
    return found


def listed(bill: dict[str, Any], tenant: str, sku: str) -> tuple[Fraction, Fraction]:
    """Return the list cost of a tenant's SKU, and what rounding of quantities may have changed."""
    lines = [line for one in bill["Invoices"] if one["Tenant"] == tenant for line in one["Lines"]]
    own = [line for line in lines if line["SKU"] == sku]
    cost = sum((Fraction(line["ListCost"]) for line in own), Fraction(0))
    prices = sum((Fraction(line["ListUnitPrice"]) for line in own), Fraction(0))
    return cost, prices / 10**15


METRICS = {
    "CPUUsed": "cpu_seconds", "MemoryUsed": "memory_byte_seconds", "BlockRead": "blkio_read_bytes",
    "BlockWrite": "blkio_write_bytes", "NetworkReceive": "network_receive_bytes",
    "NetworkTransmit": "network_transmit_bytes", "Container": "container_seconds",
    "Paused": "paused_seconds", "CPUMax": "cpu_allocated_seconds",
    "MemoryMax": "memory_allocated_byte_seconds", "NetworkEgress": "network_egress_bytes",
}  # fmt: skip
BILLED = {
    "CPUUsed": "cpu", "CPUMax": "", "MemoryUsed": "memory", "Container": "time",
    "ProcessWrite": "write", "NetworkTransmit": "egress",
}  # fmt: skip
"""Fields of usage whose whole sum is billed under one SKU."""


def costs(daemon: RunningDaemon) -> dict[str, float]:
    """Return the samples of costs by their labels."""
    lines = daemon.metrics().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith("aruntime_tenant_cost_"))
    return {series: float(value) for series, _, value in found}


def work(daemon: RunningDaemon) -> None:
    """Run a day of three tenants in a few seconds, with a daemon that is killed in it."""
    gateway = daemon.subnet.replace("0/24", "1")
    daemon.run(
        "run", "-d", "--name", "web", "--tenant", "acme", "--cpu-request", "0.5", "-m", "64m",
        "--label", "team=web", "busybox", "sh", "-c", "while :; do sleep 0.05; done",
    )  # fmt: skip
    daemon.run("run", "--rm", "--tenant", "acme", "busybox", "sh", "-c", BURN)
    daemon.run("exec", "web", "sh", "-c", WRITE.format(20))
    daemon.run("pause", "web")
    daemon.run(
        "run", "--rm", "--tenant", "beta", "-m", "32m", "busybox", "sh", "-c",
        f"{WRITE.format(30)}; ping -c 2 {gateway} >/dev/null; {BURN}",
    )  # fmt: skip
    daemon.run("resume", "web")
    wait_until(lambda: costs(daemon), what="costs are shown")
    before = costs(daemon)
    daemon.kill()
    daemon.start(SLOW)
    wait_until(lambda: costs(daemon), what="costs are shown again")
    after = costs(daemon)
    assert {series for series, cost in before.items() if after.get(series, 0.0) < cost} == set()
    daemon.run("update", "-m", "96m", "web")
    daemon.run("run", "--tenant", "kyoto", "--name", "job", "busybox", "sh", "-c", BURN)
    daemon.run("stop", "-t", "0", "web")


def test_usage_metrics_and_bill_are_one(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Three tenants; a second implementation makes the same bill of the raw records."""
    daemon.stop()
    daemon.start(SLOW)
    book = book_text()
    load_book(daemon, tmp_path / "book.toml", book)
    work(daemon)

    rows, bill = usage(daemon), bill_of(daemon)
    assert sorted(rows) == ["acme", "beta", "kyoto"]
    for tenant, row in rows.items():
        for field, metric in METRICS.items():
            shown = daemon.metric(f"aruntime_tenant_{metric}_total", tenant=tenant)
            assert shown == float(Fraction(row[field])), (tenant, field)
        lines = next(one for one in bill["Invoices"] if one["Tenant"] == tenant)["Lines"]
        for field, sku in BILLED.items():
            own = [line for line in lines if sku and line["SKU"] == sku]
            consumed = sum((Fraction(line["Consumed"]) for line in own), Fraction(0))
            assert abs(consumed - Fraction(row[field])) <= Fraction(len(own), 10**15) or not sku
    assert Fraction(rows["acme"]["Paused"]) > 0
    assert Fraction(rows["beta"]["ProcessWrite"]) >= 30 << 16
    assert_costs_are_the_bill(daemon, bill)
    assert_recomputed(daemon, book, bill)


def assert_costs_are_the_bill(daemon: RunningDaemon, bill: dict[str, Any]) -> None:
    """The metric of costs is the list cost of the bill's lines, budgets are the book's."""
    keys = [
        (one["Tenant"], one["Currency"], sku)
        for one in bill["Invoices"]
        for sku in sorted({line["SKU"] for line in one["Lines"]})
    ]  # fmt: skip

    def difference(tenant: str, currency: str, sku: str) -> float:
        labels = {"tenant": tenant, "currency": currency, "sku": sku}
        shown = daemon.metric("aruntime_tenant_cost_total", **labels)
        cost, rounding = listed(bill, tenant, sku)
        return max(0.0, abs(shown - float(cost)) - float(rounding) - abs(shown) * 4e-16)

    def all_agree() -> bool:
        return "tenant_cost_total{" in daemon.metrics() and not any(
            difference(*key) for key in keys
        )

    assert len(keys) > 12
    wait_until(all_agree, what="costs are brought up to date")
    assert daemon.metric("aruntime_tenant_budget", tenant="acme", currency="EUR") == 12.5


def assert_recomputed(daemon: RunningDaemon, book: str, bill: dict[str, Any]) -> None:
    """The naive implementation gets the same of the ledger's raw JSON, to the last decimal."""
    month = this_month()
    records = raw_records(daemon.root / "ledger.db")
    again = naive_bill(records, book, month.start_ns, month.end_ns)
    for one in bill["Invoices"]:
        found = again[one["Tenant"]]
        costs: dict[str, Decimal] = {}
        for line in one["Lines"]:
            costs[line["SKU"]] = costs.get(line["SKU"], Decimal(0)) + Decimal(line["Cost"])
        assert {sku: found[sku] for sku in costs} == costs
        assert (found["total"], found["payable"]) == (
            Decimal(one["Total"]),
            Decimal(one["Payable"]),
        )
        assert Decimal(one["Total"]) + Decimal(one["Adjustment"]) == Decimal(one["Payable"])
    assert sorted(again) == [one["Tenant"] for one in bill["Invoices"]]


def this_month() -> Period:
    """Return the month in which the test runs."""
    return period_of(time.time_ns())


def test_a_running_container_is_cut_where_a_price_changes(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    """When a book comes into force, and at an instant that it names, without anybody's doing."""
    daemon.run("run", "-d", "--name", "web", "--tenant", "acme", "busybox", "sleep", "60")
    change = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=6)
    load_book(daemon, tmp_path / "book.toml", book_text(change))
    version = json.loads(daemon.out("price", "list", "--no-trunc", "--format", "json"))["Version"]
    with Terminal(daemon, "monitor", "-i", "0.2", rows=30, columns=160) as screen:
        # Half a euro a second, whatever else it uses.
        screen.expect(r"1 running.* (?:1[89]|[2-9][0-9])\d\d\.\d{4} EUR/h")
        screen.type("q")
        assert screen.wait() == 0
    ledger = daemon.root / "ledger.db"
    wait_until(
        lambda: sum(one["kind"] == "price_change" for one in raw_records(ledger)) == 2,
        30, "the price changes",
    )  # fmt: skip
    daemon.run("rm", "-f", "web")

    edge = int(change.timestamp()) * 10**9
    own = [one for one in raw_records(ledger) if one["container_id"]]
    assert {one["price_version"] for one in own if one["kind"] != "start"} == {"", version}
    ends = [one["wall_end"] for one in own]
    assert any(edge <= end < edge + 10 * 10**9 for end in ends)
    lines = [line for one in bill_of(daemon)["Invoices"] for line in one["Lines"]]
    prices = {line["ListUnitPrice"] for line in lines if line["SKU"] == "time"}
    assert prices == {"0.5", "1.0"}
    seconds = [
        (Fraction(line["Quantity"]), line["Start"] >= f"{change:%Y-%m-%dT%H:%M:%S}")
        for line in lines
        if line["SKU"] == "time"
    ]
    assert all(quantity > 0 for quantity, _ in seconds)
    assert {late for _, late in seconds} == {True, False}


def test_bills_as_files(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Written by the client where it says, and accepted by the strict check; nothing otherwise."""
    refused = daemon.run("bill", code=125).stderr
    assert "aruntime: no price book is loaded" in refused
    load_book(daemon, tmp_path / "book.toml", book_text())
    daemon.run("run", "--rm", "--tenant", "acme", "busybox", "sh", "-c", BURN)

    table, parquet = tmp_path / "bill.csv", tmp_path / "bill.parquet"
    daemon.run("bill", "--format", "focus-csv", "-o", str(table))
    daemon.run("bill", "--format", "focus-parquet", "-o", str(parquet))
    rows = read_csv(table.read_text())
    assert rows
    assert check(rows) == []
    assert read_parquet(str(parquet)) == rows
    assert daemon.run("bill", "--format", "focus-csv").stdout == table.read_text()
    last = raw_records(daemon.root / "ledger.db")[-1]["seq"]
    assert {row["x_LedgerHeadSequence"] for row in rows} == {str(last)}

    month = this_month()
    for options, message in (
        (["--period", "2026-13"], "give a month such as 2026-11"),
        (["--period", str(month.next)], f"{month.next} has not begun"),
        (["--format", "xlsx"], "must be one of table, json, focus-csv, focus-parquet"),
        (["--prices", "abcd1234"], "no price book of version abcd1234"),
        (["-o", str(tmp_path / "no" / "bill")], "no such file"),
    ):
        error = daemon.run("bill", *options, code=125).stderr
        assert message in error.lower() if message == "no such file" else message in error
        assert error.count("\n") == 1

    with sqlite3.connect(daemon.root / "ledger.db") as connection:
        rollup = Rollup(
            hour_ns=month.start_ns, tenant="acme", container_id="c", price_version="", name="c",
            records=1, first_seq=1, last_seq=1, estimated=0, sums={},
        )  # fmt: skip
        connection.execute(
            "INSERT INTO rollups VALUES (?, 'acme', 'c', '', ?)",
            (rollup.hour_ns, msgspec.json.encode(rollup).decode()),
        )
    connection.close()
    kept = table.read_text()
    error = daemon.run("bill", "--format", "focus-csv", "-o", str(table), code=125).stderr
    assert f"aruntime: records of {month} were rolled up and deleted" in error
    assert table.read_text() == kept


def test_bad_price_books_are_refused_with_their_lines(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    """Gap, overlap, negative, unknown unit: by check and by load, which change nothing."""
    good = book_text(datetime(2026, 6, 1, tzinfo=UTC))
    bad = good.replace('unit = "Core-Seconds"', 'unit = "Core"', 1)
    bad = bad.replace('unit_price = "0.50"', 'unit_price = "-0.50"', 1)
    bad = bad.replace("valid_to = 2026-06-01T00:00:00Z", "valid_to = 2026-05-01T00:00:00Z", 2)
    last = bad.rindex("valid_to = 2026-06-01")
    bad = bad[:last] + bad[last:].replace("valid_to = 2026-06-01", "valid_to = 2026-07-01", 1)
    path = tmp_path / "prices.toml"
    path.write_text(bad)
    lines = bad.splitlines()
    for command in ("check", "load"):
        said = daemon.run("price", command, str(path), code=1).stderr.splitlines()
        found = {}
        for line in said:
            match = re.fullmatch(r"aruntime: (.*):(\d+): (.*)", line)
            assert match, line
            assert match[1] == str(path)
            found[match[3]] = lines[int(match[2]) - 1]
        assert any("unit 'Core' is unknown" in text and "Core" in at for text, at in found.items())
        assert any("negative" in text and "-0.50" in at for text, at in found.items())
        assert any(text.startswith("gap:") and at == "[[price]]" for text, at in found.items())
        assert any(text.startswith("overlap:") and at == "[[price]]" for text, at in found.items())
    assert daemon.out("price", "list", "--format", "json") == ""

    assert "14 SKUs" not in daemon.out("price", "check", "-", stdin=good.encode())
    path.write_text(good)
    daemon.run("price", "load", str(path))
    path.write_text(good.replace('unit_price = "0.25"', 'unit_price = "0.26"'))
    error = daemon.run("price", "check", str(path), code=1).stderr
    assert "its unit_price cannot change; end it and add a price with another price_id" in error
    assert daemon.out("price", "show") == good.removesuffix("\n")
    assert json.loads(daemon.out("price", "list", "--format", "json"))["Until"] == "open"
    shown = daemon.out("price", "list", "current").splitlines()
    assert len(shown) == 1 + good.count("[[price]]")


def test_the_book_of_the_settings(daemon: RunningDaemon, tmp_path: Path) -> None:
    """In force from the start; a bad one is told in the log, and the daemon runs on without."""
    path = tmp_path / "prices.toml"
    path.write_text(book_text())
    daemon.stop()
    daemon.start(f"--prices={path}")
    assert "14 prices of 7 SKUs" in daemon.out("price", "check", str(path))
    assert daemon.out("price", "list", "--format", "{{.Name}} {{.Prices}}") == f"{path} 14"
    path.write_text("provider = 1\n")
    daemon.stop()
    daemon.start(f"--prices={path}")
    assert f"{path}:1: provider must be a string" in daemon.log
    assert daemon.out("price", "list", "--format", "{{.Prices}}") == "14"


def test_usage_by_what_is_asked(daemon: RunningDaemon) -> None:
    """Container, tenant, label; a window; CSV with exact numbers; what cannot be is said."""
    daemon.run("run", "--rm", "--name", "one", "--tenant", "acme", "--label", "team=web",
               "busybox", "true")  # fmt: skip
    daemon.run("run", "-d", "--name", "two", "--tenant", "beta", "busybox", "sleep", "60")
    by_name = daemon.out("usage", "--format", "{{.Name}} {{.Tenant}}").splitlines()
    assert by_name == ["one acme", "two beta"]
    assert daemon.out("usage", "--tenant", "beta", "--format", "{{.Name}}") == "two"
    label = daemon.out("usage", "--by", "label:team", "--format", "{{.Tenant}} {{.Label}}")
    assert label.splitlines() == ["acme web", "beta "]
    heading, *rows = daemon.out("usage", "--by", "tenant", "--format", "csv").splitlines()
    assert heading.startswith("Tenant,ID,Name,Label,Containers,Since,Until,CPUUsed,")
    assert len(rows) == 2
    first, second = (usage(daemon)["beta"]["Container"] for _ in range(2))
    assert Fraction(second) > Fraction(first) > 0
    assert usage(daemon, "--until", "1h") == {}
    table = daemon.out("usage").splitlines()
    assert table[0].split()[:3] == ["TENANT", "CONTAINER", "ID"]
    for options, message in (
        (["--by", "label:"], "give container, tenant or label:KEY"),
        (["--by", "image"], "give container, tenant or label:KEY"),
        (["--since", "1h", "--until", "2h"], "--until must be later than --since"),
        (["--since", "yesterday"], "invalid time"),
        (["--format", "{{.Cost}}"], "Cost"),
    ):
        assert message in daemon.run("usage", *options, code=125).stderr
