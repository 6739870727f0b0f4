"""The v2 driver on a tree of plain files: what is handed down, written, refused, undone."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from aruntime.cgroups import files, tree
from aruntime.cgroups.detect import Hierarchy, detect
from aruntime.cgroups.driver import Driver, open_driver
from aruntime.errors import (
    Conflict,
    ControllerUnavailable,
    InvalidParameter,
    KernelFeatureMissing,
)

TREES = Path(__file__).parent / "trees"
MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the v2 tree."""
    shutil.copytree(TREES / "v2", tmp_path / "cgroup")
    return tmp_path / "cgroup"


@pytest.fixture
def driver(root: Path) -> Driver:
    """The driver a host with this tree gets."""
    table = (root / "mountinfo").read_text().replace("/sys/fs/cgroup", str(root))
    (root / "mountinfo").write_text(table)
    return open_driver(detect(str(root / "mountinfo")), "/aruntime")


def test_update_writes_the_converted_values(driver: Driver, root: Path) -> None:
    """Each limit of an update ends in its file; a quota alone keeps the period in force."""
    group = root / "aruntime/c1"
    written = {
        "memory.max": "52428800",
        "memory.swap.max": "10485760",
        "cpu.max": "30000 100000",
        "cpu.weight": "100",
        "pids.max": "77",
        "io.max": "254:0 wbps=5",
    }
    for file in written.keys() - {"cpu.max"}:
        (group / file).write_text("")
    resources: dict[str, Any] = {
        "memory": {"limit": 50 * MIB, "swap": 60 * MIB},
        "cpu": {"quota": 30000, "shares": 1024},
        "pids": {"limit": 77},
        "blockIO": {"throttleWriteBpsDevice": [{"major": 254, "minor": 0, "rate": 5}]},
    }
    driver.apply(driver.cgroup("c1"), resources)
    for file, value in written.items():
        assert (group / file).read_text().strip() == value


def test_check_before_update_refuses_a_limit_below_usage(driver: Driver) -> None:
    """v2 would reclaim and kill; the specification's flag asks first."""
    limits = {"memory": {"limit": 10 * MIB, "checkBeforeUpdate": True}}
    with pytest.raises(Conflict, match="67293184 bytes are in use"):
        driver.apply(driver.cgroup("c1"), limits)


def test_check_names_the_missing_controller(driver: Driver, root: Path) -> None:
    """Not in the root's list, or not handed down to the parent: both are told apart."""
    hierarchy = Hierarchy("unified", {}, str(root), frozenset({"cpu", "pids"}))
    with pytest.raises(ControllerUnavailable, match=r"controller memory, which .* does not list"):
        open_driver(hierarchy, "/aruntime").check({"memory": {"limit": 50 * MIB}})
    limits = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
    with pytest.raises(ControllerUnavailable, match="hugetlb, which is not handed down"):
        driver.check(limits)


def test_check_finds_missing_files_and_cpus(driver: Driver, root: Path) -> None:
    """A file the kernel lacks, CPUs the parent lacks, v1-only limits."""
    driver.check({"cpu": {"cpus": "0-3", "shares": 5}, "memory": {"limit": 50 * MIB}})
    with pytest.raises(InvalidParameter, match="requested 4, available: 0-3"):
        driver.check({"cpu": {"cpus": "4"}})
    with pytest.raises(KernelFeatureMissing, match="swappiness"):
        driver.check({"memory": {"swappiness": 5}})
    (root / "aruntime/cpu.max.burst").unlink()
    with pytest.raises(KernelFeatureMissing, match=r"no cpu\.max\.burst"):
        driver.check({"cpu": {"quota": 2000, "burst": 1000}})


def test_controllers_are_handed_down_level_by_level(root: Path) -> None:
    """A deep parent is made, and each level on the way asked for what it lacks."""
    hierarchy = Hierarchy("unified", {}, str(root), frozenset({"cpu", "memory"}))
    for level in ("a", "a/b"):
        (root / level).mkdir()
        (root / level / "cgroup.controllers").write_text("cpu memory\n")
        (root / level / "cgroup.subtree_control").write_text("memory\n")
    driver = open_driver(hierarchy, "/a/b")
    with pytest.raises(ControllerUnavailable, match="not handed down"):
        driver.check({"cpu": {"shares": 5}})  # plain files do not enable anything
    for level in ("a", "a/b"):
        assert (root / level / "cgroup.subtree_control").read_text().startswith("+cpu")


def test_failed_create_leaves_no_directory(driver: Driver, root: Path) -> None:
    """On plain files nothing can be written into a new directory: the directory goes again."""
    with pytest.raises(FileNotFoundError):
        driver.create("new", {"pids": {"limit": 5}})
    assert not (root / "aruntime/new").exists()


def test_missing_cgroup2_tree_is_refused() -> None:
    """A unified hierarchy without a mount point cannot be driven."""
    with pytest.raises(ControllerUnavailable, match="mount"):
        open_driver(Hierarchy("unified", {}, None, frozenset()), "/aruntime")


def test_undo_runs_backwards_and_reports_what_it_could_not_do() -> None:
    """A failure while undoing is raised together with the cause, and stops nothing."""
    done: list[str] = []

    def fail() -> None:
        done.append("second")
        raise OSError(errno.EBUSY, "busy")

    undo = tree.Undo()
    undo.add(lambda: done.append("first"))
    undo.add(fail)
    undo.add(lambda: done.append("third"))
    cause = ValueError("cause")
    raised = undo.run(cause)
    assert done == ["third", "second", "first"]
    assert isinstance(raised, BaseExceptionGroup)
    assert raised.exceptions[0] is cause
    assert isinstance(raised.exceptions[1], OSError)
    assert undo.run(cause) is cause


def test_files_longer_than_one_read_are_read_whole(tmp_path: Path) -> None:
    """A long file is no truncated file, and a failed one carries its path."""
    path = tmp_path / "cgroup.procs"
    path.write_bytes(b"1234567\n" * 20_000)
    assert files.read_file(str(path)) == path.read_bytes()
    path.write_bytes(bytes(files.READ_SIZE))
    assert files.read_file(str(path)) == bytes(files.READ_SIZE)
    with pytest.raises(IsADirectoryError) as caught:
        files.read_file(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


def test_list_of_processes_includes_descendants(tmp_path: Path) -> None:
    """cgroup.procs of every level, none for a cgroup that is gone."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "cgroup.procs").write_text("1\n22\n")
    (tmp_path / "inner/cgroup.procs").write_text("333\n")
    assert tree.list_pids(str(tmp_path)) == [1, 22, 333]
    assert tree.list_pids(str(tmp_path / "gone")) == []
    assert os.listdir(tmp_path / "inner") == ["cgroup.procs"]
