"""Adds a correction to a ledger: what it may amend, whether its month was issued, the writing.

Runs as the ledger's single writer, so that what was checked is still so when it is written.
Out of scope: what a correction says and does (:mod:`aruntime.metering.corrections`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aruntime.errors import Conflict, NotFound
from aruntime.metering.corrections import (
    Amount,
    Author,
    correction_of,
    current_sums,
    voiding,
)
from aruntime.metering.issuing import is_closed_in
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord


class Wanted(NamedTuple):
    """A correction that was asked for."""

    seq: int
    """Of the record that is wrong."""
    amounts: Sequence[Amount]
    is_void: bool = False
    """Nothing of the record shall count; ``amounts`` is empty."""


def amend(file: LedgerFile, wanted: Wanted, author: Author) -> LedgerRecord:
    """Write a correction; durable when this returns. Blocks, as one writer among others.

    Args:
        file: the ledger.
        wanted: what shall change.
        author: who and why.

    Returns:
        The correction, with its number and hash.

    Raises:
        NotFound: there is no such record, or not any more.
        Conflict: the record says nothing of usage, or the change is impossible.
        InvalidParameter: nothing would change.
        Unavailable: the ledger cannot be read or written; nothing has changed.
    """
    is_closed = is_closed_in(file)
    with LedgerReader(file.path) as reader:
        record = required(reader, wanted.seq)
        later = reader.records(container_id=record.container_id, after_seq=record.seq)
        found = current_sums(record, [one for one in later if one.corrects == record.seq])
        made = correction_of(
            record,
            found,
            voiding(found) if wanted.is_void else wanted.amounts,
            author,
            is_closed=is_closed(record),
            run_ns=ended_run_ns(reader, record),
        )
    return file.append(made)


def required(reader: LedgerReader, seq: int) -> LedgerRecord:
    """The record that shall be corrected.

    Raises:
        NotFound: it is not there, or not any more.
        Conflict: it cannot be corrected.
    """
    record = reader.record(seq)
    if record is None:
        pruned = any(one.seq >= seq > 0 for one in reader.checkpoints() if one.reason == "pruned")
        raise NotFound(
            f"record {seq} is too old: it was rolled up and deleted, and cannot be corrected"
            if pruned
            else f"the ledger has no record {seq}: 'aruntime ledger tail' shows its numbers"
        )
    if record.kind == "correction" and record.corrects:
        raise Conflict(
            f"record {seq} is a correction itself: correct record {record.corrects} once more"
        )
    if not record.container_id or record.kind == "correction":
        raise Conflict(f"record {seq} ({record.kind}) is of no usage that could be corrected")
    return record


def ended_run_ns(reader: LedgerReader, record: LedgerRecord) -> int:
    """Running time of the record's whole run, if it ended and is rounded up; else 0."""
    is_rounded = False
    running_ns = reader.pruned_running_ns(record.container_id, record.incarnation)
    for one in reader.records(container_id=record.container_id):
        if one.incarnation == record.incarnation:
            running_ns += one.running_ns
            is_rounded |= one.kind == "final" and one.end_reason != "host_lost"
    return running_ns if is_rounded else 0
