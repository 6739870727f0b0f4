"""Both readers on recorded trees: every figure, missing files, vanished cgroups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aruntime.cgroups.block import BlkioSource, BlockSources, Disk
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.reader import Reader
from aruntime.cgroups.reader_v1 import V1Reader
from aruntime.cgroups.reader_v2 import V2Reader
from aruntime.cgroups.stats import (
    BlkioStats,
    CpuStats,
    FastStats,
    MemoryStats,
    PidsStats,
    Pressure,
    ThrottlingStats,
)
from aruntime.cgroups.view_v1 import limits_view
from aruntime.cgroups.view_v2 import limits_view as limits_view_v2

TREES = Path(__file__).parent / "trees"
VDA = Disk(254, 0, "vda", "mq-deadline")
THROTTLING = ThrottlingStats(15, 8, 137541405, 0, 0)
PRESSURE = Pressure(142450, 8965, 8965, 225419, 225419)


def believing(source: str) -> BlockSources:
    """Decisions for a host with one leaf disk."""
    return BlockSources(lambda: [BlkioSource(VDA, source, False, "")])


@pytest.fixture
def hybrid(tmp_path: Path) -> Cgroup:
    """A copy of the recorded hybrid tree, to be changed at will."""
    shutil.copytree(TREES / "hybrid", tmp_path, dirs_exist_ok=True)
    names = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "unified")
    return Cgroup("/aruntime/c1", {name: str(tmp_path / name) for name in names})


@pytest.fixture
def v2(tmp_path: Path) -> Cgroup:
    """A copy of the v2 tree."""
    shutil.copytree(TREES / "v2", tmp_path, dirs_exist_ok=True)
    return Cgroup("/aruntime/c1", {"unified": str(tmp_path)})


@pytest.fixture(params=[True, False], ids=["kept", "by name"])
def keep_open(request: pytest.FixtureRequest) -> bool:
    """Both ways of holding descriptors."""
    return bool(request.param)


@pytest.fixture
def v1_reader(hybrid: Cgroup, keep_open: bool) -> Iterator[Reader]:
    """A reader on the hybrid tree."""
    reader = V1Reader(hybrid, believing("throttle"), keep_open=keep_open)
    yield reader
    reader.close()


@pytest.fixture
def v2_reader(v2: Cgroup, keep_open: bool) -> Iterator[Reader]:
    """A reader on the v2 tree."""
    reader = V2Reader(v2, believing("io_stat"), keep_open=keep_open)
    yield reader
    reader.close()


def test_hybrid_tree_as_recorded(v1_reader: Reader, hybrid: Cgroup) -> None:
    """Every figure of a slow reading comes from the file that is to be believed."""
    stats = v1_reader.read()
    assert stats is not None
    assert stats.inode == Path(hybrid.directories["cpuacct"]).stat().st_ino
    assert stats.cpu == CpuStats(326059589, 90_000_000, 220_000_000)
    assert stats.throttling == THROTTLING
    assert stats.memory == MemoryStats(
        usage_bytes=5459968,
        inactive_file_bytes=0,
        rss_bytes=2883584,
        cache_bytes=2097152,
        shmem_bytes=2097152,
        mapped_file_bytes=1048576,
        dirty_bytes=0,
        writeback_bytes=0,
        kernel_bytes=462848,
        swap_bytes=0,
        peak_bytes=50331648,
        limit_bytes=50331648,
        failcnt=1756,
        memsw_failcnt=0,
        page_faults=24138,
        major_page_faults=0,
        oom_kills=2,
    )
    assert stats.memory.limit_hits == 1756
    assert stats.blkio == (BlkioStats(254, 0, "throttle", 9441280, 7352320, 0, 15, 12, 0),)
    assert stats.pids == PidsStats(5, 6, 5, 2)
    assert stats.pressure == PRESSURE
    assert stats.frozen_usec == 38346


def test_hybrid_fast_reading(v1_reader: Reader) -> None:
    """The billed numbers agree with the slow reading."""
    assert v1_reader.read_fast() == FastStats(326059589, 5459968, 0)


def test_hybrid_tree_that_stands_still(v1_reader: Reader, hybrid: Cgroup) -> None:
    """What a complete reading would say again is not read again, until something moves."""
    assert v1_reader.read_still() is None  # nothing to compare with
    assert v1_reader.read() is not None
    assert v1_reader.read_still() == v1_reader.read_fast()

    Path(hybrid.directories["memory"], "memory.usage_in_bytes").write_text("5459969\n")
    assert v1_reader.read_still() == FastStats(326059589, 5459969, 0)


@pytest.mark.parametrize(
    "name",
    [
        "cpuacct/cpuacct.usage",
        "memory/memory.stat",
        "blkio/blkio.throttle.io_service_bytes_recursive",
        "blkio/blkio.bfq.io_service_bytes_recursive",
        "unified/cgroup.stat.local",
    ],
)
def test_hybrid_tree_that_moves(v1_reader: Reader, hybrid: Cgroup, name: str) -> None:
    """Whatever may change without the others is enough to have everything read."""
    controller, _, file = name.partition("/")
    path = Path(hybrid.directories[controller], file)
    assert v1_reader.read() is not None
    before = path.read_text()
    path.write_text(before[:-2] + chr(ord(before[-2]) ^ 1) + before[-1])
    assert v1_reader.read_still() is None
    path.write_text(before)
    assert v1_reader.read_still() is not None


@pytest.mark.parametrize(
    ("name", "spent"),
    [
        ("cpuacct/cpuacct.usage", False),
        ("memory/memory.stat", True),
        ("memory/memory.usage_in_bytes", True),
        ("blkio/blkio.throttle.io_service_bytes_recursive", False),
    ],
)
def test_what_a_hybrid_tree_without_processes_is_asked(
    v1_reader: Reader, hybrid: Cgroup, name: str, spent: bool
) -> None:
    """CPU time and block I/O may still grow; of memory nothing more is billed."""
    controller, _, file = name.partition("/")
    path = Path(hybrid.directories[controller], file)
    assert not v1_reader.is_spent()  # nothing to compare with
    assert v1_reader.read() is not None
    assert v1_reader.is_spent()
    before = path.read_text()
    path.write_text(before[:-2] + chr(ord(before[-2]) ^ 1) + before[-1])
    assert v1_reader.is_spent() == spent


def test_removed_tree_does_not_stand_still(v1_reader: Reader, hybrid: Cgroup) -> None:
    """A cgroup that is gone is for the complete reading to tell."""
    assert v1_reader.read() is not None
    for directory in hybrid.directories.values():
        shutil.rmtree(directory)
    if v1_reader.read_still() is not None:
        # Kept descriptors of a plain file outlive it; the kernel's answer ENODEV.
        assert v1_reader.read_fast() is not None


def test_v2_tree_is_always_read(v2_reader: Reader) -> None:
    """There the kernel's own writeback is charged to the cgroup, whose processes do nothing."""
    assert v2_reader.read() is not None
    assert v2_reader.read_still() is None
    assert not v2_reader.is_spent()


def test_v2_tree(v2_reader: Reader) -> None:
    """The same record from v2's files; microseconds become nanoseconds, the stacked disk is out."""
    stats = v2_reader.read()
    assert stats is not None
    assert stats.cpu == CpuStats(1264884000, 1100000000, 164884000)
    assert stats.throttling == ThrottlingStats(12, 3, 250000000, 1, 400000)
    assert stats.memory == MemoryStats(
        usage_bytes=67293184,
        inactive_file_bytes=16777216,
        rss_bytes=41943040,
        cache_bytes=20971520,
        shmem_bytes=1048576,
        mapped_file_bytes=8388608,
        dirty_bytes=12288,
        writeback_bytes=8192,
        kernel_bytes=4378624,
        swap_bytes=4096,
        peak_bytes=70254592,
        limit_bytes=209715200,
        failcnt=17,
        memsw_failcnt=0,
        page_faults=25711,
        major_page_faults=37,
        oom_kills=1,
    )
    assert stats.memory.working_set_bytes == 67293184 - 16777216
    assert stats.blkio == (BlkioStats(254, 0, "io_stat", 9441280, 7352320, 4096, 15, 12, 1),)
    assert stats.pids == PidsStats(5, 6, 100, 2)
    assert stats.pressure == Pressure(142450, 8965, 8960, 225419, 225410)
    assert stats.frozen_usec == 1000675
    assert v2_reader.read_fast() == FastStats(1264884000, 67293184, 16777216)


def test_working_set_is_never_negative() -> None:
    """Charges are batched per CPU: inactive cache may exceed usage for a moment."""
    assert FastStats(1, 100, 200).working_set_bytes == 0


def test_bfq_is_read_where_it_is_believed(hybrid: Cgroup) -> None:
    """The two counter sets are never added: each device has one source."""
    blkio = Path(hybrid.directories["blkio"])
    for name in ("io_service_bytes", "io_serviced"):
        (blkio / f"blkio.bfq.{name}_recursive").write_text("254:0 Read 11\n254:0 Write 22\n")
    for source, expected in (
        ("bfq", (BlkioStats(254, 0, "bfq", 11, 22, 0, 11, 22, 0),)),
        ("throttle", (BlkioStats(254, 0, "throttle", 9441280, 7352320, 0, 15, 12, 0),)),
        ("none", ()),
    ):
        reader = V1Reader(hybrid, believing(source))
        stats = reader.read()
        reader.close()
        assert stats is not None
        assert stats.blkio == expected


def test_legacy_host_without_optional_controllers(hybrid: Cgroup) -> None:
    """What is not mounted is None, never zero; CPU time alone is enough to read."""
    alone = Cgroup(hybrid.path, {"cpuacct": hybrid.mounts["cpuacct"]})
    reader = V1Reader(alone, believing("none"))
    stats = reader.read()
    fast = reader.read_fast()
    reader.close()
    assert stats is not None
    assert stats.cpu.usage_ns == 326059589
    absent = (stats.throttling, stats.memory, stats.blkio, stats.pids, stats.pressure)
    assert absent == (None,) * 5
    assert stats.frozen_usec is None
    assert fast == FastStats(326059589, 0, 0)


def test_files_of_newer_kernels_are_optional(hybrid: Cgroup, keep_open: bool) -> None:
    """An older kernel without peak, events, pressure or memsw reads as zero or None."""
    missing = {
        "pids": ["pids.peak", "pids.events"],
        "cpu": ["cpu.stat"],
        "memory": ["memory.kmem.usage_in_bytes", "memory.memsw.failcnt"],
        "unified": ["cpu.pressure", "memory.pressure", "io.pressure", "cgroup.stat.local"],
        "blkio": ["blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"],
    }
    for controller, files in missing.items():
        for file in files:
            Path(hybrid.directories[controller], file).unlink()
    reader = V1Reader(hybrid, believing("throttle"), keep_open=keep_open)
    stats = reader.read()
    reader.close()
    assert stats is not None
    assert stats.throttling is None
    assert stats.pids == PidsStats(5, 0, 5, 0)
    assert stats.memory is not None
    assert stats.memory.kernel_bytes == 0
    assert stats.memory.failcnt == 1756
    assert stats.pressure is None
    assert stats.frozen_usec is None
    assert stats.blkio is not None
    assert len(stats.blkio) == 1


def test_v2_without_controllers(v2: Cgroup) -> None:
    """A cgroup no controller was handed down to still has CPU time and pressure."""
    directory = Path(v2.directories["unified"])
    for file in directory.iterdir():
        if file.name.startswith(("memory.c", "memory.s", "io.s", "pids.")):
            file.unlink()
    (directory / "cpu.stat").write_text("usage_usec 7\nuser_usec 4\nsystem_usec 3\n")
    reader = V2Reader(v2, believing("io_stat"))
    stats = reader.read()
    fast = reader.read_fast()
    reader.close()
    assert stats is not None
    assert stats.cpu == CpuStats(7000, 4000, 3000)
    assert (stats.throttling, stats.memory, stats.blkio, stats.pids) == (None,) * 4
    assert stats.pressure is not None
    assert fast == FastStats(7000, 0, 0)


def test_missing_cgroup_leaves_no_descriptor(hybrid: Cgroup, v2: Cgroup) -> None:
    """Opening a reader on a cgroup that is half gone fails clean; the leak check watches."""
    shutil.rmtree(hybrid.directories["pids"])
    with pytest.raises(FileNotFoundError):
        V1Reader(hybrid, believing("none"))
    shutil.rmtree(v2.directories["unified"])
    with pytest.raises(FileNotFoundError):
        V2Reader(v2, believing("none"))


def test_missing_counter_is_told_when_opening(hybrid: Cgroup, keep_open: bool) -> None:
    """A file that nothing can be billed without is an error at once, not a silent None later."""
    Path(hybrid.directories["memory"], "memory.usage_in_bytes").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        V1Reader(hybrid, believing("none"), keep_open=keep_open)
    assert str(caught.value.filename).endswith("memory.usage_in_bytes")


def test_oom_kills_of_descendants_are_summed_and_kept(hybrid: Cgroup) -> None:
    """Two levels of children count; a removed one keeps what it was last seen with."""
    memory = Path(hybrid.directories["memory"])
    for child, kills in (("a", 3), ("a/b", 4)):
        (memory / child).mkdir()
        (memory / child / "memory.oom_control").write_text(f"under_oom 0\noom_kill {kills}\n")
    reader = V1Reader(hybrid, believing("none"))
    try:
        for gone in (None, "a/b", "a"):
            if gone:
                shutil.rmtree(memory / gone)
            stats = reader.read()
            assert stats is not None
            assert stats.memory is not None
            assert stats.memory.oom_kills == 2 + 3 + 4
    finally:
        reader.close()


def test_limits_are_read_back_from_both_trees(hybrid: Cgroup, v2: Cgroup) -> None:
    """The specification's form of what is in force."""
    assert limits_view(hybrid) == {
        "memory": {
            "limit": 48 << 20,
            "swap": 96 << 20,
            "reservation": 32 << 20,
            "swappiness": 60,
        },
        "cpu": {"shares": 512, "quota": 30000, "period": 50000, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": 5},
        "blockIO": {
            "weight": 100,
            "throttleWriteBpsDevice": [{"major": 254, "minor": 0, "rate": 31457280}],
        },
    }
    assert limits_view_v2(v2.directories["unified"]) == {
        "memory": {"limit": 200 << 20, "swap": 300 << 20, "reservation": 100 << 20},
        "cpu": {"quota": 50000, "period": 100000, "cpus": "0-1"},
        "pids": {"limit": 100},
        "blockIO": {
            "throttleWriteBpsDevice": [{"major": 254, "minor": 0, "rate": 31457280}],
            "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 120}],
        },
        "unified": {"cpu.weight": "59"},
    }
