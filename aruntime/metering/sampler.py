"""One polling cycle over all containers, in a worker thread.

A cycle reads the billed numbers of every container and everything of those whose slow reading is
due. It lets go of the interpreter lock again and again (each pread does, and an explicit yield
between chunks), so the event loop goes on beside it. Out of scope: when cycles run
(:mod:`aruntime.metering.meter`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from aruntime.metering.clock import boottime_ns
from aruntime.metering.health import Health
from aruntime.metering.subject import Subject

CHUNK = 32
"""Containers between two explicit yields of the interpreter lock: about a millisecond of work."""


def tick(subjects: Iterable[Subject], *, slow_interval_ns: int, health: Health) -> list[Subject]:
    """Sample every subject once; return those that were read completely.

    A container that cannot be read is counted and left for the next cycle; it never keeps the
    others from being read.
    """
    complete = []
    for number, subject in enumerate(subjects):
        if number % CHUNK == CHUNK - 1:
            time.sleep(0)
        now = boottime_ns()
        slow = now >= subject.slow_due_ns
        try:
            read = subject.sample(slow=slow)
        except (OSError, ValueError) as error:
            health.polls_failed[controller_of(error)] += 1
            continue
        if slow and read:
            subject.slow_due_ns = max(subject.slow_due_ns + slow_interval_ns, now)
            complete.append(subject)
    return complete


def controller_of(error: OSError | ValueError) -> str:
    """The controller whose file could not be read or parsed: ``memory`` of memory.stat."""
    filename = getattr(error, "filename", None)
    if not isinstance(filename, str):
        return "unknown"
    if filename.startswith("/proc/"):
        return "process"
    return os.path.basename(filename).partition(".")[0]
