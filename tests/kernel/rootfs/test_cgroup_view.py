"""What a container sees at /sys/fs/cgroup: its own cgroups, read-only, as docker on v1 hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kernel.rootfs.conftest import Container

pytestmark = pytest.mark.kernel

CONTROLLERS = ("memory", "pids", "cpuacct")
LIMIT = 64 << 20


@pytest.fixture(name="limited")
def _limited(container: Container) -> Iterator[Container]:
    """Return a container in cgroups of its own with a memory limit."""
    directories = []
    for name in (*CONTROLLERS, "systemd", "unified"):
        mounted = Path("/sys/fs/cgroup") / name
        if not (mounted / "cgroup.procs").exists():
            pytest.skip(f"this host has no {name} hierarchy at {mounted}")
        directories.append(mounted / f"aruntime-test-{os.getpid()}-view")
    for directory in directories:
        directory.mkdir()
    (directories[0] / "memory.limit_in_bytes").write_text(str(LIMIT))
    names = [*([name] for name in CONTROLLERS), ["name=systemd"]]
    paths = [str(directory) for directory in directories]
    container.cgroups = list(zip(names, paths, strict=False))
    container.unified = paths[-1]
    yield container
    for directory in directories:
        directory.rmdir()


@pytest.mark.parametrize("user_namespace", [False, True])
def test_own_limits_are_shown(limited: Container, user_namespace: bool) -> None:
    """Each controller's directory is the container's own cgroup, and cannot be written."""
    if user_namespace:
        limited.use_user_namespace(700_000_000, 65536)

    outcome = limited.run(
        "cd /sys/fs/cgroup; echo *; cat memory/memory.limit_in_bytes;"
        "(echo 1 > memory/memory.limit_in_bytes) 2>&1; mkdir memory/x new 2>&1;"
        "while read -r a b c root point rest; do case $point in */memory) echo $root;; esac; done"
        " < /proc/self/mountinfo"
    )

    assert outcome.lines[:2] == ["cpuacct memory pids systemd unified", str(LIMIT)]
    refusals = outcome.lines[2:-1]
    assert len(refusals) == 3
    assert all(line.endswith("Read-only file system") for line in refusals)
    assert outcome.lines[-1] == "/"


def test_writable_for_privileged(limited: Container) -> None:
    """Without ro, as for privileged containers, the view can be written."""
    for entry in limited.spec["mounts"]:
        if entry["type"] == "cgroup":
            entry["options"].remove("ro")

    outcome = limited.run("echo 9 > /sys/fs/cgroup/pids/pids.max; cat /sys/fs/cgroup/pids/pids.max")

    assert outcome.lines == ["9"]


def test_controllers_mounted_together(limited: Container) -> None:
    """Two controllers of one hierarchy have one directory, and a link each."""
    limited.cgroups = [(["memory", "other"], limited.cgroups[0][1])]
    limited.unified = None

    outcome = limited.run(
        "cd /sys/fs/cgroup; readlink memory; readlink other; cat other/memory.limit_in_bytes"
    )

    assert outcome.lines == ["memory,other", "memory,other", str(LIMIT)]


def test_unified_only(limited: Container) -> None:
    """Where there is nothing but cgroup2, /sys/fs/cgroup is the container's own group."""
    limited.cgroups = []

    outcome = limited.run("cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>&1; echo end")

    assert "1" in outcome.lines[:-2]
    assert outcome.lines[-2:] == [
        "mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system",
        "end",
    ]
