"""The meter's figures about itself: how long its work takes and what went wrong.

Counters are incremented from worker threads and from the event loop; each has one writer, and a
reader only ever sees a value that was true. Out of scope: showing them (the exporters).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple

DURATION_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds of the duration histograms."""


class HistogramState(NamedTuple):
    """A histogram at one instant; ``counts`` has one more entry than ``bounds`` (above all)."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_ns: int


class Histogram:
    """Durations by size. State: the counts and the exact sum in nanoseconds."""

    def __init__(self, bounds: tuple[float, ...] = DURATION_BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_ns = 0

    def observe_ns(self, duration_ns: int) -> None:
        """Count one duration; a bound holds what equals it."""
        self._counts[bisect_left(self._bounds, duration_ns / 1e9)] += 1
        self._sum_ns += duration_ns

    def state(self) -> HistogramState:
        """Counts and sum now."""
        return HistogramState(self._bounds, tuple(self._counts), self._sum_ns)


ANOMALIES = ("counter_reset", "cpu_bound", "clock_step", "gap", "slow_read", "unknown_cgroup")
"""Kinds of anomaly that are counted; all are exported from the start, at 0."""


class Health:
    """Everything the meter counts about itself. State: the counters."""

    def __init__(self) -> None:
        self.poll_duration = Histogram()
        self.commit_duration = Histogram()
        self.polls_failed: Counter[str] = Counter()
        """Unexpected read errors by controller."""
        self.overruns = 0
        self.anomalies: Counter[str] = Counter(dict.fromkeys(ANOMALIES, 0))
        self.write_errors = 0
        self.last_poll_ns = 0
        """Unix time of the last complete cycle, 0 before the first."""
        self.last_commit_ns = 0
        """Unix time of the last successful commit, 0 before the first."""
