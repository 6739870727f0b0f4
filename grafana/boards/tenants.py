"""What tenants used, what it costs, and how that goes on: the page behind a bill.

The totals come from the ledger, so a container's end or a daemon's restart leaves no gap in them.
Prometheus extrapolates at the edges of a range: for an invoice take ``aruntime bill``.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.stat import Panel
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards.parts import (
    HOST,
    RANGE,
    RATE,
    TENANT,
    Column,
    Query,
    bars,
    board,
    finish,
    graph,
    number,
    row,
    steps,
    table,
    variables,
)

GIB = "1024^3"
COST = f"aruntime_tenant_cost_total{{{TENANT}}}"
BUDGET = f"aruntime_tenant_budget{{{TENANT}}}"


def _used(metric: str, window: str = RANGE) -> str:
    return f"increase(aruntime_tenant_{metric}_total{{{TENANT}}}{window})"


def _rate(metric: str) -> str:
    return f"rate(aruntime_tenant_{metric}_total{{{TENANT}}}{RATE})"


def _sum(expr: str, scale: str = "") -> Query:
    return Query(f"sum({expr}){scale}")


SPENT = f"sum by (tenant, currency) (increase({COST}{RANGE}))"

MONEY = (
    bars(
        "Cost by SKU",
        "List cost of the range shown, by tenant, SKU and currency.",
        "none",
        Query(
            f"sum by (tenant, sku, currency) (increase({COST}{RANGE}))",
            "{{tenant}} {{sku}} ({{currency}})",
        ),
    ),
    graph(
        "Cost an hour",
        "List cost at the present rate, by tenant and currency.",
        "none",
        Query(
            f"sum by (tenant, currency) (rate({COST}{RATE})) * 3600", "{{tenant}} ({{currency}})"
        ),
        stacked=True,
    ),
    graph(
        "The last day and the same day a week before",
        "List cost of the 24 hours up to each moment; dashed, of those a week earlier.",
        "none",
        Query(f"sum by (tenant, currency) (increase({COST}[1d]))", "{{tenant}} ({{currency}})"),
        Query(
            f"sum by (tenant, currency) (increase({COST}[1d] offset 1w))",
            "{{tenant}} ({{currency}}) a week before",
        ),
        limits="before$",
    ),
    number(
        "Of the budget",
        "Cost of the range shown as a part of the tenant's monthly budget; show the month so far.",
        "percentunit",
        Query(f"{SPENT} / max by (tenant, currency) ({BUDGET})", "{{tenant}} ({{currency}})"),
        width=6,
        colours=steps((None, "green"), (0.8, "orange"), (1, "red")),
    ),
    number(
        "Forecast of a month",
        "What 30 days cost at the average rate of the range shown.",
        "none",
        Query(
            f"sum by (tenant, currency) (rate({COST}{RANGE})) * 2592000",
            "{{tenant}} ({{currency}})",
        ),
        width=6,
        decimals=2,
    ),
)


def _eighth(
    title: str, meaning: str, unit: str, query: Query, decimals: int | None = None
) -> Panel:
    """A number that takes an eighth of the width."""
    return number(title, meaning, unit, query, width=3, decimals=decimals)


USAGE = (
    _eighth("Core-hours", "CPU time used.", "none", _sum(_used("cpu_seconds"), " / 3600"), 3),
    _eighth(
        "GiB-hours",
        "Memory over time: the integral of the working sets.",
        "none",
        _sum(_used("memory_byte_seconds"), f" / ({GIB} * 3600)"),
        3,
    ),
    _eighth(
        "Received",
        "Bytes received by the containers.",
        "bytes",
        _sum(_used("network_receive_bytes")),
    ),
    _eighth(
        "Sent", "Bytes sent by the containers.", "bytes", _sum(_used("network_transmit_bytes"))
    ),
    _eighth(
        "Left the host",
        "Egress: bytes of packets that left the host, other than to its own containers.",
        "bytes",
        _sum(_used("network_egress_bytes")),
    ),
    _eighth("Read", "Bytes read from disks.", "bytes", _sum(_used("blkio_read_bytes"))),
    _eighth("Written", "Bytes written to disks.", "bytes", _sum(_used("blkio_write_bytes"))),
    _eighth(
        "Paused",
        "Time in which containers were frozen: no CPU is used, and most price books charge less.",
        "s",
        _sum(_used("paused_seconds")),
    ),
)

GRAPHS = (
    graph(
        "CPU by tenant",
        "Cores in use.",
        "none",
        Query(f"sum by (tenant) ({_rate('cpu_seconds')})", "{{tenant}}"),
        stacked=True,
    ),
    graph(
        "Memory by tenant",
        "Working sets, from the growth of their integral.",
        "bytes",
        Query(f"sum by (tenant) ({_rate('memory_byte_seconds')})", "{{tenant}}"),
        stacked=True,
    ),
    graph(
        "CPU set aside and used",
        "Cores: the greater of request and usage, and usage. What lies between is waste.",
        "none",
        Query(f"sum by (tenant) ({_rate('cpu_allocated_seconds')})", "{{tenant}} set aside"),
        Query(f"sum by (tenant) ({_rate('cpu_seconds')})", "{{tenant}} used"),
        limits="aside$",
    ),
    graph(
        "Memory set aside and used",
        "Bytes: the greater of request and usage, and usage. What lies between is waste.",
        "bytes",
        Query(
            f"sum by (tenant) ({_rate('memory_allocated_byte_seconds')})", "{{tenant}} set aside"
        ),
        Query(f"sum by (tenant) ({_rate('memory_byte_seconds')})", "{{tenant}} used"),
        limits="aside$",
    ),
    graph(
        "Network sent by tenant",
        "Bytes sent by the containers, to each other too.",
        "Bps",
        Query(f"sum by (tenant) ({_rate('network_transmit_bytes')})", "{{tenant}}"),
        stacked=True,
    ),
    graph(
        "Network that left the host, by tenant",
        "Egress: bytes of packets that left the host, other than to its own containers.",
        "Bps",
        Query(f"sum by (tenant) ({_rate('network_egress_bytes')})", "{{tenant}}"),
        stacked=True,
    ),
)

SHARE = (
    "sum by (instance, id, name, tenant) "
    f"(increase(aruntime_container_cpu_usage_seconds_total{{{TENANT}}}{RANGE}))"
)
ROWS = (
    bars(
        "The ten containers that cost most",
        "An estimate: the cost of their tenant in proportion to the CPU time that Prometheus saw "
        "of them. The bill itself is by record, not by proportion.",
        "none",
        Query(
            f"topk(10, sum by (name, tenant, currency) ({SHARE} * on (tenant) group_left (currency)"
            f" ({SPENT} / on (tenant) group_left () sum by (tenant) ({_used('cpu_seconds')}))))",
            "{{tenant}} {{name}} ({{currency}})",
        ),
    ),
    number(
        "Estimated records",
        "Part of the ledger's records that contain an estimate, such as the memory of the time in "
        "which no daemon ran. CPU, I/O and network are never estimated.",
        "percentunit",
        Query(
            f"sum(increase(aruntime_ledger_estimated_records_total{{{HOST}}}{RANGE}))"
            f" / (sum(increase(aruntime_ledger_records_total{{{HOST}}}{RANGE})) > 0)"
        ),
        width=6,
        colours=steps((None, "green"), (0.01, "orange")),
    ),
    number(
        "Containers",
        "Running and paused ones.",
        "none",
        Query(
            f'sum by (tenant) (aruntime_tenant_containers{{{TENANT},state=~"running|paused"}})',
            "{{tenant}}",
        ),
        width=6,
    ),
)

TABLE = table(
    "Usage by tenant",
    "Of the range shown; the same numbers as `aruntime usage`, within Prometheus' sampling.",
    {"tenant": "Tenant"},
    Column("Core-hours", f"sum by (tenant) ({_used('cpu_seconds')}) / 3600", decimals=4),
    Column(
        "GiB-hours",
        f"sum by (tenant) ({_used('memory_byte_seconds')}) / ({GIB} * 3600)",
        decimals=4,
    ),
    Column("Container-hours", f"sum by (tenant) ({_used('container_seconds')}) / 3600", decimals=3),
    Column("Paused", f"sum by (tenant) ({_used('paused_seconds')})", "s"),
    Column("Read", f"sum by (tenant) ({_used('blkio_read_bytes')})", "bytes"),
    Column("Written", f"sum by (tenant) ({_used('blkio_write_bytes')})", "bytes"),
    Column("Received", f"sum by (tenant) ({_used('network_receive_bytes')})", "bytes"),
    Column("Sent", f"sum by (tenant) ({_used('network_transmit_bytes')})", "bytes"),
    Column("Left the host", f"sum by (tenant) ({_used('network_egress_bytes')})", "bytes"),
)


def build() -> Dashboard:
    """The dashboard."""
    made = board(
        "aruntime-tenants",
        "Tenants",
        "Usage and list cost by tenant, the month so far unless another range is chosen.",
        variables("host", "tenant"),
        "",
        since="now/M",
    )
    return finish(
        made, row("Money"), *MONEY, row("Usage"), *USAGE, *GRAPHS, TABLE, row("Who"), *ROWS
    )
