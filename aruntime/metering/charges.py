"""From records to charges: what each price bills of each record, as exact fractions.

The first half of rating (:mod:`aruntime.metering.rating` makes lines and money of it, and states
the rules). Pure but for the :class:`State` that it is given and carries on: a long ledger may be
rated piece by piece.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from aruntime.metering.corrections import RUN_NS, amendment, folded
from aruntime.metering.prices import SOLD, Price, PriceBook
from aruntime.metering.quantities import (
    MEASURES,
    MILLI,
    NS,
    cpu_allocation_milli,
    memory_allocation_bytes,
    span_ns,
)
from aruntime.metering.record import LedgerRecord

Run = tuple[str, str]
"""Container id and incarnation: one life of a cgroup."""

ZERO = Fraction(0)


class Charge(NamedTuple):
    """A part of a record under one price, exactly."""

    record: LedgerRecord
    price: Price
    start_ns: int
    end_ns: int
    metered_ns: int
    """Time of the part that the price bills: running, and paused if it bills that."""
    billed_ns: int
    """The same after quantum and minimum; it differs only where a run ends."""
    paid: Fraction
    """In the price's unit."""
    free: Fraction
    """In the price's unit, covered by the free tier."""
    split: tuple[str, ...]
    """Why the part is a share of its record: ``price_split``, ``period_split``."""

    def lies_within(self, start_ns: int, end_ns: int) -> bool:
        """Whether it counts in [start, end); a correction does when its record says."""
        first, last = self.start_ns, self.end_ns
        if self.record.kind == "correction":
            first, last = self.record.wall_start, self.record.wall_end
        return start_ns <= first and last <= end_ns and first < end_ns


class Part(NamedTuple):
    """A share of a record's span."""

    start_ns: int
    end_ns: int
    split: tuple[str, ...]


class State:
    """What rating carries from record to record: time of running runs, free tiers used.

    Attributes:
        running_ns: running time so far of runs that have not ended.
        free_used: per tenant, SKU and month ("2026-11"), in the unit of the SKU's measure.
    """

    def __init__(
        self,
        running_ns: Mapping[Run, int] | None = None,
        free_used: Mapping[tuple[str, str, str], Fraction] | None = None,
    ) -> None:
        self.running_ns = dict(running_ns or {})
        self.free_used = dict(free_used or {})

    def take(self, records: Sequence[LedgerRecord]) -> dict[int, int]:
        """Add the running time of records; per index of a final one, that of its whole run.

        A run is added up before its end is looked at, since a clock that stepped back may have
        put its records out of order.
        """
        finals: dict[int, Run] = {}
        for index, record in enumerate(records):
            if record.kind == "correction" and (not record.corrects or record.amended.get(RUN_NS)):
                continue  # what it makes of the end of its run, it is charged with itself
            run = (record.container_id, record.incarnation)
            if record.running_ns:
                self.running_ns[run] = self.running_ns.get(run, 0) + record.running_ns
            if record.kind == "final":
                finals[index] = run
        whole = {index: self.running_ns.pop(run, 0) for index, run in finals.items()}
        return {
            index: running_ns
            for index, running_ns in whole.items()
            if running_ns and records[index].end_reason != "host_lost"
        }

    def use_free(self, tenant: str, price: Price, instant_ns: int, quantity: Fraction) -> Fraction:
        """Take what the free tier still covers of a quantity, in the measure's unit."""
        if not price.free or quantity <= 0:
            return ZERO
        key = (tenant, price.sku, month_of(instant_ns))
        used = self.free_used.get(key, ZERO)
        covered = min(quantity, max(ZERO, Fraction(price.free) * price.unit_size - used))
        if covered:
            self.free_used[key] = used + covered
        return covered


def charges(
    records: Iterable[LedgerRecord],
    book: PriceBook,
    state: State,
    *,
    cuts: Sequence[int] = (),
) -> Iterator[Charge]:
    """Rate records exactly, in the order of time, carrying on from ``state`` and changing it.

    Args:
        records: any order.
        book: the prices.
        state: what earlier records have left.
        cuts: instants besides months and prices that no charge may span.
    """
    ordered = in_order(folded(records))
    ends = state.take(ordered)
    chains: dict[str, list[_Chain]] = {}
    for index, record in enumerate(ordered):
        if not record.container_id:
            continue  # the host's own: a step of its clock, a change of prices
        currency = book.currency_of(record.tenant)
        if currency not in chains:
            chains[currency] = [_Chain(chain) for chain in book.prices_in(currency).values()]
        if record.kind == "correction":
            for chain in chains[currency]:
                yield from _corrections(record, chain)
            continue
        points = [*_months_within(record), *(cut for cut in cuts if _is_within(record, cut))]
        for chain in chains[currency]:
            for part, price in chain.parts(record, points):
                ended = ends.get(index) if part.end_ns == record.wall_end else None
                yield _charge(record, price, part, ended, state)


def in_order(records: Iterable[LedgerRecord]) -> list[LedgerRecord]:
    """By time; what is not cut yet (seq 0) after what is."""
    return sorted(
        records,
        key=lambda r: (r.wall_end, r.seq == 0, r.seq, r.container_id, r.incarnation),
    )


def billed_ns(running_ns: int, price: Price) -> int:
    """The time of a run after quantum and minimum; nothing stays nothing."""
    if not running_ns:
        return 0
    quanta = -(-running_ns // price.quantum_ns)
    return max(price.minimum_ns, quanta * price.quantum_ns)


class _Chain:
    """The prices of one SKU in one currency, by time."""

    def __init__(self, prices: Sequence[Price]) -> None:
        self.prices = prices
        self.starts = [price.valid_from_ns for price in prices]
        self.edges = sorted({*self.starts, *(p.valid_to_ns for p in prices if p.valid_to_ns)})

    def at(self, instant_ns: int) -> Price | None:
        """The price of an instant, None if the SKU was not sold then."""
        place = bisect_right(self.starts, instant_ns) - 1
        if place < 0 or not self.prices[place].is_valid_at(instant_ns):
            return None
        return self.prices[place]

    def parts(self, record: LedgerRecord, points: list[int]) -> Iterator[tuple[Part, Price]]:
        """The record's span cut at ``points`` and at prices, where there is a price."""
        low = bisect_right(self.edges, record.wall_start)
        inner = [edge for edge in self.edges[low:] if edge < record.wall_end]
        split = ("period_split",) * bool(points) + ("price_split",) * bool(inner)
        bounds = [record.wall_start, *sorted({*points, *inner}), record.wall_end]
        for start, end in pairwise(bounds):
            price = self.at(start)
            if price is not None:
                yield Part(start, end, split), price


def _charge(
    record: LedgerRecord, price: Price, part: Part, ended: int | None, state: State
) -> Charge:
    """One price's charge for one part.

    Args:
        record: of which the part is.
        price: of the part.
        part: the share of the record's span.
        ended: running time of the run, if the part is its end and it is to be rounded up.
        state: whose free tier is used.
    """
    billed = _billed(record, price, part, ended)
    free = state.use_free(record.tenant, price, part.start_ns, billed.quantity)
    size = price.unit_size
    return Charge(
        record=record,
        price=price,
        start_ns=part.start_ns,
        end_ns=part.end_ns,
        metered_ns=billed.metered_ns,
        billed_ns=billed.billed_ns,
        paid=(billed.quantity - free) / size,
        free=free / size,
        split=part.split,
    )


class _Billed(NamedTuple):
    """What a price bills of a part, before the free tier."""

    quantity: Fraction
    """In the measure's unit."""
    metered_ns: int
    billed_ns: int


def _billed(record: LedgerRecord, price: Price, part: Part, ended: int | None) -> _Billed:
    """The arguments are those of :func:`_charge`."""
    quantity, time_ns = metered(record, price)
    first, last = 0, time_ns
    if part.split:
        length = record.wall_end - record.wall_start
        quantity = quantity * (part.end_ns - part.start_ns) / length
        first = time_ns * (part.start_ns - record.wall_start) // length
        last = time_ns * (part.end_ns - record.wall_start) // length
    extra_ns = billed_ns(ended, price) - ended if ended is not None else 0
    if extra_ns and has_run_time(price):
        quantity += allocated(record, price, extra_ns)
    else:
        extra_ns = 0
    return _Billed(quantity, last - first, last - first + extra_ns)


def _corrections(record: LedgerRecord, chain: _Chain) -> Iterator[Charge]:
    """One SKU's charges for a correction: the difference it makes, beside the free tier.

    Priced as the record it amends was. One that does not say what it found (of a migration) is
    charged as it is.
    """
    made = amendment(record)
    if made is None:
        price = chain.at(record.wall_start)
        if price is not None:
            part = Part(record.wall_start, record.wall_end, ())
            yield _difference(record, price, part, _billed(record, price, part, None), None)
        return
    before, after, run_ns = made
    run_after = None if run_ns is None else run_ns + record.running_ns
    for part, price in chain.parts(after, []):
        is_last = part.end_ns == after.wall_end
        old = _billed(before, price, part, run_ns if is_last else None)
        new = _billed(after, price, part, run_after if is_last else None)
        yield _difference(record, price, part, new, old)


def _difference(
    record: LedgerRecord, price: Price, part: Part, new: _Billed, old: _Billed | None
) -> Charge:
    quantity, metered_ns, billed = new
    if old is not None:
        quantity -= old.quantity
        metered_ns, billed = metered_ns - old.metered_ns, billed - old.billed_ns
    return Charge(
        record=record,
        price=price,
        start_ns=part.start_ns,
        end_ns=part.end_ns,
        metered_ns=metered_ns,
        billed_ns=billed,
        paid=quantity / price.unit_size,
        free=ZERO,
        split=part.split,
    )


def has_run_time(price: Price) -> bool:
    """Whether quantum and minimum apply: what is sold is set aside for the time of a run."""
    return price.measure == "container" or price.basis in ("allocation", "max")


def metered(record: LedgerRecord, price: Price) -> tuple[Fraction, int]:
    """What a price bills of a whole record, in the measure's unit, and of how much time (ns)."""
    measure = MEASURES[price.quantity_name]
    if price.measure == "paused":
        return Fraction(record.paused_ns, NS), record.paused_ns
    paused_ns = record.paused_ns if price.bills_paused else 0
    time_ns = record.running_ns + paused_ns
    if price.measure == "container":
        return Fraction(time_ns, NS), time_ns
    quantity = Fraction(measure.count(record), measure.divisor)
    if price.measure == "cpu" and price.basis != "usage":
        return quantity + allocated(record, price, paused_ns), time_ns
    if time_ns == span_ns(record):
        return quantity, time_ns
    if SOLD[price.measure].is_integral and price.measure != "cpu":
        return quantity * record.running_ns / span_ns(record), time_ns
    # Events happen while something runs; those of a record that never ran are not billed.
    return (quantity if record.running_ns else ZERO), time_ns


def allocated(record: LedgerRecord, price: Price, time_ns: int) -> Fraction:
    """What was set aside for a time, in the measure's unit."""
    if price.measure == "container":
        return Fraction(time_ns, NS)
    is_max = price.basis == "max"
    if price.measure == "cpu":
        milli = record.cpu_request_milli if is_max else cpu_allocation_milli(record)
        return Fraction(milli * time_ns, MILLI * NS)
    size = record.mem_request if is_max else memory_allocation_bytes(record)
    return Fraction(size * time_ns, NS)


def month_of(instant_ns: int) -> str:
    """The calendar month of an instant in UTC: ``2026-11``."""
    return datetime.fromtimestamp(instant_ns // NS, UTC).strftime("%Y-%m")


def month_start_ns(year: int, month: int) -> int:
    """Unix time in ns at which a month begins in UTC; months beyond 12 are of the next years."""
    year, place = year + (month - 1) // 12, (month - 1) % 12
    return int(datetime(year, place + 1, 1, tzinfo=UTC).timestamp()) * NS


def _months_within(record: LedgerRecord) -> list[int]:
    """Starts of months inside the record's span."""
    moment = datetime.fromtimestamp(record.wall_start // NS, UTC)
    found: list[int] = []
    number = moment.month + 1
    while (start := month_start_ns(moment.year, number)) < record.wall_end:
        found.append(start)
        number += 1
    return [start for start in found if _is_within(record, start)]


def _is_within(record: LedgerRecord, instant_ns: int) -> bool:
    return record.wall_start < instant_ns < record.wall_end


def history_needed(records: Iterable[LedgerRecord]) -> frozenset[Run]:
    """Runs that end in the records but did not begin in them.

    Their earlier running time decides about quantum and minimum: give :func:`rate` their records
    from the beginning, or the sums as ``before``.
    """
    begun: set[Run] = set()
    needed: set[Run] = set()
    for record in in_order(records):
        if record.kind == "correction":
            continue  # it says when it was made, not when something ran
        run = (record.container_id, record.incarnation)
        if record.boot_start_ns <= _birth_ns(record):
            begun.add(run)
        if record.kind == "final" and run not in begun:
            needed.add(run)
    return frozenset(needed)


def _birth_ns(record: LedgerRecord) -> int:
    """Boot time at which an incarnation began, the last part of its name; -1 if it has none."""
    text = record.incarnation.rpartition(":")[2]
    return int(text) if text.isdigit() else -1
