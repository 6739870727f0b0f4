"""Cuts one container's life into records: when an interval ends, and what the next one begins with.

State only; the arithmetic is :mod:`aruntime.metering.intervals`'. Every method is called under the
lock of the container's :class:`~aruntime.metering.subject.Subject`, with the account as it stands,
and returns the account to go on with.

Out of scope: making records durable (:mod:`aruntime.metering.books`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from aruntime.metering.account import Account, Reading, Span
from aruntime.metering.integrals import add_new, grow_span
from aruntime.metering.intervals import (
    LATE_NS,
    Interval,
    Terms,
    at_freezing,
    flagged,
    hours_between,
    open_interval,
    record_of,
    split,
)
from aruntime.metering.record import LedgerRecord

NEVER = 1 << 63


class Draft(NamedTuple):
    """A record that has no number in the chain yet."""

    nth: int
    """Of its container's records, from 1."""
    record: LedgerRecord


class Cutter:
    """State: the open interval, drafts that were not handed over, a freeze to be cut at.

    Args:
        container_id: whose.
        terms: what is true of it now.
        wall_at: boot time to Unix time, both in ns.
        known: where the interval began that is open on disk, None for a new container.

    Attributes:
        interval: None until :meth:`start`.
        request: that of the terms, at hand for each reading.
        birth: the first interval this object opened or knew: whoever knows nothing of the
            container on disk counts from here.
    """

    def __init__(
        self,
        container_id: str,
        terms: Terms,
        wall_at: Callable[[int], int],
        known: Interval | None = None,
    ) -> None:
        self.terms = terms
        self.interval = known
        self.birth = known
        self.drafts: list[Draft] = []
        self._container_id = container_id
        self._wall_at = wall_at
        self._frozen: Account | None = None
        self._hour_ends_ns = NEVER
        if known is not None:
            self._watch_hour(known)

    @property
    def terms(self) -> Terms:
        """What is true of the container now."""
        return self._terms

    @terms.setter
    def terms(self, terms: Terms) -> None:
        self._terms = terms
        self.request = terms.request

    def start(self, account: Account) -> Account:
        """Open the interval of a new incarnation, which begins where the account stands."""
        account = _seen(account, Span())
        opened = self._open(account, ended=False)
        if self.birth is None:
            self.birth = opened
        self._draft(record_of(opened, account, kind="start", end_reason=""))
        return account

    def is_of(self, incarnation: str) -> bool:
        """Whether an interval of this incarnation is open or has ended."""
        return self.interval is not None and self.interval.incarnation == incarnation

    @property
    def is_open(self) -> bool:
        """Whether there is an interval without its final record."""
        return self.interval is not None and not self.interval.ended

    @property
    def quiet_until_ns(self) -> int:
        """Boot time up to which readings cut nothing; 0 if the next one does."""
        return 0 if self._frozen is not None else self._hour_ends_ns

    def crosses(self, boot_ns: int) -> bool:
        """Whether a reading at this boot time belongs to another hour than the interval."""
        return boot_ns >= self._hour_ends_ns

    def take(
        self, before: Account, after: Account, reading: Reading, anomalies: tuple[str, ...]
    ) -> Account:
        """After a reading: cut at the freeze and at the full hours that lie before it."""
        if self._frozen is None and after.time_ns < self._hour_ends_ns:
            return after
        if not self.is_open:
            return after
        records = len(self.drafts)
        frozen, self._frozen = self._frozen, None
        if frozen is not None:
            point = at_freezing(before, frozen, after)
            self._cut_hours(before, point)
            self._record(point)
            before = point
        began_late = self._cut_hours(before, after)
        if len(self.drafts) == records:
            return after
        own = grow_span(before, Span(), reading, after.time_ns, anomalies)
        return _seen(after, flagged(own, "split") if began_late else own)

    def bridge(self, before: Account, after: Account) -> Account:
        """After the first reading since a daemon died: the gap gets records of its own.

        Args:
            before: as of the last commit, with the interval before the gap cut there.
            after: with the gap, flagged.
        """
        self._cut_hours(before, after, kind="gap")
        return self.cut(after, kind="gap")

    def change(self, before: Account, after: Account) -> Account:
        """After a change of state; the two accounts differ by the state and by time."""
        if not self.is_open:
            return after
        records = len(self.drafts)
        self._cut_hours(before, after)
        if len(self.drafts) > records:
            after = _seen(after, Span())
        if after.status == "paused" and before.status != "paused":
            # Cut at this instant, by the next reading: counters lag behind the freeze.
            self._frozen = after
        elif before.status == "paused" and after.status != "paused":
            if self._frozen is not None:
                self._record(self._frozen)
                self._frozen = None
                after = _seen(after, Span())
            return self.cut(after)
        return after

    def cut(self, account: Account, *, kind: str = "usage", end_reason: str = "cut") -> Account:
        """End the open interval here and begin the next one with the present terms."""
        interval = self.interval
        if interval is None:
            return account
        if self._frozen is not None:
            self._frozen = None
        if account.time_ns > interval.boot_ns or account.totals != interval.totals:
            self._record(account, kind=kind, end_reason=end_reason)
        else:
            self._open(account, ended=interval.ended)
        return _seen(account, Span())

    def end(self, account: Account, end_reason: str, exit_code: int | None) -> Account:
        """The final record; after it, a record of what the counters still grew by, if they did."""
        interval = self.interval
        self._frozen = None
        if interval is None or (interval.ended and account.totals == interval.totals):
            return account
        kind = "usage" if interval.ended else "final"
        self._draft(
            record_of(interval, account, kind=kind, end_reason=end_reason, exit_code=exit_code)
        )
        self._open(account, ended=True)
        return _seen(account, Span())

    def note(self, account: Account, anomaly: str) -> Account:
        """Have the open interval's record say that something was odd."""
        noted = add_new(account.span.anomalies, (anomaly,))
        return _seen(account, msgspec.structs.replace(account.span, anomalies=noted))

    def hand_over(self) -> tuple[Draft, ...]:
        """The drafts, which are the caller's from now on."""
        drafts, self.drafts = tuple(self.drafts), []
        return drafts

    def _cut_hours(self, before: Account, after: Account, kind: str = "usage") -> bool:
        """Cut at each full hour between two accounts; whether the last cut is an estimate."""
        if self.interval is None or after.time_ns < self._hour_ends_ns:
            return False
        began_late = False
        for boot_ns in hours_between(self.interval, after.time_ns):
            is_late = after.time_ns - boot_ns > LATE_NS
            point = split(before, after, boot_ns)
            if is_late or began_late:
                point = _seen(point, flagged(point.span, "split"))
            self._record(point, kind=kind)
            began_late = is_late
        return began_late

    def _record(self, account: Account, *, kind: str = "usage", end_reason: str = "cut") -> None:
        assert self.interval is not None
        ended = self.interval.ended
        self._draft(record_of(self.interval, account, kind=kind, end_reason=end_reason))
        self._open(account, ended=ended)

    def _draft(self, record: LedgerRecord) -> None:
        assert self.interval is not None
        nth = self.interval.nth + 1
        self.interval = msgspec.structs.replace(self.interval, nth=nth)
        named = msgspec.structs.replace(record, container_id=self._container_id)
        self.drafts.append(Draft(nth, named))

    def _open(self, account: Account, *, ended: bool) -> Interval:
        nth = self.interval.nth if self.interval is not None else 0
        wall_ns = self._wall_at(account.time_ns)
        self.interval = open_interval(account, self.terms, wall_ns, nth=nth, ended=ended)
        self._watch_hour(self.interval)
        return self.interval

    def _watch_hour(self, interval: Interval) -> None:
        self._hour_ends_ns = NEVER if interval.ended else next(hours_between(interval, NEVER))


def _seen(account: Account, span: Span) -> Account:
    return msgspec.structs.replace(account, span=span)
