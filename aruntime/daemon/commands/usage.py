"""``usage``: what containers, tenants or labels used in a span of time."""

from __future__ import annotations

import csv
import io
import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import trio

from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.commands.logs import moment
from aruntime.daemon.commands.values import format_size
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter
from aruntime.metering.bill import period_of
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices_check import instant_text
from aruntime.metering.quantities import NS, decimal_text, quantity
from aruntime.metering.usage import Group, Usage, Window, usage_rows

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

ID_DIGITS = 12
AHEAD_NS = 3600 * NS
GIB_HOURS = 2 * NS * (1 << 30) * 3600
"""Of the doubled byte-nanoseconds."""

FIELDS = {
    "CPUUsed": "cpu_used", "CPUAllocated": "cpu_allocated", "CPUMax": "cpu_max",
    "MemoryUsed": "memory_used", "MemoryAllocated": "memory_allocated",
    "MemoryMax": "memory_max", "MemoryCharged": "memory_charged", "BlockRead": "block_read",
    "BlockWrite": "block_write", "BlockReads": "block_reads", "BlockWrites": "block_writes",
    "ProcessRead": "process_read", "ProcessWrite": "process_write",
    "NetworkReceive": "network_receive", "NetworkTransmit": "network_transmit",
    "NetworkReceivePackets": "network_receive_packets",
    "NetworkTransmitPackets": "network_transmit_packets", "NetworkEgress": "network_egress",
    "NetworkEgressPackets": "network_egress_packets", "Running": "running", "Paused": "paused",
    "Container": "container",
}  # fmt: skip
"""Exact numbers by field: core-seconds, byte-seconds, bytes, requests, packets, seconds."""

TITLES = {
    "Tenant": "TENANT", "ID": "CONTAINER ID", "Name": "NAME", "Label": "LABEL",
    "Containers": "CONTAINERS", "Time": "TIME", "CPU": "CPU TIME", "Memory": "MEMORY GIB-HOURS",
    "BlockIO": "BLOCK I/O", "NetIO": "NET I/O", "Estimated": "ESTIMATED", "Since": "SINCE",
    "Until": "UNTIL",
    **{name: measure.replace("_", " ").upper() for name, measure in FIELDS.items()},
}  # fmt: skip

_SUMS = "{{.Time}}\t{{.CPU}}\t{{.Memory}}\t{{.BlockIO}}\t{{.NetIO}}\t{{.Estimated}}"
TABLES = {
    "container": "{{.Tenant}}\t{{.ID}}\t{{.Name}}\t" + _SUMS,
    "tenant": "{{.Tenant}}\t{{.Containers}}\t" + _SUMS,
    "label": "{{.Tenant}}\t{{.Label}}\t{{.Containers}}\t" + _SUMS,
}


def exact_row(row: Usage, window: Window) -> dict[str, Any]:
    """Return a row's fields with exact numbers, as text."""
    group = row.group
    return {
        "Tenant": group.tenant,
        "ID": group.container_id,
        "Name": row.name if group.container_id else "",
        "Label": group.label,
        "Containers": str(len(row.containers)),
        "Since": instant_text(window.since_ns),
        "Until": instant_text(window.until_ns),
        **{
            field: decimal_text(quantity(measure, row.counts[measure]))
            for field, measure in FIELDS.items()
        },
        "Estimated": ",".join(sorted(row.estimated)),
    }


def shown_row(row: Usage, window: Window) -> dict[str, Any]:
    """Return the same with what people read beside it."""
    counts = row.counts
    return {
        **exact_row(row, window),
        "ID": row.group.container_id[:ID_DIGITS],
        "Time": f"{counts['container'] / NS:.1f}s",
        "CPU": f"{counts['cpu_used'] / NS:.3f}s",
        "Memory": f"{counts['memory_used'] / GIB_HOURS:.6f}",
        "BlockIO": f"{format_size(counts['block_read'])} / {format_size(counts['block_write'])}",
        "NetIO": f"{format_size(counts['network_receive'])} / "
        f"{format_size(counts['network_transmit'])}",
        "Estimated": "yes" if row.estimated else "",
    }


def csv_text(rows: Iterable[dict[str, Any]]) -> str:
    """Write rows as RFC 4180 has it, with line feeds; the heading also without rows."""
    out = io.StringIO()
    names = list(exact_row(Usage(Group()), Window(0, 0)))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def wanted_grouping(text: str) -> str:
    """Check ``--by``.

    Raises:
        InvalidParameter: it is none of container, tenant, label:KEY.
    """
    kind, _, key = text.partition(":")
    if text in ("container", "tenant") or (kind == "label" and key):
        return text
    raise InvalidParameter(f"invalid --by '{text}': give container, tenant or label:KEY")


def wanted_window(parsed: Parsed, now_ns: int) -> Window:
    """Return the span asked for: this month so far, if nothing is said.

    Raises:
        InvalidParameter: it names no moment, or ends before it begins.
    """
    since_ns = moment(parsed, "since", now_ns, period_of(now_ns).start_ns)
    window = Window(since_ns, moment(parsed, "until", now_ns, now_ns))
    if window.until_ns <= window.since_ns:
        raise InvalidParameter("--until must be later than --since")
    return window


async def run_usage(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show usage from the ledger and of what runs, read this instant."""
    by = wanted_grouping(parsed.string("by"))
    tenant = parsed.string("tenant") or None
    asked = wanted_window(parsed, time.time_ns())
    # Records bear the times of an anchored clock, which may be ahead of the one on the wall.
    ahead_ns = 0 if "until" in parsed.given else AHEAD_NS
    window = asked._replace(until_ns=asked.until_ns + ahead_ns)
    behind = await daemon.meter.rounds.up_to_now()

    def make() -> str:
        with LedgerReader(daemon.meter.ledger_path) as reader:
            since, until = window
            found = reader.records(since_ns=since, until_ns=until, tenant=tenant)
            numbered = itertools.takewhile(lambda record: record.seq <= behind.head_seq, found)
            records = itertools.chain(numbered, behind.within(since, until, tenant))
            rollups = reader.rollups(since_ns=since, until_ns=until, tenant=tenant)
            rows = usage_rows(records, rollups, window, by)
        return rendered(rows, asked, by, parsed.string("format"))

    await session.out(await trio.to_thread.run_sync(make))
    return 0


def rendered(rows: list[Usage], window: Window, by: str, shown: str) -> str:
    """Write rows as ``--format`` asks.

    Raises:
        UsageError: a template is wrong.
    """
    if shown == "csv":
        return csv_text(exact_row(row, window) for row in rows)
    if shown == "json":
        exact = [exact_row(row, window) for row in rows]
        return render_rows(exact, format=shown, titles=TITLES, table="")
    people = [shown_row(row, window) for row in rows]
    table = TABLES[by.partition(":")[0]]
    return render_rows(people, format=shown, titles=TITLES, table=table)


COMMANDS = [
    Command(
        "usage", "Show what containers, tenants or labels used", run_usage, "",
        (
            Flag("by", "", "string", "container", "string",
                 "Group by container, tenant or label:KEY"),
            Flag("format", "", "string", None, "string", "'table', 'json', 'csv' or a Go template"),
            Flag("since", "", "string", None, "string",
                 "From this moment, or so long ago (default this month, UTC)"),
            Flag("tenant", "", "string", None, "string", "Of this tenant only"),
            Flag("until", "", "string", None, "string", "Up to this moment (default now)"),
        ),
        maximum=0, section="management",
        description="json and csv have exact numbers in base units: core-seconds, byte-seconds,\n"
        "bytes, seconds. They are those of /metrics and of bills.",
    ),
]  # fmt: skip
