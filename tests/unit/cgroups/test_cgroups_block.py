"""Which disks count and which counters are believed, on made-up /sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from aruntime.cgroups import block, capacity
from aruntime.cgroups.block import BlkioSource, BlockSources, Disk
from aruntime.errors import InvalidParameter, KernelFeatureMissing

VDA = Disk(254, 0, "vda", "mq-deadline")
SDA = Disk(8, 0, "sda", "bfq")


def add_disk(
    sys_root: Path,
    name: str,
    device: str,
    scheduler: str = "[none] mq-deadline bfq",
    *,
    slaves: tuple[str, ...] = (),
    hidden: str = "0",
    size: str = "1000",
) -> None:
    """Make a block device in a /sys tree as the kernel shows it."""
    directory = sys_root / "block" / name
    (directory / "queue").mkdir(parents=True)
    (directory / "slaves").mkdir()
    for slave in slaves:
        (directory / "slaves" / slave).touch()
    (directory / "dev").write_text(f"{device}\n")
    (directory / "queue/scheduler").write_text(f"{scheduler}\n")
    (directory / "hidden").write_text(f"{hidden}\n")
    (directory / "size").write_text(f"{size}\n")
    (sys_root / "dev/block").mkdir(parents=True, exist_ok=True)
    (sys_root / "dev/block" / device).symlink_to(directory)


@pytest.fixture
def sys_root(tmp_path: Path) -> str:
    """A host with plain, stacked, memory-backed, empty and multipath disks and a partition."""
    root = tmp_path / "sys"
    add_disk(root, "vda", "254:0", "none [mq-deadline] kyber bfq")
    add_disk(root, "sda", "8:0", "none mq-deadline [bfq]")
    add_disk(root, "dm-0", "253:0", "none", slaves=("sda",))
    add_disk(root, "md0", "9:0", "none", slaves=("vda", "sda"))
    add_disk(root, "loop0", "7:0")
    add_disk(root, "ram15", "1:15", "none")
    add_disk(root, "zram0", "252:0", "none")
    add_disk(root, "sr0", "11:0", size="0")
    add_disk(root, "nvme0c0n1", "259:1", hidden="1")
    add_disk(root, "nvme0n1", "259:0")
    partition = root / "block/vda/vda1"
    partition.mkdir()
    (partition / "partition").write_text("1\n")
    (root / "dev/block/254:1").symlink_to(partition)
    return str(root)


def test_leaf_disks_are_counted_once(sys_root: str) -> None:
    """What lies on another device, in memory, or is empty or hidden, is left out."""
    assert [disk.name for disk in block.leaf_disks(sys_root)] == ["nvme0n1", "sda", "vda"]
    assert VDA in block.leaf_disks(sys_root)
    assert SDA in block.leaf_disks(sys_root)
    assert len(block.all_disks(sys_root)) == 10


def test_partitions_and_their_disks(sys_root: str) -> None:
    """A partition is recognised and leads to its disk."""
    assert block.is_partition((254, 1), sys_root)
    assert not block.is_partition((254, 0), sys_root)
    assert block.whole_disk_of((254, 1), sys_root) == (254, 0)
    assert not block.exists((254, 2), sys_root)


@pytest.fixture
def blkio(tmp_path: Path) -> tuple[str, str]:
    """The root and one group of a blkio hierarchy in which nothing counts."""
    group = tmp_path / "blkio/aruntime"
    group.mkdir(parents=True)
    (tmp_path / "blkio" / block.THROTTLE_BYTES).write_text("Total 0\n")
    (group / block.READ_BPS).touch()
    return str(tmp_path / "blkio"), str(group)


def test_decisions_per_disk(blkio: tuple[str, str]) -> None:
    """Counting throttle files win, then bfq; otherwise nothing counts and that is said."""
    root, _ = blkio
    assert [d.source for d in block.decide(root, [VDA, SDA])] == ["none", "bfq"]
    Path(root, block.THROTTLE_BYTES).write_text("8:0 Read 0\n8:0 Total 0\nTotal 0\n")
    assert [d.source for d in block.decide(root, [VDA, SDA])] == ["none", "throttle"]


def test_activation_writes_one_rule_per_uncounted_disk(blkio: tuple[str, str]) -> None:
    """A disk that counts already is left alone, whoever switched it on."""
    root, group = blkio
    Path(root, block.THROTTLE_BYTES).write_text("8:0 Read 0\nTotal 0\n")
    assert block.activate(root, group, [VDA, SDA]) == [
        BlkioSource(VDA, "throttle", True, ""),
        BlkioSource(SDA, "throttle", False, ""),
    ]
    assert Path(group, block.READ_BPS).read_text() == "254:0 0"


def test_failed_activation_is_told_and_falls_back(blkio: tuple[str, str]) -> None:
    """A kernel without throttling is a fact to report, not a crash."""
    root, group = blkio
    Path(group, block.READ_BPS).unlink()
    assert block.activate(root, group, [VDA, SDA]) == [
        BlkioSource(VDA, "none", False, "No such file or directory"),
        BlkioSource(SDA, "bfq", False, "No such file or directory"),
    ]


def test_decisions_are_kept_and_new_disks_looked_up() -> None:
    """A source never changes under a running container; a hot-plugged disk is found."""
    present = {VDA: "bfq"}
    sources = BlockSources(lambda: [BlkioSource(d, s, False, "") for d, s in present.items()])
    assert sources.source((254, 0)) == "bfq"
    present[VDA] = "throttle"
    present[SDA] = "throttle"
    assert sources.source((8, 0)) == "throttle"
    assert sources.source((254, 0)) == "bfq"
    assert sources.source((253, 0)) == "none"
    sources.record([BlkioSource(VDA, "throttle", True, "")])
    assert sources.source((254, 0)) == "throttle"


def test_limits_name_devices_of_this_host(sys_root: str) -> None:
    """Unknown devices and partitions are refused with a way out; whole disks pass."""

    def limit(major: int, minor: int) -> None:
        row = {"major": major, "minor": minor, "rate": 1}
        capacity.check_block_devices({"blockIO": {"throttleReadBpsDevice": [row]}}, sys_root)

    limit(254, 0)
    with pytest.raises(InvalidParameter, match="no block device 254:9"):
        limit(254, 9)
    with pytest.raises(InvalidParameter, match="name the disk 254:0"):
        limit(254, 1)


def test_weights_need_bfq(sys_root: str) -> None:
    """A plain weight needs one bfq disk, a device weight that very disk."""
    row = {"major": 254, "minor": 0, "weight": 100}
    capacity.check_weights({"blockIO": {"weight": 500}}, sys_root)
    capacity.check_weights({"blockIO": {"weightDevice": [{**row, "major": 8}]}}, sys_root)
    with pytest.raises(KernelFeatureMissing, match="vda needs the bfq scheduler"):
        capacity.check_weights({"blockIO": {"weightDevice": [row]}}, sys_root)
    Path(sys_root, "block/sda/queue/scheduler").write_text("[none] bfq\n")
    with pytest.raises(KernelFeatureMissing, match="no disk of this host"):
        capacity.check_weights({"blockIO": {"weight": 500}}, sys_root)


def test_cpus_must_be_available() -> None:
    """docker's message with what was asked for and what there is."""
    capacity.check_cpuset({"cpu": {"cpus": "1", "mems": "0"}}, "0-1\n", "0\n")
    capacity.check_cpuset({}, "0-1\n", "0\n")
    with pytest.raises(InvalidParameter, match="requested 1-2, available: 0-1"):
        capacity.check_cpuset({"cpu": {"cpus": "1-2"}}, "0-1\n", "0\n")
