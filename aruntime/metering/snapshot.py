"""The latest numbers of one container, for ``aruntime stats`` and the like."""

from __future__ import annotations

from typing import NamedTuple

from aruntime.metering.account import Totals
from aruntime.metering.subject import Subject


class Snapshot(NamedTuple):
    """Latest numbers of a container, for ``aruntime stats``; levels are 0 once it has ended."""

    boot_ns: int
    """When, as CLOCK_BOOTTIME: rates divide by differences of it."""
    status: str
    totals: Totals
    memory_usage_bytes: int
    memory_working_set_bytes: int
    memory_limit_bytes: int
    """0: no limit."""
    pids: int


def snapshot_of(subject: Subject) -> Snapshot:
    """What the subject's last reading said."""
    fast, stats = subject.fast, subject.stats
    live = subject.is_live
    memory = stats.memory if live and stats is not None else None
    pids = stats.pids if live and stats is not None else None
    return Snapshot(
        boot_ns=subject.polled_boot_ns,
        status=subject.account.status,
        totals=subject.account.totals,
        memory_usage_bytes=fast.memory_usage_bytes if live and fast is not None else 0,
        memory_working_set_bytes=fast.working_set_bytes if live and fast is not None else 0,
        memory_limit_bytes=memory.limit_bytes if memory is not None else 0,
        pids=pids.current if pids is not None else 0,
    )
