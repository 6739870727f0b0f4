"""The usage view: what containers, tenants or labels used in a span of time, from the ledger.

Sums of integers, so they agree with ``/metrics`` and with bills to the last unit. A record that
lies across an edge of the window is divided in proportion to time, and the row is marked
estimated. The division is one of whole numbers that adds up: the windows [a, b) and [b, c) hold
together exactly what [a, c) holds.

Pure. Out of scope: reading the ledger, money (:mod:`aruntime.metering.rating`), tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aruntime.metering.chain import HOUR_NS, Rollup
from aruntime.metering.quantities import MEASURES, counts
from aruntime.metering.record import LedgerRecord

WINDOW_EDGE = "window_edge"
"""Why usage is an estimate: a record was divided."""

ROLLED_UP = {
    "cpu_used": "cpu_ns",
    "cpu_max": "cpu_alloc_ns",
    "memory_used": "mem_bytens2",
    "memory_max": "mem_alloc_bytens2",
    "memory_charged": "mem_usage_bytens2",
    "block_read": "blk_read",
    "block_write": "blk_write",
    "block_reads": "blk_reads",
    "block_writes": "blk_writes",
    "process_read": "proc_read",
    "process_write": "proc_write",
    "network_receive": "net_receive",
    "network_transmit": "net_transmit",
    "network_receive_packets": "net_receive_packets",
    "network_transmit_packets": "net_transmit_packets",
    "running": "running_ns",
    "paused": "paused_ns",
    "network_egress": "net_egress",
    "network_egress_packets": "net_egress_packets",
}
"""Which sum of a roll-up is behind a measure. What was allocated is not kept in them."""


class Window(NamedTuple):
    """A half-open span of Unix time in ns."""

    since_ns: int
    until_ns: int

    def holds_all(self, start_ns: int, end_ns: int) -> bool:
        """Whether a span lies in it whole; an instant does if it is not the window's end."""
        return self.since_ns <= start_ns and (
            end_ns <= self.until_ns if end_ns > start_ns else start_ns < self.until_ns
        )

    def touches(self, start_ns: int, end_ns: int) -> bool:
        """Whether any of a span lies in it."""
        return start_ns < self.until_ns and (
            end_ns > self.since_ns if end_ns > start_ns else start_ns >= self.since_ns
        )

    def part(self, count: int, start_ns: int, end_ns: int) -> int:
        """The share of a count that grew evenly over a span, as a whole number.

        What adjacent windows get adds up to the count: each gets the growth of the rounded line.
        """
        if self.holds_all(start_ns, end_ns):
            return count
        if not self.touches(start_ns, end_ns):
            return 0
        length = end_ns - start_ns
        before = max(self.since_ns, start_ns) - start_ns
        upto = min(self.until_ns, end_ns) - start_ns
        return count * upto // length - count * before // length


class Group(NamedTuple):
    """What a row is about; fields that do not apply are empty."""

    tenant: str = ""
    container_id: str = ""
    label: str = ""
    """The label's value, empty for containers without it."""


class Usage:
    """Sums of one row. Grows while records are added.

    Attributes:
        counts: integers by measure, in the units of :data:`~aruntime.metering.quantities.MEASURES`
            times its divisor.
        estimated: why a part is estimated.
        name: of the container, as of its latest record.
        containers: ids of those that used something.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.counts = dict.fromkeys(MEASURES, 0)
        self.estimated: set[str] = set()
        self.name = ""
        self.containers: set[str] = set()

    def add(self, record: LedgerRecord, window: Window) -> None:
        """Add a record, or the part of it that lies in the window."""
        span = record.wall_start, record.wall_end
        whole = window.holds_all(*span)
        for name, count in counts(record).items():
            self.counts[name] += count if whole else window.part(count, *span)
        self.estimated.update(record.estimated)
        if not whole:
            self.estimated.add(WINDOW_EDGE)
        self.name = record.name
        self.containers.add(record.container_id)

    def add_rollup(self, rollup: Rollup, window: Window) -> None:
        """Add an hour whose records were deleted."""
        span = rollup.hour_ns, rollup.hour_ns + HOUR_NS
        for name, kept in ROLLED_UP.items():
            self.counts[name] += window.part(rollup.sums.get(kept, 0), *span)
        self.counts["container"] = self.counts["running"] + self.counts["paused"]
        if rollup.estimated:
            self.estimated.add("rolled_up")
        if not window.holds_all(*span):
            self.estimated.add(WINDOW_EDGE)
        self.name = self.name or rollup.name
        self.containers.add(rollup.container_id)


def usage_rows(
    records: Iterable[LedgerRecord],
    rollups: Iterable[Rollup],
    window: Window,
    by: str,
) -> list[Usage]:
    """Sum records and roll-ups over groups.

    Args:
        records: of the ledger, in its order, and of what is not cut yet.
        rollups: of the hours whose records are gone.
        window: what to count.
        by: ``container``, ``tenant`` or ``label:KEY``.

    Returns:
        Rows by tenant, then the greatest users of CPU first.
    """
    rows: dict[Group, Usage] = {}

    def row_of(tenant: str, container_id: str, labels: dict[str, str]) -> Usage:
        group = group_of(by, tenant, container_id, labels)
        return rows.setdefault(group, Usage(group))

    for rollup in rollups:
        if window.touches(rollup.hour_ns, rollup.hour_ns + HOUR_NS):
            row_of(rollup.tenant, rollup.container_id, {}).add_rollup(rollup, window)
    for record in records:
        if record.container_id and window.touches(record.wall_start, record.wall_end):
            row_of(record.tenant, record.container_id, record.labels).add(record, window)
    return sorted(rows.values(), key=lambda row: (row.group.tenant, -row.counts["cpu_used"]))


def group_of(by: str, tenant: str, container_id: str, labels: dict[str, str]) -> Group:
    """The group that usage belongs to."""
    kind, _, key = by.partition(":")
    match kind:
        case "tenant":
            return Group(tenant)
        case "label":
            return Group(tenant, label=labels.get(key, ""))
        case _:
            return Group(tenant, container_id)
