"""The v2 driver on the real cgroup2 tree, with the controllers this host leaves to it.

On a hybrid host that is often hugetlb alone; making, confining by BPF, freezing, killing, reading
and handing controllers down are real in any case.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aruntime.cgroups.detect import Hierarchy, detect
from aruntime.cgroups.device_filter import confine
from aruntime.cgroups.devices import device_access
from aruntime.cgroups.driver import Driver, open_driver
from aruntime.errors import Conflict, ControllerUnavailable
from aruntime.kernel import bpf
from aruntime.spec import default_device_rules, device_rule

if TYPE_CHECKING:
    from tests.kernel.cgroups.conftest import Scene

pytestmark = pytest.mark.kernel

HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
OPEN_DEVICES = (
    "for path in ('/dev/null', '/dev/urandom', '/dev/kmsg'):\n"
    "    try: os.close(os.open(path, os.O_RDONLY)); print('yes')\n"
    "    except OSError as error: print(error.strerror)\n"
)


@pytest.fixture
def unified(make_scene: type[Scene]) -> Iterator[Scene]:
    """The v2 driver on this host's cgroup2 tree; the root's subtree_control is put back."""
    found = detect()
    if os.geteuid() != 0 or found.unified is None:
        pytest.skip("needs root and a cgroup2 tree")
    control = Path(found.unified, "cgroup.subtree_control")
    before = set(control.read_text().split())
    hierarchy = Hierarchy("unified", {}, found.unified, found.unified_controllers)
    scene = make_scene(open_driver(hierarchy, f"/aruntime-test-{os.getpid()}-v2/deep"))
    yield scene
    scene.close()
    scene.driver.destroy(scene.driver.cgroup_at(f"/aruntime-test-{os.getpid()}-v2"))
    for controller in set(control.read_text().split()) - before:
        control.write_text(f"-{controller}")


def enforced(scene: Scene, rules: list[dict[str, object]]) -> list[str]:
    """Put the rules into force and return what a child may open."""
    cgroup = scene.driver.cgroup("d")
    scene.driver.apply(cgroup, {"devices": rules})
    return scene.run(cgroup, OPEN_DEVICES)[1].splitlines()


def test_device_rules_hold_by_bpf(unified: Scene) -> None:
    """The same rules as on v1 give the same answers, and an update replaces the program."""
    unified.driver.create("d", {})
    denied = "Operation not permitted"
    kmsg = device_rule("c 1:11 r")
    everything: dict[str, object] = {"allow": True, "access": "rwm"}
    no_random: dict[str, object] = {
        "allow": False, "type": "c", "major": 1, "minor": 9, "access": "w",
    }  # fmt: skip
    assert enforced(unified, default_device_rules()) == ["yes", "yes", denied]
    assert enforced(unified, [kmsg]) == ["yes", "yes", "yes"]
    assert enforced(unified, [everything]) == ["yes", "yes", "yes"]
    assert enforced(unified, [everything, no_random]) == ["yes", "yes", "yes"]
    assert enforced(unified, [everything, {**no_random, "access": "r"}]) == ["yes", denied, "yes"]
    assert enforced(unified, []) == ["yes", "yes", denied]


def test_confining_again_leaves_one_program(unified: Scene) -> None:
    """Programs do not pile up on a cgroup over many updates."""
    cgroup = unified.driver.create("d", {})
    for _ in range(3):
        confine(cgroup.directories["unified"], device_access({}))
    directory = os.open(cgroup.directories["unified"], os.O_RDONLY)
    try:
        assert len(bpf.prog_query(directory, bpf.BPF_CGROUP_DEVICE)) == 1
    finally:
        os.close(directory)


def test_a_refused_program_says_what_the_verifier_said() -> None:
    """A program without a verdict is refused, with the verifier's log as a note."""
    with pytest.raises(PermissionError) as caught:
        bpf.prog_load(bpf.BPF_PROG_TYPE_CGROUP_DEVICE, bpf.insn(bpf.BPF_EXIT))
    assert any("R0 !read_ok" in note for note in caught.value.__notes__)


def test_devices_are_confined_on_v1_without_the_controller(
    hierarchy: Hierarchy, make_scene: type[Scene]
) -> None:
    """A hybrid host without the v1 devices controller is confined through the cgroup2 tree."""
    if hierarchy.unified is None:
        pytest.skip("no cgroup2 tree")
    without = {name: point for name, point in hierarchy.v1.items() if name != "devices"}
    partial = Hierarchy("hybrid", without, hierarchy.unified, frozenset())
    scene = make_scene(open_driver(partial, f"/aruntime-test-{os.getpid()}"))
    cgroup = scene.driver.create("d", {})
    output = scene.run(cgroup, OPEN_DEVICES)[1].splitlines()
    scene.close()
    assert output == ["yes", "yes", "Operation not permitted"]


def test_life_of_a_v2_cgroup(unified: Scene) -> None:
    """Join, freeze, thaw, read, kill and remove work without any controller."""
    driver = unified.driver
    cgroup = driver.create("life", {})
    child = unified.inside_ready(cgroup, "while True: pass")
    reader = driver.open_reader(cgroup)
    driver.freeze(cgroup)
    assert driver.freezer_state(cgroup) == "frozen"
    first = reader.read_fast()
    second = reader.read_fast()
    assert first == second
    driver.thaw(cgroup)
    driver.kill(cgroup)
    assert child.wait(timeout=10) == -signal.SIGKILL
    stats = reader.read()
    assert first is not None
    assert stats is not None
    assert stats.inode == driver.inode(cgroup)
    assert stats.cpu.usage_ns >= first.cpu_usage_ns > 0
    assert stats.pids is None
    unified.end(cgroup)
    assert reader.read() is None
    reader.close()


def test_controllers_are_handed_down_and_limit(unified: Scene) -> None:
    """hugetlb reaches the container through every level above it, and the limit is written."""
    if "hugetlb" not in unified.driver.hierarchy.unified_controllers or not HUGE_PAGES.exists():
        pytest.skip("the cgroup2 tree has no hugetlb controller")
    limits = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}
    unified.driver.check(limits)
    cgroup = unified.driver.create("huge", limits)
    assert unified.read(cgroup, "hugetlb.2MB.max") == str(4 << 20)
    unified.driver.apply(cgroup, {"unified": {"hugetlb.2MB.max": "max"}})
    assert int(unified.read(cgroup, "hugetlb.2MB.max").replace("max", "0")) != 4 << 20


def test_parent_with_processes_cannot_hand_down(unified: Scene) -> None:
    """The kernel's rule of no processes in inner cgroups becomes a clear conflict."""
    driver = unified.driver
    if "hugetlb" not in driver.hierarchy.unified_controllers:
        pytest.skip("the cgroup2 tree has no controller")
    driver.create("c", {})
    parent = driver.cgroup_at(driver.parent)
    Path(parent.directories["unified"], "cgroup.subtree_control").write_text("-hugetlb")
    unified.inside_ready(parent, "sys.stdin.read()")
    fresh = open_driver(driver.hierarchy, driver.parent)
    with pytest.raises(Conflict, match="processes of its own"):
        fresh.create("other", {})
    assert not driver.exists(driver.cgroup("other"))


def test_missing_controller_is_named(unified: Scene) -> None:
    """memory belongs to v1 here: a v2 limit on it is refused before anything is made."""
    driver: Driver = unified.driver
    if "memory" in driver.hierarchy.unified_controllers:
        pytest.skip("the cgroup2 tree has the memory controller")
    with pytest.raises(ControllerUnavailable, match="controller memory"):
        driver.create("m", {"memory": {"limit": 64 << 20}})
    assert not driver.exists(driver.cgroup("m"))


def test_instruction_layout() -> None:
    """One instruction is eight bytes: code, registers, offset, immediate."""
    assert bpf.insn(0x55, 2, 3, 4, -1) == struct.pack("=BBhi", 0x55, 0x32, 4, -1)
