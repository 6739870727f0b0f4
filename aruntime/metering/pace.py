"""Long computations in a worker thread, in bursts too short for anybody to notice.

A thread that computes holds the interpreter lock, and the event loop gets it when it asks, a
millisecond later. But on a busy machine the kernel may take the processor away meanwhile: after its
turn, about a millisecond and a half, a thread waits until the others have had theirs, and the lock
with it. A thread that sleeps for a moment before its turn is over waits without the lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

BURST_NS = 700_000
"""Work until a rest: half of a turn on a machine with few processors."""
REST_SECONDS = 0.00005
"""Any time will do: what counts is that the thread has stopped."""

T = TypeVar("T")


class Pace:
    """State: when the burst began. For one thread, off the event loop."""

    def __init__(self) -> None:
        self._begun_ns = time.monotonic_ns()

    def rest(self) -> None:
        """Rest if it is time; call it every tenth of a millisecond or so."""
        if time.monotonic_ns() - self._begun_ns > BURST_NS:
            time.sleep(REST_SECONDS)
            self._begun_ns = time.monotonic_ns()


def paced(items: Iterable[T], every: int = 16) -> Iterator[T]:
    """The same items, with rests between them.

    Args:
        items: what is worked on.
        every: how many take about a tenth of a millisecond.
    """
    pace = Pace()
    for number, item in enumerate(items):
        if not number % every:
            pace.rest()
        yield item
