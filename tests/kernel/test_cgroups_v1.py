"""The v1 driver on the real hierarchies of this host: life, limits that bite, update, undo."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aruntime.cgroups.detect import Hierarchy, detect
from aruntime.cgroups.devices import default_rules, parse_device_cgroup_rule
from aruntime.cgroups.driver import Cgroup, Driver, open_driver
from aruntime.errors import (
    Conflict,
    ControllerUnavailable,
    InvalidParameter,
    KernelFeatureMissing,
)

pytestmark = pytest.mark.kernel

MIB = 1 << 20
UNLIMITED = "9223372036854771712"
HIERARCHY = detect()

if os.geteuid() != 0 or HIERARCHY.mode == "unified":
    pytest.skip("needs root and v1 controllers", allow_module_level=True)


@pytest.fixture
def driver() -> Iterator[Driver]:
    """A driver below a parent group of this test run, removed afterwards."""
    driver = open_driver(HIERARCHY, f"/aruntime-test-{os.getpid()}")
    yield driver
    driver.destroy(driver.cgroup_at(driver.parent))


@pytest.fixture
def cgroup(driver: Driver) -> Iterator[Cgroup]:
    """A container's cgroup without limits; its processes are killed and awaited at the end."""
    cgroup = driver.create("c1", {})
    yield cgroup
    end(driver, cgroup)


def end(driver: Driver, cgroup: Cgroup) -> None:
    """Kill what is left in a cgroup and remove it."""
    if driver.exists(cgroup):
        driver.kill(cgroup)
        wait_until(lambda: not driver.pids(cgroup))
        wait_until(lambda: destroyed(driver, cgroup))


def destroyed(driver: Driver, cgroup: Cgroup) -> bool:
    """Try to remove the cgroup once."""
    try:
        driver.destroy(cgroup)
    except BlockingIOError:
        return False
    return True


def wait_until(condition: object, timeout_seconds: float = 10.0) -> None:
    """Ask again until the condition holds; fail after the time."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.002)


def read(cgroup: Cgroup, file: str) -> str:
    """Return one file of the cgroup as text."""
    directory = cgroup.directories[file.partition(".")[0]]
    return Path(directory, file).read_text().strip()


def inside(driver: Driver, cgroup: Cgroup, program: str) -> subprocess.Popen[bytes]:
    """Start Python code in the cgroup: the child joins every hierarchy before it runs it."""
    join = "".join(
        f"open({directory + '/cgroup.procs'!r}, 'w').write('0')\n"
        for directory in driver.procs_paths(cgroup)
    )
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"import os, sys, time\n{join}{program}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for a child and return its exit code and output."""
    output, _ = process.communicate(timeout=30)
    return process.returncode, output.decode()


def run(driver: Driver, cgroup: Cgroup, program: str) -> tuple[int, str]:
    """Run Python code in the cgroup to its end."""
    return finish(inside(driver, cgroup, program))


def test_create_makes_the_directory_in_every_hierarchy(driver: Driver, cgroup: Cgroup) -> None:
    """Named hierarchies and the cgroup2 tree are included, and all of it goes away again."""
    paths = driver.procs_paths(cgroup)
    assert len(paths) == len(set(paths)) == len(HIERARCHY.mount_points)
    assert all(Path(path).is_dir() for path in paths)
    assert driver.exists(cgroup)
    driver.destroy(cgroup)
    assert not any(Path(path).exists() for path in paths)
    assert not driver.exists(cgroup)
    driver.destroy(cgroup)


def test_a_process_joins_everywhere(driver: Driver, cgroup: Cgroup) -> None:
    """The child sees its own cgroup in each line of /proc/self/cgroup."""
    code, output = run(driver, cgroup, "print(open('/proc/self/cgroup').read())")
    assert code == 0
    lines = [line.split(":", 2) for line in output.split()]
    assert {path for _, _, path in lines} == {cgroup.path}
    assert len(lines) == len(HIERARCHY.mount_points)


def test_parent_stays_and_keeps_the_cpu_time_of_removed_children(driver: Driver) -> None:
    """cpuacct.usage of the parent group does not fall when a child is removed."""
    cgroup = driver.create("short", {})
    run(driver, cgroup, "t = time.process_time()\nwhile time.process_time() < t + 0.05: pass")
    used = int(read(cgroup, "cpuacct.usage"))
    end(driver, cgroup)
    parent = driver.cgroup_at(driver.parent)
    assert used >= 50_000_000
    assert int(read(parent, "cpuacct.usage")) >= used


def test_a_second_create_replaces_an_empty_leftover(driver: Driver, cgroup: Cgroup) -> None:
    """A new incarnation has a new inode, hence fresh counters."""
    before = driver.inode(cgroup)
    again = driver.create("c1", {})
    assert again == cgroup
    assert driver.inode(again) != before


def test_create_over_a_populated_cgroup_is_a_conflict(driver: Driver, cgroup: Cgroup) -> None:
    """A cgroup with processes is never taken over, and survives the attempt whole."""
    process = inside(driver, cgroup, "print('in', flush=True); sys.stdin.read()")
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    with pytest.raises(Conflict, match="has processes"):
        driver.create("c1", {})
    assert driver.pids(cgroup) == [process.pid]
    with pytest.raises(BlockingIOError):
        driver.destroy(cgroup)
    finish(process)


def test_failed_create_leaves_nothing(driver: Driver) -> None:
    """A value only the kernel can refuse undoes every directory made before it."""
    rate = {"major": 4095, "minor": 1, "rate": 1}
    resources = {"blockIO": {"throttleReadBpsDevice": [rate]}}
    with pytest.raises(InvalidParameter, match="4095:1"):
        driver.create("broken", resources)
    assert not driver.exists(driver.cgroup("broken"))


def test_missing_controller_is_named_before_anything_is_made(driver: Driver) -> None:
    """A limit whose controller is not mounted is refused by check and by create."""
    without = {name: point for name, point in HIERARCHY.v1.items() if name != "pids"}
    hierarchy = Hierarchy(HIERARCHY.mode, without, HIERARCHY.unified, HIERARCHY.unified_controllers)
    other = open_driver(hierarchy, driver.parent)
    for attempt in (other.check, lambda limits: other.create("c2", limits)):
        with pytest.raises(ControllerUnavailable, match="controller pids"):
            attempt({"pids": {"limit": 5}})
    assert not driver.exists(driver.cgroup("c2"))


def test_memory_limits_read_back_as_the_seed_shows(driver: Driver) -> None:
    """200M and 300M give the two numbers of the seed; unset gives the kernel's own."""
    limits = {"memory": {"limit": 200 * MIB, "swap": 300 * MIB, "reservation": 100 * MIB}}
    cgroup = driver.create("m", {**limits, "cpu": {"shares": 512}})
    assert read(cgroup, "memory.limit_in_bytes") == "209715200"
    assert read(cgroup, "memory.memsw.limit_in_bytes") == "314572800"
    assert read(cgroup, "memory.soft_limit_in_bytes") == str(100 * MIB)
    assert read(cgroup, "cpu.shares") == "512"
    end(driver, cgroup)
    plain = driver.create("m", {})
    assert read(plain, "memory.limit_in_bytes") == UNLIMITED
    assert read(plain, "memory.memsw.limit_in_bytes") == UNLIMITED
    assert read(plain, "cpu.shares") == "1024"
    end(driver, plain)


@pytest.mark.parametrize(
    ("limit", "swap"), [(100, 150), (400, 500), (200, 300), (250, 250), (150, 600), (500, 550)]
)
def test_memory_update_orders_its_writes(driver: Driver, limit: int, swap: int) -> None:
    """Raising and lowering both limits works from any start, in one update."""
    cgroup = driver.create("m", {"memory": {"limit": 200 * MIB, "swap": 300 * MIB}})
    try:
        driver.apply(cgroup, {"memory": {"limit": limit * MIB, "swap": swap * MIB}})
        assert read(cgroup, "memory.limit_in_bytes") == str(limit * MIB)
        assert read(cgroup, "memory.memsw.limit_in_bytes") == str(swap * MIB)
        driver.apply(cgroup, {"memory": {"limit": -1}})
        assert read(cgroup, "memory.limit_in_bytes") == UNLIMITED
        assert read(cgroup, "memory.memsw.limit_in_bytes") == UNLIMITED
    finally:
        end(driver, cgroup)


def test_memory_update_above_the_swap_limit_says_what_to_do(driver: Driver) -> None:
    """docker's rule: the memory+swap limit has to be raised in the same update."""
    cgroup = driver.create("m", {"memory": {"limit": 200 * MIB, "swap": 300 * MIB}})
    try:
        with pytest.raises(InvalidParameter, match="update the memoryswap at the same time"):
            driver.apply(cgroup, {"memory": {"limit": 400 * MIB}})
        assert read(cgroup, "memory.limit_in_bytes") == str(200 * MIB)
    finally:
        end(driver, cgroup)


def test_failed_update_restores_the_old_values(driver: Driver) -> None:
    """Writes before the refused one are taken back."""
    cgroup = driver.create("u", {"cpu": {"shares": 512}, "pids": {"limit": 7}})
    try:
        with pytest.raises(InvalidParameter, match=r"cpuset\.cpus"):
            driver.apply(cgroup, {"cpu": {"mems": "0", "shares": 2048, "cpus": "60000"}})
        rate = {"major": 4095, "minor": 1, "rate": 1}
        bad = {"pids": {"limit": 9}, "blockIO": {"throttleReadBpsDevice": [rate]}}
        with pytest.raises(InvalidParameter):
            driver.apply(cgroup, bad)
        assert read(cgroup, "pids.max") == "7"
        assert read(cgroup, "cpu.shares") == "512"
    finally:
        end(driver, cgroup)


def test_oom_kill_is_seen(driver: Driver) -> None:
    """A process that wants more than the limit is killed, and counted once."""
    cgroup = driver.create("oom", {"memory": {"limit": 16 * MIB}})
    reader = driver.open_reader(cgroup)
    try:
        before = reader.read()
        code, _ = run(driver, cgroup, "hog = bytearray(64 << 20)")
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
    finally:
        reader.close()
        end(driver, cgroup)


def test_oom_kills_of_sub_cgroups_are_counted_after_their_removal(driver: Driver) -> None:
    """oom_control is not hierarchical: descendants are summed and remembered."""
    cgroup = driver.create("nest", {})
    inner = driver.cgroup_at(f"{cgroup.path}/inner")
    nested = open_driver(HIERARCHY, cgroup.path)
    reader = driver.open_reader(cgroup)
    try:
        nested.create("inner", {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
        run(driver, inner, "hog = bytearray(64 << 20)")
        for gone in (False, True):
            if gone:
                end(driver, inner)
            stats = reader.read()
            assert stats is not None
            assert stats.memory is not None
            assert stats.memory.oom_kills == 1
    finally:
        reader.close()
        end(driver, cgroup)


def test_oom_kill_disable_makes_the_process_wait(driver: Driver) -> None:
    """With --oom-kill-disable the group is under_oom and nobody dies until the limit rises."""
    limits = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB, "disableOOMKiller": True}}
    cgroup = driver.create("wait", limits)
    process = inside(driver, cgroup, "hog = bytearray(64 << 20); hog[::4096] = hog[::4096]")
    try:
        wait_until(lambda: "under_oom 1" in read(cgroup, "memory.oom_control"))
        assert process.poll() is None
        driver.apply(cgroup, {"memory": {"limit": 256 * MIB, "swap": 256 * MIB}})
        assert finish(process)[0] == 0
        assert "oom_kill 0" in read(cgroup, "memory.oom_control")
    finally:
        end(driver, cgroup)


def test_swappiness_is_written(driver: Driver) -> None:
    """--memory-swappiness ends up in memory.swappiness."""
    cgroup = driver.create("sw", {"memory": {"swappiness": 13}})
    assert read(cgroup, "memory.swappiness") == "13"
    end(driver, cgroup)


def test_memory_limit_below_usage_is_a_conflict(driver: Driver, cgroup: Cgroup) -> None:
    """A limit the kernel cannot reach by reclaim names the bytes in use."""
    program = "hog = bytearray(32 << 20); hog[::4096] = hog[::4096]; print(flush=True)\n"
    process = inside(driver, cgroup, program + "sys.stdin.read()")
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(Conflict, match="bytes are in use"):
        driver.apply(cgroup, {"memory": {"limit": 8 * MIB}})
    with pytest.raises(Conflict, match="bytes are in use"):
        driver.apply(cgroup, {"memory": {"limit": 8 * MIB, "checkBeforeUpdate": True}})
    assert read(cgroup, "memory.limit_in_bytes") == UNLIMITED
    finish(process)


def test_pids_limit_is_hit_and_counted(driver: Driver) -> None:
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
    try:
        code, output = run(driver, cgroup, program)
        stats = reader.read()
        assert (code, output) == (0, "EAGAIN\n")
        assert stats is not None
        assert stats.pids is not None
        assert stats.pids.limit == 2
        assert stats.pids.limit_hits == 1
        assert stats.pids.peak == 2
        driver.apply(cgroup, {"pids": {"limit": -1}})
        assert read(cgroup, "pids.max") == "max"
    finally:
        reader.close()
        end(driver, cgroup)


def test_cpu_quota_throttles(driver: Driver) -> None:
    """A quota of 10 ms in 100 ms holds a busy process to a tenth of a CPU."""
    cgroup = driver.create("q", {"cpu": {"quota": 10_000, "period": 100_000}})
    reader = driver.open_reader(cgroup)
    try:
        started = time.monotonic()
        run(driver, cgroup, "t = time.process_time()\nwhile time.process_time() < t + 0.06: pass")
        elapsed = time.monotonic() - started
        stats = reader.read()
        assert stats is not None
        assert stats.throttling is not None
        assert stats.throttling.throttled_periods >= 4
        assert stats.throttling.throttled_ns > 200_000_000
        assert stats.cpu.usage_ns / 1e9 / elapsed < 0.2
    finally:
        reader.close()
        end(driver, cgroup)


def test_cpu_values_are_written_and_updated(driver: Driver) -> None:
    """Quota, period and burst change together in both directions."""
    cpu = {"quota": 20_000, "period": 50_000, "burst": 5_000, "shares": 2}
    cgroup = driver.create("v", {"cpu": cpu})
    try:
        for quota, period, burst in ((200_000, 400_000, 150_000), (1_000, 2_000, 0)):
            values = {"quota": quota, "period": period, "burst": burst}
            driver.apply(cgroup, {"cpu": values})
            assert read(cgroup, "cpu.cfs_quota_us") == str(quota)
            assert read(cgroup, "cpu.cfs_period_us") == str(period)
            assert read(cgroup, "cpu.cfs_burst_us") == str(burst)
        driver.apply(cgroup, {"cpu": {"quota": -1}})
        assert read(cgroup, "cpu.cfs_quota_us") == "-1"
    finally:
        end(driver, cgroup)


def test_cpuset_pins_the_process(driver: Driver) -> None:
    """The child runs on the one CPU it was given, and on another after an update."""
    cpus = sorted(os.sched_getaffinity(0))
    cgroup = driver.create("s", {"cpu": {"cpus": str(cpus[0]), "mems": "0"}})
    try:
        _, output = run(driver, cgroup, "print(sorted(os.sched_getaffinity(0)))")
        assert output == f"[{cpus[0]}]\n"
        driver.apply(cgroup, {"cpu": {"cpus": str(cpus[-1])}})
        _, output = run(driver, cgroup, "print(sorted(os.sched_getaffinity(0)))")
        assert output == f"[{cpus[-1]}]\n"
    finally:
        end(driver, cgroup)


def test_cpuset_is_filled_below_a_parent_made_by_others(driver: Driver) -> None:
    """Without clone_children in the parent the values are copied, or nobody could join."""
    cpuset = HIERARCHY.v1["cpuset"]
    Path(f"{cpuset}{driver.parent}").mkdir()
    for name in ("cpus", "mems"):
        value = Path(f"{cpuset}/cpuset.{name}").read_text()
        Path(f"{cpuset}{driver.parent}/cpuset.{name}").write_text(value)
    cgroup = driver.create("s", {})
    try:
        assert read(cgroup, "cpuset.cpus") == Path(f"{cpuset}/cpuset.cpus").read_text().strip()
        assert run(driver, cgroup, "print(1)") == (0, "1\n")
    finally:
        end(driver, cgroup)


def test_unavailable_cpu_is_refused_by_check(driver: Driver) -> None:
    """A CPU the host does not have is named with those it has."""
    with pytest.raises(InvalidParameter, match=r"requested 0,4999, available: 0"):
        driver.check({"cpu": {"cpus": "0,4999"}})
    with pytest.raises(InvalidParameter, match="memory nodes"):
        driver.check({"cpu": {"mems": "77"}})
    assert not driver.exists(driver.cgroup("c1"))


def test_realtime_budget_must_come_from_the_parent(driver: Driver) -> None:
    """Without a budget the error shows the command; with one the limit is written."""
    limits = {"cpu": {"realtimeRuntime": 10_000, "realtimePeriod": 500_000}}
    parent = driver.cgroup_at(driver.parent)
    if not Path(HIERARCHY.v1["cpu"], "cpu.rt_runtime_us").exists():
        pytest.skip("kernel without CONFIG_RT_GROUP_SCHED")
    with pytest.raises(InvalidParameter, match=r"echo 10000 > .*/cpu.rt_runtime_us"):
        driver.check(limits)
    with pytest.raises(InvalidParameter, match="real-time"):
        driver.create("rt", limits)
    assert not driver.exists(driver.cgroup("rt"))
    Path(parent.directories["cpu"], "cpu.rt_runtime_us").write_text("50000")
    driver.check(limits)
    cgroup = driver.create("rt", limits)
    assert read(cgroup, "cpu.rt_runtime_us") == "10000"
    assert read(cgroup, "cpu.rt_period_us") == "500000"
    end(driver, cgroup)


def test_device_rules_hold(driver: Driver) -> None:
    """Default devices work, the kernel log does not, until a rule lets it be opened."""
    program = (
        "for path in ('/dev/null', '/dev/urandom', '/dev/kmsg'):\n"
        "    try: os.close(os.open(path, os.O_RDONLY)); print('yes')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    cgroup = driver.create("d", {"devices": default_rules()})
    rule = parse_device_cgroup_rule("c 1:11 r")

    def attempts() -> list[str]:
        return run(driver, cgroup, program)[1].splitlines()

    try:
        assert attempts() == ["yes", "yes", "Operation not permitted"]
        driver.apply(cgroup, {"devices": [*default_rules(), rule]})
        assert attempts() == ["yes", "yes", "yes"]
        driver.apply(cgroup, {"devices": default_rules()})
        assert attempts() == ["yes", "yes", "Operation not permitted"]
        driver.apply(cgroup, {"devices": [{"allow": True, "access": "rwm"}]})
        assert attempts() == ["yes", "yes", "yes"]
    finally:
        end(driver, cgroup)


def test_freeze_stops_every_nanosecond(driver: Driver, cgroup: Cgroup) -> None:
    """A frozen busy loop uses no CPU time at all, and goes on after the thaw."""
    process = inside(driver, cgroup, "print(flush=True)\nwhile True: pass")
    assert process.stdout is not None
    process.stdout.readline()
    driver.freeze(cgroup)
    assert driver.is_frozen(cgroup)
    assert driver.freezer_state(cgroup) == "frozen"
    first = int(read(cgroup, "cpuacct.usage"))
    spin_until = time.monotonic() + 0.1
    while time.monotonic() < spin_until:
        pass
    assert int(read(cgroup, "cpuacct.usage")) == first
    driver.thaw(cgroup)
    assert driver.freezer_state(cgroup) == "thawed"
    wait_until(lambda: int(read(cgroup, "cpuacct.usage")) > first)
    driver.kill(cgroup)
    assert finish(process)[0] == -signal.SIGKILL


def test_frozen_time_is_measured_by_the_kernel(driver: Driver, cgroup: Cgroup) -> None:
    """frozen_usec grows by the time frozen where the cgroup2 tree knows it."""
    if "unified" not in cgroup.directories:
        pytest.skip("no cgroup2 tree")
    process = inside(driver, cgroup, "print(flush=True); sys.stdin.read()")
    assert process.stdout is not None
    process.stdout.readline()
    reader = driver.open_reader(cgroup)
    driver.freeze(cgroup)
    time.sleep(0.05)
    driver.thaw(cgroup)
    stats = reader.read()
    reader.close()
    assert finish(process)[0] == 0
    assert stats is not None
    if stats.frozen_usec is None:
        pytest.skip("kernel before 6.18")
    assert 50_000 <= stats.frozen_usec < 5_000_000


@pytest.mark.parametrize("with_unified", [True, False])
def test_kill_ends_a_frozen_process(with_unified: bool) -> None:
    """SIGKILL reaches the processes of a paused container with either freezer."""
    if with_unified and HIERARCHY.unified is None:
        pytest.skip("no cgroup2 tree")
    unified = HIERARCHY.unified if with_unified else None
    hierarchy = Hierarchy("hybrid" if unified else "legacy", HIERARCHY.v1, unified, frozenset())
    driver = open_driver(hierarchy, f"/aruntime-test-{os.getpid()}-kill")
    cgroup = driver.create("k", {})
    process = inside(driver, cgroup, "os.fork(); print(flush=True)\nwhile True: pass")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    try:
        driver.freeze(cgroup)
        assert driver.freezer_state(cgroup) == "frozen"
        driver.kill(cgroup)
        assert process.wait(timeout=10) == -signal.SIGKILL
        wait_until(lambda: not driver.pids(cgroup))
    finally:
        process.communicate()
        end(driver, cgroup)
        driver.destroy(driver.cgroup_at(driver.parent))


def test_v1_freezer_holds_a_busy_group(driver: Driver) -> None:
    """The fallback freezer stops a group of busy processes and lets it run on."""
    hierarchy = Hierarchy("legacy", HIERARCHY.v1, None, frozenset())
    legacy = open_driver(hierarchy, driver.parent)
    cgroup = legacy.create("f", {})
    program = "os.fork(); os.fork(); print(flush=True)\nwhile True: pass"
    process = inside(legacy, cgroup, program)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        legacy.freeze(cgroup)
        assert legacy.is_frozen(cgroup)
        first = int(read(cgroup, "cpuacct.usage"))
        time.sleep(0.02)
        assert int(read(cgroup, "cpuacct.usage")) == first
        legacy.thaw(cgroup)
        assert not legacy.is_frozen(cgroup)
    finally:
        legacy.kill(cgroup)
        process.communicate()
        end(legacy, cgroup)


def test_weight_without_bfq_is_refused(driver: Driver) -> None:
    """A weight that no disk would honour is an error that shows the way."""
    schedulers = [path.read_text() for path in Path("/sys/block").glob("*/queue/scheduler")]
    if any("[bfq]" in text for text in schedulers):
        pytest.skip("a disk uses bfq")
    with pytest.raises(KernelFeatureMissing, match="bfq"):
        driver.check({"blockIO": {"weight": 300}})


def test_limits_are_read_back(driver: Driver) -> None:
    """set_limits_view shows what was asked for, and nothing that is unlimited."""
    limits: dict[str, dict[str, object]] = {
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 300, "quota": 5_000, "period": 20_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 44},
    }
    cgroup = driver.create("view", limits)
    try:
        view = driver.set_limits_view(cgroup)
        assert view["memory"] == {**limits["memory"], "swappiness": 60}
        assert view["cpu"] == limits["cpu"]
        assert view["pids"] == limits["pids"]
    finally:
        end(driver, cgroup)


def test_children_left_in_sub_cgroups_are_killed_and_removed(driver: Driver) -> None:
    """A container may make cgroups of its own; kill and destroy reach into them."""
    cgroup = driver.create("outer", {})
    inner = driver.cgroup_at(f"{cgroup.path}/inner")
    nested = open_driver(HIERARCHY, cgroup.path)
    nested.create("inner", {})
    process = inside(driver, inner, "print(flush=True); time.sleep(600)")
    assert process.stdout is not None
    process.stdout.readline()
    assert driver.pids(cgroup) == [process.pid]
    end_of(driver, cgroup, process)
    assert not driver.exists(inner)
    assert not driver.exists(cgroup)


def end_of(driver: Driver, cgroup: Cgroup, process: subprocess.Popen[bytes]) -> None:
    """Kill the cgroup, reap the child, remove the cgroup."""
    driver.kill(cgroup)
    assert process.wait(timeout=10) == -signal.SIGKILL
    process.communicate()
    end(driver, cgroup)


def test_cpu_time_agrees_with_rusage(driver: Driver, cgroup: Cgroup) -> None:
    """The billed counter equals what wait4 says within 1 % and 20 ms."""
    reader = driver.open_reader(cgroup)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(driver, cgroup, "t = time.process_time()\nwhile time.process_time() < t + 0.3: pass")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    fast = reader.read_fast()
    reader.close()
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert fast is not None
    assert abs(fast.cpu_usage_ns / 1e9 - used) < used * 0.01 + 0.02


@pytest.mark.parametrize("keep_open", [True, False])
def test_reader_of_a_removed_cgroup_says_none(driver: Driver, keep_open: bool) -> None:
    """A vanished cgroup is no sample; nothing is raised, and close works twice."""
    cgroup = driver.create("gone", {})
    reader = driver.open_reader(cgroup, keep_open=keep_open)
    stats = reader.read()
    assert stats is not None
    assert stats.inode == driver.inode(cgroup)
    driver.destroy(cgroup)
    assert reader.read() is None
    assert reader.read_fast() is None
    reader.close()
    reader.close()
    with pytest.raises(FileNotFoundError):
        driver.open_reader(cgroup, keep_open=keep_open)


def test_reader_keeps_fewer_descriptors_when_asked(driver: Driver, cgroup: Cgroup) -> None:
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
