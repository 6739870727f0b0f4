"""Which cgroup hierarchies this host has mounted, and where.

Reads mountinfo (and one file of the cgroup2 tree) and nothing else; deciding what to do with the
answer is the driver's. Whether a controller was built into the kernel does not matter here: only
what is mounted can be used.
"""

from __future__ import annotations

import msgspec

from aruntime.cgroups.files import read_optional
from aruntime.kernel.mounts import mountinfo

NO_CONTROLLER_OPTIONS = frozenset(
    {
        "rw", "ro", "all", "none", "clone_children", "xattr", "noprefix", "cpuset_v2_mode",
        "favordynmods", "nofavordynmods", "memory_recursiveprot", "nsdelegate", "seclabel",
    }
)  # fmt: skip
"""Super options of a v1 mount that name no controller (kernel/cgroup/cgroup-v1.c)."""


class Hierarchy(msgspec.Struct, frozen=True):
    """The cgroup trees of this host."""

    mode: str
    """``legacy`` (v1 only), ``hybrid`` (v1 controllers beside a cgroup2 tree), ``unified``."""
    v1: dict[str, str]
    """Mount point of each v1 controller, and of each named hierarchy as ``name=…``. Controllers
    mounted together share one mount point."""
    unified: str | None
    """Mount point of the cgroup2 tree."""
    unified_controllers: frozenset[str]
    """Controllers the root of the cgroup2 tree can hand down."""

    @property
    def mount_points(self) -> tuple[str, ...]:
        """Every hierarchy once, in the order mounted, the cgroup2 tree last."""
        points = dict.fromkeys(self.v1.values())
        if self.unified is not None:
            points[self.unified] = None
        return tuple(points)


def detect(mounts: str = "/proc/self/mountinfo") -> Hierarchy:
    """Return the hierarchies of this host; the first of several mounts of one tree counts.

    A cgroup2 tree beside named v1 hierarchies only is ``unified``: the names carry no controller.

    Args:
        mounts: the mount table to read.

    Raises:
        OSError: the mount table cannot be read.
    """
    v1: dict[str, str] = {}
    unified: str | None = None
    for mount in mountinfo(mounts):
        if mount.fstype == "cgroup2":
            unified = unified or mount.mount_point
        elif mount.fstype == "cgroup":
            for name in _controllers(mount.super_options):
                v1.setdefault(name, mount.mount_point)
    has_v1_controllers = any("=" not in name for name in v1)
    with_unified = "hybrid" if has_v1_controllers else "unified"
    mode = "legacy" if unified is None else with_unified
    return Hierarchy(mode, v1, unified, _unified_controllers(unified))


# rw,xattr,release_agent=/run/agent,cpu,cpuacct
def _controllers(super_options: list[str]) -> list[str]:
    """Return what a v1 mount carries: controllers, or ``name=…`` of a named hierarchy."""
    return [
        option
        for option in super_options
        if option not in NO_CONTROLLER_OPTIONS and ("=" not in option or option.startswith("name="))
    ]


def _unified_controllers(unified: str | None) -> frozenset[str]:
    if unified is None:
        return frozenset()
    content = read_optional(f"{unified}/cgroup.controllers")
    return frozenset((content or b"").decode().split())
