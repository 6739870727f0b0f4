"""Block I/O on real disks: limits that hold, weights under bfq, counters that count.

The scheduler is changed on a loop device of the test only, never on a disk of the host.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aruntime.cgroups import block
from aruntime.cgroups.block import BlkioSource, Disk
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup, Driver
from aruntime.cgroups.parsers import parse_blkio
from aruntime.cgroups.stats import BlkioStats
from aruntime.errors import InvalidParameter, KernelFeatureMissing
from aruntime.spec import device_rule

if TYPE_CHECKING:
    from tests.kernel.cgroups.conftest import Scene

pytestmark = pytest.mark.kernel

MIB = 1 << 20
CHUNK = 64 << 10

DIRECT_WRITE = """
import mmap
fd = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
chunk = mmap.mmap(-1, {chunk})
start = time.monotonic()
for _ in range({count}): os.write(fd, chunk)
print(time.monotonic() - start)
"""
ROUNDS_SECONDS = 60.0
"""How long a load of the host may spoil the sharing of a disk."""
DIRECT_READ_FOR = """
import mmap
fd = os.open({path!r}, os.O_RDONLY | os.O_DIRECT)
chunk, place = mmap.mmap(-1, {chunk}), 0
os.fork(), os.fork()
sys.stdin.read()
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    os.preadv(fd, [chunk], place)
    place = (place + {chunk}) % {size}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """The leaf disk under the tests' files."""
    status = os.stat(tmp_path)
    device = os.major(status.st_dev), os.minor(status.st_dev)
    if block.exists(device) and block.is_partition(device):
        device = block.whole_disk_of(device)
    for disk in block.leaf_disks():
        if disk.device == device:
            return disk
    pytest.skip("the tests' files are not on a plain disk")


@pytest.fixture
def loop(hierarchy: Hierarchy, tmp_path: Path) -> Iterator[Disk]:
    """A loop device over a file of 64 MiB with the bfq scheduler."""
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(64 * MIB))
    command = ["losetup", "--find", "--show", "--direct-io=on", str(backing)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr}")
    path = made.stdout.strip()
    scheduler = Path("/sys/block", Path(path).name, "queue/scheduler")
    before = scheduler.read_text().partition("[")[2].partition("]")[0] or "none"
    try:
        if "bfq" not in scheduler.read_text():
            pytest.skip("kernel without bfq")
        scheduler.write_text("bfq")
        # Without this, bfq prefers whoever came last for a while, against the weights.
        (scheduler.parent / "iosched/low_latency").write_text("0")
        yield next(disk for disk in block.all_disks() if disk.name == Path(path).name)
        scheduler.write_text(before)
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


def rule(disk: Disk, rate: int) -> dict[str, int]:
    """Return one throttle rule of the specification."""
    return {"major": disk.major, "minor": disk.minor, "rate": rate}


def counted(scene: Scene, path: Path, limits: dict[str, Any], count: int) -> tuple[float, int]:
    """Write ``count`` chunks past the page cache; return the seconds and the kernel's bytes."""
    cgroup = scene.driver.create("io", {"blockIO": limits})
    reader = scene.driver.open_reader(cgroup)
    code, told = scene.run(cgroup, DIRECT_WRITE.format(path=str(path), chunk=CHUNK, count=count))
    assert code == 0
    elapsed = float(told)
    stats = reader.read()
    reader.close()
    scene.end(cgroup)
    assert stats is not None
    assert stats.blkio is not None
    return elapsed, sum(device.write_bytes for device in stats.blkio)


def test_write_bps_is_held_as_the_byte_counter_shows(
    scene: Scene, disk: Disk, tmp_path: Path
) -> None:
    """2 MB/s to the disk takes a second for 2 MB; without the limit it is ten times faster."""
    scene.driver.activate_block_counters()
    rate = 2 * MIB
    limit = {"throttleWriteBpsDevice": [rule(disk, rate)]}
    elapsed, written = counted(scene, tmp_path / "slow", limit, rate // CHUNK)
    # Others use the disk too: the best of some is what there is without the limit.
    free_elapsed, free_written = min(
        counted(scene, tmp_path / f"fast{n}", {}, rate // CHUNK) for n in range(5)
    )
    assert written >= rate
    assert free_written >= rate
    assert written / elapsed < rate * 1.25
    assert free_written / free_elapsed > 10 * written / elapsed


def test_write_iops_is_held(scene: Scene, disk: Disk, tmp_path: Path) -> None:
    """20 writes a second: 20 direct writes take about a second."""
    scene.driver.activate_block_counters()
    limit = {"throttleWriteIOPSDevice": [rule(disk, 20)]}
    elapsed, written = counted(scene, tmp_path / "slow", limit, 20)
    assert written >= 20 * CHUNK
    assert elapsed > 0.6


def test_throttles_are_written_updated_and_removed(scene: Scene, disk: Disk) -> None:
    """All four rules read back; rate 0 removes one."""
    names = ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
    limits = {f"throttle{name}Device": [rule(disk, 1000 + n)] for n, name in enumerate(names)}
    cgroup = scene.driver.create("t", {"blockIO": limits})
    view = scene.driver.set_limits_view(cgroup)["blockIO"]
    assert {name: view[name] for name in limits} == limits
    scene.driver.apply(cgroup, {"blockIO": {"throttleReadBpsDevice": [rule(disk, 0)]}})
    after = scene.driver.set_limits_view(cgroup)["blockIO"]
    assert "throttleReadBpsDevice" not in after
    assert after["throttleWriteBpsDevice"] == limits["throttleWriteBpsDevice"]


def test_throttle_on_an_unknown_device_is_refused(driver: Driver) -> None:
    """check finds a device number that the host does not have."""
    row = {"major": 4095, "minor": 3, "rate": 1}
    with pytest.raises(InvalidParameter, match="no block device 4095:3"):
        driver.check({"blockIO": {"throttleReadBpsDevice": [row]}})


def test_weight_without_bfq_is_refused(driver: Driver) -> None:
    """A weight that no disk would honour is an error that shows the way."""
    if any(disk.scheduler == "bfq" for disk in block.all_disks()):
        pytest.skip("a disk uses bfq")
    with pytest.raises(KernelFeatureMissing, match="bfq"):
        driver.check({"blockIO": {"weight": 300}})


def test_weights_share_a_bfq_disk(scene: Scene, loop: Disk) -> None:
    """Weights 1000 and 100 get clearly different shares of a busy loop device.

    A busy host may keep a reader from the CPU, and then the disk is not what is shared: several
    rounds are allowed. Without weights the shares are about equal in each.
    """
    cgroups = []
    for name, weight in (("heavy", 1000), ("light", 100)):
        row = {"major": loop.major, "minor": loop.minor, "weight": weight}
        block_io = {"weight": weight, "weightDevice": [row]}
        limits = {"blockIO": block_io, "devices": [device_rule(f"b {loop.major}:{loop.minor} r")]}
        scene.driver.check(limits)
        cgroups.append(scene.driver.create(name, limits))
        assert scene.driver.set_limits_view(cgroups[-1])["blockIO"]["weight"] == weight
    ratios: list[float] = []
    give_up = time.monotonic() + ROUNDS_SECONDS
    while max(ratios, default=0) < 3 and time.monotonic() < give_up:
        heavy, light = read_together(scene, loop, cgroups)
        ratios.append(heavy / light)
    assert max(ratios) >= 3, ratios


def read_together(scene: Scene, loop: Disk, cgroups: list[Cgroup]) -> list[int]:
    """Read the loop device from each cgroup at once; return the bytes each of them got."""
    program = DIRECT_READ_FOR.format(
        path=f"/dev/{loop.name}", chunk=CHUNK, seconds=0.3, size=64 * MIB
    )
    before = [bfq_bytes(scene, loop, cgroup) for cgroup in cgroups]
    children = [scene.inside_ready(cgroup, program) for cgroup in cgroups]
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None
    for child in children:
        assert child.wait(timeout=30) == 0
    return [bfq_bytes(scene, loop, c) - b for c, b in zip(cgroups, before, strict=True)]


def bfq_bytes(scene: Scene, loop: Disk, cgroup: Cgroup) -> int:
    """Return what bfq counted as read from the loop device by a cgroup."""
    text = scene.read(cgroup, "blkio.bfq.io_service_bytes_recursive")
    return parse_blkio(text.encode()).get(loop.device, (0, 0, 0))[0]


def test_weight_for_a_disk_without_bfq_is_refused(driver: Driver, loop: Disk, disk: Disk) -> None:
    """A device weight needs bfq on that very device."""
    if disk.scheduler == "bfq":
        pytest.skip("the disk uses bfq")
    driver.check({"blockIO": {"weight": 300}})
    row = {"major": disk.major, "minor": disk.minor, "weight": 300}
    with pytest.raises(KernelFeatureMissing, match=disk.name):
        driver.check({"blockIO": {"weightDevice": [row]}})


def test_activated_counters_count_to_the_byte(
    hierarchy: Hierarchy, scene: Scene, loop: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After activation the throttle file is believed, and a direct write is counted exactly."""
    driver = scene.driver
    cgroup = driver.create("io", {"devices": [device_rule(f"b {loop.major}:{loop.minor} rw")]})
    root = hierarchy.v1["blkio"]
    group = driver.cgroup_at(driver.parent).directories["blkio"]
    block.activate(root, group, [loop])
    assert block.decide(root, [loop]) == [BlkioSource(loop, "throttle", False, "")]
    assert block.activate(root, group, [loop]) == block.decide(root, [loop])
    monkeypatch.setattr(block, "leaf_disks", lambda: [loop])
    reader = driver.open_reader(cgroup)
    program = DIRECT_WRITE.format(path=f"/dev/{loop.name}", chunk=CHUNK, count=16)
    assert scene.run(cgroup, program)[0] == 0
    stats = reader.read()
    reader.close()
    assert stats is not None
    assert stats.blkio == (
        BlkioStats(loop.major, loop.minor, "throttle", 0, 16 * CHUNK, 0, 0, 16, 0),
    )


def test_loop_and_memory_disks_are_no_leaves(loop: Disk) -> None:
    """Their bytes are counted by the disk below, or never reach one."""
    assert loop in block.all_disks()
    assert loop not in block.leaf_disks()
    assert all(disk.name[:3] not in ("ram", "zra") for disk in block.leaf_disks())
