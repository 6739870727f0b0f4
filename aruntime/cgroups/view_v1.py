"""The limits a v1 cgroup has in force, read back in the specification's form.

For ``inspect``, ``update`` and the spec metrics; what is unlimited or at its default is left out.
"""

from __future__ import annotations

from typing import Any

from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.files import read_file, read_optional
from aruntime.cgroups.limits_v1 import (
    CFS_PERIOD,
    CFS_QUOTA,
    MEMORY_LIMIT,
    MEMSW_LIMIT,
    THROTTLE_FILES,
)
from aruntime.cgroups.parsers import find_keyed, parse_device, parse_limit, parse_limit_v1


def limits_view(cgroup: Cgroup) -> dict[str, Any]:
    """Return ``linux.resources`` as in force (devices left out).

    Raises:
        FileNotFoundError: the cgroup does not exist.
    """
    at = cgroup.directories
    sections = {
        "memory": _memory(at["memory"]) if "memory" in at else {},
        "cpu": _cpu(at),
        "pids": _pids(at["pids"]) if "pids" in at else {},
        "blockIO": _block(at["blkio"]) if "blkio" in at else {},
    }
    return {name: values for name, values in sections.items() if values}


def _memory(directory: str) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for name, file in (
        ("limit", MEMORY_LIMIT),
        ("swap", MEMSW_LIMIT),
        ("reservation", "memory.soft_limit_in_bytes"),
    ):
        value = parse_limit_v1(read_optional(f"{directory}/{file}") or b"-1")
        if value:
            limits[name] = value
    limits["swappiness"] = int(read_file(f"{directory}/memory.swappiness"))
    if find_keyed(read_file(f"{directory}/memory.oom_control"), b"oom_kill_disable"):
        limits["disableOOMKiller"] = True
    return limits


def _cpu(at: dict[str, str]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if "cpu" in at:
        limits["shares"] = int(read_file(f"{at['cpu']}/cpu.shares"))
        quota = int(read_optional(f"{at['cpu']}/{CFS_QUOTA}") or -1)
        if quota > 0:
            limits["quota"] = quota
            limits["period"] = int(read_file(f"{at['cpu']}/{CFS_PERIOD}"))
        runtime = int(read_optional(f"{at['cpu']}/cpu.rt_runtime_us") or 0)
        if runtime:
            limits["realtimeRuntime"] = runtime
            limits["realtimePeriod"] = int(read_file(f"{at['cpu']}/cpu.rt_period_us"))
    if "cpuset" in at:
        for name in ("cpus", "mems"):
            limits[name] = read_file(f"{at['cpuset']}/cpuset.{name}").decode().strip()
    return limits


def _pids(directory: str) -> dict[str, Any]:
    limit = parse_limit(read_file(f"{directory}/pids.max"))
    return {"limit": limit} if limit else {}


# 254:0 31457280
def _block(directory: str) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    weight = read_optional(f"{directory}/blkio.bfq.weight")
    if weight is not None:
        limits["weight"] = int(weight.split()[-1])
    for name, file in THROTTLE_FILES.items():
        rows = []
        for line in (read_optional(f"{directory}/{file}") or b"").splitlines():
            device, rate = line.split()
            major, minor = parse_device(device)
            rows.append({"major": major, "minor": minor, "rate": int(rate)})
        if rows:
            limits[name] = rows
    return limits
