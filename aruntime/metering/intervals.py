"""From accounts to records: intervals of a container's life and where they are cut. All pure.

An account only grows. An :class:`Interval` remembers what its totals were when the last record
ended; the next record is the difference, so the sum over the records is the account, whatever
happened in between. Where no reading was taken at the instant of a cut (the turn of the hour),
the account between the two readings around it is interpolated, in whole numbers that add up.

The metering rules that live here: R9 (nothing is billed beyond the last commit of another boot),
R10 (wall times are labels on boot times), R11 (cuts), R14 (names and labels are the interval's).

Out of scope: readings (:mod:`aruntime.metering.integrals`), numbering and hashing
(:mod:`aruntime.metering.totals`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from aruntime.metering.account import (
    COUNTERS,
    NETWORK_COUNTERS,
    Account,
    Ints,
    Request,
    Span,
    Totals,
)
from aruntime.metering.chain import HOUR_NS, SUMMED
from aruntime.metering.integrals import add_new, padded
from aruntime.metering.record import LedgerRecord

LATE_NS = 1_000_000_000
"""A reading that comes later than this after a cut makes the cut an estimate."""

_USER, _SYSTEM = COUNTERS.index("cpu_user_ns"), COUNTERS.index("cpu_system_ns")
_OOM_KILLS = COUNTERS.index("oom_kills")
_NET_PLACES = tuple(
    place for place, name in enumerate(NETWORK_COUNTERS) if not name.endswith("drops")
)
"""Of account.NETWORK_COUNTERS, those a record has: bytes and packets, not drops."""


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a record says of its container beside usage; a change of it cuts (R11, R14)."""

    tenant: str
    name: str = ""
    image_digest: str = ""
    labels: dict[str, str] = {}
    cpu_request_milli: int = 0
    cpu_limit_milli: int = 0
    mem_request: int = 0
    mem_limit: int = 0
    blk_source: str = ""
    price_version: str = ""

    @property
    def request(self) -> Request:
        """What is charged at least where a price says so."""
        return Request(self.cpu_request_milli, self.mem_request)


class Interval(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the next record of a container begins."""

    nth: int
    """How many records of the container there are before it: none is written twice."""
    terms: Terms
    incarnation: str
    state: str = "running"
    boot_ns: int
    wall_ns: int
    totals: Totals
    """Of the account, when the interval began."""
    ended: bool = False
    """The incarnation has its final record; what its counters still grow by comes after it."""


def open_interval(
    account: Account, terms: Terms, wall_ns: int, *, nth: int, ended: bool = False
) -> Interval:
    """Begin an interval where the account stands.

    Args:
        account: the container's.
        terms: what is true from now on.
        wall_ns: Unix time of ``account.time_ns``.
        nth: records of this container so far.
        ended: see :class:`Interval`.
    """
    return Interval(
        nth=nth,
        terms=terms,
        incarnation=account.incarnation,
        state="paused" if account.status == "paused" else "running",
        boot_ns=account.time_ns,
        wall_ns=wall_ns,
        totals=account.totals,
        ended=ended,
    )


def record_of(
    interval: Interval,
    account: Account,
    *,
    kind: str = "usage",
    end_reason: str = "cut",
    exit_code: int | None = None,
) -> LedgerRecord:
    """The record from the interval's beginning to where the account stands, not numbered yet."""
    old, new, span = interval.totals, account.totals, account.span
    process = tuple(map(int.__sub__, new.process, old.process))
    counters = tuple(map(int.__sub__, new.counters, old.counters))
    end_ns = max(account.time_ns, interval.boot_ns)
    return LedgerRecord(
        **_named(interval),
        kind=kind,
        state=interval.state,
        wall_start=interval.wall_ns,
        wall_end=interval.wall_ns + end_ns - interval.boot_ns,
        boot_start_ns=interval.boot_ns,
        boot_end_ns=end_ns,
        running_ns=new.running_ns - old.running_ns,
        paused_ns=new.paused_ns - old.paused_ns,
        cpu_ns=new.cpu_ns - old.cpu_ns,
        cpu_user_ns=counters[_USER],
        cpu_system_ns=counters[_SYSTEM],
        mem_bytens2=new.memory_bytens2 - old.memory_bytens2,
        mem_usage_bytens2=new.usage_bytens2 - old.usage_bytens2,
        mem_peak=span.usage_peak,
        cpu_alloc_ns=new.cpu_alloc_ns - old.cpu_alloc_ns,
        mem_alloc_bytens2=new.memory_alloc_bytens2 - old.memory_alloc_bytens2,
        blk=_grown_rows(old.block, new.block),
        proc_read=process[0],
        proc_write=process[3],
        proc_cancelled=process[2],
        net={
            name: tuple(row[place] for place in _NET_PLACES if place < len(row))
            for name, row in _grown_rows(old.network, new.network).items()
        },
        pids_peak=span.pids_peak,
        oom_kills=counters[_OOM_KILLS],
        exit_code=exit_code,
        end_reason=end_reason,
        samples=span.samples,
        max_gap_ns=span.max_gap_ns,
        estimated=span.estimated,
        anomalies=span.anomalies,
    )


def _named(interval: Interval) -> dict[str, Any]:
    """The fields of a record that say whose it is and under which terms."""
    boot_id, _, rest = interval.incarnation.partition(":")
    inode = rest.partition(":")[0]
    return {
        "boot_id": boot_id,
        "incarnation": interval.incarnation,
        "cgroup_ino": int(inode) if inode.isdigit() else 0,
        **msgspec.structs.asdict(interval.terms),
    }


def _grown_rows(old: dict[str, Ints], new: dict[str, Ints]) -> dict[str, Ints]:
    """Differences per device; one that did nothing is left out."""
    if new is old:
        return {}
    grown = {}
    for name, row in new.items():
        delta = tuple(map(int.__sub__, row, padded(old.get(name, ()), len(row))))
        if any(delta):
            grown[name] = delta
    return grown


def hours_between(interval: Interval, until_boot_ns: int) -> Iterator[int]:
    """Boot times of the full UTC hours after the interval's beginning, up to a boot time."""
    boot_ns = interval.boot_ns + HOUR_NS - interval.wall_ns % HOUR_NS
    while boot_ns <= until_boot_ns:
        yield boot_ns
        boot_ns += HOUR_NS


def split(before: Account, after: Account, at_ns: int) -> Account:
    """The account at a boot time between two that follow each other without a change of state.

    Every total lies between the two, so what comes before the cut and what comes after it add
    up. What does not add up (:class:`Span`) counts on both sides: the area before the cut was
    drawn to the reading after it.
    """
    part = _part_of(before.time_ns, after.time_ns, at_ns)
    return msgspec.structs.replace(
        after, time_ns=at_ns, totals=_between(before.totals, after.totals, part)
    )


def flagged(span: Span, reason: str) -> Span:
    """The span with one more reason for which it is an estimate."""
    return msgspec.structs.replace(span, estimated=add_new(span.estimated, (reason,)))


def at_freezing(before: Account, frozen: Account, after: Account) -> Account:
    """The account at the instant a container was frozen, by a reading after it.

    A frozen container uses nothing but memory, so all that the counters grew by was used before.

    Args:
        before: as of the last reading.
        frozen: the same when the kernel said frozen.
        after: as of the next reading.
    """
    part = _part_of(before.sample_ns or frozen.time_ns, after.time_ns, frozen.time_ns)
    low, high = before.totals, after.totals
    totals = msgspec.structs.replace(
        high,
        running_ns=frozen.totals.running_ns,
        paused_ns=frozen.totals.paused_ns,
        pauses=frozen.totals.pauses,
        memory_bytens2=part(low.memory_bytens2, high.memory_bytens2),
        usage_bytens2=part(low.usage_bytens2, high.usage_bytens2),
        memory_alloc_bytens2=part(low.memory_alloc_bytens2, high.memory_alloc_bytens2),
    )
    return msgspec.structs.replace(after, time_ns=frozen.time_ns, totals=totals)


Part = Callable[[int, int], int]


def _part_of(start_ns: int, end_ns: int, at_ns: int) -> Part:
    """Interpolation at one instant, rounded down."""
    span, place = max(1, end_ns - start_ns), min(max(0, at_ns - start_ns), end_ns - start_ns)
    if end_ns <= start_ns:
        place = span
    return lambda low, high: low + (high - low) * place // span


def _between(low: Totals, high: Totals, part: Part) -> Totals:
    """Totals at an instant between two; running and paused time fill the span exactly."""
    paused = part(low.paused_ns, high.paused_ns)
    lived = part(low.running_ns + low.paused_ns, high.running_ns + high.paused_ns)
    return Totals(
        cpu_ns=part(low.cpu_ns, high.cpu_ns),
        cpu_quarantined_ns=part(low.cpu_quarantined_ns, high.cpu_quarantined_ns),
        running_ns=lived - paused,
        paused_ns=paused,
        memory_bytens2=part(low.memory_bytens2, high.memory_bytens2),
        pauses=high.pauses,
        restarts=high.restarts,
        counters=tuple(map(part, low.counters, high.counters)),
        block=_rows_between(low.block, high.block, part),
        network=_rows_between(low.network, high.network, part),
        process=tuple(map(part, low.process, high.process)),
        usage_bytens2=part(low.usage_bytens2, high.usage_bytens2),
        cpu_alloc_ns=part(low.cpu_alloc_ns, high.cpu_alloc_ns),
        memory_alloc_bytens2=part(low.memory_alloc_bytens2, high.memory_alloc_bytens2),
    )


def _rows_between(low: dict[str, Ints], high: dict[str, Ints], part: Part) -> dict[str, Ints]:
    return {
        name: tuple(map(part, padded(low.get(name, ()), len(row)), row))
        for name, row in high.items()
    }


def merge(first: LedgerRecord, second: LedgerRecord) -> LedgerRecord:
    """One record of two that follow each other, when memory for them runs out (R18)."""
    return msgspec.structs.replace(
        second,
        kind="final" if "final" in (first.kind, second.kind) else second.kind,
        state=first.state,
        wall_start=first.wall_start,
        wall_end=first.wall_start + second.boot_end_ns - first.boot_start_ns,
        boot_start_ns=first.boot_start_ns,
        **{name: getattr(first, name) + getattr(second, name) for name in SUMMED},
        **{name: max(getattr(first, name), getattr(second, name)) for name in _GREATEST},
        blk=_added_rows(first.blk, second.blk),
        net=_added_rows(first.net, second.net),
        estimated=add_new(add_new(first.estimated, second.estimated), ("merged",)),
        anomalies=add_new(first.anomalies, second.anomalies),
    )


_GREATEST = ("mem_peak", "pids_peak", "max_gap_ns")


def _added_rows(first: dict[str, Ints], second: dict[str, Ints]) -> dict[str, Ints]:
    added = dict(first)
    for name, row in second.items():
        known = padded(added.get(name, ()), len(row))
        added[name] = tuple(map(int.__add__, known, padded(row, len(known))))
    return added


def can_merge(first: LedgerRecord, second: LedgerRecord) -> bool:
    """Whether the two are of one life of one container and nothing of a bill would be blurred."""
    return first.incarnation == second.incarnation and have_one_price(first, second)


def have_one_price(first: LedgerRecord, second: LedgerRecord) -> bool:
    """Whether payer and prices are the same."""
    return (first.tenant, first.price_version) == (second.tenant, second.price_version)
