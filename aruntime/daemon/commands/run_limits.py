"""Limits: from the flags of run, create and update to the OCI ``linux.resources``.

Which combinations are allowed is :mod:`aruntime.cgroups.resources`' knowledge (docker's rules);
here are the flags, their arithmetic and the conflicts between them. Devices named by path
become major:minor through a callback. Out of scope: whether this host can keep a limit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from aruntime.cgroups import resources as rules
from aruntime.daemon.commands.flags import Flag, Parsed
from aruntime.daemon.commands.run_values import (
    parse_blkio_weight,
    parse_device_bps,
    parse_device_iops,
    parse_nano_cpus,
    parse_weight_device,
)
from aruntime.errors import InvalidParameter

DeviceNumbers = Callable[[str], tuple[int, int]]
"""A path of a block device to its major and minor number."""

LIMIT_FLAGS = (
    Flag("blkio-weight", "", "string", 0, "uint16",
         "Block IO (relative weight), between 10 and 1000, or 0 to disable",
         read=parse_blkio_weight),
    Flag("blkio-weight-device", "", "list", None, "list",
         "Block IO weight (relative device weight), DEVICE:WEIGHT", read=parse_weight_device),
    Flag("cpu-period", "", "int", help="Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag("cpu-quota", "", "int", help="Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag("cpu-rt-period", "", "int", help="Limit CPU real-time period in microseconds"),
    Flag("cpu-rt-runtime", "", "int", help="Limit CPU real-time runtime in microseconds"),
    Flag("cpu-shares", "c", "int", help="CPU shares (relative weight)"),
    Flag("cpus", "", "string", 0, "decimal", "Number of CPUs", read=parse_nano_cpus),
    Flag("cpuset-cpus", help="CPUs in which to allow execution (0-3, 0,1)"),
    Flag("cpuset-mems", help="MEMs in which to allow execution (0-3, 0,1)"),
    Flag("device-read-bps", "", "list", None, "list",
         "Limit read rate (bytes per second) from a device", read=parse_device_bps),
    Flag("device-read-iops", "", "list", None, "list",
         "Limit read rate (IO per second) from a device", read=parse_device_iops),
    Flag("device-write-bps", "", "list", None, "list",
         "Limit write rate (bytes per second) to a device", read=parse_device_bps),
    Flag("device-write-iops", "", "list", None, "list",
         "Limit write rate (IO per second) to a device", read=parse_device_iops),
    Flag("memory", "m", "bytes", help="Memory limit"),
    Flag("memory-reservation", "", "bytes", help="Memory soft limit"),
    Flag("memory-swap", "", "bytes_or_unlimited", None, "bytes",
         "Swap limit equal to memory plus swap: -1 to enable unlimited swap"),
    Flag("memory-swappiness", "", "int", -1, help="Tune container memory swappiness (0 to 100)"),
    Flag("oom-kill-disable", "", "bool", help="Disable OOM Killer"),
    Flag("pids-limit", "", "int", help="Tune container pids limit (set -1 for unlimited)"),
    Flag("kernel-memory", "", "bytes", refused="the kernel has no such limit any more"),
)  # fmt: skip
"""The flags that run, create and update share."""

_THROTTLES = {
    "device-read-bps": "throttleReadBpsDevice",
    "device-write-bps": "throttleWriteBpsDevice",
    "device-read-iops": "throttleReadIOPSDevice",
    "device-write-iops": "throttleWriteIOPSDevice",
}
_CPU = {
    "cpu-shares": "shares",
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-rt-period": "realtimePeriod",
    "cpu-rt-runtime": "realtimeRuntime",
    "cpuset-cpus": "cpus",
    "cpuset-mems": "mems",
}


def block_device_numbers(path: str) -> tuple[int, int]:
    """Look up a block device of this host.

    Raises:
        InvalidParameter: there is none at the path.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParameter(
            f"cannot limit device {path}: {reason}; name a block device of this host"
        ) from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidParameter(
            f"cannot limit device {path}: it is not a block device; see lsblk for their names"
        )
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def requested_resources(
    parsed: Parsed, *, cpu_count: int, device_numbers: DeviceNumbers
) -> dict[str, Any]:
    """Return the limits of a new container; what was not given is left out.

    Raises:
        InvalidParameter: with docker's wording.
    """
    found = _sections(parsed, cpu_count, device_numbers)
    memory = found.get("memory", {})
    swap = rules.default_swap(memory.get("limit", 0), memory.get("swap", 0))
    if swap:
        memory["swap"] = swap
    _validate(found)
    return found


def requested_patch(
    parsed: Parsed, present: Mapping[str, Any], *, cpu_count: int, device_numbers: DeviceNumbers
) -> dict[str, Any]:
    """Return the patch of limits that an update asks for, valid on top of ``present``.

    A zero says nothing, as in docker; only ``--pids-limit`` 0 takes its limit away.

    Raises:
        InvalidParameter: with docker's wording; also if nothing is asked or a lower memory+swap
            limit is in force.
    """
    if not parsed.given:
        raise InvalidParameter(f"you must provide one or more flags; {parsed.command.see}")
    patch = _sections(parsed, cpu_count, device_numbers)
    memory, old = patch.get("memory", {}), rules.section(present, "memory")
    limit, old_swap = memory.get("limit", 0), old.get("swap") or 0
    if not memory.get("swap") and 0 < old_swap < limit:
        raise InvalidParameter(
            "memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time with --memory-swap"
        )
    _validate(merge_resources(present, patch))
    return patch


def merge_resources(present: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources with a patch laid over; rows of one device replace each other."""
    merged = dict(present)
    for name, value in patch.items():
        old = merged.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            merged[name] = merge_resources(old, value)
        elif isinstance(value, list) and isinstance(old, list):
            merged[name] = _merge_rows(old, value)
        else:
            merged[name] = value
    return merged


def _merge_rows(old: list[Any], new: list[Any]) -> list[Any]:
    numbers = [(row["major"], row["minor"]) for row in new]
    return [row for row in old if (row["major"], row["minor"]) not in numbers] + new


def _validate(found: Mapping[str, Any]) -> None:
    rules.validate_docker(found)
    rules.validate(found)


def _sections(
    parsed: Parsed, cpu_count: int, device_numbers: DeviceNumbers
) -> dict[str, dict[str, Any]]:
    sections = {
        "memory": _memory(parsed),
        "cpu": _cpu(parsed, cpu_count),
        "pids": _pids(parsed),
        "blockIO": _block_io(parsed, device_numbers),
    }
    return {name: section for name, section in sections.items() if section}


def _memory(parsed: Parsed) -> dict[str, Any]:
    section = {
        "limit": parsed.integer("memory"),
        "reservation": parsed.integer("memory-reservation"),
        "swap": parsed.integer("memory-swap"),
    }
    found: dict[str, Any] = {name: value for name, value in section.items() if value}
    swappiness = parsed.integer("memory-swappiness")
    if not -1 <= swappiness <= 100:
        raise InvalidParameter(
            f"invalid value: {swappiness}. valid memory swappiness range is 0-100"
        )
    if swappiness >= 0:
        found["swappiness"] = swappiness
    if parsed.boolean("oom-kill-disable"):
        found["disableOOMKiller"] = True
    return found


def _cpu(parsed: Parsed, cpu_count: int) -> dict[str, Any]:
    found = {key: parsed[flag] for flag, key in _CPU.items() if parsed[flag]}
    nano_cpus = parsed.integer("cpus")
    if not nano_cpus:
        return found
    for flag, name in (("cpu-period", "CPU Period"), ("cpu-quota", "CPU Quota")):
        if parsed[flag]:
            raise InvalidParameter(
                f"conflicting options: Nano CPUs and {name} cannot both be set; "
                f"give either --cpus or --{flag}"
            )
    rules.check_cpus(nano_cpus, cpu_count)
    quota, period = rules.cpus_to_quota(nano_cpus)
    return {**found, "quota": quota, "period": period}


def _pids(parsed: Parsed) -> dict[str, Any]:
    limit = parsed.integer("pids-limit")
    if "pids-limit" not in parsed.given:
        return {}
    return {"limit": limit if limit > 0 else -1}


def _block_io(parsed: Parsed, device_numbers: DeviceNumbers) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if parsed.integer("blkio-weight"):
        found["weight"] = parsed.integer("blkio-weight")
    weights = _rows(parsed["blkio-weight-device"], "weight", device_numbers)
    if weights:
        found["weightDevice"] = weights
    for flag, name in _THROTTLES.items():
        rows = _rows(parsed[flag], "rate", device_numbers)
        if rows:
            found[name] = rows
    return found


def _rows(
    asked: list[tuple[str, int]], amount: str, device_numbers: DeviceNumbers
) -> list[dict[str, int]]:
    """Turn (path, number) into rows of the specification; the last word on a device counts."""
    rows: dict[tuple[int, int], dict[str, int]] = {}
    for path, number in asked:
        major, minor = device_numbers(path)
        rows[major, minor] = {"major": major, "minor": minor, amount: number}
    return list(rows.values())
