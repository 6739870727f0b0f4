"""Quick readings of one container, added up until its account takes them in as one.

Every second every container is read, and an account is a frozen record of two dozen fields: to make
one for each of these readings costs more than to read. A :class:`Tally` is the few numbers that
such a reading changes; what it makes of the account in the end is what :func:`advance` would have
made of it reading by reading, to the last unit (``tests/unit/metering/test_tally.py``). A reading
that needs more than addition, be it odd, at a cut or the first, is not taken: the caller settles
and lets :func:`~aruntime.metering.integrals.advance` have it.

State: the sums since the account. Not safe for two threads at once.
"""

from __future__ import annotations

import msgspec

from aruntime.cgroups.stats import FastStats
from aruntime.metering.account import Account, Request, Span
from aruntime.metering.integrals import CPU_BOUND_PERCENT, CPU_BOUND_SLACK_NS


def is_plain(account: Account) -> bool:
    """Whether quick readings do nothing but add to it.

    It has a memory sample to integrate from, no CPU difference that is held, and has not ended.
    """
    begun = 0 < account.sample_ns <= account.time_ns
    return begun and not account.cpu_held and account.status != "exited"


class Tally:
    """See the module.

    Args:
        account: what it starts from; one that :func:`is_plain`.
        cores: processors of the host, for the bound of R3.
        request: what is charged at least.

    Attributes:
        time_ns: boot time of the last reading.
    """

    __slots__ = (
        "_account",
        "_alloc_area",
        "_area",
        "_cores",
        "_cpu",
        "_cpu_alloc",
        "_cpu_at_ns",
        "_floor",
        "_max_gap_ns",
        "_milli",
        "_peak",
        "_requested",
        "_sample_ns",
        "_samples",
        "_usage",
        "_usage_area",
        "_usage_peak",
        "_working_set",
        "time_ns",
    )

    def __init__(self, account: Account, *, cores: int, request: Request) -> None:
        self._account = account
        self._cores = cores
        self._milli, self._floor = request.cpu_milli, 2 * request.memory_bytes
        self.time_ns, self._sample_ns = account.time_ns, account.sample_ns
        self._cpu, self._cpu_at_ns = account.cpu_raw, account.cpu_at_ns
        self._working_set, self._usage = account.sample_bytes, account.sample_usage
        self._requested = account.requested_ns * self._milli // 1000
        self._area = self._usage_area = self._alloc_area = self._cpu_alloc = 0
        self._samples = self._max_gap_ns = self._peak = self._usage_peak = 0

    def take(self, at_ns: int, fast: FastStats, *, until_ns: int) -> bool:
        """Add one reading; False, with nothing changed, if it is not one to be added.

        Args:
            at_ns: boot time of its middle.
            fast: what it says.
            until_ns: boot time from which on a reading belongs to another record.
        """
        now = max(self.time_ns, at_ns)
        cpu = fast.cpu_usage_ns
        grown = cpu - self._cpu
        if now >= until_ns or grown < 0:
            return False
        if grown and self._cpu_at_ns:
            possible = (now - self._cpu_at_ns) * CPU_BOUND_PERCENT // 100 + CPU_BOUND_SLACK_NS
            if grown > self._cores * possible:
                return False
        usage, inactive = fast.memory_usage_bytes, fast.inactive_file_bytes
        working_set = usage - inactive if usage > inactive else 0  # as fast.working_set_bytes
        span = now - self._sample_ns
        area = (self._working_set + working_set) * span
        least = self._floor * span
        self._area += area
        self._alloc_area += max(least, area)
        self._usage_area += (self._usage + usage) * span
        self._cpu_alloc += self._charged(now, grown) if self._milli else grown
        if span > self._max_gap_ns:
            self._max_gap_ns = span
        if usage > self._usage_peak:
            self._usage_peak = usage
        if working_set > self._peak:
            self._peak = working_set
        self._samples += 1
        self._cpu, self._usage, self._working_set = cpu, usage, working_set
        self.time_ns = self._sample_ns = self._cpu_at_ns = now
        return True

    def settle(self) -> Account:
        """The account with all readings in it; the tally is done with."""
        account, now = self._account, self.time_ns
        if not self._samples:
            return account
        totals, span = account.totals, account.span
        paused = now - account.time_ns if account.status == "paused" else 0
        after = msgspec.structs.replace(
            totals,
            cpu_ns=totals.cpu_ns + self._cpu - account.cpu_raw,
            running_ns=self._running_ns(now),
            paused_ns=totals.paused_ns + paused,
            memory_bytens2=totals.memory_bytens2 + self._area,
            usage_bytens2=totals.usage_bytens2 + self._usage_area,
            cpu_alloc_ns=totals.cpu_alloc_ns + self._cpu_alloc,
            memory_alloc_bytens2=totals.memory_alloc_bytens2 + self._alloc_area,
        )
        return msgspec.structs.replace(
            account,
            time_ns=now,
            sample_ns=now,
            sample_bytes=self._working_set,
            sample_usage=self._usage,
            cpu_at_ns=now,
            cpu_raw=self._cpu,
            memory_peak=max(account.memory_peak, self._peak),
            requested_ns=after.running_ns,
            span=Span(
                samples=span.samples + self._samples,
                max_gap_ns=max(span.max_gap_ns, self._max_gap_ns),
                usage_peak=max(span.usage_peak, self._usage_peak),
                pids_peak=span.pids_peak,
                estimated=span.estimated,
                anomalies=span.anomalies,
            ),
            totals=after,
        )

    def _running_ns(self, now: int) -> int:
        """Running time up to then: the status does not change between two accounts."""
        account = self._account
        running = account.status in ("running", "pausing")
        return account.totals.running_ns + (now - account.time_ns if running else 0)

    def _charged(self, now: int, grown: int) -> int:
        """CPU time of one step with the request as its least."""
        requested = self._running_ns(now) * self._milli // 1000
        step, self._requested = requested - self._requested, requested
        return max(step, grown)
