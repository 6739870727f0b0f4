"""From ``linux.resources`` to the writes of a v1 host, in the order the kernel accepts.

Pure: the present values an order depends on are handed in. Source of the files and their rules:
Documentation/admin-guide/cgroup-v1/ (memory.rst, cpusets.rst, blkio-controller.rst, pids.rst),
Documentation/scheduler/{sched-bwc,sched-rt-group}.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aruntime.cgroups.resources import THROTTLES, Resources, Write, section
from aruntime.errors import InvalidParameter

MEMORY_LIMIT = "memory.limit_in_bytes"
MEMSW_LIMIT = "memory.memsw.limit_in_bytes"
CFS_QUOTA = "cpu.cfs_quota_us"
CFS_PERIOD = "cpu.cfs_period_us"
CFS_BURST = "cpu.cfs_burst_us"
RT_RUNTIME = "cpu.rt_runtime_us"
RT_PERIOD = "cpu.rt_period_us"

FRESH: dict[str, int] = {
    MEMORY_LIMIT: 9223372036854771712,
    MEMSW_LIMIT: 9223372036854771712,
    CFS_QUOTA: -1,
    CFS_PERIOD: 100_000,
    CFS_BURST: 0,
}
"""What a cgroup just made holds, and the files whose present value decides an order."""

THROTTLE_FILES = dict(
    zip(
        THROTTLES,
        (
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ),
        strict=True,
    )
)


def writes(resources: Resources, present: Mapping[str, int], *, bfq: bool = True) -> list[Write]:
    """Return the writes for a valid resources dict, device rules left out.

    Args:
        resources: the specification's dict, validated.
        present: the present value of the files in :data:`FRESH`.
        bfq: weights go to ``blkio.bfq.weight`` (since Linux 5.0), else to CFQ's ``blkio.weight``.

    Raises:
        InvalidParameter: a new limit contradicts one that is in force.
    """
    if section(resources, "unified"):
        raise InvalidParameter(
            "linux.resources.unified needs cgroup v2 and this host has v1 controllers; "
            "use the fields of the v1 controllers"
        )
    return [
        *_cpuset(section(resources, "cpu")),
        *_cpu(section(resources, "cpu"), present),
        *_memory(section(resources, "memory"), present),
        *_pids(section(resources, "pids")),
        *_blkio(section(resources, "blockIO"), bfq),
        *_rest(resources),
    ]


def _cpuset(cpu: Mapping[str, Any]) -> list[Write]:
    return [
        Write("cpuset", f"cpuset.{name}", cpu[name].strip())
        for name in ("mems", "cpus")
        if cpu.get(name)
    ]


def _cpu(cpu: Mapping[str, Any], present: Mapping[str, int]) -> list[Write]:
    plan: list[Write] = []
    if cpu.get("idle") is not None:
        plan.append(Write("cpu", "cpu.idle", str(cpu["idle"])))
    if cpu.get("shares"):
        plan.append(Write("cpu", "cpu.shares", str(cpu["shares"])))
    plan += _bandwidth(cpu, present)
    # The kernel demands runtime ≤ period at every step: the period first.
    if cpu.get("realtimePeriod"):
        plan.append(Write("cpu", RT_PERIOD, str(cpu["realtimePeriod"])))
    if cpu.get("realtimeRuntime"):
        plan.append(Write("cpu", RT_RUNTIME, str(cpu["realtimeRuntime"])))
    return plan


def _bandwidth(cpu: Mapping[str, Any], present: Mapping[str, int]) -> list[Write]:
    """Order quota, period and burst so that no step asks for more CPU than both ends do.

    A parent's limit is checked at every write, and burst ≤ quota: a longer period is written
    before the quota, a shorter one after it; a smaller burst first, a greater one last.
    """
    quota, period, burst = cpu.get("quota"), cpu.get("period"), cpu.get("burst")
    quota_write = [Write("cpu", CFS_QUOTA, str(quota))] if quota else []
    period_write = [Write("cpu", CFS_PERIOD, str(period))] if period else []
    if period and period < present[CFS_PERIOD]:
        plan = quota_write + period_write
    else:
        plan = period_write + quota_write
    if burst is None:
        return plan
    burst_write = Write("cpu", CFS_BURST, str(burst))
    return [burst_write, *plan] if burst < present[CFS_BURST] else [*plan, burst_write]


def _memory(memory: Mapping[str, Any], present: Mapping[str, int]) -> list[Write]:
    """Kernel memory limits (``kernel``) are gone from Linux and are left out as in runc."""
    plan = _memory_and_swap(memory, present)
    if memory.get("reservation"):
        plan.append(Write("memory", "memory.soft_limit_in_bytes", str(memory["reservation"])))
    if memory.get("kernelTCP"):
        plan.append(Write("memory", "memory.kmem.tcp.limit_in_bytes", str(memory["kernelTCP"])))
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness >= 0:
        plan.append(Write("memory", "memory.swappiness", str(swappiness)))
    if memory.get("disableOOMKiller"):
        plan.append(Write("memory", "memory.oom_control", "1"))
    return plan


def _memory_and_swap(memory: Mapping[str, Any], present: Mapping[str, int]) -> list[Write]:
    """Order the two limits: memory ≤ memory+swap must hold after each write.

    Raising past the present memory limit starts with memory+swap, lowering below it with memory.
    """
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and swap == 0 and present[MEMSW_LIMIT] != FRESH[MEMSW_LIMIT]:
        swap = -1
    if limit > present[MEMSW_LIMIT] and not swap:
        raise InvalidParameter(
            "memory limit should be smaller than already set memoryswap limit "
            f"({present[MEMSW_LIMIT]}), update the memoryswap at the same time"
        )
    limit_write = [Write("memory", MEMORY_LIMIT, str(limit))] if limit else []
    swap_write = [Write("memory", MEMSW_LIMIT, str(swap))] if swap else []
    if swap == -1 or swap >= present[MEMORY_LIMIT]:
        return swap_write + limit_write
    return limit_write + swap_write


def _pids(pids: Mapping[str, Any]) -> list[Write]:
    limit = pids.get("limit")
    if limit is None:
        return []
    return [Write("pids", "pids.max", str(limit) if limit > 0 else "max")]


def _blkio(block: Mapping[str, Any], bfq: bool) -> list[Write]:
    weight_file = "blkio.bfq.weight" if bfq else "blkio.weight"
    plan = []
    if block.get("weight"):
        plan.append(Write("blkio", weight_file, str(block["weight"])))
    for row in block.get("weightDevice") or ():
        line = f"{row['major']}:{row['minor']} {row['weight']}"
        plan.append(Write("blkio", f"{weight_file}_device", line))
    for name, file in THROTTLE_FILES.items():
        plan += (
            Write("blkio", file, f"{row['major']}:{row['minor']} {row['rate']}")
            for row in block.get(name) or ()
        )
    return plan


def _rest(resources: Resources) -> list[Write]:
    """Huge pages, network class and priorities, RDMA."""
    plan = [
        Write("hugetlb", f"hugetlb.{row['pageSize']}.limit_in_bytes", str(row["limit"]))
        for row in resources.get("hugepageLimits") or ()
    ]
    network = section(resources, "network")
    if network.get("classID"):
        plan.append(Write("net_cls", "net_cls.classid", str(network["classID"])))
    for row in network.get("priorities") or ():
        line = f"{row['name']} {row['priority']}"
        plan.append(Write("net_prio", "net_prio.ifpriomap", line))
    for device, row in section(resources, "rdma").items():
        plan.append(rdma_write(device, row))
    return plan


def rdma_write(device: str, row: Mapping[str, Any]) -> Write:
    """Return the write of one RDMA device's limits, the same on v1 and v2."""
    handles, objects = row.get("hcaHandles"), row.get("hcaObjects")
    pairs = [("hca_handle", handles), ("hca_object", objects)]
    words = [f"{name}={value}" for name, value in pairs if value is not None]
    return Write("rdma", "rdma.max", " ".join([device, *words]))
