"""From the files of a cgroup to one :class:`~aruntime.metering.account.Reading`.

Turns the records of :mod:`aruntime.cgroups.stats` into counters in the account's order, and reads
what no cgroup tells: /proc/PID/io, which on cgroup v1 is the only place where buffered writes
appear. Out of scope: integrating (:mod:`aruntime.metering.account`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping

from aruntime.cgroups.files import read_file
from aruntime.cgroups.stats import BlkioStats, FastStats, Stats
from aruntime.metering.account import BLOCK_COUNTERS, Ints, ProcessIo, Reading

NO_BLOCK_IO: Ints = (0,) * len(BLOCK_COUNTERS)

GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})
"""What a process or cgroup answers that ended between two system calls: no sample, no error."""


def fast_of(stats: Stats) -> FastStats:
    """The billed numbers of a complete reading."""
    memory = stats.memory
    return FastStats(
        cpu_usage_ns=stats.cpu.usage_ns,
        memory_usage_bytes=memory.usage_bytes if memory is not None else 0,
        inactive_file_bytes=memory.inactive_file_bytes if memory is not None else 0,
    )


def from_fast(stats: FastStats, boot_ns: int, network: Mapping[str, Ints] | None = None) -> Reading:
    """A reading of the billed numbers alone, or with interface counters."""
    usage, inactive = stats.memory_usage_bytes, stats.inactive_file_bytes
    working_set = usage - inactive if usage > inactive else 0  # as stats.working_set_bytes
    return Reading(boot_ns, stats.cpu_usage_ns, working_set, None, None, network, None, 0, usage)


def from_stats(
    stats: Stats,
    boot_ns: int,
    *,
    process: ProcessIo | None = None,
    network: Mapping[str, Ints] | None = None,
    disks: Iterable[str] = (),
) -> Reading:
    """A reading of everything.

    Args:
        stats: what the cgroup says.
        boot_ns: when.
        process: figures of the process tree.
        network: interface counters.
        disks: names of disks that show 0 until the cgroup uses them: a counter that is born with
            its first value would lose that value to whoever takes differences.
    """
    memory = stats.memory
    block = None
    if stats.blkio is not None:
        block = dict.fromkeys(disks, NO_BLOCK_IO)
        block.update((device_name(row), _block_row(row)) for row in stats.blkio)
    return Reading(
        boot_ns=boot_ns,
        cpu_ns=stats.cpu.usage_ns,
        working_set=memory.working_set_bytes if memory is not None else 0,
        counters=_counters(stats),
        block=block,
        network=network,
        process=process,
        memory_peak=memory.peak_bytes if memory is not None else 0,
        usage_bytes=memory.usage_bytes if memory is not None else 0,
        pids=stats.pids.current if stats.pids is not None else 0,
    )


def _counters(stats: Stats) -> tuple[int | None, ...]:
    """In the order of :data:`aruntime.metering.account.COUNTERS`."""
    throttling, memory, pressure = stats.throttling, stats.memory, stats.pressure
    return (
        stats.cpu.user_ns,
        stats.cpu.system_ns,
        *(
            (throttling.periods, throttling.throttled_periods, throttling.throttled_ns)
            if throttling is not None
            else (None,) * 3
        ),
        *(
            (memory.limit_hits, memory.oom_kills, memory.page_faults, memory.major_page_faults)
            if memory is not None
            else (None,) * 4
        ),
        stats.pids.limit_hits if stats.pids is not None else None,
        *(
            (
                pressure.cpu_some_usec,
                pressure.memory_some_usec,
                pressure.memory_full_usec,
                pressure.io_some_usec,
                pressure.io_full_usec,
            )
            if pressure is not None
            else (None,) * 5
        ),
        stats.frozen_usec,
    )


def _block_row(row: BlkioStats) -> Ints:
    return (row.read_bytes, row.write_bytes, row.reads, row.writes, row.discard_bytes)


_DEVICE_NAMES: dict[tuple[int, int], str] = {}


def device_name(row: BlkioStats) -> str:
    """The kernel's name of a block device (``vda``); its numbers when it is gone."""
    key = (row.major, row.minor)
    name = _DEVICE_NAMES.get(key)
    if name is None:
        try:
            name = os.path.basename(os.readlink(f"/sys/dev/block/{row.major}:{row.minor}"))
        except OSError:
            return f"{row.major}:{row.minor}"
        _DEVICE_NAMES[key] = name
    return name


_PROCESS_IO_KEYS = [b"read_bytes:", b"write_bytes:", b"cancelled_write_bytes:"]
"""The last ones, in the kernel's order."""


# rchar: 4292
# wchar: 0
# syscr: 13
# syscw: 0
# read_bytes: 0
# write_bytes: 0
# cancelled_write_bytes: 0
def parse_process_io(text: bytes) -> ProcessIo:
    """Parse /proc/PID/io (proc(5))."""
    words = text.split()
    if words[8::2] == _PROCESS_IO_KEYS:
        return ProcessIo(int(words[9]), int(words[11]), int(words[13]))
    values = dict(zip(words[::2], words[1::2], strict=True))
    return ProcessIo(
        int(values[b"read_bytes:"]),
        int(values[b"write_bytes:"]),
        int(values[b"cancelled_write_bytes:"]),
    )


def read_process_io(pid: int, proc: str = "/proc") -> ProcessIo:
    """Figures of a process, its threads and the children it reaped; a zombie's are final.

    Raises:
        OSError: the process is gone or may not be read.
    """
    return parse_process_io(read_file(f"{proc}/{pid}/io"))


def read_tree_io(procs_path: str, proc: str = "/proc") -> ProcessIo:
    """Sum over the processes a cgroup.procs file lists; the vanished are left out.

    Raises:
        OSError: the cgroup is gone.
    """
    pids = read_file(procs_path).split()
    read = write = cancelled = 0
    for pid in pids:
        try:
            figures = read_process_io(int(pid), proc)
        except OSError as error:
            if error.errno not in GONE:
                raise
            continue
        read += figures.read_bytes
        write += figures.write_bytes
        cancelled += figures.cancelled_write_bytes
    return ProcessIo(read, write, cancelled)
