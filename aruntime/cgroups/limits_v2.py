"""From ``linux.resources`` to the writes of a v2 host.

Pure. The specification speaks v1; the conversions are those of runc and crun, so that a container
gets the same limits whichever runtime starts it. Source: Documentation/admin-guide/
cgroup-v2.rst; OCI config-linux.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aruntime.cgroups.limits_v1 import rdma_write
from aruntime.cgroups.resources import (
    CPU_SHARES,
    DEFAULT_PERIOD_US,
    THROTTLES,
    Resources,
    Write,
    section,
)
from aruntime.errors import InvalidParameter, KernelFeatureMissing

FRESH_CPU_MAX = "max 100000"
IO_MAX_KEYS = dict(zip(THROTTLES, ("rbps", "wbps", "riops", "wiops"), strict=True))
_V1_ONLY = (
    ("memory", "swappiness", "a memory swappiness"),
    ("memory", "disableOOMKiller", "switching the OOM killer off"),
    ("memory", "kernelTCP", "a TCP memory limit"),
    ("cpu", "realtimeRuntime", "real-time CPU time"),
    ("cpu", "realtimePeriod", "a real-time period"),
    ("network", "classID", "a network class"),
    ("network", "priorities", "network priorities"),
)


def shares_to_weight(shares: int) -> int:
    """Return cpu.weight (1-10000, default 100) for cpu.shares (2-262144, default 1024).

    The curve of runc 1.3.2 and crun 1.23: it meets both ends and both defaults, where the
    straight line used before gave 39 for the default 1024.
    """
    if shares <= CPU_SHARES.start:
        return 1
    if shares >= CPU_SHARES.stop - 1:
        return 10_000
    level = math.log2(shares)
    return math.ceil(10 ** ((level * level + 125 * level) / 612 - 7 / 34))


def blkio_to_io_weight(weight: int) -> int:
    """Return io.weight (1-10000) for a v1 blkio weight (10-1000)."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def swap_max(memory: int, memory_swap: int) -> str | None:
    """Return memory.swap.max for v1's limit of memory and swap together, None to leave it alone.

    Raises:
        InvalidParameter: a swap limit without a memory limit has no meaning on v2.
    """
    if memory_swap == -1 or (memory_swap == 0 and memory == -1):
        return "max"
    if memory_swap == 0:
        return None
    if memory <= 0:
        raise InvalidParameter(
            "a memory+swap limit needs a memory limit on cgroup v2, which counts swap alone; "
            "set both"
        )
    return str(memory_swap - memory)


def writes(
    resources: Resources, present_cpu_max: str = FRESH_CPU_MAX, *, bfq: bool = False
) -> list[Write]:
    """Return the writes for a valid resources dict, device rules left out.

    Args:
        resources: the specification's dict, validated.
        present_cpu_max: cpu.max as it is, for a quota or a period given alone.
        bfq: the kernel has ``io.bfq.weight``, which takes v1's weights as they are.

    Raises:
        KernelFeatureMissing: the limit exists on v1 only.
        InvalidParameter: the values make no sense on v2.
    """
    _refuse_v1_only(resources)
    return [
        *_cpuset(section(resources, "cpu")),
        *_cpu(section(resources, "cpu"), present_cpu_max),
        *_memory(section(resources, "memory")),
        *_pids(section(resources, "pids")),
        *_io(section(resources, "blockIO"), bfq),
        *_rest(resources),
        *(
            Write(file.partition(".")[0], file, value)
            for file, value in section(resources, "unified").items()
        ),
    ]


def _refuse_v1_only(resources: Resources) -> None:
    for part, name, title in _V1_ONLY:
        value = section(resources, part).get(name)
        if value and value != -1:
            raise KernelFeatureMissing(
                f"{title} (linux.resources.{part}.{name}) exists on cgroup v1 only and this "
                "host uses v2; leave it out"
            )


def _cpuset(cpu: Mapping[str, Any]) -> list[Write]:
    return [
        Write("cpuset", f"cpuset.{name}", cpu[name].strip())
        for name in ("mems", "cpus")
        if cpu.get(name)
    ]


def _cpu(cpu: Mapping[str, Any], present_cpu_max: str) -> list[Write]:
    plan: list[Write] = []
    if cpu.get("idle") is not None:
        plan.append(Write("cpu", "cpu.idle", str(cpu["idle"])))
    if cpu.get("shares"):
        plan.append(Write("cpu", "cpu.weight", str(shares_to_weight(cpu["shares"]))))
    limit: list[Write] = []
    if cpu.get("quota") or cpu.get("period"):
        limit = [Write("cpu", "cpu.max", _cpu_max(cpu, present_cpu_max))]
    burst = cpu.get("burst")
    if burst is None:
        return plan + limit
    # burst ≤ quota at every step: no burst before the quota, the new one after it.
    reset = [Write("cpu", "cpu.max.burst", "0")] if limit else []
    return [*plan, *reset, *limit, Write("cpu", "cpu.max.burst", str(burst))]


def _cpu_max(cpu: Mapping[str, Any], present: str) -> str:
    """Return ``quota period``; what is not given stays as it is."""
    present_quota, _, present_period = present.strip().partition(" ")
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    quota_word = present_quota if quota == 0 else "max" if quota < 0 else str(quota)
    return f"{quota_word} {period or present_period or DEFAULT_PERIOD_US}"


def _memory(memory: Mapping[str, Any]) -> list[Write]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    plan: list[Write] = []
    swap_limit = swap_max(limit, swap)
    if swap_limit is not None:
        plan.append(Write("memory", "memory.swap.max", swap_limit))
    if limit:
        plan.append(Write("memory", "memory.max", _bytes(limit)))
    if memory.get("reservation"):
        plan.append(Write("memory", "memory.low", _bytes(memory["reservation"])))
    return plan


def _bytes(value: int) -> str:
    return "max" if value < 0 else str(value)


def _pids(pids: Mapping[str, Any]) -> list[Write]:
    limit = pids.get("limit")
    if limit is None:
        return []
    return [Write("pids", "pids.max", str(limit) if limit > 0 else "max")]


def _io(block: Mapping[str, Any], bfq: bool) -> list[Write]:
    """A rate of 0 means no limit, as on v1."""
    plan = []
    if block.get("weight"):
        if bfq:
            plan.append(Write("io", "io.bfq.weight", str(block["weight"])))
        else:
            weight = blkio_to_io_weight(block["weight"])
            plan.append(Write("io", "io.weight", f"default {weight}"))
    for row in block.get("weightDevice") or ():
        line = f"{row['major']}:{row['minor']} {row['weight']}"
        plan.append(Write("io", "io.bfq.weight", line))
    for name, key in IO_MAX_KEYS.items():
        plan += (
            Write("io", "io.max", f"{row['major']}:{row['minor']} {key}={row['rate'] or 'max'}")
            for row in block.get(name) or ()
        )
    return plan


def _rest(resources: Resources) -> list[Write]:
    """Huge pages and RDMA."""
    plan = [
        Write("hugetlb", f"hugetlb.{row['pageSize']}.max", str(row["limit"]))
        for row in resources.get("hugepageLimits") or ()
    ]
    plan += (rdma_write(*item) for item in section(resources, "rdma").items())
    return plan
