"""What the kernel means when it refuses a limit, in words a user can act on.

Turns an errno of one write into an error of the tree; an errno without a known meaning stays the
OSError it is, with its path.
"""

from __future__ import annotations

import errno

from aruntime.cgroups.files import read_file
from aruntime.cgroups.resources import Resources, Write, section
from aruntime.errors import Conflict, InvalidParameter

_VALUE_ERRNOS = frozenset({errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP, errno.ENOSPC})
_MEMORY_LIMITS = frozenset({"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"})


def explained(error: OSError, directory: str, write: Write) -> Exception:
    """Return what to raise for a write the kernel refused."""
    if write.file in _MEMORY_LIMITS and error.errno == errno.EBUSY:
        return memory_in_use(directory, int(write.value))
    if write.file.startswith("cpu.rt_") and error.errno in (errno.EINVAL, errno.EBUSY):
        parent = directory.rpartition("/")[0]
        return realtime(parent, int(write.value), None)
    if write.file.startswith("cpuset.") and error.errno in (errno.EACCES, errno.EINVAL):
        return InvalidParameter(
            f"{write.file} {write.value} is not available in the parent cgroup; "
            "choose from its list"
        )
    if error.errno == errno.ENODEV:
        return InvalidParameter(
            f"the kernel knows no disk {write.value.split()[0]} for {write.file}; "
            "name a whole disk (lsblk lists them)"
        )
    if error.errno in _VALUE_ERRNOS:
        return InvalidParameter(
            f"the kernel refuses {write.value!r} for {write.file}: "
            f"{(error.strerror or '').lower()}; choose another value"
        )
    return error


def memory_in_use(directory: str, limit: int) -> Conflict:
    """Return the error for a memory limit below what is in use and cannot be freed."""
    usage = int(read_file(f"{directory}/memory.usage_in_bytes"))
    return Conflict(
        f"cannot set the memory limit to {limit} bytes: {usage} bytes are in use; "
        "choose a higher limit or free memory inside the container"
    )


def realtime(parent: str, runtime: int, budget: int | None) -> InvalidParameter:
    """Return the error for real-time CPU time that the parent group does not have."""
    has = "" if budget is None else f", which has {budget}"
    return InvalidParameter(
        f"{runtime} us of real-time CPU time are more than the parent cgroup can give{has}; "
        f"raise it first: echo {max(runtime, 0) or 950000} > {parent}/cpu.rt_runtime_us"
    )


def check_before_update(memory_directory: str, resources: Resources) -> None:
    """Refuse a limit below the present usage where the specification asks for the check.

    Raises:
        Conflict: ``checkBeforeUpdate`` is set and the limit is not above the usage.
    """
    memory = section(resources, "memory")
    limit = memory.get("limit") or 0
    if not memory.get("checkBeforeUpdate") or limit <= 0 or not memory_directory:
        return
    if int(read_file(f"{memory_directory}/memory.usage_in_bytes")) >= limit:
        raise memory_in_use(memory_directory, limit)
