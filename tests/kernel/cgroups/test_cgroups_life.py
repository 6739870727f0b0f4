"""Making, joining, freezing, killing and removing cgroups on this host's hierarchies."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aruntime.cgroups import tree
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup, Driver, open_driver
from aruntime.cgroups.freezer import Freezer, freeze, thaw
from aruntime.errors import Conflict, ControllerUnavailable, InvalidParameter, Unavailable

if TYPE_CHECKING:
    from tests.kernel.cgroups.conftest import Scene

pytestmark = pytest.mark.kernel


def test_create_makes_the_directory_in_every_hierarchy(
    hierarchy: Hierarchy, driver: Driver, cgroup: Cgroup
) -> None:
    """Named hierarchies and the cgroup2 tree are included, and all of it goes away again."""
    paths = driver.procs_paths(cgroup)
    assert len(paths) == len(set(paths)) == len(hierarchy.mount_points)
    assert all(Path(path).is_dir() for path in paths)
    assert driver.exists(cgroup)
    driver.destroy(cgroup)
    assert not any(Path(path).exists() for path in paths)
    assert not driver.exists(cgroup)
    driver.destroy(cgroup)


def test_a_process_joins_everywhere(hierarchy: Hierarchy, scene: Scene, cgroup: Cgroup) -> None:
    """The child sees its own cgroup in each line of /proc/self/cgroup."""
    code, output = scene.run(cgroup, "print(open('/proc/self/cgroup').read())")
    assert code == 0
    lines = [line.split(":", 2) for line in output.split()]
    assert {path for _, _, path in lines} == {cgroup.path}
    assert len(lines) == len(hierarchy.mount_points)


def test_parent_stays_and_keeps_the_cpu_time_of_removed_children(
    scene: Scene, driver: Driver
) -> None:
    """cpuacct.usage of the parent group does not fall when a child is removed."""
    cgroup = driver.create("short", {})
    scene.run(cgroup, "t = time.process_time()\nwhile time.process_time() < t + 0.05: pass")
    used = int(scene.read(cgroup, "cpuacct.usage"))
    scene.end(cgroup)
    parent = driver.cgroup_at(driver.parent)
    assert used >= 50_000_000
    assert int(scene.read(parent, "cpuacct.usage")) >= used


def test_a_second_create_replaces_an_empty_leftover(driver: Driver, cgroup: Cgroup) -> None:
    """A new incarnation has a new inode, hence fresh counters."""
    before = driver.inode(cgroup)
    again = driver.create("c1", {})
    assert again == cgroup
    assert driver.inode(again) != before


def test_create_makes_a_removed_parent_again(driver: Driver, cgroup: Cgroup) -> None:
    """The parent group may be removed by others while it is empty."""
    driver.destroy(driver.cgroup_at(driver.parent))
    assert driver.exists(driver.create("c2", {}))


def test_create_over_a_populated_cgroup_is_a_conflict(
    scene: Scene, driver: Driver, cgroup: Cgroup
) -> None:
    """A cgroup with processes is never taken over, and survives the attempt whole."""
    child = scene.inside_ready(cgroup, "sys.stdin.read()")
    with pytest.raises(Conflict, match="has processes"):
        driver.create("c1", {})
    assert driver.pids(cgroup) == [child.pid]
    with pytest.raises(BlockingIOError):
        driver.destroy(cgroup)
    assert driver.pids(cgroup) == [child.pid]


def test_failed_create_leaves_nothing(driver: Driver) -> None:
    """A value only the kernel can refuse undoes every directory made before it."""
    rate = {"major": 4095, "minor": 1, "rate": 1}
    with pytest.raises(InvalidParameter, match="4095:1"):
        driver.create("broken", {"blockIO": {"throttleReadBpsDevice": [rate]}})
    assert not driver.exists(driver.cgroup("broken"))


def test_create_that_fails_at_any_directory_leaves_nothing(
    hierarchy: Hierarchy, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever hierarchy refuses its directory, those made before it are removed."""
    real = tree.make_fresh
    for failing in hierarchy.mount_points:

        def refuse(directory: str, point: str = failing) -> None:
            if directory.startswith(f"{point}/"):
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), directory)
            real(directory)

        monkeypatch.setattr(tree, "make_fresh", refuse)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            driver.create("c9", {})
        assert not driver.exists(driver.cgroup("c9"))


def test_missing_controller_is_named_before_anything_is_made(
    hierarchy: Hierarchy, driver: Driver
) -> None:
    """A limit whose controller is not mounted is refused by check and by create."""
    without = {name: point for name, point in hierarchy.v1.items() if name != "pids"}
    other = open_driver(
        Hierarchy(hierarchy.mode, without, hierarchy.unified, frozenset()), driver.parent
    )
    with pytest.raises(ControllerUnavailable, match="controller pids"):
        other.check({"pids": {"limit": 5}})
    with pytest.raises(ControllerUnavailable, match="controller pids"):
        other.create("c2", {"pids": {"limit": 5}})
    assert not driver.exists(driver.cgroup("c2"))


def test_freeze_stops_every_nanosecond(scene: Scene, driver: Driver, cgroup: Cgroup) -> None:
    """A frozen busy loop uses no CPU time at all, and goes on after the thaw."""
    child = scene.inside_ready(cgroup, "while True: pass")
    driver.freeze(cgroup)
    assert driver.is_frozen(cgroup)
    assert driver.freezer_state(cgroup) == "frozen"
    first = int(scene.read(cgroup, "cpuacct.usage"))
    spin_until = time.monotonic() + 0.1
    while time.monotonic() < spin_until:
        pass
    assert int(scene.read(cgroup, "cpuacct.usage")) == first
    driver.thaw(cgroup)
    assert driver.freezer_state(cgroup) == "thawed"
    scene.wait_until(lambda: int(scene.read(cgroup, "cpuacct.usage")) > first)
    driver.kill(cgroup)
    assert scene.finish(child)[0] == -signal.SIGKILL


def test_freeze_request_returns_at_once(scene: Scene, driver: Driver, cgroup: Cgroup) -> None:
    """The request alone is enough; the state follows by itself."""
    scene.inside_ready(cgroup, "while True: pass")
    driver.freeze_request(cgroup)
    scene.wait_until(lambda: driver.is_frozen(cgroup))


def test_frozen_time_is_measured_by_the_kernel(hybrid: Scene) -> None:
    """frozen_usec grows by the time frozen where the kernel knows it."""
    cgroup = hybrid.driver.create("f", {})
    hybrid.inside_ready(cgroup, "sys.stdin.read()")
    reader = hybrid.driver.open_reader(cgroup)
    started = time.monotonic()
    hybrid.driver.freeze(cgroup)
    hybrid.wait_until(lambda: time.monotonic() > started + 0.05)
    hybrid.driver.thaw(cgroup)
    elapsed_usec = (time.monotonic() - started) * 1e6
    stats = reader.read()
    reader.close()
    assert stats is not None
    if stats.frozen_usec is None:
        pytest.skip("kernel before 6.18")
    assert 40_000 <= stats.frozen_usec <= elapsed_usec


def test_kill_ends_frozen_processes(hybrid: Scene) -> None:
    """SIGKILL reaches the processes of a paused container through the cgroup2 tree."""
    cgroup = hybrid.driver.create("k", {})
    child = hybrid.inside_ready(cgroup, "os.fork()\nwhile True: pass")
    hybrid.driver.freeze(cgroup)
    hybrid.driver.kill(cgroup)
    assert child.wait(timeout=10) == -signal.SIGKILL
    hybrid.wait_until(lambda: not hybrid.driver.pids(cgroup))


def test_kill_ends_processes_frozen_by_v1(legacy: Scene) -> None:
    """A v1-frozen task must be thawed to die: kill does both."""
    cgroup = legacy.driver.create("k", {})
    child = legacy.inside_ready(cgroup, "os.fork()\nwhile True: pass")
    legacy.driver.freeze(cgroup)
    assert legacy.driver.freezer_state(cgroup) == "frozen"
    legacy.driver.kill(cgroup)
    assert child.wait(timeout=10) == -signal.SIGKILL
    legacy.wait_until(lambda: not legacy.driver.pids(cgroup))


def test_kill_reaches_a_process_that_joined_v1_only(hybrid: Scene) -> None:
    """A child that failed half-way through joining does not keep the cgroup for ever."""
    cgroup = hybrid.driver.create("half", {})
    child = hybrid.inside_ready(cgroup, "sys.stdin.read()")
    parent = hybrid.driver.cgroup_at(hybrid.driver.parent)
    Path(parent.directories["unified"], "cgroup.procs").write_text(str(child.pid))
    hybrid.driver.kill(cgroup)
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_v1_freezer_holds_a_forking_group(legacy: Scene) -> None:
    """The fallback freezer stops a group that keeps forking, and lets it run on."""
    cgroup = legacy.driver.create("f", {})
    program = "while True:\n    if os.fork() == 0: os._exit(0)\n    os.wait()"
    legacy.inside_ready(cgroup, program)
    legacy.driver.freeze(cgroup)
    assert legacy.driver.is_frozen(cgroup)
    first = int(legacy.read(cgroup, "cpuacct.usage"))
    resumed = time.monotonic() + 0.02
    legacy.wait_until(lambda: time.monotonic() > resumed)
    assert int(legacy.read(cgroup, "cpuacct.usage")) == first
    legacy.driver.thaw(cgroup)
    assert not legacy.driver.is_frozen(cgroup)
    legacy.wait_until(lambda: int(legacy.read(cgroup, "cpuacct.usage")) > first)


def test_thaw_below_a_frozen_parent_says_why(hybrid: Scene) -> None:
    """A frozen ancestor keeps the container frozen; thaw does not wait for ever."""
    driver = hybrid.driver
    cgroup = driver.create("inner", {})
    hybrid.inside_ready(cgroup, "sys.stdin.read()")
    driver.freeze(driver.cgroup_at(driver.parent))
    directory = cgroup.directories["unified"]
    with pytest.raises(Unavailable, match="above"):
        thaw(Freezer(directory, None), timeout_seconds=0.05)
    driver.thaw(driver.cgroup_at(driver.parent))


def test_freeze_without_any_freezer_names_the_controller() -> None:
    """Without a cgroup2 tree and without the v1 controller there is a clear error."""
    with pytest.raises(ControllerUnavailable, match="freezer"):
        freeze(Freezer(None, None))


def test_children_left_in_sub_cgroups_are_killed_and_removed(
    hierarchy: Hierarchy, scene: Scene, driver: Driver, cgroup: Cgroup
) -> None:
    """A container may make cgroups of its own; kill and destroy reach into them."""
    open_driver(hierarchy, cgroup.path).create("inner", {})
    inner = driver.cgroup_at(f"{cgroup.path}/inner")
    child = scene.inside_ready(inner, "time.sleep(600)")
    assert driver.pids(cgroup) == [child.pid]
    driver.kill(cgroup)
    assert child.wait(timeout=10) == -signal.SIGKILL
    scene.end(cgroup)
    assert not driver.exists(inner)
    assert not driver.exists(cgroup)


def test_destroy_can_give_the_page_cache_back(
    scene: Scene, driver: Driver, cgroup: Cgroup, tmp_path: Path
) -> None:
    """With drop_cache the cache charged to the cgroup is gone before the directory is."""
    file = tmp_path / "written"
    program = f"f = open({str(file)!r}, 'wb'); f.write(bytes(4 << 20)); f.flush(); os.fsync(f)"
    assert scene.run(cgroup, program)[0] == 0
    charged = int(scene.read(cgroup, "memory.usage_in_bytes"))
    parent = driver.cgroup_at(driver.parent)
    driver.destroy(cgroup, drop_cache=True)
    assert charged >= 4 << 20
    assert int(scene.read(parent, "memory.usage_in_bytes")) < charged - (3 << 20)


def test_no_descriptor_is_left_open(driver: Driver) -> None:
    """A whole life of a cgroup leaves the descriptor table as it was."""
    before = os.listdir("/proc/self/fd")
    cgroup = driver.create("fds", {"cpu": {"shares": 512}})
    driver.freeze(cgroup)
    driver.thaw(cgroup)
    driver.kill(cgroup)
    driver.set_limits_view(cgroup)
    driver.destroy(cgroup)
    assert os.listdir("/proc/self/fd") == before
