"""Rests of long computations: when they are due, and that they change nothing."""

from __future__ import annotations

import time
from itertools import count

import pytest

from aruntime.metering.pace import BURST_NS, REST_SECONDS, paced


@pytest.mark.parametrize(("step_ns", "rests"), [(0, 0), (BURST_NS // 10, 9), (BURST_NS * 2, 100)])
def test_rests_are_as_many_as_bursts(
    monkeypatch: pytest.MonkeyPatch, step_ns: int, rests: int
) -> None:
    """Work that takes no time never rests, slow work rests at each look; all items come."""
    ticks, rested = count(0, step_ns) if step_ns else iter([0] * 1000), list[float]()
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(ticks))
    monkeypatch.setattr(time, "sleep", rested.append)

    assert list(paced(range(200), every=2)) == list(range(200))
    assert rested == [REST_SECONDS] * rests


def test_nothing_is_paced_too() -> None:
    """No items, no work."""
    assert list(paced([])) == []
