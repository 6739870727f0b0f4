"""Stores bills for ever: in one transaction with a checkpoint that names them.

Runs as the ledger's single writer. Out of scope: making them (:mod:`aruntime.metering.invoicing`),
what a seal says (:mod:`aruntime.metering.archive`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

from aruntime.errors import Conflict, Unavailable
from aruntime.metering.archive import ISSUED, Prepared, Seal, seal_hash, sealed
from aruntime.metering.bill import parse_period
from aruntime.metering.chain import Signs, next_checkpoint
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord
from aruntime.metering.schema import insert_bill, insert_checkpoint


def store(
    file: LedgerFile, prepared: Prepared, *, kind: str, author: str, signer: Signs, now_ns: int
) -> Seal:
    """Seal a document and store it, with a checkpoint; durable when this returns. Blocks.

    A month that has such a bill keeps it, and so does one that was issued.

    Args:
        file: the ledger.
        prepared: the document.
        kind: ``issued`` or ``kept``.
        author: who issues it.
        signer: the key.
        now_ns: Unix time.

    Returns:
        The seal of the bill that holds now.

    Raises:
        Conflict: usage of the month came since the document was made.
        Unavailable: the ledger cannot be read or written; nothing has changed.
    """
    period = prepared.outline.period
    with LedgerReader(file.path) as reader:
        seals = list(reader.seals())
        for one in reversed(seals):
            if one.period == period and one.kind in (ISSUED, kind):
                return one
        head_seq = prepared.outline.head_seq
        if not has_kept(seals, period) and next(later_records(reader, period, head_seq), None):
            raise Conflict(f"usage of {period} changed while its bill was made: try again")
    host = (file.host_id, file.created_ns)
    made = sealed(
        prepared, seals, host=host, kind=kind, author=author, time_ns=now_ns, signer=signer
    )  # fmt: skip
    head = file.durable.head
    checkpoint = next_checkpoint(
        file.checkpoint,
        host=host,
        reason="bill",
        at=(head.seq, head.hash, head.sums),
        signer=signer,
        bill=seal_hash(made.seal),
    )
    try:
        with file.transaction() as connection:
            insert_bill(connection, made)
            insert_checkpoint(connection, checkpoint)
    except sqlite3.Error as error:
        raise Unavailable(f"cannot write to the ledger {file.path}: {error}") from error
    file.checkpoint = checkpoint
    return made.seal


def has_kept(seals: Iterable[Seal], period: str) -> bool:
    """Whether there is a bill of a month."""
    return any(one.period == period for one in seals)


def later_records(
    reader: LedgerReader, period: str, head_seq: int, tenant: str | None = None
) -> Iterator[LedgerRecord]:
    """Usage with a part in a month that came behind a record; of one tenant or of all."""
    month = parse_period(period)
    found = reader.records(
        since_ns=month.start_ns, until_ns=month.end_ns, after_seq=head_seq, tenant=tenant
    )
    return (one for one in found if one.container_id)


def is_closed_in(file: LedgerFile) -> Callable[[LedgerRecord], bool]:
    """Tells of records whether a month that they have a part in has its bill for ever. Blocks.

    Raises:
        Unavailable: the ledger cannot be read.
    """
    with LedgerReader(file.path) as reader:
        periods = [parse_period(seal.period) for seal in reader.seals()]

    def is_closed(record: LedgerRecord) -> bool:
        end_ns = max(record.wall_end, record.wall_start + 1)
        return any(
            record.wall_start < period.end_ns and end_ns > period.start_ns for period in periods
        )

    return is_closed
