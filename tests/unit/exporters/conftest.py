"""A view with fixed numbers: one living, one ended and one strangely named container."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest

from aruntime.cgroups.block import BlkioSource, Disk
from aruntime.cgroups.stats import (
    CpuStats,
    FastStats,
    MemoryStats,
    PidsStats,
    Pressure,
    Stats,
    ThrottlingStats,
)
from aruntime.metering.account import COUNTERS, Account, Totals
from aruntime.metering.export import (
    Budget,
    ContainerView,
    DaemonView,
    ExportState,
    LedgerView,
    View,
)
from aruntime.metering.health import Histogram
from aruntime.metering.host import HostCpu
from aruntime.metering.subject import MeterSubject
from aruntime.metering.totals import TenantTotals

SECOND = 1_000_000_000
NOW = 1_763_942_400_123_456_789


def stats() -> Stats:
    """A complete reading."""
    return Stats(
        inode=37404,
        cpu=CpuStats(12_345_678_901, 11 * SECOND, SECOND),
        throttling=ThrottlingStats(100, 7, 350_000_000, 0, 0),
        memory=MemoryStats(
            usage_bytes=67_293_184, inactive_file_bytes=4096, rss_bytes=60_000_000,
            cache_bytes=7_000_000, shmem_bytes=8192, mapped_file_bytes=12_288, dirty_bytes=4096,
            writeback_bytes=0, kernel_bytes=300_000, swap_bytes=0, peak_bytes=70_000_000,
            limit_bytes=209_715_200, failcnt=1, memsw_failcnt=2, page_faults=5000,
            major_page_faults=3, oom_kills=1,
        ),
        blkio=None,
        pids=PidsStats(4, 9, 100, 2),
        pressure=Pressure(1_500_000, 10, 5, 2_000_000, 1_000_000),
        frozen_usec=1_000_675,
        procs_path="/sys/fs/cgroup/cpuacct/aruntime/a/cgroup.procs",
    )  # fmt: skip


def totals() -> Totals:
    """Totals of a container that has done a bit of everything."""
    counters = {
        "cpu_user_ns": 11 * SECOND, "cpu_system_ns": SECOND, "cpu_periods": 100,
        "cpu_throttled_periods": 7, "cpu_throttled_ns": 350_000_000, "memory_limit_hits": 3,
        "oom_kills": 1, "page_faults": 5000, "major_page_faults": 3, "pids_limit_hits": 2,
        "cpu_waiting_us": 1_500_000, "memory_waiting_us": 10, "memory_stalled_us": 5,
        "io_waiting_us": 2_000_000, "io_stalled_us": 1_000_000, "frozen_us": 1_000_675,
    }  # fmt: skip
    return Totals(
        cpu_ns=12_345_678_901,
        running_ns=100 * SECOND + 1,
        paused_ns=1_000_675_000,
        memory_bytens2=2 * 67_289_088 * 100 * SECOND,
        pauses=1,
        counters=tuple(counters[name] for name in COUNTERS),
        block={"vda": (8 << 20, 16 << 20, 11, 22, 0), "nvme0n1": (4096, 0, 1, 0, 512)},
        network={"eth0": (1_042_000, 180, 1000, 2, 0, 1, 120, 1)},
        process=(8 << 20, 20 << 20, 0, 20 << 20),
    )


def living() -> ContainerView:
    """A running container with everything."""
    about = MeterSubject(
        id="4f1c" + "0" * 60, name="web", tenant="acme", image="busybox:latest",
        image_digest="sha256:" + "ab" * 32, network_mode="bridge", restart_policy="always",
        created_ns=NOW - 200 * SECOND, cpu_request_milli=250,
        resources={
            "cpu": {"quota": 150_000, "period": 100_000},
            "memory": {"limit": 209_715_200, "reservation": 100_000_000},
        },
    )  # fmt: skip
    account = Account(incarnation="boot:37404:1", status="running", totals=totals())
    return ContainerView(
        about=about, account=account, stats=stats(),
        fast=FastStats(12_345_678_901, 67_293_184, 4096),
        started_ns=NOW - 101 * SECOND, finished_ns=0, exit_code=None, has_pressure=True,
        polled_ns=NOW,
    )  # fmt: skip


def ended() -> ContainerView:
    """A container that was killed and lingers."""
    about = msgspec.structs.replace(living().about, id="e" * 64, name="job", resources={})
    account = Account(incarnation="boot:37417:1", status="exited", totals=totals())
    return living()._replace(
        about=about, account=account, stats=None, fast=None, finished_ns=NOW - SECOND,
        exit_code=137, has_pressure=False,
    )  # fmt: skip


def created() -> ContainerView:
    """A container that never ran, with labels that need escaping."""
    about = MeterSubject(
        id="c" * 64,
        name='a"b\\c\nd',
        tenant="größe",
        image="x",
        created_ns=NOW,
        network_mode="none",
    )
    return ContainerView(about, Account(), None, None, 0, 0, None, False, 0)


def daemon() -> DaemonView:
    """The daemon with fixed versions and figures."""
    polls, commits = Histogram(), Histogram()
    for duration in (900_000, 24_000_000, 24_000_000, 6_000_000_000):
        polls.observe_ns(duration)
    commits.observe_ns(190_000)
    disk = Disk(254, 0, "vda", "mq-deadline")
    return DaemonView(
        version="0.1.0", python_version="3.11.7", kernel="6.18.44", cgroup_mode="hybrid",
        poll_duration=polls.state(), commit_duration=commits.state(), last_poll_ns=NOW,
        last_commit_ns=NOW - SECOND, overruns=1, polls_failed={"memory": 2},
        anomalies={"counter_reset": 1, "gap": 0}, write_errors=3, pending=4, psi_available=True,
        block_sources=(BlkioSource(disk, "throttle", True, ""),), cpu_cores=2,
        memory_bytes=25_276_510_208, cpu=HostCpu(30 * SECOND, 1_500_000_000),
        ledger=LedgerView(
            sequence=812, checkpoint_ns=NOW - 900 * SECOND,
            kinds={"start": 300, "usage": 212, "final": 300}, estimated={"daemon_gap": 2},
        ),
    )  # fmt: skip


def whole_view() -> View:
    """All of it."""
    tenants = {
        "acme": TenantTotals(
            container_ns=300 * SECOND, paused_ns=SECOND, cpu_ns=24_691_357_802,
            memory_bytens2=10**25 + 1, block_read_bytes=16 << 20, block_write_bytes=32 << 20,
            network_receive_bytes=1_042_000, network_transmit_bytes=180,
            network_egress_bytes=120, containers=2,
            cpu_allocated_ns=30 * SECOND, memory_allocated_bytens2=2 * 10**25,
        )
    }  # fmt: skip
    counts = {("acme", "running"): 1, ("acme", "exited"): 1, ("größe", "created"): 1}
    exports = ExportState(
        "meters", "openmeter", "https://meters.example", sequence=41, pending=2,
        last_success_ns=NOW, delivered=300, failures=5, rejected=1,
    )  # fmt: skip
    costs = {("acme", "cpu", "EUR"): Fraction(1, 3), ("acme", "memory", "EUR"): Fraction(5, 4)}
    budgets = [Budget("acme", "EUR", Decimal("1500.50"))]
    return View(
        (living(), ended(), created()), tenants, counts, daemon(), (exports,), costs, budgets
    )


@pytest.fixture(name="view", scope="session")
def _view() -> View:
    """The view with fixed numbers."""
    return whole_view()
