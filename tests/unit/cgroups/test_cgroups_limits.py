"""From the specification's resources to writes on v1 and v2: values, order, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.cgroups import limits_v1, limits_v2
from aruntime.cgroups.limits_v1 import (
    CFS_BURST,
    CFS_PERIOD,
    CFS_QUOTA,
    FRESH,
    MEMORY_LIMIT,
    MEMSW_LIMIT,
)
from aruntime.cgroups.resources import Write, validate
from aruntime.errors import InvalidParameter, KernelFeatureMissing

MIB = 1 << 20
EVERYTHING: dict[str, Any] = {
    "memory": {
        "limit": 200 * MIB, "swap": 300 * MIB, "reservation": 100 * MIB, "swappiness": 10,
        "disableOOMKiller": True, "kernelTCP": 4096, "kernel": 4096,
    },
    "cpu": {
        "shares": 512, "quota": 30_000, "period": 50_000, "burst": 1_000, "idle": 0,
        "realtimeRuntime": 95, "realtimePeriod": 1000, "cpus": "0-1", "mems": "0",
    },
    "pids": {"limit": 100},
    "blockIO": {
        "weight": 300,
        "weightDevice": [{"major": 7, "minor": 0, "weight": 500}],
        "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1}],
        "throttleWriteBpsDevice": [{"major": 254, "minor": 0, "rate": 2}],
        "throttleReadIOPSDevice": [{"major": 254, "minor": 0, "rate": 3}],
        "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 4}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
    "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}},
}  # fmt: skip


def lines(writes: list[Write]) -> list[str]:
    """Return writes as ``file=value``."""
    return [f"{write.file}={write.value}" for write in writes]


def test_every_v1_limit_goes_to_its_file() -> None:
    """The whole of the specification's resources, in a fresh cgroup."""
    validate(EVERYTHING)
    assert lines(limits_v1.writes(EVERYTHING, FRESH)) == [
        "cpuset.mems=0",
        "cpuset.cpus=0-1",
        "cpu.idle=0",
        "cpu.shares=512",
        "cpu.cfs_quota_us=30000",
        "cpu.cfs_period_us=50000",
        "cpu.cfs_burst_us=1000",
        "cpu.rt_period_us=1000",
        "cpu.rt_runtime_us=95",
        "memory.limit_in_bytes=209715200",
        "memory.memsw.limit_in_bytes=314572800",
        "memory.soft_limit_in_bytes=104857600",
        "memory.kmem.tcp.limit_in_bytes=4096",
        "memory.swappiness=10",
        "memory.oom_control=1",
        "pids.max=100",
        "blkio.bfq.weight=300",
        "blkio.bfq.weight_device=7:0 500",
        "blkio.throttle.read_bps_device=254:0 1",
        "blkio.throttle.write_bps_device=254:0 2",
        "blkio.throttle.read_iops_device=254:0 3",
        "blkio.throttle.write_iops_device=254:0 4",
        "hugetlb.2MB.limit_in_bytes=4096",
        "net_cls.classid=1048577",
        "net_prio.ifpriomap=eth0 5",
        "rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
    ]


def test_unset_and_null_fields_write_nothing() -> None:
    """What docker sends for a plain run (zeros, nulls, false) asks for nothing."""
    plain = {
        "memory": {"limit": 0, "swap": None, "swappiness": None, "disableOOMKiller": False},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": "", "burst": None},
        "pids": None,
        "blockIO": {"weight": 0, "weightDevice": None, "throttleReadBpsDevice": []},
        "devices": [],
    }
    validate(plain)
    assert limits_v1.writes(plain, FRESH) == []
    assert limits_v2.writes(plain) == []


def test_unlimited_pids_and_memory() -> None:
    """-1 takes limits away; the swap limit goes with the memory limit."""
    resources = {"pids": {"limit": -1}, "memory": {"limit": -1}}
    present = {**FRESH, MEMORY_LIMIT: 5 * MIB, MEMSW_LIMIT: 6 * MIB}
    assert lines(limits_v1.writes(resources, present)) == [
        "memory.memsw.limit_in_bytes=-1",
        "memory.limit_in_bytes=-1",
        "pids.max=max",
    ]
    assert lines(limits_v2.writes(resources)) == [
        "memory.swap.max=max",
        "memory.max=max",
        "pids.max=max",
    ]


def test_weights_without_bfq_go_to_cfq() -> None:
    """Kernels before 5.0 have blkio.weight."""
    block = {"weight": 20, "weightDevice": [{"major": 8, "minor": 0, "weight": 30}]}
    assert lines(limits_v1.writes({"blockIO": block}, FRESH, bfq=False)) == [
        "blkio.weight=20",
        "blkio.weight_device=8:0 30",
    ]


LIMITS = st.integers(1, 60).map(lambda mib: mib * MIB)


@given(LIMITS, LIMITS, LIMITS, LIMITS)
def test_memory_never_exceeds_memory_and_swap(a: int, b: int, c: int, d: int) -> None:
    """The kernel's rule limit ≤ memsw holds after every single write of an update."""
    state = {**FRESH, MEMORY_LIMIT: min(a, b), MEMSW_LIMIT: max(a, b)}
    wanted = {"limit": min(c, d), "swap": max(c, d)}
    for write in limits_v1.writes({"memory": wanted}, dict(state)):
        state[write.file] = int(write.value)
        assert state[MEMORY_LIMIT] <= state[MEMSW_LIMIT]
    assert (state[MEMORY_LIMIT], state[MEMSW_LIMIT]) == (wanted["limit"], wanted["swap"])


PERIODS = st.integers(1_000, 1_000_000)
QUOTAS = st.integers(1_000, 2_000_000)


@given(QUOTAS, PERIODS, QUOTAS, PERIODS, st.data())
def test_bandwidth_steps_stay_between_both_ends(
    quota: int, period: int, new_quota: int, new_period: int, data: st.DataObject
) -> None:
    """No step of an update asks for more CPU than the old or the new setting, nor burst > quota."""
    burst = data.draw(st.integers(0, quota))
    new_burst = data.draw(st.integers(0, new_quota))
    state = {**FRESH, CFS_QUOTA: quota, CFS_PERIOD: period, CFS_BURST: burst}
    most = max(quota / period, new_quota / new_period)
    cpu = {"quota": new_quota, "period": new_period, "burst": new_burst}
    for write in limits_v1.writes({"cpu": cpu}, dict(state)):
        state[write.file] = int(write.value)
        assert state[CFS_QUOTA] / state[CFS_PERIOD] <= most * (1 + 1e-12)
        assert state[CFS_BURST] <= state[CFS_QUOTA]
    assert state[CFS_BURST] == new_burst


def test_limit_above_the_swap_limit_is_refused() -> None:
    """docker's message for an update that forgets the swap limit."""
    present = {**FRESH, MEMORY_LIMIT: 100 * MIB, MEMSW_LIMIT: 200 * MIB}
    with pytest.raises(InvalidParameter, match="already set memoryswap limit"):
        limits_v1.writes({"memory": {"limit": 300 * MIB}}, present)


def test_unified_needs_v2() -> None:
    """The specification's unified map cannot be kept on v1."""
    with pytest.raises(InvalidParameter, match="cgroup v2"):
        limits_v1.writes({"unified": {"memory.high": "1"}}, FRESH)


def test_every_v2_limit_goes_to_its_file() -> None:
    """The same resources without what v2 lacks, converted as runc does."""
    resources = {
        **EVERYTHING,
        "memory": {"limit": 200 * MIB, "swap": 300 * MIB, "reservation": 100 * MIB},
        "cpu": {
            name: EVERYTHING["cpu"][name]
            for name in ("shares", "quota", "period", "burst", "idle", "cpus", "mems")
        },
        "network": {},
        "unified": {"memory.high": "1000000", "cpu.uclamp.min": "10"},
    }
    validate(resources)
    assert lines(limits_v2.writes(resources, bfq=True)) == [
        "cpuset.mems=0",
        "cpuset.cpus=0-1",
        "cpu.idle=0",
        "cpu.weight=59",
        "cpu.max.burst=0",
        "cpu.max=30000 50000",
        "cpu.max.burst=1000",
        "memory.swap.max=104857600",
        "memory.max=209715200",
        "memory.low=104857600",
        "pids.max=100",
        "io.bfq.weight=300",
        "io.bfq.weight=7:0 500",
        "io.max=254:0 rbps=1",
        "io.max=254:0 wbps=2",
        "io.max=254:0 riops=3",
        "io.max=254:0 wiops=4",
        "hugetlb.2MB.max=4096",
        "rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
        "memory.high=1000000",
        "cpu.uclamp.min=10",
    ]


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (2, 1),
        (1024, 100),
        (512, 59),
        (2048, 174),
        (22000, 1204),
        (1000, 99),
        (2000, 170),
        (262144, 10000),
    ],
)
def test_shares_become_weights_as_in_runc(shares: int, weight: int) -> None:
    """Both ends, the default, and points published with the new conversion."""
    assert limits_v2.shares_to_weight(shares) == weight


@given(st.integers(2, 262143))
def test_more_shares_never_mean_less_weight(shares: int) -> None:
    """The conversion is monotone and stays in the kernel's range."""
    weight = limits_v2.shares_to_weight(shares)
    assert 1 <= weight <= limits_v2.shares_to_weight(shares + 1) <= 10_000


@pytest.mark.parametrize(("weight", "converted"), [(10, 1), (500, 4950), (1000, 10000)])
def test_blkio_weight_becomes_io_weight(weight: int, converted: int) -> None:
    """Without bfq the v1 range is stretched to v2's."""
    plan = limits_v2.writes({"blockIO": {"weight": weight}})
    assert lines(plan) == [f"io.weight=default {converted}"]


@pytest.mark.parametrize(
    ("memory", "swap", "expected"),
    [(0, 0, None), (0, -1, "max"), (-1, 0, "max"), (-1, -1, "max"), (5, 0, None), (5, 5, "0"),
     (5, 9, "4"), (5, -1, "max")],
)  # fmt: skip
def test_swap_limit_counts_swap_alone(memory: int, swap: int, expected: str | None) -> None:
    """v1's memory+swap minus memory, with its special values."""
    assert limits_v2.swap_max(memory, swap) == expected


def test_swap_limit_without_memory_limit_is_refused() -> None:
    """There is nothing to subtract from."""
    with pytest.raises(InvalidParameter, match="memory limit"):
        limits_v2.swap_max(0, 100)


@pytest.mark.parametrize(
    ("cpu", "present", "expected"),
    [
        ({"quota": 5000}, "max 100000", "5000 100000"),
        ({"quota": 5000}, "20000 40000\n", "5000 40000"),
        ({"period": 50000}, "20000 40000", "20000 50000"),
        ({"period": 50000}, "max 100000", "max 50000"),
        ({"quota": -1, "period": 50000}, "20000 40000", "max 50000"),
    ],
)
def test_quota_or_period_alone_keeps_the_other(
    cpu: dict[str, int], present: str, expected: str
) -> None:
    """cpu.max holds both; what an update does not name stays."""
    assert lines(limits_v2.writes({"cpu": cpu}, present)) == [f"cpu.max={expected}"]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("memory", "swappiness", 5),
        ("memory", "disableOOMKiller", True),
        ("cpu", "realtimeRuntime", 95),
        ("network", "classID", 5),
    ],
)
def test_limits_of_v1_only_are_refused_on_v2(part: str, field: str, value: object) -> None:
    """A limit that would be silently dropped is an error that names it."""
    with pytest.raises(KernelFeatureMissing, match=f"{part}.{field}"):
        limits_v2.writes({part: {field: value}})
