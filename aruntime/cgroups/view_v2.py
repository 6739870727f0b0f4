"""The limits a v2 cgroup has in force, read back in the specification's (v1) form.

What is unlimited is left out. A weight cannot be turned back into the exact shares it came from,
so it is given as the unified file ``cpu.weight``.
"""

from __future__ import annotations

from typing import Any

from aruntime.cgroups.files import read_optional
from aruntime.cgroups.limits_v2 import IO_MAX_KEYS
from aruntime.cgroups.parsers import parse_device, parse_limit, parse_nested_keyed


def limits_view(directory: str) -> dict[str, Any]:
    """Return ``linux.resources`` as in force (devices left out)."""
    sections = {
        "memory": _memory(directory),
        "cpu": _cpu(directory),
        "pids": _limit(directory, "limit", "pids.max"),
        "blockIO": _io(directory),
    }
    view = {name: values for name, values in sections.items() if values}
    weight = read_optional(f"{directory}/cpu.weight")
    if weight is not None:
        view["unified"] = {"cpu.weight": weight.decode().strip()}
    return view


def _limit(directory: str, name: str, file: str) -> dict[str, int]:
    value = parse_limit(read_optional(f"{directory}/{file}") or b"max")
    return {name: value} if value else {}


def _memory(directory: str) -> dict[str, int]:
    limits = _limit(directory, "limit", "memory.max")
    swap = read_optional(f"{directory}/memory.swap.max")
    if limits and swap is not None and swap.strip() != b"max":
        limits["swap"] = limits["limit"] + int(swap)
    return limits | _limit(directory, "reservation", "memory.low")


def _cpu(directory: str) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    words = (read_optional(f"{directory}/cpu.max") or b"max").split()
    if words[0] != b"max":
        limits["quota"], limits["period"] = map(int, words)
    for name in ("cpus", "mems"):
        value = (read_optional(f"{directory}/cpuset.{name}") or b"").decode().strip()
        if value:
            limits[name] = value
    return limits


# 254:0 rbps=31457280 wbps=max riops=max wiops=max
def _io(directory: str) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    rows = parse_nested_keyed(read_optional(f"{directory}/io.max") or b"")
    for name, key in IO_MAX_KEYS.items():
        for device, values in rows.items():
            if values.get(key.encode()):
                major, minor = parse_device(device)
                row = {"major": major, "minor": minor, "rate": values[key.encode()]}
                limits.setdefault(name, []).append(row)
    return limits
