"""Corrections: records that amend others (R15). Pure.

A record is never changed. Who finds that one is wrong adds a ``correction``: the differences, why,
and by whom. While the month of the record it amends can still be billed, it bears that record's
span and is taken together with it, so that usage and bills are what they would have been had the
record been right. Later it bears the instant at which it was made: it is charged or credited then,
as the difference between what the record cost and what it should have cost.

Out of scope: which months are closed and writing (:mod:`aruntime.metering.amending`), money
(:mod:`aruntime.metering.charges`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

import msgspec

from aruntime.errors import Conflict, InvalidParameter
from aruntime.metering.chain import BLOCK_SUMS, NETWORK_SUMS, SUMMED, add_sums, sums_of
from aruntime.metering.quantities import COUNTED, MEASURES, decimal_text, quantity
from aruntime.metering.record import LedgerRecord

RUN_NS = "run_ns"
SPAN = ("wall_start", "wall_end")

MEASURE_OF = {name: measure for measure, name in COUNTED.items()}

UNTOUCHED = ("samples", "oom_kills")
"""Sums that say what happened, not what was used: voiding a record leaves them."""

AT_MOST = (("cpu_ns", "cpu_alloc_ns"), ("mem_bytens2", "mem_alloc_bytens2"))
"""The first is no more than the second, which is the greater of request and use."""


_DECIMAL = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,18})?", re.ASCII)


class Amount(NamedTuple):
    """A change that was asked for."""

    name: str
    """Of a sum."""
    number: int
    """In the sum's own base unit."""
    is_whole: bool = False
    """It is what there should have been, not the difference."""


class Author(NamedTuple):
    """Who corrects, and why."""

    name: str
    reason: str
    made_ns: int
    """Unix time."""
    boot_id: str
    boot_ns: int


def parse_amount(text: str, *, is_whole: bool = False) -> Amount:
    """Read ``cpu_used=-12.5``: a measure, and a decimal in the unit that ``usage`` shows it in.

    Raises:
        InvalidParameter: it is no such thing.
    """
    measure, equals, number = text.partition("=")
    name = COUNTED.get(measure)
    if not equals or name is None:
        raise InvalidParameter(
            f"invalid amount '{text}': give MEASURE=NUMBER; measures are {', '.join(COUNTED)}"
        )
    if not _DECIMAL.fullmatch(number):
        raise InvalidParameter(f"invalid amount '{text}': '{number}' is no decimal")
    value = Fraction(number) * MEASURES[measure].divisor
    if value.denominator != 1:
        unit = MEASURES[measure]
        raise InvalidParameter(
            f"invalid amount '{text}': {unit.unit} are counted in parts of 1/{unit.divisor}"
        )
    return Amount(name, value.numerator, is_whole)


def voiding(found: Mapping[str, int]) -> list[Amount]:
    """What takes back all that a record says was used."""
    return [Amount(name, 0, is_whole=True) for name in found if name not in UNTOUCHED]


def current_sums(record: LedgerRecord, earlier: Iterable[LedgerRecord]) -> dict[str, int]:
    """What a record says was used, with the corrections that there are; zeros left out."""
    sums = sums_of(record)
    for one in earlier:
        sums = add_sums(sums, sums_of(one))
    return {name: value for name, value in sums.items() if value}


def correction_of(
    record: LedgerRecord,
    found: Mapping[str, int],
    amounts: Iterable[Amount],
    author: Author,
    *,
    is_closed: bool,
    run_ns: int,
) -> LedgerRecord:
    """Make the correction of a record; it has no number yet.

    Args:
        record: the record.
        found: its sums, with the corrections that there are.
        amounts: what changes; of several of one sum each counts.
        author: who and why.
        is_closed: the month of the record cannot be billed any more.
        run_ns: running time of the whole run, if it ended and is rounded up; else 0.

    Raises:
        InvalidParameter: nothing would change.
        Conflict: something would be less than nothing, or more than can be.
    """
    after = dict(found)
    for amount in amounts:
        base = 0 if amount.is_whole else after.get(amount.name, 0)
        after[amount.name] = base + amount.number
    delta = {
        name: after[name] - found.get(name, 0)
        for name in after
        if after[name] != found.get(name, 0)
    }
    if not delta:
        raise InvalidParameter(f"record {record.seq} would not change: it says so already")
    _require_possible(record, found, after)
    blank = _blank(record, author, is_closed=is_closed)
    span = {SPAN[0]: record.wall_start, SPAN[1]: record.wall_end}
    blank = msgspec.structs.replace(
        blank, amended={**found, **span, **({RUN_NS: run_ns} if run_ns else {})}
    )
    return with_sums(blank, delta)


def _blank(record: LedgerRecord, author: Author, *, is_closed: bool) -> LedgerRecord:
    """A correction that changes nothing: the terms of the record, when it counts, who and why."""
    return msgspec.structs.replace(
        record,
        kind="correction",
        boot_id=author.boot_id,
        wall_start=author.made_ns if is_closed else record.wall_start,
        wall_end=author.made_ns if is_closed else record.wall_end,
        boot_start_ns=author.boot_ns,
        boot_end_ns=author.boot_ns,
        mem_peak=0,
        blk_source="",
        pids_peak=0,
        exit_code=None,
        end_reason="",
        max_gap_ns=0,
        estimated=(),
        anomalies=(),
        corrects=record.seq,
        reason=author.reason,
        author=author.name,
        made_ns=author.made_ns,
        seq=0,
        prev="",
        hash="",
    )


def _require_possible(
    record: LedgerRecord, found: Mapping[str, int], after: Mapping[str, int]
) -> None:
    """Raises Conflict if no record could say this."""
    for name, count in after.items():
        if count < 0:
            raise Conflict(
                f"record {record.seq} says {_text(name, found.get(name, 0))}: less than nothing"
                f" would be left, {_text(name, count)}"
            )
    lasted = record.wall_end - record.wall_start
    if after.get("running_ns", 0) + after.get("paused_ns", 0) > lasted:
        raise Conflict(
            f"record {record.seq} lasted {_text('running_ns', lasted)}: it cannot have run or been"
            " paused for longer"
        )
    for used, greater in AT_MOST:
        is_broken = after.get(used, 0) > after.get(greater, 0)
        if is_broken and not found.get(used, 0) > found.get(greater, 0):
            raise Conflict(
                f"{MEASURE_OF[greater]} of record {record.seq} would be less than"
                f" {MEASURE_OF[used]}, and it is the greater of request and use: correct both"
            )


def _text(name: str, count: int) -> str:
    measure = MEASURE_OF.get(name)
    if measure is None:
        return f"{name} {count}"
    return f"{measure} {decimal_text(quantity(measure, count))} {MEASURES[measure].unit}"


def change_text(correction: LedgerRecord) -> str:
    """What a correction changes, for people: ``cpu_used -5 Core-Seconds, paused 2 Seconds``."""
    sums = sums_of(correction)
    return ", ".join(_text(name, sums[name]) for name in MEASURE_OF if name in sums)


def with_sums(record: LedgerRecord, sums: Mapping[str, int]) -> LedgerRecord:
    """A record with these quantities; its disks, and its interfaces, are one without a name."""
    block = tuple(sums.get(name, 0) for name in BLOCK_SUMS)
    network = tuple(sums.get(name, 0) for name in NETWORK_SUMS)
    fields = {name: sums.get(name, 0) for name in SUMMED}
    return msgspec.structs.replace(
        record,
        **fields,
        blk={"": block} if any(block) else {},
        net={"": network} if any(network) else {},
    )


def amends(correction: LedgerRecord, record: LedgerRecord) -> bool:
    """Whether a correction counts where the record does, and is to be taken together with it."""
    return (
        correction.kind == "correction"
        and bool(correction.corrects)
        and correction.corrects == record.seq
        and (correction.wall_start, correction.wall_end) == (record.wall_start, record.wall_end)
    )


def with_correction(record: LedgerRecord, correction: LedgerRecord) -> LedgerRecord:
    """The record as it should have been; says why in its ``reason``."""
    amended = with_sums(record, add_sums(sums_of(record), sums_of(correction)))
    reasons = dict.fromkeys(one for one in (record.reason, correction.reason) if one)
    return msgspec.structs.replace(amended, reason="; ".join(reasons))


def folded(records: Iterable[LedgerRecord]) -> list[LedgerRecord]:
    """Records with the corrections that count where they do; other corrections are left as is."""
    found = list(records)
    corrections = [one for one in found if one.kind == "correction" and one.corrects]
    if not corrections:
        return found
    wanted = {one.corrects for one in corrections}
    known = {one.seq: one for one in found if one.seq in wanted and one.kind != "correction"}
    done = set()
    for correction in sorted(corrections, key=lambda one: one.seq):
        record = known.get(correction.corrects)
        if record is not None and amends(correction, record):
            known[record.seq] = with_correction(record, correction)
            done.add(correction.seq)
    return [known.get(one.seq, one) for one in found if one.seq not in done]


class Amendment(NamedTuple):
    """A record as a correction found it, and as it left it; running time of a run that ended."""

    before: LedgerRecord
    after: LedgerRecord
    run_ns: int | None
    """Before; None: it had not ended, or is not rounded up."""


def amendment(correction: LedgerRecord) -> Amendment | None:
    """What a correction did to the record it amends; None if it does not say (migrated ones)."""
    amended = correction.amended
    if not amended:
        return None
    about = msgspec.structs.replace(
        correction, kind="usage", wall_start=amended[SPAN[0]], wall_end=amended[SPAN[1]]
    )
    before = with_sums(about, amended)
    after = with_sums(about, add_sums(sums_of(before), sums_of(correction)))
    return Amendment(before, after, amended.get(RUN_NS))
