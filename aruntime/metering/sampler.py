"""One polling cycle over all containers, in a worker thread.

A cycle reads the billed numbers of every container and everything of those whose slow reading is
due. It lets go of the interpreter lock at each pread, many times in a millisecond, and rests before
its turn on a processor is over, so the event loop goes on beside it. Out of scope: when cycles run
(:mod:`aruntime.metering.meter`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from aruntime.metering.clock import boottime_ns
from aruntime.metering.health import Health
from aruntime.metering.pace import paced
from aruntime.metering.subject import Subject


def cycle(subjects: Iterable[Subject], slow_interval_ns: int, health: Health) -> list[Subject]:
    """One cycle with its own bookkeeping; returns the subjects that have something to commit."""
    start = time.monotonic_ns()
    complete = tick(subjects, slow_interval_ns=slow_interval_ns, health=health)
    health.poll_duration.observe_ns(time.monotonic_ns() - start)
    health.last_poll_ns = time.time_ns()
    return complete


def tick(subjects: Iterable[Subject], *, slow_interval_ns: int, health: Health) -> list[Subject]:
    """Sample every subject once; return those that were read completely or cut.

    A container that cannot be read is counted and left for the next cycle; it never keeps the
    others from being read.
    """
    complete = []
    for subject in paced(subjects, every=4):
        now = boottime_ns()
        slow = now >= subject.slow_due_ns
        try:
            read = subject.sample(slow=slow, brief=True)
        except (OSError, ValueError) as error:
            health.polls_failed[controller_of(error)] += 1
            continue
        if slow and read:
            # On a schedule of its own; readings that were missed are not made up.
            due = subject.slow_due_ns + slow_interval_ns
            subject.slow_due_ns = due if due > now else now + slow_interval_ns
            complete.append(subject)
        elif subject.cuts.drafts:
            complete.append(subject)
    return complete


def sample_now(subject: Subject, health: Health) -> None:
    """A forced complete reading; a failure is counted as in a cycle."""
    try:
        subject.sample(slow=True)
    except (OSError, ValueError) as error:
        health.polls_failed[controller_of(error)] += 1


def controller_of(error: OSError | ValueError) -> str:
    """The controller whose file could not be read or parsed: ``memory`` of memory.stat."""
    filename = getattr(error, "filename", None)
    if not isinstance(filename, str):
        return "unknown"
    if filename.startswith("/proc/"):
        return "process"
    return os.path.basename(filename).partition(".")[0]
