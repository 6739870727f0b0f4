"""The counters of a v2 (unified) cgroup: one directory, one descriptor per file.

Times come in microseconds and are given in nanoseconds like v1's. A file whose controller is not
enabled for the cgroup does not exist, and its record is None.
"""

from __future__ import annotations

import os

from aruntime.cgroups.block import BlockSources
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.parsers import (
    find_keyed,
    flat_keyed_picker,
    parse_device,
    parse_limit,
    parse_nested_keyed,
)
from aruntime.cgroups.reader import CgroupGone, CounterFiles, PidsFiles, UnifiedFiles
from aruntime.cgroups.stats import (
    BlkioStats,
    CpuStats,
    FastStats,
    MemoryStats,
    Stats,
    ThrottlingStats,
)

_NS_PER_USEC = 1_000
_INACTIVE_FILE = b"inactive_file"
_MEMORY_KEYS = (
    _INACTIVE_FILE,
    b"anon",
    b"file",
    b"shmem",
    b"file_mapped",
    b"file_dirty",
    b"file_writeback",
    b"kernel",
    b"pgfault",
    b"pgmajfault",
)


class V2Reader:
    """Descriptors on the files of one v2 cgroup.

    Raises, when made:
        FileNotFoundError: the cgroup does not exist.
    """

    def __init__(self, cgroup: Cgroup, sources: BlockSources, *, keep_open: bool = True) -> None:
        self._files = CounterFiles(keep_open)
        try:
            self._open(cgroup.directories["unified"], sources)
        except BaseException:
            self._files.close()
            raise

    def _open(self, directory: str, sources: BlockSources) -> None:
        files = self._files
        self.inode = os.fstat(files.directory(directory)).st_ino
        self._sources = sources
        self._procs_path = f"{directory}/cgroup.procs"
        self._cpu = files.kept(directory, "cpu.stat")
        has_memory = os.path.exists(f"{directory}/memory.current")
        self._memory = MemoryFiles(files, directory) if has_memory else None
        has_io = os.path.exists(f"{directory}/io.stat")
        self._io = files.file(directory, "io.stat") if has_io else None
        has_pids = os.path.exists(f"{directory}/pids.current")
        self._pids = PidsFiles(files, directory) if has_pids else None
        self._unified = UnifiedFiles(files, directory)
        files.close_directories()

    def read_fast(self) -> FastStats | None:
        """Read the billed numbers alone; None when the cgroup is gone."""
        memory = self._memory
        try:
            usage = find_keyed(self._cpu.read(), b"usage_usec") * _NS_PER_USEC
            if memory is None:
                return FastStats(usage, 0, 0)
            return FastStats(
                usage,
                int(memory.current.read()),
                find_keyed(memory.stat.read(), _INACTIVE_FILE),
            )
        except CgroupGone:
            return None

    def read_still(self) -> FastStats | None:
        """None: what the kernel writes back for a cgroup costs it no CPU time."""
        return None

    def is_spent(self) -> bool:
        """Return False: what the kernel writes back may still be charged."""
        return False

    def read(self) -> Stats | None:
        """Read everything; None when the cgroup is gone."""
        try:
            cpu, throttling = self._read_cpu()
            return Stats(
                inode=self.inode,
                cpu=cpu,
                throttling=throttling,
                memory=None if self._memory is None else self._memory.read(),
                blkio=self._read_io(),
                pids=None if self._pids is None else self._pids.read(),
                pressure=self._unified.read_pressure(),
                frozen_usec=self._unified.read_frozen_usec(),
                procs_path=self._procs_path,
            )
        except CgroupGone:
            return None

    def close(self) -> None:
        """Close all descriptors; calling it again does nothing."""
        self._files.close()

    # usage_usec 1264884
    # user_usec 1100000
    # system_usec 164884
    # nr_periods 12            (from here on: with the cpu controller only)
    # nr_throttled 3
    # throttled_usec 250000
    # nr_bursts 0
    # burst_usec 0
    def _read_cpu(self) -> tuple[CpuStats, ThrottlingStats | None]:
        text = self._cpu.read()
        cpu = CpuStats(
            find_keyed(text, b"usage_usec") * _NS_PER_USEC,
            find_keyed(text, b"user_usec") * _NS_PER_USEC,
            find_keyed(text, b"system_usec") * _NS_PER_USEC,
        )
        if b"nr_periods" not in text:
            return cpu, None
        return cpu, ThrottlingStats(
            find_keyed(text, b"nr_periods"),
            find_keyed(text, b"nr_throttled"),
            find_keyed(text, b"throttled_usec") * _NS_PER_USEC,
            find_keyed(text, b"nr_bursts"),
            find_keyed(text, b"burst_usec") * _NS_PER_USEC,
        )

    def _read_io(self) -> tuple[BlkioStats, ...] | None:
        if self._io is None:
            return None
        stats = []
        for name, row in parse_nested_keyed(self._io.read()).items():
            device = parse_device(name)
            if row and self._sources.source(device) == "io_stat":
                keys = ("rbytes", "wbytes", "dbytes", "rios", "wios", "dios")
                values = (row.get(key.encode(), 0) for key in keys)
                stats.append(BlkioStats(*device, "io_stat", *values))
        return tuple(stats)


class MemoryFiles:
    """The memory controller's files of one v2 cgroup."""

    def __init__(self, files: CounterFiles, directory: str) -> None:
        self.current = files.kept(directory, "memory.current")
        self.stat = files.kept(directory, "memory.stat")
        self._pick = flat_keyed_picker(self.stat.read(), _MEMORY_KEYS)
        self._swap = files.file(directory, "memory.swap.current", optional=True)
        self._peak = files.file(directory, "memory.peak", optional=True)
        self._max = files.file(directory, "memory.max")
        self._events = files.file(directory, "memory.events")

    def read(self) -> MemoryStats:
        """Read everything about memory; v2 files include the descendants."""
        usage = int(self.current.read())
        (inactive, anon, file, shmem, mapped, dirty, writeback, kernel, faults, major) = self._pick(
            self.stat.read()
        )
        events = self._events.read()
        return MemoryStats(
            usage_bytes=usage,
            inactive_file_bytes=inactive,
            rss_bytes=anon,
            cache_bytes=file,
            shmem_bytes=shmem,
            mapped_file_bytes=mapped,
            dirty_bytes=dirty,
            writeback_bytes=writeback,
            kernel_bytes=kernel,
            swap_bytes=int(self._swap.read_optional() or 0),
            peak_bytes=int(self._peak.read_optional() or 0),
            limit_bytes=parse_limit(self._max.read()),
            failcnt=find_keyed(events, b"max"),
            memsw_failcnt=0,
            page_faults=faults,
            major_page_faults=major,
            oom_kills=find_keyed(events, b"oom_kill"),
        )
