"""Makes the bill of a month from a ledger: which records it takes, and what vouches for them.

Blocks (it reads the ledger); call it in a worker thread. Out of scope: rating
(:mod:`aruntime.metering.rating`), what is used but not in the ledger yet (the caller gives it),
files (exporters of the kind ``file``).
"""

from __future__ import annotations

from collections.abc import Sequence

from aruntime.errors import Unavailable
from aruntime.metering.bill import Bill, Period
from aruntime.metering.charges import Run, history_needed
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices import PriceBook
from aruntime.metering.prices_check import instant_text
from aruntime.metering.rating import invoice, rate
from aruntime.metering.record import LedgerRecord


def make_bill(
    reader: LedgerReader,
    records: Sequence[LedgerRecord],
    book: PriceBook,
    period: Period,
    *,
    now_ns: int,
) -> Bill:
    """Make the bill of a month.

    Args:
        reader: of the ledger that the records are from.
        records: all that have a part in the month; those that are not cut yet have ``seq`` 0.
        book: the prices.
        period: the month.
        now_ns: Unix time: a month that is not over has a provisional bill.

    Raises:
        Unavailable: the ledger cannot be read, or records of the month were deleted.
    """
    pruned = next(reader.rollups(since_ns=period.start_ns, until_ns=period.end_ns), None)
    if pruned is not None:
        since, until = instant_text(period.start_ns), instant_text(period.end_ns)
        raise Unavailable(
            f"records of {period} were rolled up and deleted before its bill was kept, since no"
            f" price book was in force then: 'aruntime usage --since {since} --until {until}' has"
            " their sums"
        )
    lines = rate(
        records,
        book,
        start_ns=period.start_ns,
        end_ns=period.end_ns,
        before=time_before(reader, records, period.start_ns),
    )
    head_seq, head_hash = reader.head()
    host_id, _ = reader.host()
    return Bill(
        period=period,
        book=book,
        invoices=tuple(invoice(lines, book)),
        host_id=host_id,
        head_seq=head_seq,
        head_hash=head_hash,
        is_provisional=now_ns < period.end_ns or any(not record.seq for record in records),
        clock_steps=clock_steps_among(reader, records),
        first_seq=min((record.seq for record in records if record.seq), default=0),
        last_seq=max((record.seq for record in records), default=0),
    )


def time_before(
    reader: LedgerReader, records: Sequence[LedgerRecord], start_ns: int
) -> dict[Run, int]:
    """Running time, before the month, of runs that end in it: quantum and minimum need it."""
    given = {record.seq for record in records}
    sums: dict[Run, int] = {}
    for run in sorted(history_needed(records)):
        container_id, incarnation = run
        sums[run] = reader.pruned_running_ns(container_id, incarnation, start_ns) + sum(
            record.running_ns
            for record in reader.records(container_id=container_id, until_ns=start_ns)
            if record.incarnation == incarnation and record.seq not in given
        )
    return sums


def clock_steps_among(reader: LedgerReader, records: Sequence[LedgerRecord]) -> tuple[int, ...]:
    """Numbers of the records of clock steps that lie between the first and the last record."""
    numbers = [record.seq for record in records if record.seq]
    if not numbers:
        return ()
    return tuple(
        record.seq
        for record in reader.records(container_id="", after_seq=min(numbers))
        if record.kind == "clock_step" and record.seq < max(numbers)
    )
