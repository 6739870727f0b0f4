"""The usage view: what containers, tenants or labels used in a span of time, from the ledger.

Sums of integers, so they agree with ``/metrics`` and with bills to the last unit. A record that
lies across an edge of the window is divided in proportion to time, and the row is marked
estimated. The division is one of whole numbers that adds up: the windows [a, b) and [b, c) hold
together exactly what [a, c) holds.

Pure. Out of scope: reading the ledger, money (:mod:`aruntime.metering.rating`), tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aruntime.metering.chain import HOUR_NS, Rollup
from aruntime.metering.corrections import amends, with_correction
from aruntime.metering.quantities import COUNTED, MEASURES, counts
from aruntime.metering.record import LedgerRecord

WINDOW_EDGE = "window_edge"
"""Why usage is an estimate: a record was divided."""


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
        for name, kept in COUNTED.items():
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
    for record in usage_within(records, window):
        row_of(record.tenant, record.container_id, record.labels).add(record, window)
    return sorted(rows.values(), key=lambda row: (row.group.tenant, -row.counts["cpu_used"]))


def usage_within(records: Iterable[LedgerRecord], window: Window) -> Iterator[LedgerRecord]:
    """Usage that has a part in a window; what is divided at its edges comes last, corrected.

    Elsewhere the sums are the same with a correction beside its record; divided apart, each would
    be rounded by itself.
    """
    divided: dict[int, LedgerRecord] = {}
    for record in records:
        span = record.wall_start, record.wall_end
        if not record.container_id or not window.touches(*span):
            continue
        known = divided.get(record.corrects)
        if known is not None and amends(record, known):
            divided[known.seq] = with_correction(known, record)
        elif record.seq and record.kind != "correction" and not window.holds_all(*span):
            divided[record.seq] = record
        else:
            yield record
    yield from divided.values()


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
