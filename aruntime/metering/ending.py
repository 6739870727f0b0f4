"""The last readings: of a container whose init is a zombie, and of an exec'd process.

Blocking functions for a worker thread. That they come before the reaping is the caller's duty
(metering rule R7: whoever reaps owns the final reading).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from aruntime.kernel import process
from aruntime.metering.account import COUNTERS, ProcessIo, Totals
from aruntime.metering.clock import boottime_ns
from aruntime.metering.health import Health
from aruntime.metering.integrals import add_exec
from aruntime.metering.reading import GONE, read_process_io
from aruntime.metering.sampler import controller_of
from aruntime.metering.subject import Subject

OFF_CPU_SECONDS = 0.02
"""A dead task leaves its processor within microseconds; a stopped machine may take longer."""
OFF_CPU_PAUSE_SECONDS = 0.0001
EQUAL_READINGS = 50
"""Attempts at two equal readings of the CPU counter before the last look has to find the rest."""

OOM_KILLS = COUNTERS.index("oom_kills")


SIGKILL_CODE = 137
"""Of a program that the kernel killed for want of memory, in the shell's form."""


class Final(NamedTuple):
    """The end of an incarnation."""

    id: str
    exit_code: int | None
    oom_kills: int
    """Of this incarnation."""
    totals: Totals
    """Of the container, all its incarnations."""
    durable: bool
    """False: the disk refused; the numbers are in memory and are written when it takes them."""


def finish(subject: Subject, zombie_pid: int, health: Health) -> None:
    """Wait until the zombie is off its processor, then read until the CPU counter stands still.

    A zombie is still charged for its last steps until it is switched out for good
    (/proc/PID/syscall then reads ``-1``).
    """
    figures: ProcessIo | None = None
    if zombie_pid:
        give_up = time.monotonic() + OFF_CPU_SECONDS
        while not process.is_off_cpu(zombie_pid) and time.monotonic() < give_up:
            time.sleep(OFF_CPU_PAUSE_SECONDS)
        try:
            figures = read_process_io(zombie_pid)
        except OSError as error:
            if error.errno not in GONE:
                health.polls_failed[controller_of(error)] += 1
    try:
        for _ in range(EQUAL_READINGS):
            before = subject.account.cpu_raw
            subject.finish(process=figures)
            if subject.account.cpu_raw == before or subject.stands_still():
                break
    except (OSError, ValueError) as error:
        health.polls_failed[controller_of(error)] += 1
        subject.give_up()


def conclude(
    subject: Subject,
    zombie_pid: int,
    health: Health,
    linger_ns: int,
    exit_code: int | None,
    stopped: bool,
) -> None:
    """Take the final reading and end the incarnation in the ledger, where the account stands."""
    finish(subject, zombie_pid, health)
    subject.finished_ns = time.time_ns()
    subject.drop_at_ns = boottime_ns() + linger_ns
    oom_kills = subject.account.raw[OOM_KILLS]
    subject.end(reason(oom_kills, exit_code, stopped=stopped), exit_code)


def reason(oom_kills: int, exit_code: int | None, *, stopped: bool) -> str:
    """Why a run ended, in the ledger's words; ``stopped``: somebody asked for it."""
    if oom_kills > 0 and exit_code in (None, SIGKILL_CODE):
        return "oom"
    return "stop" if stopped else "exit"


def recheck(
    subject: Subject | None, health: Health, unless_grown: Callable[[], object] | None = None
) -> bool:
    """Look once more before the cgroup goes; whether billed counters have grown.

    Args:
        subject: the container, None for an unknown one.
        health: counts a reading that fails.
        unless_grown: called if they have not; what it raises is raised.
    """
    try:
        grown = subject is not None and subject.grown_since_end()
    except (OSError, ValueError) as error:
        health.polls_failed[controller_of(error)] += 1
        grown = False
    if not grown and unless_grown is not None:
        unless_grown()
    return grown


def count_exec(subject: Subject, pid: int) -> bool:
    """Add a zombie's storage traffic to the account, once; False when it is gone."""
    try:
        key = f"{pid}-{process.start_time(pid)}"
        figures = read_process_io(pid)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    unreaped = frozenset(old for old in subject.account.exec_keys if _is_there(old))
    subject.update_account(partial(add_exec, key=key, figures=figures, unreaped=unreaped))
    return True


def _is_there(key: str) -> bool:
    pid, _, start = key.partition("-")
    try:
        return process.start_time(int(pid)) == int(start)
    except OSError:
        return False
