"""Which cgroup hierarchies this host has mounted, and where.

Reads mountinfo (and one file of the cgroup2 tree) and nothing else; deciding what to do with the
answer is the driver's. Whether a controller was built into the kernel does not matter here: only
what is mounted can be used.
"""

from __future__ import annotations

import msgspec

from aruntime.cgroups.files import read_optional
from aruntime.cgroups.parsers import parse_cgroup_mounts

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


def detect(mountinfo: str = "/proc/self/mountinfo") -> Hierarchy:
    """Return the hierarchies of this host; the first of several mounts of one tree counts.

    A cgroup2 tree beside named v1 hierarchies only is ``unified``: the names carry no controller.

    Raises:
        OSError: mountinfo cannot be read.
    """
    with open(mountinfo, "rb") as file:
        mounts = parse_cgroup_mounts(file.read())
    v1: dict[str, str] = {}
    unified: str | None = None
    for point, fstype, options in mounts:
        if fstype == "cgroup2":
            unified = unified or point
            continue
        for option in options:
            name, _, value = option.partition("=")
            if option in NO_CONTROLLER_OPTIONS or (value and name != "name"):
                continue
            v1.setdefault(option, point)
    has_v1_controllers = any("=" not in name for name in v1)
    with_unified = "hybrid" if has_v1_controllers else "unified"
    mode = "legacy" if unified is None else with_unified
    return Hierarchy(mode, v1, unified, _unified_controllers(unified))


def _unified_controllers(unified: str | None) -> frozenset[str]:
    if unified is None:
        return frozenset()
    content = read_optional(f"{unified}/cgroup.controllers")
    return frozenset((content or b"").decode().split())
