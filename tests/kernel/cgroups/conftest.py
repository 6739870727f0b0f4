"""A parent cgroup of this test run, and children that run in cgroups below it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aruntime.cgroups.detect import Hierarchy, detect
from aruntime.cgroups.driver import Cgroup, Driver, open_driver


class Scene:
    """A driver and the children a test started through it; the fixture ends what is left."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._children: list[subprocess.Popen[bytes]] = []

    def inside(self, cgroup: Cgroup, program: str) -> subprocess.Popen[bytes]:
        """Start Python code that joins every hierarchy of the cgroup, then runs."""
        join = "".join(
            f"open({directory + '/cgroup.procs'!r}, 'w').write('0')\n"
            for directory in self.driver.procs_paths(cgroup)
        )
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", f"import os, sys, time\n{join}{program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._children.append(child)
        return child

    def inside_ready(self, cgroup: Cgroup, program: str) -> subprocess.Popen[bytes]:
        """Start such a child and wait until it runs the program's first statement."""
        child = self.inside(cgroup, f"print(flush=True)\n{program}")
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        return child

    def finish(self, child: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Close a child's stdin, wait for it, return its exit code and output."""
        output, _ = child.communicate(timeout=30)
        return child.returncode, output.decode()

    def run(self, cgroup: Cgroup, program: str) -> tuple[int, str]:
        """Run Python code in the cgroup to its end."""
        return self.finish(self.inside(cgroup, program))

    def read(self, cgroup: Cgroup, file: str) -> str:
        """Return one file of the cgroup, found by its controller's prefix."""
        directory = cgroup.directories.get(file.partition(".")[0])
        return Path(directory or cgroup.directories["unified"], file).read_text().strip()

    def wait_until(self, condition: Callable[[], object], timeout_seconds: float = 10.0) -> None:
        """Ask again until the condition holds; fail after the time."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert time.monotonic() < deadline, "condition not met in time"
            time.sleep(0.002)

    def end(self, cgroup: Cgroup) -> None:
        """Kill what is left in a cgroup and remove it."""
        if self.driver.exists(cgroup):
            self.driver.kill(cgroup)
            self.wait_until(lambda: self._destroyed(cgroup))

    def close(self) -> None:
        """End everything below the parent group, reap the children, remove the parent."""
        parent = self.driver.cgroup_at(self.driver.parent)
        if self.driver.exists(parent):
            self.driver.kill(parent)
        for child in self._children:
            child.communicate(timeout=10)
        self.wait_until(lambda: self._destroyed(parent))

    def _destroyed(self, cgroup: Cgroup) -> bool:
        try:
            self.driver.destroy(cgroup)
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="session")
def make_scene() -> type[Scene]:
    """The class, for tests that need a driver of their own; they close it."""
    return Scene


@pytest.fixture(scope="session")
def hierarchy() -> Hierarchy:
    """The hierarchies of this host; without root or v1 controllers the test is skipped."""
    found = detect()
    if os.geteuid() != 0 or found.mode == "unified":
        pytest.skip("needs root and v1 controllers")
    return found


@pytest.fixture
def scene(hierarchy: Hierarchy) -> Iterator[Scene]:
    """A v1 or hybrid driver below a parent group of this test run."""
    scene = Scene(open_driver(hierarchy, f"/aruntime-test-{os.getpid()}"))
    yield scene
    scene.close()


@pytest.fixture
def driver(scene: Scene) -> Driver:
    """The driver of the scene."""
    return scene.driver


@pytest.fixture
def cgroup(driver: Driver) -> Cgroup:
    """A container's cgroup without limits."""
    return driver.create("c1", {})


@pytest.fixture
def legacy(hierarchy: Hierarchy) -> Iterator[Scene]:
    """A driver that does not see the cgroup2 tree, as on a host without one."""
    without = Hierarchy("legacy", hierarchy.v1, None, frozenset())
    scene = Scene(open_driver(without, f"/aruntime-test-{os.getpid()}-legacy"))
    yield scene
    scene.close()


@pytest.fixture
def hybrid(hierarchy: Hierarchy, scene: Scene) -> Scene:
    """The scene where a cgroup2 tree stands beside the v1 controllers."""
    if hierarchy.unified is None:
        pytest.skip("no cgroup2 tree")
    return scene
