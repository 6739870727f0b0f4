"""Cgroups of other programs: read with the trees they are in, counted where CPU time is."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.v1 import V1Driver
from aruntime.cgroups.v2 import V2Driver
from aruntime.errors import ControllerUnavailable

TREES = Path(__file__).parent / "trees"
NAMES = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids")


@pytest.fixture
def driver(tmp_path: Path) -> V1Driver:
    """A driver over a copy of the recorded hybrid tree."""
    shutil.copytree(TREES / "hybrid", tmp_path, dirs_exist_ok=True)
    mounts = {name: str(tmp_path / name) for name in NAMES}
    return V1Driver(Hierarchy("hybrid", mounts, str(tmp_path / "unified"), frozenset()), "/own")


def foreign(driver: V1Driver) -> Cgroup:
    """The recorded group as another program's."""
    return msgspec.structs.replace(driver.cgroup_at("/aruntime/c1"), is_foreign=True)


def test_trees_it_is_not_in_are_left_out(driver: V1Driver) -> None:
    """Without memory, blkio and cgroup2 the CPU time is still read; nothing is invented."""
    cgroup = foreign(driver)
    for name in ("memory", "blkio", "unified"):
        shutil.rmtree(cgroup.directories[name])
    reader = driver.open_reader(cgroup)
    try:
        stats = reader.read()
    finally:
        reader.close()
    assert stats is not None
    assert stats.cpu.usage_ns > 0
    assert (stats.memory, stats.blkio, stats.pressure) == (None, None, None)
    assert stats.pids is not None
    assert set(cgroup.present().mounts) == {"cpu", "cpuacct", "cpuset", "pids"}


def test_without_its_cpu_counter_it_is_gone(driver: V1Driver) -> None:
    """No CPU counter, no cgroup: the same answer as for one that was removed."""
    cgroup = foreign(driver)
    shutil.rmtree(cgroup.directories["cpuacct"])
    with pytest.raises(FileNotFoundError) as caught:
        driver.open_reader(cgroup)
    assert caught.value.filename == cgroup.directories["cpuacct"]


def test_an_own_cgroup_must_be_whole(driver: V1Driver) -> None:
    """A container of ours that lost a tree is an error, not a smaller container."""
    cgroup = driver.cgroup_at("/aruntime/c1")
    shutil.rmtree(cgroup.directories["memory"])
    with pytest.raises(FileNotFoundError):
        driver.open_reader(cgroup)


def test_where_cpu_time_is_counted(driver: V1Driver, tmp_path: Path) -> None:
    """On v1 the cpuacct tree, on v2 the one tree; a host without either says so."""
    assert driver.counter_root() == str(tmp_path / "cpuacct")
    unified = V2Driver(Hierarchy("unified", {}, "/v2", frozenset()), "/own")
    assert unified.counter_root() == "/v2"
    bare = V1Driver(Hierarchy("legacy", {"memory": "/m"}, None, frozenset()), "/own")
    with pytest.raises(ControllerUnavailable, match="cpuacct"):
        bare.counter_root()
