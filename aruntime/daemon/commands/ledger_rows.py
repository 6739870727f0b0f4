"""How records, checkpoints and verdicts of the ledger are shown. Pure: values in, text out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from aruntime.daemon.commands.listing import Row, render_objects, render_rows
from aruntime.daemon.commands.values import (
    escape_controls,
    format_bytes,
    format_duration,
    format_size,
)
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.metering import exported
from aruntime.metering.chain import Checkpoint, sums_of
from aruntime.metering.record import LedgerRecord
from aruntime.metering.verifying import Verdict

TABLE = (
    r"{{.Seq}}\t{{.End}}\t{{.Kind}}\t{{.ID}}\t{{.Name}}\t{{.Tenant}}\t{{.Duration}}\t{{.CPU}}\t"
    r"{{.Memory}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.Note}}"
)
TITLES = {
    "Author": "AUTHOR",
    "BlockIO": "BLOCK I/O",
    "CPU": "CPU",
    "Corrects": "CORRECTS",
    "Duration": "DURATION",
    "End": "END",
    "Hash": "HASH",
    "ID": "CONTAINER ID",
    "Kind": "KIND",
    "Memory": "MEM",
    "Name": "NAME",
    "NetIO": "NET I/O",
    "Note": "NOTE",
    "PriceVersion": "PRICE VERSION",
    "Reason": "REASON",
    "Seq": "SEQ",
    "Start": "START",
    "State": "STATE",
    "Tenant": "TENANT",
}
SHORT = 12
SECOND_DIGITS = 20
"""Of ``2026-01-02T13:23:37`` and a Z."""


def records_text(records: Sequence[LedgerRecord], shown: str, *, heading: bool) -> str:
    """Records as ``--format`` asks; ``json`` is the record itself, a line each.

    Raises:
        UsageError: a template that cannot be parsed or names an unknown field.
    """
    if shown == "json":
        return b"".join(map(exported.line, records)).decode()
    text = render_rows(map(row_of, records), format=shown, titles=TITLES, table=TABLE)
    if heading or shown.partition(" ")[0] not in ("", "table"):
        return text
    return text.partition("\n")[2]


def row_of(record: LedgerRecord) -> Row:
    """The fields of a row; memory is the mean of the working set."""
    sums = sums_of(record)
    lasted = record.boot_end_ns - record.boot_start_ns
    notes = (record.end_reason if record.end_reason != "cut" else "", record.state)
    shown = [note for note in notes if note not in ("", "running")]
    if record.corrects:
        shown.append(f"corrects {record.corrects}: {escape_controls(record.reason)}")
    return {
        "Author": escape_controls(record.author),
        "BlockIO": _pair(sums, "blk_read", "blk_write"),
        "CPU": format_duration(record.cpu_ns),
        "Corrects": str(record.corrects or ""),
        "Duration": format_duration(lasted),
        "End": _time(record.wall_end),
        "Hash": record.hash,
        "ID": record.container_id[:SHORT],
        "Kind": record.kind,
        "Memory": format_bytes(record.mem_bytens2 // (2 * lasted)) if lasted else "0B",
        "Name": escape_controls(record.name),
        "NetIO": _pair(sums, "net_receive", "net_transmit"),
        "Note": " ".join([*shown, *record.estimated, *record.anomalies]),
        "PriceVersion": record.price_version,
        "Reason": record.end_reason,
        "Seq": str(record.seq),
        "Start": _time(record.wall_start),
        "State": record.state,
        "Tenant": escape_controls(record.tenant),
    }


def _pair(sums: dict[str, int], first: str, second: str) -> str:
    return f"{format_size(sums.get(first, 0))} / {format_size(sums.get(second, 0))}"


def _time(time_ns: int) -> str:
    """To the second: ``2026-01-02T13:23:37Z``."""
    return f"{rfc3339_nano(time_ns)[: SECOND_DIGITS - 1]}Z"


def csv_lines(records: Iterable[LedgerRecord]) -> Iterator[bytes]:
    """A heading and a line for each record; tables and lists in it are JSON."""
    yield _csv(LedgerRecord.__struct_fields__)
    for record in records:
        yield _csv([_cell(value) for value in msgspec.structs.astuple(record)])


def _cell(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | tuple) else value


def _csv(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a checkpoint for templates."""
    return {
        "Hash": checkpoint.hash,
        "HostID": checkpoint.host_id,
        "Key": checkpoint.key,
        "Number": checkpoint.n,
        "Reason": checkpoint.reason,
        "Seq": checkpoint.seq,
        "Signature": checkpoint.signature,
        "Sums": checkpoint.sums,
        "Time": _time(checkpoint.time_ns),
    }


def verdict_text(found: Verdict, name: str, shown: str) -> str:
    """What a verification found, its faults only in JSON and templates.

    Raises:
        UsageError: a template that cannot be parsed or names an unknown field.
    """
    fields = {
        "Bills": found.bills,
        "Checkpoints": found.checkpoints,
        "Faults": [str(fault) for fault in found.faults],
        "First": found.first,
        "Hash": found.hash,
        "Keys": list(found.keys),
        "Last": found.last,
        "Ledger": name,
        "OK": not found.faults,
        "SignedUntil": found.signed_until,
    }
    if shown == "json":
        return msgspec.json.encode(fields).decode() + "\n"
    if shown:
        return render_objects([fields], shown)
    records = f"records {found.first} to {found.last}" if found.first else "no records"
    signed = f"signed up to {found.signed_until}" if found.keys else "none signed"
    keys = f" with {', '.join(found.keys)}" if found.keys else ""
    return (
        f"{name}: {'ok' if not found.faults else 'NOT as it was written'}\n"
        f"{records}, {found.checkpoints} checkpoints, {signed}{keys}\n"
        f"head {found.last} {found.hash}\n"
    )
