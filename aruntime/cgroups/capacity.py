"""Whether this host has what a limit names: CPUs, memory nodes, block devices, bfq.

Reads the host, changes nothing, and speaks to the user: every failure is one line with a way
out. What needs no look at the host is :func:`aruntime.cgroups.resources.validate`.
"""

from __future__ import annotations

from typing import Any

from aruntime.cgroups import block
from aruntime.cgroups.parsers import parse_cpu_list
from aruntime.cgroups.resources import THROTTLES, Resources, section
from aruntime.errors import InvalidParameter, KernelFeatureMissing


def check_cpuset(resources: Resources, cpus: str, mems: str) -> None:
    """Check the CPU and memory node lists against those the parent cgroup may use.

    Raises:
        InvalidParameter: a wanted number is not available.
    """
    cpu = section(resources, "cpu")
    for name, title, available in (("cpus", "CPUs", cpus), ("mems", "memory nodes", mems)):
        wanted = parse_cpu_list(cpu.get(name) or "")
        if wanted - parse_cpu_list(available):
            raise InvalidParameter(
                f"requested {title} are not available - requested {cpu[name]}, "
                f"available: {available.strip()}"
            )


def check_block_devices(resources: Resources, sys_root: str = block.SYS_ROOT) -> None:
    """Check that every device with a rule or weight exists and is a whole disk.

    Raises:
        InvalidParameter: the device does not exist or is a partition.
    """
    section_block = section(resources, "blockIO")
    for name in ("weightDevice", *THROTTLES):
        for row in section_block.get(name) or ():
            _check_block_device(row, sys_root)


def _check_block_device(row: dict[str, Any], sys_root: str) -> None:
    device = (row["major"], row["minor"])
    if not block.exists(device, sys_root):
        raise InvalidParameter(
            f"there is no block device {device[0]}:{device[1]}; lsblk lists those of this host"
        )
    if block.is_partition(device, sys_root):
        disk = block.whole_disk_of(device, sys_root)
        raise InvalidParameter(
            f"block device {device[0]}:{device[1]} is a partition and the kernel limits whole "
            f"disks only; name the disk {disk[0]}:{disk[1]}"
        )


def check_weights(resources: Resources, sys_root: str = block.SYS_ROOT) -> None:
    """Check that a block I/O weight can take effect: a disk runs the bfq scheduler.

    Raises:
        KernelFeatureMissing: no disk (for a plain weight), or not the named one, uses bfq.
    """
    section_block = section(resources, "blockIO")
    if not section_block.get("weight") and not section_block.get("weightDevice"):
        return
    schedulers = {disk.device: disk for disk in block.all_disks(sys_root)}
    if section_block.get("weight") and not any(
        disk.scheduler == "bfq" for disk in schedulers.values()
    ):
        raise KernelFeatureMissing(
            "a blkio weight works only on a disk with the bfq scheduler and no disk of this host "
            "uses it; select it: echo bfq > /sys/block/DISK/queue/scheduler"
        )
    for row in section_block.get("weightDevice") or ():
        disk = schedulers.get((row["major"], row["minor"]))
        if disk is None or disk.scheduler != "bfq":
            name = disk.name if disk else f"{row['major']}:{row['minor']}"
            raise KernelFeatureMissing(
                f"a blkio weight for {name} needs the bfq scheduler on it, "
                f"which uses {disk.scheduler if disk else 'none'}; select it: "
                f"echo bfq > /sys/block/{name}/queue/scheduler"
            )
