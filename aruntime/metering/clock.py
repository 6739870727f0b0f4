"""The two clocks of metering: durations come from CLOCK_BOOTTIME, labels from the wall.

CLOCK_BOOTTIME counts suspend and never steps (clock_gettime(2)); the wall clock may be set by
anyone, so it only names an instant. :class:`WallClock` ties one to the other and notices steps.
"""

from __future__ import annotations

import time

STEP_NS = 1_000_000_000
"""The wall may differ this much from the anchor before it counts as a step (rule R10)."""

BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"


def boottime_ns() -> int:
    """Nanoseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id(path: str = BOOT_ID_PATH) -> str:
    """The kernel's name for this boot.

    Raises:
        OSError: /proc is not there.
    """
    with open(path, encoding="ascii") as file:
        return file.read().strip()


class WallClock:
    """An anchor (wall, boot time) that turns boot times into Unix times.

    State: the anchor. It is moved only by :meth:`check`, so that times made between two steps
    stay contiguous whatever is done to CLOCK_REALTIME.
    """

    def __init__(self, *, wall_ns: int, boot_ns: int) -> None:
        self._offset_ns = wall_ns - boot_ns

    @classmethod
    def now(cls) -> WallClock:
        """Anchor at the present instant."""
        return cls(wall_ns=time.time_ns(), boot_ns=boottime_ns())

    def at(self, boot_ns: int) -> int:
        """Unix time in nanoseconds of a boot time."""
        return boot_ns + self._offset_ns

    def boot_at(self, wall_ns: int) -> int:
        """Boot time of a Unix time in nanoseconds."""
        return wall_ns - self._offset_ns

    def check(self, *, wall_ns: int, boot_ns: int) -> int:
        """Compare with the clocks; a step moves the anchor and is returned, else 0."""
        step = wall_ns - boot_ns - self._offset_ns
        if abs(step) <= STEP_NS:
            return 0
        self._offset_ns += step
        return step
