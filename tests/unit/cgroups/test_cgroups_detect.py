"""Which hierarchies a host has, from recorded mount tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from aruntime.cgroups.detect import Hierarchy, detect
from aruntime.cgroups.driver import checked_parent, open_driver
from aruntime.cgroups.v1 import V1Driver
from aruntime.cgroups.v2 import V2Driver
from aruntime.errors import InvalidParameter

TREES = Path(__file__).parent / "trees"
LEGACY = """\
25 30 0:23 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
27 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpuacct,cpu
28 25 0:27 / /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory
29 25 0:28 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_prio,net_cls
35 25 0:27 / /mnt/memory-again rw - cgroup cgroup rw,memory
"""


def detected(tmp_path: Path, table: str) -> Hierarchy:
    """Detect from a mount table given as text."""
    file = tmp_path / "mountinfo"
    file.write_text(table)
    return detect(str(file))


def test_hybrid_as_recorded() -> None:
    """Eight controllers one by one, a named hierarchy, and a cgroup2 tree."""
    found = detect(str(TREES / "hybrid/mountinfo"))
    names = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
    assert found.mode == "hybrid"
    assert set(found.v1) == {*names, "name=systemd"}
    assert found.v1["cpuacct"] == "/sys/fs/cgroup/cpuacct"
    assert found.unified == "/sys/fs/cgroup/unified"
    assert len(found.mount_points) == 10
    assert found.mount_points[-1] == found.unified
    assert isinstance(open_driver(found, "/aruntime"), V1Driver)


def test_legacy_with_controllers_mounted_together(tmp_path: Path) -> None:
    """cpu and cpuacct share one mount point, which is one hierarchy; the first mount counts."""
    found = detected(tmp_path, LEGACY)
    assert found.mode == "legacy"
    assert found.unified is None
    assert found.v1["cpu"] == found.v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.v1["memory"] == "/sys/fs/cgroup/memory"
    assert found.v1["name=systemd"] == "/sys/fs/cgroup/systemd"
    assert len(found.mount_points) == 4
    cgroup = open_driver(found, "aruntime/").cgroup("c1")
    assert cgroup.path == "/aruntime/c1"
    assert cgroup.directories["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/aruntime/c1"
    assert "unified" not in cgroup.directories


def test_unified_with_controllers_of_the_root(tmp_path: Path) -> None:
    """A lone cgroup2 mount is unified, and its root says what it has."""
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    table = f"29 23 0:26 / {root} rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    found = detected(tmp_path, table)
    assert found.mode == "unified"
    assert found.unified_controllers == {"cpuset", "cpu", "io", "memory", "pids"}
    assert isinstance(open_driver(found, "/aruntime"), V2Driver)


def test_named_hierarchies_alone_do_not_make_a_hybrid(tmp_path: Path) -> None:
    """A host with cgroup2 and name=elogind has all its controllers in the cgroup2 tree."""
    table = (
        "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "30 23 0:27 / /run/elogind rw - cgroup cgroup rw,xattr,release_agent=/a,name=elogind\n"
    )
    found = detected(tmp_path, table)
    assert found.mode == "unified"
    assert found.v1 == {"name=elogind": "/run/elogind"}


def test_mount_points_with_blanks(tmp_path: Path) -> None:
    """Escapes in the mount table are undone, other mounts and optional fields skipped."""
    table = (
        "25 30 0:23 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755\n"
        "31 25 0:28 / /sys/fs/cg\\040roup/cpu rw shared:10 master:1 - cgroup cgroup rw,cpu\n"
        "99 25 0:39 / /mnt rw - ext4 /dev/cgroup rw\n"
    )
    assert detected(tmp_path, table).v1 == {"cpu": "/sys/fs/cg roup/cpu"}


def test_nothing_mounted(tmp_path: Path) -> None:
    """No cgroup mount at all is legacy without controllers; limits will say what is missing."""
    assert detected(tmp_path, "") == Hierarchy("legacy", {}, None, frozenset())


@pytest.mark.parametrize("parent", ["", "/", "/a/../b", "./a"])
def test_parent_must_be_a_path_below_the_root(parent: str) -> None:
    """A parent group that would leave the tree is refused."""
    with pytest.raises(InvalidParameter, match="cgroup parent"):
        checked_parent(parent)
