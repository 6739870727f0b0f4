"""Ledgers of tests, written without a meter: any records, chained as the meter chains them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec

from aruntime.metering import schema
from aruntime.metering.chain import append
from aruntime.metering.corrections import Amount, Author, correction_of, current_sums
from aruntime.metering.record import LedgerRecord, genesis


def write_records(path: Path, records: Iterable[LedgerRecord]) -> list[LedgerRecord]:
    """Append records to a ledger, which is made if need be; returns them as they are stored."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.prepare(connection, str(path), lambda _connection: None)
        host_id, created_ns = connection.execute("SELECT id, created_ns FROM host").fetchone()
        head = schema.load_head(connection, genesis(host_id, created_ns))
        connection.execute("BEGIN IMMEDIATE")
        head, sealed = append(head, host_id, records)
        schema.insert_records(connection, sealed)
        schema.set_state(connection, "head", head)
        connection.execute("COMMIT")
    return [record for record, _ in sealed]


def usage(number: int = 1, **fields: object) -> LedgerRecord:
    """A record of a container that used something; ``number`` makes them differ."""
    start = 1_790_000_000_000_000_000 + number * 3_600_000_000_000
    chosen: dict[str, object] = {
        "kind": "usage",
        "container_id": f"{number % 3:064x}",
        "incarnation": "boot:7:1",
        "name": f"c{number % 3}",
        "tenant": "acme" if number % 2 else "zeta",
        "wall_start": start,
        "wall_end": start + 60_000_000_000,
        "running_ns": 60_000_000_000,
        "cpu_ns": 1_234_567_891 * number,
        "mem_bytens2": (1 << 70) + number,
        "blk": {"vda": (4096, 8192, 1, 2, 0)},
        "net": {"eth0": (100, 200, 1, 2)},
        **fields,
    }
    return LedgerRecord(**chosen)  # type: ignore[arg-type]  # fields by name


def correction(
    record: LedgerRecord,
    *earlier: LedgerRecord,
    seq: int = 9000,
    late_ns: int = 0,
    run_ns: int = 0,
    **changes: int,
) -> LedgerRecord:
    """A correction of a record by differences of its sums, in its month or made later."""
    made = correction_of(
        record,
        current_sums(record, earlier),
        [Amount(name, number) for name, number in changes.items()],
        Author("clerk", "a test", late_ns or record.wall_end, record.boot_id, 7),
        is_closed=bool(late_ns),
        run_ns=run_ns,
    )
    return msgspec.structs.replace(made, seq=seq)
