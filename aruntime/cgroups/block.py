"""Which block devices count, and which counter file tells the truth for each.

Two facts of v1 make this necessary. Since Linux 6.10 the throttle counters of a disk stay at 0
until somebody writes a throttle rule for it; a rule of "no limit" in any non-root cgroup switches
them on for the whole disk, for good (:func:`activate`). And under the bfq scheduler a second set
of counters exists; the two must never be added. Stacked devices (dm, md, loop) would count the
same bytes again: only leaf disks are read. On v2 ``io.stat`` is always right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import msgspec

from aruntime.cgroups.files import read_file, read_optional, write_file
from aruntime.cgroups.parsers import Device, parse_blkio, parse_device

SYS_ROOT = "/sys"
READ_BPS = "blkio.throttle.read_bps_device"
THROTTLE_BYTES = "blkio.throttle.io_service_bytes"
_STACKED_OR_MEMORY = ("loop", "ram", "zram")


class Disk(msgspec.Struct, frozen=True):
    """A block device that is not built on another one."""

    major: int
    minor: int
    name: str
    """As in /sys/block."""
    scheduler: str
    """The I/O scheduler in use, ``none`` where there is none."""

    @property
    def device(self) -> Device:
        """Major and minor number."""
        return self.major, self.minor


class BlkioSource(msgspec.Struct, frozen=True):
    """The decision for one disk, worth a log line at start and an info metric."""

    disk: Disk
    source: str
    """``throttle``, ``bfq``, ``io_stat``, or ``none`` when nothing counts this disk's I/O."""
    activated: bool
    """The throttle counters were switched on by this call."""
    error: str
    """Why switching on failed, empty if it did not."""


def all_disks(sys_root: str = SYS_ROOT) -> list[Disk]:
    """Return every whole block device, stacked and memory-backed ones included."""
    disks = []
    for name in sorted(os.listdir(f"{sys_root}/block")):
        number = read_optional(f"{sys_root}/block/{name}/dev")
        if number is not None:
            major, minor = parse_device(number.strip())
            disks.append(Disk(major, minor, name, _scheduler(f"{sys_root}/block/{name}")))
    return disks


def leaf_disks(sys_root: str = SYS_ROOT) -> list[Disk]:
    """Return the disks whose bytes are counted: no slaves, not loop, ram or zram, not empty.

    Hidden paths of a multipath disk are left out: the disk itself carries the I/O.
    """
    return [disk for disk in all_disks(sys_root) if _is_leaf(f"{sys_root}/block/{disk.name}")]


def _is_leaf(directory: str) -> bool:
    name = os.path.basename(directory)
    if name.rstrip("0123456789") in _STACKED_OR_MEMORY:
        return False
    try:
        if os.listdir(f"{directory}/slaves"):
            return False
    except FileNotFoundError:
        pass
    hidden = read_optional(f"{directory}/hidden") or b"0"
    size = read_optional(f"{directory}/size") or b"0"
    return int(hidden) == 0 and int(size) > 0


# none [mq-deadline] kyber bfq
def _scheduler(directory: str) -> str:
    text = (read_optional(f"{directory}/queue/scheduler") or b"").decode()
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] if bracket else "none"


def activate(blkio_root: str, blkio_group: str, disks: Iterable[Disk]) -> list[BlkioSource]:
    """Switch the throttle counters of the disks on and decide which file to believe.

    Writing the rule freezes the disk's queue for an instant, the first time only. A disk that is
    counted already (older kernels, an earlier run, somebody's limit) is left alone.

    Args:
        blkio_root: the root directory of the v1 blkio hierarchy.
        blkio_group: directory of a non-root cgroup of ours in it.
        disks: usually :func:`leaf_disks`.
    """
    return [
        present if present.source == "throttle" else _activate(blkio_group, present)
        for present in decide(blkio_root, disks)
    ]


def _activate(blkio_group: str, present: BlkioSource) -> BlkioSource:
    disk = present.disk
    try:
        write_file(f"{blkio_group}/{READ_BPS}", f"{disk.major}:{disk.minor} 0")
    except OSError as error:
        return BlkioSource(disk, present.source, False, error.strerror or str(error))
    return BlkioSource(disk, "throttle", True, "")


def decide(blkio_root: str, disks: Iterable[Disk]) -> list[BlkioSource]:
    """Decide which file to believe without switching anything on.

    The throttle counters of a disk are at work if the root cgroup shows a line for it.
    """
    counted = parse_blkio(read_optional(f"{blkio_root}/{THROTTLE_BYTES}") or b"")
    return [BlkioSource(disk, _source(disk, disk.device in counted), False, "") for disk in disks]


def _source(disk: Disk, throttle_counts: bool) -> str:
    if throttle_counts:
        return "throttle"
    return "bfq" if disk.scheduler == "bfq" else "none"


class BlockSources:
    """The decisions of this run, device by device; owned by a driver, shared by its readers.

    A decision is kept once made: changing the counter file in the middle of a container's life
    would look like a counter reset. Devices met later (hot-plugged) are looked up when first seen.

    Args:
        decide_all: says for every leaf disk of the host what is believed now.
    """

    def __init__(self, decide_all: Callable[[], Iterable[BlkioSource]]) -> None:
        self._decide_all = decide_all
        self._sources: dict[Device, str] = {}

    def record(self, decisions: Iterable[BlkioSource]) -> None:
        """Take over decisions, such as the outcome of :func:`activate`."""
        for decision in decisions:
            self._sources[decision.disk.device] = decision.source

    def source(self, device: Device) -> str:
        """Return the file to believe for a device, ``none`` for one that must not be counted."""
        known = self._sources.get(device)
        if known is None:
            self._sources = {d.disk.device: d.source for d in self._decide_all()} | self._sources
            known = self._sources.setdefault(device, "none")
        return known


def is_partition(device: Device, sys_root: str = SYS_ROOT) -> bool:
    """Return whether the number belongs to a partition, which no throttle rule can name."""
    return os.path.exists(f"{sys_root}/dev/block/{device[0]}:{device[1]}/partition")


def exists(device: Device, sys_root: str = SYS_ROOT) -> bool:
    """Return whether the host has this block device."""
    return os.path.exists(f"{sys_root}/dev/block/{device[0]}:{device[1]}")


def whole_disk_of(device: Device, sys_root: str = SYS_ROOT) -> Device:
    """Return the disk a partition lies on."""
    path = os.path.realpath(f"{sys_root}/dev/block/{device[0]}:{device[1]}")
    return parse_device(read_file(f"{os.path.dirname(path)}/dev").strip())
