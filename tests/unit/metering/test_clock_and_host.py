"""Clocks, capacity of the host, the meter's own histogram, and its budget of descriptors."""

from __future__ import annotations

import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aruntime.cgroups.detect import Hierarchy
from aruntime.metering import host
from aruntime.metering.clock import STEP_NS, WallClock, boot_id, boottime_ns
from aruntime.metering.health import Histogram
from aruntime.metering.readers import FULL_FDS, LEAN_FDS, access_to
from tests.metering import CounterTree

YEAR_NS = 365 * 86_400 * 10**9


steps = st.lists(
    st.tuples(st.integers(0, 10**12), st.integers(-30 * YEAR_NS, 30 * YEAR_NS)), max_size=20
)


@given(steps)
def test_wall_steps_move_the_anchor_only(changes: list[tuple[int, int]]) -> None:
    """However the wall clock jumps, boot time is told correctly after each check."""
    boot, offset = 10**12, YEAR_NS
    clock = WallClock(wall_ns=boot + offset, boot_ns=boot)
    told = offset
    for span, jump in changes:
        boot, offset = boot + span, offset + jump
        step = clock.check(wall_ns=boot + offset, boot_ns=boot)

        assert step == (offset - told if abs(offset - told) > STEP_NS else 0)
        told += step
        assert abs(clock.at(boot) - (boot + offset)) <= STEP_NS
        assert clock.boot_at(clock.at(boot)) == boot


def test_clocks_of_this_machine() -> None:
    """The anchor made now tells the time of now; the boot has a name."""
    clock = WallClock.now()

    assert abs(clock.at(boottime_ns()) - time.time_ns()) < 10**9
    assert len(boot_id()) == 36


def test_capacity() -> None:
    """This host has a processor and memory."""
    assert host.cpu_count() >= 1
    assert host.memory_bytes() > 1 << 20


def test_pressure_is_found_or_not(tmp_path: Path) -> None:
    """Pressure information counts as available only if its file can be read."""
    assert not host.has_pressure(str(tmp_path))
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n")
    assert host.has_pressure(str(tmp_path))


def test_root_cpu_time_by_hierarchy(tmp_path: Path) -> None:
    """Nanoseconds from cpuacct.usage, microseconds from a unified tree, None without either."""
    (tmp_path / "cpuacct.usage").write_text("1234567\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 77\nuser_usec 50\nsystem_usec 27\n")
    root = str(tmp_path)
    nothing = frozenset[str]()

    assert host.root_cpu_ns(Hierarchy("legacy", {"cpuacct": root}, None, nothing)) == 1234567
    assert host.root_cpu_ns(Hierarchy("unified", {}, root, nothing)) == 77_000
    assert host.root_cpu_ns(Hierarchy("legacy", {"cpu": root}, None, nothing)) is None
    gone = Hierarchy("legacy", {"cpuacct": f"{root}/x"}, None, nothing)
    assert host.root_cpu_ns(gone) is None


def test_host_time_is_split_and_never_falls(counters: CounterTree) -> None:
    """What containers did not use is unattributed; usage from before the start is left out."""
    usage = counters.root / "cpuacct/cpuacct.usage"
    usage.write_text("1000\n")
    meter = host.HostMeter(counters.driver.hierarchy, attributed_ns=500)
    usage.write_text("1600\n")
    meter.exclude(40)

    assert meter.read(500 + 40 + 100) == (100, 500)
    assert meter.read(500 + 40 + 90) == (100, 500)
    usage.write_text("1700\n")
    assert meter.read(500 + 40 + 300) == (300, 500)


def test_unknown_host_time_is_told(counters: CounterTree) -> None:
    """Without a counter of the host there is no split."""
    (counters.root / "cpuacct/cpuacct.usage").unlink()

    assert host.HostMeter(counters.driver.hierarchy, 0).read(5) is None


def test_histogram_counts_by_bound() -> None:
    """A duration equal to a bound is below it; the sum is exact."""
    histogram = Histogram((0.001, 0.01))
    for duration in (0, 1_000_000, 1_000_001, 10_000_000, 10_000_001):
        histogram.observe_ns(duration)
    state = histogram.state()

    assert state.counts == (2, 2, 1)
    assert state.sum_ns == 22_000_002


def test_descriptors_are_shared_out(counters: CounterTree) -> None:
    """The first readers keep everything open, the next the billed files, the last nothing."""
    cgroup = counters.add("a")
    limit = 10 * FULL_FDS * 2
    kinds = []
    for count in range(60):
        access = access_to(counters.driver, cgroup, count, limit)
        kinds.append((access.open.keywords.get("keep_open", True), access.is_kept))

    assert kinds[:10] == [(True, True)] * 10
    assert kinds[10] == (False, True)
    assert kinds[-1] == (False, False)
    full = kinds.count((True, True))
    lean = kinds.count((False, True))
    assert full * FULL_FDS + lean * LEAN_FDS <= limit * 0.8
