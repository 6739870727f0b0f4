"""What one container has used, as records: raw readings, totals, and the account of both.

An :class:`Account` is the whole memory of the meter about one container: the last raw reading of
every counter (the *baseline*) and the totals grown from it. It is frozen; each reading makes the
next one. It is also what is stored: the account and the growth of the tenant's totals are written
in one transaction (:mod:`aruntime.metering.totals`), so a crash repeats a difference or has it,
and never does both.

Every quantity is an int in base units: nanoseconds of CPU and of CLOCK_BOOTTIME, bytes, events,
and twice the byte-nanoseconds of memory (a trapezoid of integers is exact when it is doubled).
Floats appear only where numbers are shown.

Out of scope: the arithmetic (:mod:`aruntime.metering.integrals`), reading files
(:mod:`aruntime.metering.reading`), clocks, storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

COUNTERS = (
    "cpu_user_ns",
    "cpu_system_ns",
    "cpu_periods",
    "cpu_throttled_periods",
    "cpu_throttled_ns",
    "memory_limit_hits",
    "oom_kills",
    "page_faults",
    "major_page_faults",
    "pids_limit_hits",
    "cpu_waiting_us",
    "memory_waiting_us",
    "memory_stalled_us",
    "io_waiting_us",
    "io_stalled_us",
    "frozen_us",
)
"""Kernel counters beside CPU time. The order is part of the stored form: append only."""

BLOCK_COUNTERS = ("read_bytes", "write_bytes", "reads", "writes", "discard_bytes")
"""Per block device; the order is part of the stored form."""

NETWORK_COUNTERS = (
    "receive_bytes",
    "transmit_bytes",
    "receive_packets",
    "transmit_packets",
    "receive_drops",
    "transmit_drops",
    "egress_bytes",
    "egress_packets",
)
"""Per interface, seen from inside the container; *egress* is what of it left the host. The order is
part of the stored form: append only, rows that were stored before are shorter."""

Ints = tuple[int, ...]

_NO_COUNTERS: Ints = (0,) * len(COUNTERS)

STATUSES = ("created", "running", "pausing", "paused", "exited")


class ProcessIo(NamedTuple):
    """Storage traffic of a process tree as /proc/PID/io counts it (proc(5)), in bytes."""

    read_bytes: int = 0
    write_bytes: int = 0
    cancelled_write_bytes: int = 0


class Reading(NamedTuple):
    """Raw counters of one incarnation at one instant; None means: not read this time."""

    boot_ns: int
    """CLOCK_BOOTTIME in the middle of the reading."""
    cpu_ns: int
    working_set: int
    """The billed memory number: usage without inactive page cache, in bytes."""
    counters: tuple[int | None, ...] | None = None
    """In the order of :data:`COUNTERS`; an entry is None where the kernel does not count it."""
    block: Mapping[str, Ints] | None = None
    network: Mapping[str, Ints] | None = None
    process: ProcessIo | None = None
    memory_peak: int = 0
    usage_bytes: int = 0
    """All charged memory, page cache included."""
    pids: int = 0


class Request(NamedTuple):
    """What is set aside for a container: the least it is charged for where max counts."""

    cpu_milli: int = 0
    """Thousandths of a core."""
    memory_bytes: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Usage of a container over all its incarnations. No field ever falls."""

    cpu_ns: int = 0
    cpu_quarantined_ns: int = 0
    """CPU time the kernel reported but no set of cores can have spent (R3): never billed."""
    running_ns: int = 0
    paused_ns: int = 0
    memory_bytens2: int = 0
    """Twice the integral of the working set over boot time."""
    pauses: int = 0
    restarts: int = 0
    counters: Ints = _NO_COUNTERS
    block: dict[str, Ints] = {}
    network: dict[str, Ints] = {}
    process: Ints = (0, 0, 0, 0)
    """read, write and cancelled bytes, then the net written bytes kept from falling."""
    usage_bytens2: int = 0
    """Twice the integral of all charged memory."""
    cpu_alloc_ns: int = 0
    """Sum over readings of max(request, usage); only running time is requested."""
    memory_alloc_bytens2: int = 0
    """The same of the doubled integral of the working set, over all time."""

    @property
    def process_read_bytes(self) -> int:
        """Storage reads of the process tree."""
        return self.process[0]

    @property
    def process_written_bytes(self) -> int:
        """Storage writes of the process tree without what was truncated before writeback."""
        return self.process[3]


class Span(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What does not add up, of the time since the last record: it begins anew with each."""

    samples: int = 0
    max_gap_ns: int = 0
    """Longest time between two readings."""
    usage_peak: int = 0
    """Highest usage seen; the kernel's own high-water mark whenever that rose."""
    pids_peak: int = 0
    estimated: tuple[str, ...] = ()
    anomalies: tuple[str, ...] = ()


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Baseline and totals of one container; see the module's text."""

    incarnation: str = ""
    """One life of the container's cgroup: boot id, inode, boot time; empty if it never had one."""
    status: str = "created"
    time_ns: int = 0
    """Boot time up to which running and paused time are counted."""
    sample_ns: int = 0
    """Boot time of the last memory sample; 0 when there is none to integrate from."""
    sample_bytes: int = 0
    cpu_at_ns: int = 0
    """Boot time of the CPU baseline; 0 when unknown (then nothing bounds the next difference)."""
    cpu_raw: int = 0
    cpu_held: bool = False
    """The last reading broke the bound: its difference waits until time makes it possible."""
    raw: Ints = _NO_COUNTERS
    block_raw: dict[str, Ints] = {}
    network_raw: dict[str, Ints] = {}
    process_raw: Ints = (0, 0, 0, 0)
    exec_io: Ints = (0, 0, 0)
    """Sum over ended exec'd processes, whose figures never show in init's."""
    exec_keys: tuple[str, ...] = ()
    """Those of them that may not be reaped yet, as ``pid-starttime``: none is added twice."""
    memory_peak: int = 0
    """Of this incarnation."""
    estimated: tuple[str, ...] = ()
    """Why a part of the totals is an estimate, each reason once."""
    totals: Totals = Totals()
    sample_usage: int = 0
    """All charged memory at the last sample."""
    requested_ns: int = 0
    """Running time, of all incarnations, up to which the CPU request was counted."""
    span: Span = Span()
