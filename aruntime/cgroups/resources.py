"""Limits as the OCI runtime specification's ``linux.resources``: what they may say.

Pure: a dict in, an exception or nothing out. How a valid dict becomes writes to files is
:mod:`aruntime.cgroups.limits_v1` and :mod:`aruntime.cgroups.limits_v2`; whether this host can
keep a promise (controllers, CPUs, devices) is the driver's ``check``. :func:`validate` holds what
no kernel accepts; :func:`validate_docker` holds docker's own rules on top, for limits that a user
typed. Source: OCI config-linux.md, "Control groups"; moby's checks of HostConfig resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aruntime.cgroups.parsers import parse_cpu_list
from aruntime.errors import InvalidParameter

Resources = Mapping[str, Any]

MINIMUM_MEMORY_BYTES = 6 << 20
"""docker's least ``--memory``: below it the init itself is likely to be killed."""
CPU_SHARES = range(2, 262144 + 1)
CPU_PERIOD_US = range(1_000, 1_000_000 + 1)
MINIMUM_QUOTA_US = 1_000
BLKIO_WEIGHT = range(10, 1000 + 1)
DEFAULT_PERIOD_US = 100_000
MINIMUM_NANO_CPUS = 10_000_000

THROTTLES = (
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
)


class Write(NamedTuple):
    """One value for one cgroup file; ``file`` carries the controller's prefix."""

    controller: str
    file: str
    value: str


def section(resources: Resources, name: str) -> dict[str, Any]:
    """Return one object of the resources, empty when it is missing or null."""
    found = resources.get(name)
    return found if isinstance(found, dict) else {}


def default_swap(memory: int, memory_swap: int) -> int:
    """Return docker's memory+swap limit: twice the memory when only memory is limited."""
    return 2 * memory if memory > 0 and memory_swap == 0 else memory_swap


def cpus_to_quota(nano_cpus: int) -> tuple[int, int]:
    """Return (quota, period) in microseconds of ``--cpus``, given in billionths of a CPU."""
    return nano_cpus * DEFAULT_PERIOD_US // 1_000_000_000, DEFAULT_PERIOD_US


def check_cpus(nano_cpus: int, cpu_count: int) -> None:
    """Check ``--cpus`` against the CPUs of the host, as docker does (a quota may exceed them).

    Raises:
        InvalidParameter: fewer than 0.01 or more than ``cpu_count`` CPUs are asked for.
    """
    if not MINIMUM_NANO_CPUS <= nano_cpus <= cpu_count * 1_000_000_000:
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {cpu_count}.00, "
            f"as there are only {cpu_count} CPUs available"
        )


def validate(resources: Resources) -> None:
    """Check everything that needs no look at the host.

    Raises:
        InvalidParameter: naming the value that no kernel would take.
    """
    _validate_types(resources)
    _validate_memory(section(resources, "memory"))
    _validate_cpu(section(resources, "cpu"))
    _validate_block_io(section(resources, "blockIO"))
    _validate_unified(section(resources, "unified"))


def validate_docker(resources: Resources) -> None:
    """Check docker's own rules for limits a user typed; call :func:`validate` too.

    Raises:
        InvalidParameter: with docker's wording where users search for it.
    """
    memory = section(resources, "memory")
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    reservation = memory.get("reservation") or 0
    if 0 < limit < MINIMUM_MEMORY_BYTES:
        raise InvalidParameter(
            f"minimum memory limit allowed is 6MB, got {limit} bytes; give at least 6m"
        )
    if swap > 0 and limit <= 0:
        raise InvalidParameter(
            "you should always set the memory limit when using memory-swap limit; "
            "add --memory or leave --memory-swap out"
        )
    if 0 < reservation < MINIMUM_MEMORY_BYTES:
        raise InvalidParameter(
            f"minimum memory reservation allowed is 6MB, got {reservation} bytes; give at least 6m"
        )
    weight = section(resources, "blockIO").get("weight") or 0
    if weight and weight not in BLKIO_WEIGHT:
        raise InvalidParameter(f"range of blkio weight is from 10 to 1000, got {weight}")


def _validate_types(resources: Resources) -> None:
    """Refuse anything but whole numbers where the specification wants them."""
    for name in ("memory", "cpu", "pids", "blockIO", "network"):
        found = resources.get(name)
        if found is not None and not isinstance(found, dict):
            raise InvalidParameter(f"linux.resources.{name} must be an object, got {found!r}")
        for key, value in section(resources, name).items():
            if key in _NOT_NUMBERS or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidParameter(
                    f"linux.resources.{name}.{key} must be a whole number, got {value!r}"
                )


_NOT_NUMBERS = frozenset(
    {"cpus", "mems", "disableOOMKiller", "useHierarchy", "checkBeforeUpdate", "weightDevice"}
    | {*THROTTLES, "priorities"}
)


def _validate_memory(memory: Mapping[str, Any]) -> None:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    reservation = memory.get("reservation") or 0
    swappiness = memory.get("swappiness")
    for name in ("limit", "swap", "reservation", "kernelTCP"):
        if (memory.get(name) or 0) < -1:
            raise InvalidParameter(
                f"memory {name} must be a number of bytes or -1 for none, got {memory[name]}"
            )
    if limit > 0 and 0 < swap < limit:
        raise InvalidParameter(
            "minimum memoryswap limit should be larger than memory limit: "
            f"{swap} is below {limit}; raise the swap limit (it counts memory and swap together)"
        )
    if limit == -1 and swap > 0:
        raise InvalidParameter(
            "a memory+swap limit needs a memory limit; set the memory limit or drop both"
        )
    if limit > 0 and reservation > limit:
        raise InvalidParameter(
            "minimum memory limit can not be less than memory reservation limit: "
            f"{limit} is below {reservation}"
        )
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidParameter(
            f"invalid value {swappiness} for memory swappiness, valid range is 0-100"
        )


def _validate_cpu(cpu: Mapping[str, Any]) -> None:
    shares, quota = cpu.get("shares") or 0, cpu.get("quota") or 0
    period = cpu.get("period") or 0
    if shares and shares not in CPU_SHARES:
        bound = "minimum" if shares < CPU_SHARES.start else "maximum"
        number = CPU_SHARES.start if bound == "minimum" else CPU_SHARES.stop - 1
        raise InvalidParameter(f"the {bound} allowed cpu-shares is {number}, got {shares}")
    if period and period not in CPU_PERIOD_US:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s "
            f"(i.e. 1000000), got {period}"
        )
    if quota and quota != -1 and quota < MINIMUM_QUOTA_US:
        raise InvalidParameter(f"CPU cfs quota can not be less than 1ms (i.e. 1000), got {quota}")
    _validate_burst(cpu, quota)
    _validate_realtime(cpu)
    for name in ("cpus", "mems"):
        _validate_list(name, cpu.get(name) or "")
    if cpu.get("idle") not in (None, 0, 1):
        raise InvalidParameter(f"cpu idle must be 0 or 1, got {cpu['idle']}")


def _validate_burst(cpu: Mapping[str, Any], quota: int) -> None:
    burst = cpu.get("burst") or 0
    if burst < 0 or (burst and quota > 0 and burst > quota):
        raise InvalidParameter(
            f"cpu burst must be between 0 and the quota ({quota}), got {burst} microseconds"
        )


def _validate_realtime(cpu: Mapping[str, Any]) -> None:
    runtime, period = cpu.get("realtimeRuntime") or 0, cpu.get("realtimePeriod") or 0
    if period < 0:
        raise InvalidParameter(f"cpu real-time period must not be negative, got {period}")
    if period and runtime > period:
        raise InvalidParameter(
            "cpu real-time runtime cannot be higher than cpu real-time period: "
            f"{runtime} is above {period}"
        )


def _validate_list(name: str, text: Any) -> None:
    try:
        if isinstance(text, str):
            parse_cpu_list(text)
            return
    except ValueError:
        pass
    raise InvalidParameter(f"invalid value {text!r} for cpuset {name}, use a list like 0-3,8")


def _validate_block_io(block: Mapping[str, Any]) -> None:
    weight = block.get("weight") or 0
    if weight and not 1 <= weight <= BLKIO_WEIGHT.stop - 1:
        raise InvalidParameter(f"range of blkio weight is from 10 to 1000, got {weight}")
    for row in block.get("weightDevice") or ():
        _validate_device_row("weightDevice", row, "weight")
        if row["weight"] and not 1 <= row["weight"] <= BLKIO_WEIGHT.stop - 1:
            raise InvalidParameter(
                f"range of blkio weight is from 10 to 1000, got {row['weight']} for device "
                f"{row['major']}:{row['minor']}"
            )
    for name in THROTTLES:
        for row in block.get(name) or ():
            _validate_device_row(name, row, "rate")


def _validate_device_row(name: str, row: Any, amount: str) -> None:
    fields = ("major", "minor", amount)
    if not isinstance(row, dict) or not all(
        type(row.get(field)) is int and row[field] >= 0 for field in fields
    ):
        raise InvalidParameter(
            f"linux.resources.blockIO.{name} needs {', '.join(fields)} as whole numbers, "
            f"got {row!r}"
        )


def _validate_unified(unified: Mapping[str, Any]) -> None:
    for file, value in unified.items():
        controller, dot, _ = file.partition(".")
        if "/" in file or not dot or not controller or not isinstance(value, str):
            raise InvalidParameter(
                f"linux.resources.unified needs file names such as memory.high with text "
                f"values, got {file!r}: {value!r}"
            )
