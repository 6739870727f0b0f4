"""Counters of real v1 cgroups: what they say, and what becomes of them."""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

import pytest

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup, Driver, open_driver
from aruntime.errors import InvalidParameter

if TYPE_CHECKING:
    from tests.kernel.cgroups.conftest import Scene

pytestmark = pytest.mark.kernel

MIB = 1 << 20


def test_oom_kill_is_seen(scene: Scene, driver: Driver) -> None:
    """A process that wants more than the limit is killed, and counted once."""
    cgroup = driver.create("oom", {"memory": {"limit": 16 * MIB}})
    reader = driver.open_reader(cgroup)
    before = reader.read()
    code, _ = scene.run(cgroup, "hog = bytearray(64 << 20)")
    after = reader.read()
    assert code == -signal.SIGKILL
    assert before is not None
    assert before.memory is not None
    assert before.memory.oom_kills == 0
    assert after is not None
    assert after.memory is not None
    assert after.memory.oom_kills == 1
    assert after.memory.limit_bytes == 16 * MIB
    assert after.memory.limit_hits > 0
    assert 8 * MIB < after.memory.peak_bytes <= 16 * MIB
    reader.close()


def test_oom_kills_of_sub_cgroups_are_counted_after_their_removal(
    hierarchy: Hierarchy, scene: Scene, driver: Driver
) -> None:
    """oom_control is not hierarchical: descendants are summed and remembered."""
    cgroup = driver.create("nest", {})
    inner = driver.cgroup_at(f"{cgroup.path}/inner")
    nested = open_driver(hierarchy, cgroup.path)
    reader = driver.open_reader(cgroup)
    nested.create("inner", {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    scene.run(inner, "hog = bytearray(64 << 20)")
    for gone in (False, True):
        if gone:
            scene.end(inner)
        stats = reader.read()
        assert stats is not None
        assert stats.memory is not None
        assert stats.memory.oom_kills == 1
    reader.close()


def test_cpu_time_agrees_with_rusage(scene: Scene, driver: Driver, cgroup: Cgroup) -> None:
    """The billed counter equals what wait4 says within 1 % and 20 ms."""
    reader = driver.open_reader(cgroup)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = "t = time.process_time()\nprint(t)\nwhile time.process_time() < t + 0.3: pass"
    _, told = scene.run(cgroup, busy)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    fast = reader.read_fast()
    reader.close()
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    used -= float(told)  # what it used before it joined
    assert fast is not None
    assert abs(fast.cpu_usage_ns / 1e9 - used) < used * 0.01 + 0.02


@pytest.mark.parametrize("keep_open", [True, False])
def test_cgroup_stands_still_until_a_process_runs(
    scene: Scene, driver: Driver, cgroup: Cgroup, keep_open: bool
) -> None:
    """Nothing moves by itself in the kernel's files, and whatever a process does is seen."""
    reader = driver.open_reader(cgroup, keep_open=keep_open)
    for code in ("pass", "open('/dev/null').read()"):
        assert reader.read() is not None
        still = [reader.read_still() for _ in range(3)]
        scene.run(cgroup, code)
        moved = reader.read_still()

        assert still[0] is not None
        assert still == [still[0]] * 3
        assert moved is None
    reader.close()


@pytest.mark.parametrize("keep_open", [True, False])
def test_reader_of_a_removed_cgroup_says_none(
    scene: Scene, driver: Driver, keep_open: bool
) -> None:
    """A vanished cgroup is no sample; nothing is raised, and close works twice."""
    cgroup = driver.create("gone", {})
    reader = driver.open_reader(cgroup, keep_open=keep_open)
    stats = reader.read()
    assert stats is not None
    assert stats.inode == driver.inode(cgroup)
    driver.destroy(cgroup)
    assert reader.read() is None
    assert reader.read_fast() is None
    assert reader.read_still() is None
    reader.close()
    reader.close()
    with pytest.raises(FileNotFoundError):
        driver.open_reader(cgroup, keep_open=keep_open)


def test_reader_keeps_fewer_descriptors_when_asked(
    scene: Scene, driver: Driver, cgroup: Cgroup
) -> None:
    """Without keep_open a reader costs at most ten descriptors, and reads the same."""
    counts = []
    readings = []
    for keep_open in (True, False):
        before = len(os.listdir("/proc/self/fd"))
        reader = driver.open_reader(cgroup, keep_open=keep_open)
        counts.append(len(os.listdir("/proc/self/fd")) - before)
        readings.append(reader.read())
        reader.close()
        assert len(os.listdir("/proc/self/fd")) == before
    assert counts[1] <= 10 < counts[0]
    assert readings[0] == readings[1]


def test_root_cgroup_is_never_read(driver: Driver) -> None:
    """The root's memory.stat takes seconds on some hosts: no reader is opened on it."""
    with pytest.raises(InvalidParameter, match="root cgroup"):
        driver.open_reader(driver.cgroup_at("/"))
