"""Families without a container's labels: tenants, the meter itself, the host.

There are few of them, so they are plain prometheus-client families. The names belong to the same
vocabulary as :mod:`aruntime_exporters.families`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric

from aruntime.metering.account import STATUSES
from aruntime.metering.export import DaemonView, ExportState, View
from aruntime.metering.health import HistogramState
from aruntime.metering.record import ESTIMATES, WRITTEN_KINDS
from aruntime.metering.totals import TenantTotals
from aruntime_exporters.families import PREFIX
from aruntime_exporters.values import NS, Value

CONTROLLERS = ("cpuacct", "cpu", "memory", "blkio", "pids", "io", "cgroup", "network", "process")
"""Shown at 0 before their first error."""

TENANT_COUNTERS: tuple[tuple[str, str, Callable[[TenantTotals], Value]], ...] = (
    (
        "container_seconds",
        "Time containers of the tenant were alive, running or paused, as of the last commit.",
        lambda t: t.container_ns / NS,
    ),
    (
        "cpu_seconds", "CPU time of the tenant's containers (cpuacct.usage); never falls.",
        lambda t: t.cpu_ns / NS,
    ),
    (
        "memory_byte_seconds", "Integral of the working sets, as of the last commit.",
        lambda t: t.memory_bytens2 / (2 * NS),
    ),
    (
        "cpu_allocated_seconds",
        "The greater of requested and used CPU time over each reading, as of the last commit.",
        lambda t: t.cpu_allocated_ns / NS,
    ),
    (
        "memory_allocated_byte_seconds",
        "Integral of the greater of requested memory and working set, as of the last commit.",
        lambda t: t.memory_allocated_bytens2 / (2 * NS),
    ),
    ("blkio_read_bytes", "Bytes read from disks.", lambda t: t.block_read_bytes),
    ("blkio_write_bytes", "Bytes written to disks.", lambda t: t.block_write_bytes),
    ("network_receive_bytes", "Bytes received.", lambda t: t.network_receive_bytes),
    ("network_transmit_bytes", "Bytes sent.", lambda t: t.network_transmit_bytes),
    (
        "network_egress_bytes", "Bytes of packets that left the host.",
        lambda t: t.network_egress_bytes,
    ),
    (
        "paused_seconds", "Time containers of the tenant were frozen, as of the last commit.",
        lambda t: t.paused_ns / NS,
    ),
)  # fmt: skip
"""Name after ``tenant_``, help, value."""


EXPORT_GAUGES: tuple[tuple[str, str, Callable[[ExportState], Value]], ...] = (
    ("sequence", "Last record of the ledger that was acknowledged.", lambda e: e.sequence),
    ("pending_records", "Records after it, when the ledger was last looked at.",
     lambda e: e.pending),
    ("last_success_timestamp_seconds",
     "Unix time when last everything asked for was delivered, 0 before the first time.",
     lambda e: e.last_success_ns / NS),
)  # fmt: skip
EXPORT_COUNTERS: tuple[tuple[str, str, Callable[[ExportState], Value]], ...] = (
    ("delivered_items", "Items that were acknowledged since the daemon started.",
     lambda e: e.delivered),
    ("rejected_items", "Items the receiver would not take; they are in ROOT/exports.",
     lambda e: e.rejected),
    ("errors", "Attempts to deliver that failed and were repeated.", lambda e: e.failures),
)  # fmt: skip
"""Name after ``export_``, help, value."""


def tenant_families(view: View) -> Iterator[Metric]:
    """Totals per tenant, from the ledger, and the tenant's containers by state."""
    tenants = sorted(view.tenants.keys() | {tenant for tenant, _ in view.tenant_containers})
    states = GaugeMetricFamily(
        PREFIX + "tenant_containers", "Containers by state.", labels=("tenant", "state")
    )
    for tenant in tenants:
        for status in STATUSES:
            states.add_metric((tenant, status), view.tenant_containers.get((tenant, status), 0))
    yield states
    for name, text, value in TENANT_COUNTERS:
        family = CounterMetricFamily(PREFIX + "tenant_" + name, text, labels=("tenant",))
        for tenant in tenants:
            family.add_metric((tenant,), value(view.tenants.get(tenant, TenantTotals())))
        yield family


def cost_families(view: View) -> Iterator[Metric]:
    """What tenants' usage costs and what they mean to spend; nothing without a price book."""
    if view.costs:
        family = CounterMetricFamily(
            PREFIX + "tenant_cost",
            "Cost of the tenant's usage so far at list prices, as of the last commit.",
            labels=("tenant", "sku", "currency"),
        )
        for key, cost in sorted(view.costs.items()):
            family.add_metric(key, float(cost))
        yield family
    if view.budgets:
        budgets = GaugeMetricFamily(
            PREFIX + "tenant_budget", "What the tenant means to spend in a month (price book).",
            labels=("tenant", "currency"),
        )  # fmt: skip
        for budget in view.budgets:
            budgets.add_metric((budget.tenant, budget.currency), float(budget.amount))
        yield budgets


def daemon_families(daemon: DaemonView) -> Iterator[Metric]:
    """The meter's own work."""
    build = InfoMetricFamily(PREFIX + "build", "Versions of the daemon and what it runs on.")
    build.add_metric(
        (),
        {
            "version": daemon.version,
            "python_version": daemon.python_version,
            "kernel": daemon.kernel,
            "cgroup_mode": daemon.cgroup_mode,
        },
    )
    yield build
    yield _histogram("poll_duration_seconds", "One cycle over all counters.", daemon.poll_duration)
    yield GaugeMetricFamily(
        PREFIX + "poll_last_success_timestamp_seconds",
        "Unix time of the last complete cycle, 0 before the first.",
        value=daemon.last_poll_ns / NS,
    )
    yield CounterMetricFamily(
        PREFIX + "poll_overruns",
        "Cycles that took longer than the interval.",
        value=daemon.overruns,
    )
    yield _by_label(
        "poll_errors", "Counters that could not be read.",
        "controller", CONTROLLERS, daemon.polls_failed,
    )  # fmt: skip
    yield _by_label(
        "meter_anomalies", "Readings that cannot be taken at their word.",
        "kind", (), daemon.anomalies,
    )  # fmt: skip


def ledger_families(daemon: DaemonView) -> Iterator[Metric]:
    """The durable side of the meter."""
    ledger = daemon.ledger
    yield _by_label("ledger_records", "Records by kind.", "kind", WRITTEN_KINDS, ledger.kinds)
    yield _by_label(
        "ledger_estimated_records", "Records of which a part is an estimate, by the reason.",
        "reason", ESTIMATES, ledger.estimated,
    )  # fmt: skip
    yield GaugeMetricFamily(
        PREFIX + "ledger_sequence", "Number of the last record.", value=ledger.sequence
    )
    yield GaugeMetricFamily(
        PREFIX + "ledger_last_checkpoint_timestamp_seconds",
        "Unix time of the last signed checkpoint, 0 before the first.",
        value=ledger.checkpoint_ns / NS,
    )
    yield CounterMetricFamily(
        PREFIX + "ledger_write_errors", "Commits the disk refused.", value=daemon.write_errors
    )
    yield GaugeMetricFamily(
        PREFIX + "ledger_pending_records", "Containers whose last cut is not durable yet.",
        value=daemon.pending,
    )  # fmt: skip
    yield GaugeMetricFamily(
        PREFIX + "ledger_last_commit_timestamp_seconds",
        "Unix time of the last commit, 0 before the first.",
        value=daemon.last_commit_ns / NS,
    )
    yield _histogram(
        "ledger_commit_duration_seconds", "One commit, with fsync.", daemon.commit_duration
    )


def export_families(exports: Sequence[ExportState]) -> Iterator[Metric]:
    """Push exporters: how far they are behind, and what went wrong."""
    for name, text, value in EXPORT_GAUGES:
        gauge = GaugeMetricFamily(PREFIX + "export_" + name, text, labels=("exporter",))
        for state in exports:
            gauge.add_metric((state.name,), value(state))
        yield gauge
    for name, text, value in EXPORT_COUNTERS:
        counter = CounterMetricFamily(PREFIX + "export_" + name, text, labels=("exporter",))
        for state in exports:
            counter.add_metric((state.name,), value(state))
        yield counter


def host_families(daemon: DaemonView) -> Iterator[Metric]:
    """The host's capacity, its sources of numbers, and CPU time nobody is billed for."""
    sources = InfoMetricFamily(
        PREFIX + "blkio_source",
        "Which counter file is believed for a disk (none: its I/O is not counted).",
        labels=("device",),
    )
    for row in daemon.block_sources:
        sources.add_metric(
            (row.disk.name,), {"scheduler": row.disk.scheduler, "source": row.source}
        )
    yield sources
    yield GaugeMetricFamily(
        PREFIX + "psi_available", "1 if the kernel keeps pressure stall information.",
        value=int(daemon.psi_available),
    )  # fmt: skip
    yield GaugeMetricFamily(
        PREFIX + "host_cpu_cores", "Processors of the host.", value=daemon.cpu_cores
    )
    yield GaugeMetricFamily(
        PREFIX + "host_memory_bytes", "Physical memory of the host.", value=daemon.memory_bytes
    )
    if daemon.cpu is not None:
        split = CounterMetricFamily(
            PREFIX + "host_cpu_seconds",
            "CPU time of the host since the daemon started, by whether a container used it"
            " (root cpuacct.usage; v2 root cpu.stat).",
            labels=("mode",),
        )
        split.add_metric(("attributed",), daemon.cpu.attributed_ns / NS)
        split.add_metric(("unattributed",), daemon.cpu.unattributed_ns / NS)
        yield split


def _by_label(
    name: str, text: str, label: str, usual: Iterable[str], counts: Mapping[str, int]
) -> Metric:
    """A counter per value of one label; the usual ones are there from the start, at 0."""
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    for value in sorted({*usual, *counts}):
        family.add_metric((value,), counts.get(value, 0))
    return family


def _histogram(name: str, text: str, state: HistogramState) -> Metric:
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*map(str, state.bounds), "+Inf"), state.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return HistogramMetricFamily(PREFIX + name, text, buckets=buckets, sum_value=state.sum_ns / NS)
