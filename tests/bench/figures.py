"""Samples and what is said about them: median, best decile, ratio. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

OURS = "aruntime"


@dataclass
class Series:
    """The samples of one measure of one engine, in the unit that is shown."""

    measure: str
    engine: str
    unit: str
    more_is_better: bool = False
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        """Return the tenth percentile of what should be small, the ninetieth of what is large."""
        return percentile(self.samples, 0.9 if self.more_is_better else 0.1)


def percentile(samples: Sequence[float], part: float) -> float:
    """Return a percentile, interpolated between the two samples next to it."""
    ordered = sorted(samples)
    position = (len(ordered) - 1) * part
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def advantage(ours: float, theirs: float, *, more_is_better: bool) -> float:
    """How many times better our figure is than theirs; below 1 it is worse."""
    better, worse = (ours, theirs) if more_is_better else (theirs, ours)
    return better / worse if worse > 0 else float("inf")


def advantages(ours: Series, theirs: Series) -> tuple[float, float]:
    """How many times better we are by the median and by the best decile."""
    more = theirs.more_is_better
    return (
        advantage(ours.median, theirs.median, more_is_better=more),
        advantage(ours.best, theirs.best, more_is_better=more),
    )


class Results:
    """All series of a run, in the order in which they began."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}

    def __iter__(self) -> Iterator[Series]:
        return iter(self._series.values())

    def add(
        self, measure: str, engine: str, unit: str, value: float, *, more_is_better: bool = False
    ) -> None:
        """Add a sample."""
        fresh = Series(measure, engine, unit, more_is_better)
        self._series.setdefault((measure, engine), fresh).samples.append(value)

    def get(self, measure: str, engine: str) -> Series | None:
        """Return a series, or None where the engine was not measured."""
        return self._series.get((measure, engine))

    def by_measure(self) -> dict[str, list[Series]]:
        """Series of each measure, ours first and then the best."""
        grouped: dict[str, list[Series]] = {}
        for series in self._series.values():
            grouped.setdefault(series.measure, []).append(series)
        for group in grouped.values():
            group.sort(
                key=lambda s: (s.engine != OURS, -s.median if s.more_is_better else s.median)
            )
        return grouped
