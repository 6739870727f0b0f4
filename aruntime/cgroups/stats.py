"""What one reading of a cgroup's counters says: frozen records of raw integers.

Nothing is divided, rated or accumulated here; that is metering's work. The unit is the last word
of each field. Counters (cumulative since the cgroup was made) and levels (now) are told apart in
the docstrings. ``None`` in place of a record means that the host has no such source, never that
the value is 0.
"""

from __future__ import annotations

import msgspec


class FastStats(msgspec.Struct, frozen=True, gc=False):
    """The billed numbers alone, cheap enough for every container every second."""

    cpu_usage_ns: int
    """Counter: CPU time, user and system."""
    memory_usage_bytes: int
    """Level: all charged memory with page cache and kernel memory; 0 without a controller."""
    inactive_file_bytes: int
    """Level: page cache the kernel would drop first."""

    @property
    def working_set_bytes(self) -> int:
        """Usage without inactive page cache: what docker stats and kubectl top show."""
        return max(0, self.memory_usage_bytes - self.inactive_file_bytes)


class CpuStats(msgspec.Struct, frozen=True, gc=False):
    """CPU time (v1 cpuacct.usage and cpuacct.stat, v2 cpu.stat). Counters, hierarchical."""

    usage_ns: int
    user_ns: int
    """A split of usage that the kernel scales from ticks: to be shown, never billed."""
    system_ns: int


class ThrottlingStats(msgspec.Struct, frozen=True, gc=False):
    """CFS bandwidth control (cpu.stat of the cpu controller). Counters."""

    periods: int
    throttled_periods: int
    throttled_ns: int
    bursts: int
    burst_ns: int


class MemoryStats(msgspec.Struct, frozen=True, gc=False):
    """Memory of the cgroup and its descendants."""

    usage_bytes: int
    inactive_file_bytes: int
    rss_bytes: int
    """Anonymous memory (v1 total_rss, v2 anon)."""
    cache_bytes: int
    """Page cache, tmpfs included (v1 total_cache, v2 file)."""
    shmem_bytes: int
    mapped_file_bytes: int
    dirty_bytes: int
    writeback_bytes: int
    kernel_bytes: int
    swap_bytes: int
    peak_bytes: int
    """High-water mark of usage since the cgroup was made or the mark was reset; 0 if the kernel
    keeps none (v2 before 5.19)."""
    limit_bytes: int
    """0: no limit."""
    failcnt: int
    """Counter: usage hit the limit (v1 memory.failcnt, v2 memory.events max)."""
    memsw_failcnt: int
    """Counter: memory + swap hit its limit (v1). With both limits equal only this one can count,
    and Linux 6.18 does not count it."""
    page_faults: int
    """Counter: minor and major."""
    major_page_faults: int
    """Counter."""
    oom_kills: int
    """Counter: processes killed for want of memory, those in sub-cgroups included."""

    @property
    def working_set_bytes(self) -> int:
        """Usage without inactive page cache: what docker stats and kubectl top show."""
        return max(0, self.usage_bytes - self.inactive_file_bytes)

    @property
    def limit_hits(self) -> int:
        """Counter: how often one of the two limits was hit."""
        return self.failcnt + self.memsw_failcnt


class BlkioStats(msgspec.Struct, frozen=True, gc=False):
    """I/O on one leaf block device. Counters; v1 misses what the kernel's flusher writes back."""

    major: int
    minor: int
    source: str
    """``throttle``, ``bfq`` or ``io_stat``: the file that was believed."""
    read_bytes: int
    write_bytes: int
    discard_bytes: int
    reads: int
    writes: int
    discards: int


class PidsStats(msgspec.Struct, frozen=True, gc=False):
    """Tasks, threads counted singly."""

    current: int
    peak: int
    """0 if the kernel keeps none (before 6.1)."""
    limit: int
    """0: no limit."""
    limit_hits: int
    """Counter: forks that failed at the limit."""


class Pressure(msgspec.Struct, frozen=True, gc=False):
    """Pressure stall totals of the cgroup2 tree. Counters in microseconds."""

    cpu_some_usec: int
    memory_some_usec: int
    memory_full_usec: int
    io_some_usec: int
    io_full_usec: int


class Stats(msgspec.Struct, frozen=True, gc=False):
    """Everything one slow reading of a cgroup says."""

    inode: int
    """Inode of the directory that holds the CPU counter: a re-created cgroup has another one."""
    cpu: CpuStats
    throttling: ThrottlingStats | None
    memory: MemoryStats | None
    blkio: tuple[BlkioStats, ...] | None
    """One record per leaf device that was used; None without a blkio or io controller."""
    pids: PidsStats | None
    pressure: Pressure | None
    """None where pressure stall information is off or there is no cgroup2 tree."""
    frozen_usec: int | None
    """Counter: time frozen by cgroup.freeze as the kernel measured it (6.18 and later)."""
    procs_path: str
    """The cgroup.procs file that lists the cgroup's processes."""
