"""The counters of a v1 (legacy or hybrid) cgroup.

Which file says what is metering's table of sources; the traps are told where they are stepped
around. The root cgroup is never read: its memory.stat takes seconds on some hosts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import pread

from aruntime.cgroups.block import BlockSources
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.parsers import (
    Device,
    find_keyed,
    flat_keyed_picker,
    parse_blkio,
    parse_limit_v1,
)
from aruntime.cgroups.reader import (
    GONE,
    NUMBER_SIZE,
    READ_SIZE,
    CgroupGone,
    CounterFile,
    CounterFiles,
    PidsFiles,
    UnifiedFiles,
)
from aruntime.cgroups.stats import (
    BlkioStats,
    CpuStats,
    FastStats,
    MemoryStats,
    Stats,
    ThrottlingStats,
)

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_INACTIVE_FILE = b"total_inactive_file"
_INACTIVE_MARK = b"\n" + _INACTIVE_FILE + b" "
_MEMORY_KEYS = (
    _INACTIVE_FILE,
    b"total_rss",
    b"total_cache",
    b"total_shmem",
    b"total_mapped_file",
    b"total_dirty",
    b"total_writeback",
    b"total_swap",
    b"total_pgfault",
    b"total_pgmajfault",
)
_Counts = dict[Device, tuple[int, int, int]]


class V1Reader:
    """Descriptors on the v1 files of one cgroup and on its directory in the cgroup2 tree.

    Raises, when made:
        FileNotFoundError: the cgroup does not exist.
    """

    __slots__ = (
        "_blkio",
        "_cpu",
        "_cpu_ns",
        "_cpuacct",
        "_files",
        "_memory",
        "_pids",
        "_procs_path",
        "_unified",
        "_usage",
        "inode",
    )

    def __init__(self, cgroup: Cgroup, sources: BlockSources, *, keep_open: bool = True) -> None:
        self._files = CounterFiles(keep_open)
        self._cpu_ns = -1
        try:
            self._open(cgroup, sources)
        except BaseException:
            self._files.close()
            raise

    def _open(self, cgroup: Cgroup, sources: BlockSources) -> None:
        at, files = cgroup.directories, self._files
        self.inode = os.fstat(files.directory(at["cpuacct"])).st_ino
        self._procs_path = f"{at['cpuacct']}/cgroup.procs"
        self._usage = files.kept(at["cpuacct"], "cpuacct.usage")
        self._cpuacct = files.file(at["cpuacct"], "cpuacct.stat")
        self._cpu = files.file(at["cpu"], "cpu.stat", optional=True) if "cpu" in at else None
        self._memory = MemoryFiles(files, at["memory"]) if "memory" in at else None
        self._blkio = BlkioFiles(files, at["blkio"], sources) if "blkio" in at else None
        self._pids = PidsFiles(files, at["pids"]) if "pids" in at else None
        self._unified = UnifiedFiles(files, at["unified"]) if "unified" in at else None
        files.close_directories()

    def read_fast(self) -> FastStats | None:
        """Read the billed numbers alone; None when the cgroup is gone."""
        memory = self._memory
        try:
            usage = int(pread(self._usage, NUMBER_SIZE, 0))
            if memory is None:
                return FastStats(usage, 0, 0)
            used = int(pread(memory.usage, NUMBER_SIZE, 0))
            text = pread(memory.stat, READ_SIZE, 0)
        except OSError:
            return self._read_billed()  # says which file failed, or that the cgroup is gone
        return FastStats(usage, used, inactive_file(text))

    def _read_billed(self) -> FastStats | None:
        memory = self._memory
        try:
            usage = int(self._usage.read())
            if memory is None:
                return FastStats(usage, 0, 0)
            used, text = int(memory.usage.read()), memory.stat.read()
        except CgroupGone:
            return None
        return FastStats(usage, used, inactive_file(text))

    def read_still(self) -> FastStats | None:
        """Read the billed numbers if the cgroup has stood still since the last :meth:`read`."""
        memory, unified = self._memory, self._unified
        if memory is None or not self.is_spent():
            return None
        try:
            used, text = int(memory.usage.read()), memory.stat.read()
        except CgroupGone:
            return None
        if hash(text) != memory.mark:
            return None
        if unified is not None and not unified.is_frozen_time_still():
            return None
        return FastStats(self._cpu_ns, used, inactive_file(text))

    def is_spent(self) -> bool:
        """Whether CPU time and block I/O are what the last :meth:`read` found."""
        is_same = int(self._usage.read_optional() or -1) == self._cpu_ns
        return is_same and (self._blkio is None or self._blkio.is_still())

    def read(self) -> Stats | None:
        """Read everything; None when the cgroup is gone."""
        try:
            return Stats(
                inode=self.inode,
                cpu=self._read_cpu(),
                throttling=None if self._cpu is None else read_throttling(self._cpu),
                memory=None if self._memory is None else self._memory.read(),
                blkio=None if self._blkio is None else self._blkio.read(),
                pids=None if self._pids is None else self._pids.read(),
                pressure=None if self._unified is None else self._unified.read_pressure(),
                frozen_usec=None if self._unified is None else self._unified.read_frozen_usec(),
                procs_path=self._procs_path,
            )
        except CgroupGone:
            return None

    def close(self) -> None:
        """Close all descriptors; calling it again does nothing."""
        self._files.close()

    def _read_cpu(self) -> CpuStats:
        """cpuacct.usage_user and _sys are sampled by tick and do not add up: not used."""
        usage = self._cpu_ns = int(self._usage.read())
        split = self._cpuacct.read()
        return CpuStats(
            usage,
            find_keyed(split, b"user") * _NS_PER_TICK,
            find_keyed(split, b"system") * _NS_PER_TICK,
        )


def read_throttling(file: CounterFile) -> ThrottlingStats | None:
    """Read v1's cpu.stat, None on a kernel without CFS bandwidth control."""
    text = file.read_optional()
    if not text:
        return None
    return ThrottlingStats(
        find_keyed(text, b"nr_periods"),
        find_keyed(text, b"nr_throttled"),
        find_keyed(text, b"throttled_time"),
        find_keyed(text, b"nr_bursts"),
        find_keyed(text, b"burst_time"),
    )


def inactive_file(text: bytes) -> int:
    """The one value of memory.stat that is billed.

    The total_ keys come last and never first: a whole search, as find_keyed does, is not needed in
    what every cycle does to every container.
    """
    start = text.rfind(_INACTIVE_MARK)
    if start < 0:
        return 0
    start += len(_INACTIVE_MARK)
    return int(text[start : text.find(b"\n", start)])


class MemoryFiles:
    """The memory controller's files of one cgroup."""

    __slots__ = (
        "_failcnt",
        "_kernel",
        "_limit",
        "_memsw_failcnt",
        "_oom_control",
        "_oom_kills",
        "_peak",
        "_pick",
        "mark",
        "stat",
        "usage",
    )

    def __init__(self, files: CounterFiles, directory: str) -> None:
        self.usage = files.kept(directory, "memory.usage_in_bytes")
        self.stat = files.kept(directory, "memory.stat")
        self._pick = flat_keyed_picker(self.stat.read(), _MEMORY_KEYS)
        self.mark = 0
        self._kernel = files.file(directory, "memory.kmem.usage_in_bytes", optional=True)
        self._peak = files.file(directory, "memory.max_usage_in_bytes", optional=True)
        self._limit = files.file(directory, "memory.limit_in_bytes")
        self._failcnt = files.file(directory, "memory.failcnt", optional=True)
        self._memsw_failcnt = files.file(directory, "memory.memsw.failcnt", optional=True)
        self._oom_control = files.file(directory, "memory.oom_control", optional=True)
        self._oom_kills = OomKills(directory)

    def read(self) -> MemoryStats:
        """Read everything about memory. ``total_`` keys: the descendants are included."""
        usage = int(self.usage.read())
        text = self.stat.read()
        self.mark = hash(text)
        (inactive, rss, cache, shmem, mapped, dirty, writeback, swap, faults, major) = self._pick(
            text
        )
        own_kills = find_keyed(self._oom_control.read_optional(), b"oom_kill")
        return MemoryStats(
            usage_bytes=usage,
            inactive_file_bytes=inactive,
            rss_bytes=rss,
            cache_bytes=cache,
            shmem_bytes=shmem,
            mapped_file_bytes=mapped,
            dirty_bytes=dirty,
            writeback_bytes=writeback,
            kernel_bytes=int(self._kernel.read_optional() or 0),
            swap_bytes=swap,
            peak_bytes=int(self._peak.read_optional() or 0),
            limit_bytes=parse_limit_v1(self._limit.read()),
            failcnt=int(self._failcnt.read_optional() or 0),
            memsw_failcnt=int(self._memsw_failcnt.read_optional() or 0),
            page_faults=faults,
            major_page_faults=major,
            oom_kills=own_kills + self._oom_kills.descendants_sum(),
        )


class BlkioFiles:
    """The blkio controller's files of one cgroup; each device is read from its own source."""

    __slots__ = ("_bfq", "_mark", "_sources", "_throttle")

    def __init__(self, files: CounterFiles, directory: str, sources: BlockSources) -> None:
        self._mark = 0
        self._sources = sources
        self._throttle = _counter_pair(files, directory, "throttle")
        self._bfq = _counter_pair(files, directory, "bfq")

    def read(self) -> tuple[BlkioStats, ...]:
        """Read the counters of every leaf device this cgroup has used."""
        stats: list[BlkioStats] = []
        texts: list[bytes] = []
        for name, (bytes_file, operations_file) in (
            ("throttle", self._throttle),
            ("bfq", self._bfq),
        ):
            texts.append(bytes_file.read_optional())
            moved = parse_blkio(texts[-1])
            if not moved:
                continue
            believed = [d for d in moved if self._sources.source(d) == name]
            operations = parse_blkio(operations_file.read_optional()) if believed else {}
            stats += (_blkio_stats(d, name, moved, operations) for d in believed)
        self._mark = hash(tuple(texts))
        return tuple(stats)

    def is_still(self) -> bool:
        """Whether as many bytes were moved as at the last reading."""
        texts = (self._throttle[0].read_optional(), self._bfq[0].read_optional())
        return hash(texts) == self._mark


def _counter_pair(
    files: CounterFiles, directory: str, policy: str
) -> tuple[CounterFile, CounterFile]:
    """Return the byte and the operation counters of one policy, descendants included."""
    return (
        files.file(directory, f"blkio.{policy}.io_service_bytes_recursive", optional=True),
        files.file(directory, f"blkio.{policy}.io_serviced_recursive", optional=True),
    )


def _blkio_stats(device: Device, source: str, moved: _Counts, operations: _Counts) -> BlkioStats:
    read_bytes, write_bytes, discard_bytes = moved[device]
    reads, writes, discards = operations.get(device, (0, 0, 0))
    return BlkioStats(
        *device, source, read_bytes, write_bytes, discard_bytes, reads, writes, discards
    )


class OomKills:
    """The OOM kills of a v1 cgroup and its descendants, which the kernel counts one by one.

    ``memory.oom_control`` is not hierarchical, and a removed descendant takes its count along:
    the last value seen of each is kept, so that the sum never falls. What happens in a descendant
    that lives between two readings only is missed.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._seen: dict[tuple[str, int], int] = {}

    def descendants_sum(self) -> int:
        """Return the sum over all descendants, dead ones included."""
        if self._has_children():
            self._walk(self._directory)
        return sum(self._seen.values())

    def _has_children(self) -> bool:
        """A cgroup directory has two links and one more for each child."""
        try:
            status = os.stat(self._directory)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise
        return status.st_nlink > 2

    def _walk(self, directory: str) -> None:
        for child in _child_directories(directory):
            try:
                inode = os.stat(child).st_ino
                text = _read_path(f"{child}/memory.oom_control")
            except OSError as error:
                if error.errno in GONE:
                    continue
                raise
            self._seen[child, inode] = int(text.rpartition(b"oom_kill ")[2] or 0)
            self._walk(child)


def _child_directories(directory: str) -> Sequence[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def _read_path(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, READ_SIZE)
    finally:
        os.close(fd)
