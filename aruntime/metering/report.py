"""A period's usage and cost as the report shows it: sums by hour or day, tenant, container, SKU.

Numbers come from the same records and the same bill as ``usage`` and ``bill``, and are exact: text
where they are shown, floats only for the lengths of bars. Pure. Out of scope: reading the ledger,
pages (:mod:`aruntime.daemon.report_page`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec

from aruntime.metering.bill import Bill
from aruntime.metering.chain import HOUR_NS, Rollup
from aruntime.metering.quantities import decimal_text, quantity
from aruntime.metering.rating import EXACT
from aruntime.metering.record import LedgerRecord
from aruntime.metering.usage import Group, Usage, Window, usage_rows, usage_within

DAY_NS = 24 * HOUR_NS
HOURLY_UP_TO_NS = 4 * DAY_NS
"""Longer periods are shown by the day."""
MOST_CONTAINERS = 50
GIB = 1 << 30


class Scale(msgspec.Struct, frozen=True):
    """How people read a measure."""

    measure: str
    title: str
    unit: str
    divisor: int
    """Of the measure's own unit."""


SCALES = (
    Scale("cpu_used", "CPU", "core-hours", 3600),
    Scale("memory_used", "Memory", "GiB-hours", GIB * 3600),
    Scale("network_transmit", "Sent", "GiB", GIB),
    Scale("network_egress", "Left the host", "GiB", GIB),
    Scale("block_write", "Written to disks", "GiB", GIB),
)


class Series(msgspec.Struct, frozen=True):
    """One tenant's use of one measure over time."""

    tenant: str
    values: list[float]


class Plot(msgspec.Struct, frozen=True):
    """One measure over time."""

    scale: Scale
    series: list[Series]


class Row(msgspec.Struct, frozen=True):
    """What a tenant or a container used, exactly, as decimal text in the measures' own units."""

    tenant: str
    name: str
    container_id: str
    containers: int
    numbers: dict[str, str]
    estimated: list[str]


class Cost(msgspec.Struct, frozen=True):
    """What a tenant owes for one SKU."""

    tenant: str
    sku: str
    quantity: str
    unit: str
    cost: str
    currency: str


class Payable(msgspec.Struct, frozen=True):
    """What a tenant owes."""

    tenant: str
    payable: str
    currency: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a page shows."""

    title: str
    host: str
    since_ns: int
    until_ns: int
    made_ns: int
    step_ns: int
    starts_ns: list[int]
    """Beginning of each bar."""
    plots: list[Plot]
    tenants: list[Row]
    containers: list[Row]
    """Those that used most CPU."""
    left_out: int
    """Containers that are not listed; their use is in their tenants' rows."""
    costs: list[Cost]
    payables: list[Payable]
    is_provisional: bool
    head_seq: int
    head_hash: str
    book_version: str


def make_report(
    records: Sequence[LedgerRecord],
    rollups: Sequence[Rollup],
    window: Window,
    bill: Bill | None,
    *,
    title: str,
    host: str,
    head: tuple[int, str],
    now_ns: int,
) -> Report:
    """Put a report together.

    Args:
        records: of the ledger and of what is not cut yet.
        rollups: of the hours whose records are gone.
        window: the period.
        bill: of the period; None without prices.
        title, host: of the page.
        head: number and hash of the ledger's last record.
        now_ns: Unix time.
    """
    step = HOUR_NS if window.until_ns - window.since_ns <= HOURLY_UP_TO_NS else DAY_NS
    shown_until = min(window.until_ns, max(now_ns, window.since_ns + 1))
    starts = list(range(window.since_ns // step * step, shown_until, step))
    containers = sorted(
        usage_rows(records, rollups, window, "container"), key=lambda row: -row.counts["cpu_used"]
    )
    return Report(
        title=title,
        host=host,
        since_ns=window.since_ns,
        until_ns=window.until_ns,
        made_ns=now_ns,
        step_ns=step,
        starts_ns=starts,
        plots=_plots(records, rollups, window, starts, step),
        tenants=[_row(one) for one in usage_rows(records, rollups, window, "tenant")],
        containers=[_row(one) for one in containers[:MOST_CONTAINERS]],
        left_out=max(0, len(containers) - MOST_CONTAINERS),
        costs=_costs(bill),
        payables=[
            Payable(one.tenant, format(one.payable, "f"), one.currency)
            for one in (bill.invoices if bill else ())
        ],
        is_provisional=bill is not None and bill.is_provisional,
        head_seq=head[0],
        head_hash=head[1],
        book_version=bill.book.version if bill else "",
    )


def _plots(
    records: Iterable[LedgerRecord],
    rollups: Iterable[Rollup],
    window: Window,
    starts: list[int],
    step: int,
) -> list[Plot]:
    """Each measure by tenant over time; a record belongs to the bar that it begins in."""
    sums: dict[str, dict[int, Usage]] = {}

    def bar(tenant: str, start_ns: int) -> Usage:
        place = max(start_ns, window.since_ns) // step * step
        return sums.setdefault(tenant, {}).setdefault(place, Usage(Group(tenant)))

    for rollup in rollups:
        if window.touches(rollup.hour_ns, rollup.hour_ns + HOUR_NS):
            bar(rollup.tenant, rollup.hour_ns).add_rollup(rollup, window)
    for record in usage_within(records, window):
        bar(record.tenant, record.wall_start).add(record, window)
    return [
        Plot(
            scale,
            [
                Series(tenant, [_value(bars.get(start), scale) for start in starts])
                for tenant, bars in sorted(sums.items())
            ],
        )
        for scale in SCALES
    ]


def _value(usage: Usage | None, scale: Scale) -> float:
    if usage is None:
        return 0.0
    return float(quantity(scale.measure, usage.counts[scale.measure]) / scale.divisor)


def _row(usage: Usage) -> Row:
    return Row(
        tenant=usage.group.tenant,
        name=usage.name if usage.group.container_id else "",
        container_id=usage.group.container_id,
        containers=len(usage.containers),
        numbers={name: decimal_text(quantity(name, count)) for name, count in usage.counts.items()},
        estimated=sorted(usage.estimated),
    )


def _costs(bill: Bill | None) -> list[Cost]:
    sums: dict[tuple[str, str, str, str], tuple[Decimal, Decimal]] = {}
    for invoice in bill.invoices if bill else ():
        for line in invoice.lines:
            key = (line.tenant, line.sku, line.unit, line.currency)
            amount, cost = sums.get(key, (Decimal(0), Decimal(0)))
            sums[key] = EXACT.add(amount, line.quantity), EXACT.add(cost, line.cost)
    return [
        Cost(tenant, sku, format(amount, "f"), unit, format(cost, "f"), currency)
        for (tenant, sku, unit, currency), (amount, cost) in sorted(sums.items())
    ]
