"""A report adds up to usage and bill, and its page shows just that."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest

from aruntime.daemon import report_page
from aruntime.metering.chain import HOUR_NS
from aruntime.metering.quantities import quantity
from aruntime.metering.report import DAY_NS, MOST_CONTAINERS, SCALES, Report, make_report
from aruntime.metering.usage import Window, usage_rows
from tests.billing import NOVEMBER, bill_of, records_of_days

MONTH = Window(NOVEMBER.start_ns, NOVEMBER.end_ns)


def report_of(seed: int, *, runs: int = 6, window: Window = MONTH, priced: bool = True) -> Report:
    """A report of some days of three tenants."""
    records = records_of_days(seed, runs=runs)
    return make_report(
        records, [], window, bill_of(records) if priced else None,
        title="Usage of 2026-11", host="node", head=(7, "ab" * 32), now_ns=window.until_ns,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_usage(seed: int) -> None:
    """Tenants' and containers' rows are those of usage, to the last digit."""
    records = records_of_days(seed)
    report = report_of(seed)
    for rows, by in ((report.tenants, "tenant"), (report.containers, "container")):
        wanted = {
            (row.group.tenant, row.group.container_id): row
            for row in usage_rows(records, [], MONTH, by)
        }
        assert {(row.tenant, row.container_id) for row in rows} == set(wanted)
        for row in rows:
            counts = wanted[row.tenant, row.container_id].counts
            for name, text in row.numbers.items():
                assert Fraction(Decimal(text)) == quantity(name, counts[name])


@pytest.mark.parametrize("seed", range(5))
def test_bars_add_up(seed: int) -> None:
    """The bars of a tenant are together what the tenant used; by the day or by the hour."""
    day = NOVEMBER.start_ns + 15 * DAY_NS
    for window in (MONTH, Window(day, day + 3 * DAY_NS)):
        report = report_of(seed, window=window)
        assert report.step_ns == (DAY_NS if window == MONTH else HOUR_NS)
        for plot in report.plots:
            assert all(len(series.values) == len(report.starts_ns) for series in plot.series)
            for row in report.tenants:
                bars = next(one.values for one in plot.series if one.tenant == row.tenant)
                total = float(Decimal(row.numbers[plot.scale.measure]) / plot.scale.divisor)
                assert sum(bars) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_the_bill(seed: int) -> None:
    """Costs by SKU are together each invoice's total; payables are the invoices'."""
    bill = bill_of(records_of_days(seed))
    report = report_of(seed)
    for invoice in bill.invoices:
        costs = [
            Decimal(one.cost)
            for one in report.costs
            if (one.tenant, one.currency) == (invoice.tenant, invoice.currency)
        ]
        assert sum(costs) == invoice.total
    assert [Decimal(one.payable) for one in report.payables] == [
        one.payable for one in bill.invoices
    ]


def test_containers_beyond_the_list_are_counted() -> None:
    """The greatest users of CPU are listed; how many are not is said."""
    report = report_of(1, runs=MOST_CONTAINERS + 7)
    assert len(report.containers) == MOST_CONTAINERS
    assert report.left_out == 7
    used = [Decimal(row.numbers["cpu_used"]) for row in report.containers]
    assert used == sorted(used, reverse=True)
    assert "7 more used less CPU" in report_page.page(report)


def test_page() -> None:
    """The page has every number, and asks nobody for anything."""
    report = report_of(2)
    text = report_page.page(msgspec.json.decode(msgspec.json.encode(report), type=Report))
    script = text.index("</script></head>")
    body = text[script:]
    for row in report.tenants:
        assert f"<td class=text>{row.tenant}</td>" in body
        assert row.numbers["cpu_used"] in body
    for cost in report.costs:
        assert f"<td>{cost.cost}</td>" in body
    assert "<th>Left the host, GiB</th>" in body
    assert report.head_hash in body
    assert len(re.findall("plotly-graph-div", body)) == len(SCALES) + 2  # costs in two currencies
    assert not re.search(r"(src|href)\s*=", body)
    assert "default-src 'none'" in text
    assert "provisional" not in body


def test_page_without_prices_or_usage() -> None:
    """Without prices and without usage there is a page that says so."""
    report = make_report(
        [], [], MONTH, None, title="Nothing", host="node", head=(0, "00"), now_ns=MONTH.since_ns
    )
    text = report_page.page(report)
    assert "No prices are in force" in text
    assert "<h2>Tenants</h2>" in text


def test_names_are_text() -> None:
    """Names with markup stay text, in tables and in plots."""
    evil = "</script><script>alert(1)</script><b>"
    records = [
        msgspec.structs.replace(one, tenant=evil, name=evil) for one in records_of_days(3, runs=1)
    ]
    report = make_report(
        records, [], MONTH, None, title=evil, host=evil, head=(1, "ab"), now_ns=MONTH.until_ns
    )
    text = report_page.page(report)
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
