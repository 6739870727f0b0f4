"""What the host itself has and did: capacity, total CPU time, pressure information.

The difference between the host's CPU time and what containers used is overhead that nobody is
billed for. It is shown so that the identity *containers + unattributed = host* can be checked.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.files import read_file
from aruntime.cgroups.parsers import find_keyed


class HostCpu(NamedTuple):
    """CPU time since the daemon started, in nanoseconds."""

    attributed_ns: int
    unattributed_ns: int


def cpu_count() -> int:
    """Processors the kernel is configured for; hot-plug cannot exceed it."""
    return max(os.cpu_count() or 1, os.sysconf("SC_NPROCESSORS_CONF"))


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def has_pressure(proc: str = "/proc") -> bool:
    """Whether the kernel keeps pressure stall information (booted with psi=1 where needed)."""
    try:
        with open(f"{proc}/pressure/cpu", "rb", buffering=0) as file:
            return bool(file.read())
    except OSError:
        return False


def root_cpu_ns(hierarchy: Hierarchy) -> int | None:
    """CPU time of everything on this host; None when no hierarchy tells.

    v1: cpuacct.usage of the root, in ns. v2: cpu.stat usage_usec of the root.
    """
    try:
        if "cpuacct" in hierarchy.v1:
            return int(read_file(f"{hierarchy.v1['cpuacct']}/cpuacct.usage"))
        if hierarchy.unified is not None:
            stat = read_file(f"{hierarchy.unified}/cpu.stat")
            return find_keyed(stat, b"usage_usec") * 1000
    except OSError:
        return None
    return None


class HostMeter:
    """Splits the host's CPU time. State: the start values and the last result, which never falls.

    Usage that containers made before the daemon started (found in accounts, or when they were
    adopted) is older than the start value of the host's counter; :meth:`exclude` leaves it out.
    """

    def __init__(self, hierarchy: Hierarchy, attributed_ns: int) -> None:
        self._hierarchy = hierarchy
        self._start_ns = root_cpu_ns(hierarchy)
        self._excluded_ns = attributed_ns
        self._last = HostCpu(0, 0)

    def exclude(self, cpu_ns: int) -> None:
        """Leave out CPU time that was used while no daemon ran."""
        self._excluded_ns += cpu_ns

    def read(self, attributed_ns: int) -> HostCpu | None:
        """Split the host's time now; None when the host does not tell.

        Args:
            attributed_ns: sum over all tenants, ended containers included.
        """
        now = root_cpu_ns(self._hierarchy)
        if now is None or self._start_ns is None:
            return None
        attributed = max(self._last.attributed_ns, attributed_ns - self._excluded_ns)
        rest = now - self._start_ns - attributed
        self._last = HostCpu(attributed, max(self._last.unattributed_ns, rest))
        return self._last
