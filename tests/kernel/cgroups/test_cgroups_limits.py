"""Every limit of docker run on real v1 controllers: written, effective, updated, refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup, Driver
from aruntime.errors import Conflict, InvalidParameter
from aruntime.spec import default_device_rules, device_rule

if TYPE_CHECKING:
    from tests.kernel.cgroups.conftest import Scene

pytestmark = pytest.mark.kernel

MIB = 1 << 20
UNLIMITED = "9223372036854771712"


def test_memory_limits_read_back_as_the_seed_shows(scene: Scene, driver: Driver) -> None:
    """200M and 300M give the two numbers of the seed; unset gives the kernel's own."""
    limits = {"memory": {"limit": 200 * MIB, "swap": 300 * MIB, "reservation": 100 * MIB}}
    cgroup = driver.create("m", {**limits, "cpu": {"shares": 512}})
    assert scene.read(cgroup, "memory.limit_in_bytes") == "209715200"
    assert scene.read(cgroup, "memory.memsw.limit_in_bytes") == "314572800"
    assert scene.read(cgroup, "memory.soft_limit_in_bytes") == str(100 * MIB)
    assert scene.read(cgroup, "cpu.shares") == "512"
    scene.end(cgroup)
    plain = driver.create("m", {})
    assert scene.read(plain, "memory.limit_in_bytes") == UNLIMITED
    assert scene.read(plain, "memory.memsw.limit_in_bytes") == UNLIMITED
    assert scene.read(plain, "cpu.shares") == "1024"


@pytest.mark.parametrize(
    ("limit", "swap"), [(100, 150), (400, 500), (200, 300), (250, 250), (150, 600), (500, 550)]
)
def test_memory_update_orders_its_writes(
    scene: Scene, driver: Driver, limit: int, swap: int
) -> None:
    """Raising and lowering both limits works from any start, in one update."""
    cgroup = driver.create("m", {"memory": {"limit": 200 * MIB, "swap": 300 * MIB}})
    driver.apply(cgroup, {"memory": {"limit": limit * MIB, "swap": swap * MIB}})
    assert scene.read(cgroup, "memory.limit_in_bytes") == str(limit * MIB)
    assert scene.read(cgroup, "memory.memsw.limit_in_bytes") == str(swap * MIB)
    driver.apply(cgroup, {"memory": {"limit": -1}})
    assert scene.read(cgroup, "memory.limit_in_bytes") == UNLIMITED
    assert scene.read(cgroup, "memory.memsw.limit_in_bytes") == UNLIMITED


def test_memory_update_above_the_swap_limit_says_what_to_do(scene: Scene, driver: Driver) -> None:
    """docker's rule: the memory+swap limit has to be raised in the same update."""
    cgroup = driver.create("m", {"memory": {"limit": 200 * MIB, "swap": 300 * MIB}})
    with pytest.raises(InvalidParameter, match="update the memoryswap at the same time"):
        driver.apply(cgroup, {"memory": {"limit": 400 * MIB}})
    assert scene.read(cgroup, "memory.limit_in_bytes") == str(200 * MIB)


def test_failed_update_restores_the_old_values(scene: Scene, driver: Driver) -> None:
    """Writes before the refused one are taken back."""
    cgroup = driver.create("u", {"cpu": {"shares": 512}, "pids": {"limit": 7}})
    with pytest.raises(InvalidParameter, match=r"cpuset\.cpus"):
        driver.apply(cgroup, {"cpu": {"mems": "0", "shares": 2048, "cpus": "60000"}})
    rate = {"major": 4095, "minor": 1, "rate": 1}
    bad = {"pids": {"limit": 9}, "blockIO": {"throttleReadBpsDevice": [rate]}}
    with pytest.raises(InvalidParameter):
        driver.apply(cgroup, bad)
    assert scene.read(cgroup, "pids.max") == "7"
    assert scene.read(cgroup, "cpu.shares") == "512"


def test_oom_kill_disable_makes_the_process_wait(scene: Scene, driver: Driver) -> None:
    """With --oom-kill-disable the group is under_oom and nobody dies until the limit rises."""
    limits = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB, "disableOOMKiller": True}}
    cgroup = driver.create("wait", limits)
    process = scene.inside(cgroup, "hog = bytearray(64 << 20); hog[::4096] = hog[::4096]")
    scene.wait_until(lambda: "under_oom 1" in scene.read(cgroup, "memory.oom_control"))
    assert process.poll() is None
    driver.apply(cgroup, {"memory": {"limit": 256 * MIB, "swap": 256 * MIB}})
    assert scene.finish(process)[0] == 0
    assert "oom_kill 0" in scene.read(cgroup, "memory.oom_control")


def test_swappiness_is_written(scene: Scene, driver: Driver) -> None:
    """--memory-swappiness ends up in memory.swappiness."""
    cgroup = driver.create("sw", {"memory": {"swappiness": 13}})
    assert scene.read(cgroup, "memory.swappiness") == "13"


def test_memory_limit_below_usage_is_a_conflict(
    scene: Scene, driver: Driver, cgroup: Cgroup
) -> None:
    """A limit the kernel cannot reach by reclaim names the bytes in use."""
    program = "hog = bytearray(32 << 20); hog[::4096] = hog[::4096]; print(flush=True)\n"
    process = scene.inside(cgroup, program + "sys.stdin.read()")
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(Conflict, match="bytes are in use"):
        driver.apply(cgroup, {"memory": {"limit": 8 * MIB}})
    with pytest.raises(Conflict, match="bytes are in use"):
        driver.apply(cgroup, {"memory": {"limit": 8 * MIB, "checkBeforeUpdate": True}})
    assert scene.read(cgroup, "memory.limit_in_bytes") == UNLIMITED
    scene.finish(process)


def test_pids_limit_is_hit_and_counted(scene: Scene, driver: Driver) -> None:
    """The fork beyond the limit fails with EAGAIN and pids.events counts it."""
    cgroup = driver.create("p", {"pids": {"limit": 2}})
    reader = driver.open_reader(cgroup)
    program = (
        "import errno\n"
        "def child():\n"
        "    try: pid = os.fork()\n"
        "    except OSError as error: print(errno.errorcode[error.errno]); return\n"
        "    if pid == 0: sys.stdin.read(); os._exit(0)\n"
        "child(); child()\n"
    )
    code, output = scene.run(cgroup, program)
    stats = reader.read()
    assert (code, output) == (0, "EAGAIN\n")
    assert stats is not None
    assert stats.pids is not None
    assert stats.pids.limit == 2
    assert stats.pids.limit_hits == 1
    assert stats.pids.peak == 2
    driver.apply(cgroup, {"pids": {"limit": -1}})
    assert scene.read(cgroup, "pids.max") == "max"
    reader.close()


def test_cpu_quota_throttles(scene: Scene, driver: Driver) -> None:
    """A quota of 2 ms in 100 ms holds a busy process to a fiftieth of a CPU."""
    cgroup = driver.create("q", {"cpu": {"quota": 2_000, "period": 100_000}})
    reader = driver.open_reader(cgroup)
    started = time.monotonic()
    scene.run(cgroup, "t = time.process_time()\nwhile time.process_time() < t + 0.012: pass")
    elapsed = time.monotonic() - started
    stats = reader.read()
    assert stats is not None
    assert stats.throttling is not None
    assert stats.throttling.throttled_periods >= 4
    assert stats.throttling.throttled_ns > 200_000_000
    assert stats.cpu.usage_ns / 1e9 / elapsed < 0.2
    reader.close()


def test_cpu_values_are_written_and_updated(scene: Scene, driver: Driver) -> None:
    """Quota, period and burst change together in both directions."""
    cpu = {"quota": 20_000, "period": 50_000, "burst": 5_000, "shares": 2}
    cgroup = driver.create("v", {"cpu": cpu})
    for quota, period, burst in ((200_000, 400_000, 150_000), (1_000, 2_000, 0)):
        values = {"quota": quota, "period": period, "burst": burst}
        driver.apply(cgroup, {"cpu": values})
        assert scene.read(cgroup, "cpu.cfs_quota_us") == str(quota)
        assert scene.read(cgroup, "cpu.cfs_period_us") == str(period)
        assert scene.read(cgroup, "cpu.cfs_burst_us") == str(burst)
    driver.apply(cgroup, {"cpu": {"quota": -1}})
    assert scene.read(cgroup, "cpu.cfs_quota_us") == "-1"


def test_cpuset_pins_the_process(scene: Scene, driver: Driver) -> None:
    """The child runs on the one CPU it was given, and on another after an update."""
    cpus = sorted(os.sched_getaffinity(0))
    cgroup = driver.create("s", {"cpu": {"cpus": str(cpus[0]), "mems": "0"}})
    _, output = scene.run(cgroup, "print(sorted(os.sched_getaffinity(0)))")
    assert output == f"[{cpus[0]}]\n"
    driver.apply(cgroup, {"cpu": {"cpus": str(cpus[-1])}})
    _, output = scene.run(cgroup, "print(sorted(os.sched_getaffinity(0)))")
    assert output == f"[{cpus[-1]}]\n"


def test_cpuset_is_filled_below_a_parent_made_by_others(
    hierarchy: Hierarchy, scene: Scene, driver: Driver
) -> None:
    """Without clone_children in the parent the values are copied, or nobody could join.

    The parent itself is empty here, as the kernel makes it, and is filled too.
    """
    cpuset = hierarchy.v1["cpuset"]
    Path(f"{cpuset}{driver.parent}").mkdir()
    cgroup = driver.create("s", {})
    assert scene.read(cgroup, "cpuset.cpus") == Path(f"{cpuset}/cpuset.cpus").read_text().strip()
    assert scene.run(cgroup, "print(1)") == (0, "1\n")


def test_unavailable_cpu_is_refused_by_check(scene: Scene, driver: Driver) -> None:
    """A CPU the host does not have is named with those it has."""
    with pytest.raises(InvalidParameter, match=r"requested 0,4999, available: 0"):
        driver.check({"cpu": {"cpus": "0,4999"}})
    with pytest.raises(InvalidParameter, match="memory nodes"):
        driver.check({"cpu": {"mems": "77"}})
    assert not driver.exists(driver.cgroup("c1"))


def test_realtime_budget_must_come_from_the_parent(
    hierarchy: Hierarchy, scene: Scene, driver: Driver
) -> None:
    """Without a budget the error shows the command; with one the limit is written."""
    limits = {"cpu": {"realtimeRuntime": 10_000, "realtimePeriod": 500_000}}
    parent = driver.cgroup_at(driver.parent)
    if not Path(hierarchy.v1["cpu"], "cpu.rt_runtime_us").exists():
        pytest.skip("kernel without CONFIG_RT_GROUP_SCHED")
    with pytest.raises(InvalidParameter, match=r"echo 10000 > .*/cpu.rt_runtime_us"):
        driver.check(limits)
    with pytest.raises(InvalidParameter, match="real-time"):
        driver.create("rt", limits)
    assert not driver.exists(driver.cgroup("rt"))
    Path(parent.directories["cpu"], "cpu.rt_runtime_us").write_text("50000")
    driver.check(limits)
    cgroup = driver.create("rt", limits)
    assert scene.read(cgroup, "cpu.rt_runtime_us") == "10000"
    assert scene.read(cgroup, "cpu.rt_period_us") == "500000"


def test_device_rules_hold(scene: Scene, driver: Driver) -> None:
    """Default devices work, the kernel log does not, until a rule lets it be opened."""
    program = (
        "for path in ('/dev/null', '/dev/urandom', '/dev/kmsg'):\n"
        "    try: os.close(os.open(path, os.O_RDONLY)); print('yes')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    cgroup = driver.create("d", {"devices": default_device_rules()})
    rule = device_rule("c 1:11 r")

    def attempts() -> list[str]:
        return scene.run(cgroup, program)[1].splitlines()

    assert attempts() == ["yes", "yes", "Operation not permitted"]
    driver.apply(cgroup, {"devices": [*default_device_rules(), rule]})
    assert attempts() == ["yes", "yes", "yes"]
    driver.apply(cgroup, {"devices": default_device_rules()})
    assert attempts() == ["yes", "yes", "Operation not permitted"]
    driver.apply(cgroup, {"devices": [{"allow": True, "access": "rwm"}]})
    assert attempts() == ["yes", "yes", "yes"]


def test_limits_are_read_back(scene: Scene, driver: Driver) -> None:
    """set_limits_view shows what was asked for, and nothing that is unlimited."""
    limits: dict[str, dict[str, object]] = {
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 300, "quota": 5_000, "period": 20_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 44},
    }
    cgroup = driver.create("view", limits)
    view = driver.set_limits_view(cgroup)
    assert view["memory"] == {**limits["memory"], "swappiness": 60}
    assert view["cpu"] == limits["cpu"]
    assert view["pids"] == limits["pids"]
