"""From cgroup and /proc records to readings, in the account's order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aruntime.cgroups.stats import (
    BlkioStats,
    CpuStats,
    FastStats,
    MemoryStats,
    PidsStats,
    Pressure,
    Stats,
    ThrottlingStats,
)
from aruntime.metering.account import COUNTERS, ProcessIo
from aruntime.metering.reading import (
    device_name,
    from_fast,
    from_stats,
    parse_process_io,
    read_process_io,
    read_tree_io,
)

IO = b"""rchar: 4292
wchar: 0
syscr: 13
syscw: 0
read_bytes: 8192
write_bytes: 20971520
cancelled_write_bytes: 4096
"""


def bare(**parts: object) -> Stats:
    """A reading on a host without any source but CPU time, and some parts."""
    fields: dict[str, object] = {
        "inode": 1, "cpu": CpuStats(100, 60, 40), "throttling": None, "memory": None,
        "blkio": None, "pids": None, "pressure": None, "frozen_usec": None, "procs_path": "",
    }  # fmt: skip
    return Stats(**{**fields, **parts})  # type: ignore[arg-type]  # fields by name


def memory() -> MemoryStats:
    """Memory numbers that are all different."""
    return MemoryStats(*range(1000, 1000 + len(MemoryStats.__struct_fields__)))


def test_every_counter_has_its_place() -> None:
    """Each kernel counter lands where the account keeps it."""
    stats = bare(
        throttling=ThrottlingStats(1, 2, 3, 4, 5),
        memory=memory(),
        pids=PidsStats(7, 8, 9, 10),
        pressure=Pressure(11, 12, 13, 14, 15),
        frozen_usec=16,
    )
    reading = from_stats(stats, 5)
    assert reading.counters is not None
    named = dict(zip(COUNTERS, reading.counters, strict=True))

    assert named == {
        "cpu_user_ns": 60, "cpu_system_ns": 40,
        "cpu_periods": 1, "cpu_throttled_periods": 2, "cpu_throttled_ns": 3,
        "memory_limit_hits": memory().limit_hits, "oom_kills": memory().oom_kills,
        "page_faults": memory().page_faults, "major_page_faults": memory().major_page_faults,
        "pids_limit_hits": 10, "cpu_waiting_us": 11, "memory_waiting_us": 12,
        "memory_stalled_us": 13, "io_waiting_us": 14, "io_stalled_us": 15, "frozen_us": 16,
    }  # fmt: skip
    assert (5, 100, memory().working_set_bytes, memory().peak_bytes) == (
        reading.boot_ns,
        reading.cpu_ns,
        reading.working_set,
        reading.memory_peak,
    )


def test_absent_sources_are_none() -> None:
    """What a host does not count is None, never 0."""
    reading = from_stats(bare(), 5)
    assert reading.counters is not None

    assert reading.counters[2:] == (None,) * (len(COUNTERS) - 2)
    assert reading.block is None
    assert reading.network is None
    assert reading.working_set == 0


def test_block_devices_are_named() -> None:
    """Devices carry the kernel's name if it has one, else their numbers; idle disks show 0."""
    row = BlkioStats(4095, 7, "throttle", 10, 20, 30, 1, 2, 3)
    reading = from_stats(bare(blkio=(row,)), 5, disks=("vda",))

    assert reading.block == {"4095:7": (10, 20, 1, 2, 30), "vda": (0, 0, 0, 0, 0)}
    disks = [entry for entry in Path("/sys/dev/block").iterdir() if not entry.name.startswith("7:")]
    for disk in disks[:1]:
        major, minor = map(int, disk.name.split(":"))
        known = BlkioStats(major, minor, "throttle", 0, 0, 0, 0, 0, 0)

        assert device_name(known) == disk.resolve().name == device_name(known)


def test_fast_reading() -> None:
    """The quick reading bills the working set."""
    reading = from_fast(FastStats(7, 5000, 4096), 9)

    assert (reading.boot_ns, reading.cpu_ns, reading.working_set) == (9, 7, 904)
    assert reading.counters is None


def test_process_io() -> None:
    """The file of proc(5) as the kernel writes it."""
    assert parse_process_io(IO) == ProcessIo(8192, 20971520, 4096)


@pytest.mark.parametrize("text", [b"", b"read_bytes: 1\n", IO.replace(b"8192", b"many")])
def test_malformed_process_io(text: bytes) -> None:
    """A file that is not in the format is an error, not zeros."""
    with pytest.raises((KeyError, ValueError)):
        parse_process_io(text)


def test_own_process_io() -> None:
    """The kernel's own file is read and parsed."""
    assert read_process_io(os.getpid()) >= ProcessIo(0, 0, 0)


def test_tree_is_summed_without_the_vanished(tmp_path: Path) -> None:
    """Processes that ended between two system calls are left out."""
    for pid in (10, 12):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "io").write_bytes(IO)
    procs = tmp_path / "cgroup.procs"
    procs.write_text("10\n11\n12\n")

    assert read_tree_io(str(procs), str(tmp_path)) == ProcessIo(16384, 41943040, 8192)


def test_unreadable_process_is_an_error(tmp_path: Path) -> None:
    """Figures that exist but cannot be read are not taken for zeros."""
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "io").mkdir()
    procs = tmp_path / "cgroup.procs"
    procs.write_text("10\n")

    with pytest.raises(IsADirectoryError):
        read_tree_io(str(procs), str(tmp_path))
