"""The driver for unified hosts: one directory per container, controllers handed down by us.

The parent group and everything above it must pass the controllers on (cgroup.subtree_control),
which the kernel allows only in cgroups without processes of their own. Device rules are a BPF
program. Under systemd the parent belongs into a delegated slice.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from aruntime.cgroups import capacity, device_filter, devices, limits_v2, tree, writes
from aruntime.cgroups.block import BlkioSource, leaf_disks
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.files import read_file, read_optional, write_file
from aruntime.cgroups.lifecycle import Lifecycle
from aruntime.cgroups.reader_v2 import V2Reader
from aruntime.cgroups.resources import Resources, Write, section, validate
from aruntime.cgroups.view_v2 import limits_view
from aruntime.errors import Conflict, ControllerUnavailable, InvalidParameter, KernelFeatureMissing

WANTED = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb", "rdma")
"""Controllers handed down where the host has them."""


class V2Driver(Lifecycle):
    """See :class:`aruntime.cgroups.driver.Driver`."""

    def __init__(self, hierarchy: Hierarchy, parent: str) -> None:
        super().__init__(hierarchy, parent, "unified")
        if hierarchy.unified is None:
            raise ControllerUnavailable(
                "no cgroup2 tree is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup"
            )
        self._root = hierarchy.unified
        self._parent_directory = f"{hierarchy.unified}{parent}"
        self._parent_is_known = False

    def check(self, resources: Resources) -> None:
        """Check limits against this host before anything of a container is made."""
        validate(resources)
        planned = self._plan(resources)
        devices.device_access(resources)
        self._require_all(planned)
        capacity.check_block_devices(resources)
        if any(write.file == "io.bfq.weight" for write in planned):
            capacity.check_weights(resources)
        if planned:
            self._ensure_parent()
            self._check_parent(resources, planned)

    def create(self, container_id: str, resources: Resources) -> Cgroup:
        """Make the container's cgroup and write its limits."""
        validate(resources)
        planned = self._plan(resources)
        access = devices.device_access(resources)
        self._require_all(planned)
        if not self._parent_is_known:
            self._ensure_parent()
        cgroup = self.cgroup(container_id)
        undo = tree.Undo()
        try:
            self._make_directories(cgroup, undo)
            writes.carry_out(self._directories(cgroup, planned), planned)
            device_filter.confine(cgroup.directories["unified"], access)
        except BaseException as error:
            raise undo.run(error) from error.__cause__
        return cgroup

    def apply(self, cgroup: Cgroup, resources: Resources) -> None:
        """Change the limits of a cgroup in use; on failure the old values are put back."""
        validate(resources)
        directory = cgroup.directories["unified"]
        present = read_optional(f"{directory}/cpu.max")
        planned = self._plan(resources, (present or limits_v2.FRESH_CPU_MAX.encode()).decode())
        self._require_all(planned)
        self._check_before_update(directory, resources)
        writes.carry_out_or_restore(self._directories(cgroup, planned), planned)
        if resources.get("devices") is not None:
            device_filter.confine(directory, devices.device_access(resources))

    def set_limits_view(self, cgroup: Cgroup) -> dict[str, Any]:
        """Return the limits in force in the specification's form."""
        if not os.path.isdir(cgroup.directories["unified"]):
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), cgroup.directories["unified"]
            )
        return limits_view(cgroup.directories["unified"])

    def open_reader(self, cgroup: Cgroup, *, keep_open: bool = True) -> V2Reader:
        """Open the counters; the caller closes the reader."""
        if not cgroup.path.strip("/"):
            raise InvalidParameter("the root cgroup is not metered; name a group below it")
        return V2Reader(cgroup, self._sources, keep_open=keep_open)

    def activate_block_counters(self) -> list[BlkioSource]:
        """Nothing to switch on: io.stat counts every disk."""
        decisions = self.block_sources()
        self._sources.record(decisions)
        return decisions

    def block_sources(self) -> list[BlkioSource]:
        """Say per disk what is believed: always io.stat."""
        return [BlkioSource(disk, "io_stat", False, "") for disk in leaf_disks()]

    # -- what a limit needs ------------------------------------------------------------------

    def _plan(
        self, resources: Resources, present_cpu_max: str = limits_v2.FRESH_CPU_MAX
    ) -> list[Write]:
        block = section(resources, "blockIO")
        weights = block.get("weight") or block.get("weightDevice")
        bfq = bool(weights) and self._knows("io.bfq.weight")
        return limits_v2.writes(resources, present_cpu_max, bfq=bfq)

    def _knows(self, file: str) -> bool:
        """Return whether the kernel has a file, which shows in non-root cgroups only."""
        self._ensure_parent()
        return os.path.exists(f"{self._parent_directory}/{file}")

    def _require_all(self, planned: list[Write]) -> None:
        for write in planned:
            if write.controller not in self.hierarchy.unified_controllers:
                raise ControllerUnavailable(
                    f"limit {write.file} needs the cgroup controller {write.controller}, which "
                    f"{self._root}/cgroup.controllers does not list; enable it (kernel options "
                    "cgroup_disable and cgroup_no_v1, CONFIG_CGROUP*)"
                )

    def _check_parent(self, resources: Resources, planned: list[Write]) -> None:
        """Check against the parent group: what is handed down, files, CPUs, memory nodes."""
        handed_down = read_file(f"{self._parent_directory}/cgroup.subtree_control").decode()
        for write in planned:
            if write.controller not in handed_down.split():
                raise ControllerUnavailable(
                    f"limit {write.file} needs the cgroup controller {write.controller}, which "
                    f"is not handed down to {self._parent_directory}; delegate it there "
                    "(systemd: Delegate=yes)"
                )
            if not os.path.exists(f"{self._parent_directory}/{write.file}"):
                raise KernelFeatureMissing(
                    f"this kernel has no {write.file}; leave the limit out or use a newer kernel"
                )
        if any(write.controller == "cpuset" for write in planned):
            available = (
                read_file(f"{self._parent_directory}/cpuset.{name}.effective").decode()
                for name in ("cpus", "mems")
            )
            capacity.check_cpuset(resources, *available)

    def _check_before_update(self, directory: str, resources: Resources) -> None:
        """Refuse a limit below the present usage where asked to: v2 would reclaim, then kill."""
        memory = section(resources, "memory")
        limit = memory.get("limit") or 0
        if not memory.get("checkBeforeUpdate") or limit <= 0:
            return
        usage = int(read_file(f"{directory}/memory.current"))
        if usage >= limit:
            raise Conflict(
                f"cannot set the memory limit to {limit} bytes: {usage} bytes are in use; "
                "choose a higher limit or free memory inside the container"
            )

    # -- groups ------------------------------------------------------------------------------

    def _directories(self, cgroup: Cgroup, planned: list[Write]) -> dict[str, str]:
        """On v2 every controller's files are in the one directory."""
        return {write.controller: cgroup.directories["unified"] for write in planned}

    def _ensure_parent(self) -> None:
        """Make the parent group, and hand the controllers down from the root to its children."""
        for point in self.hierarchy.mount_points:
            for directory in tree.missing_levels(point, self.parent):
                os.makedirs(directory, exist_ok=True)
        directory = self._root
        self._hand_down(directory)
        for part in self.parent.strip("/").split("/"):
            directory = f"{directory}/{part}"
            self._hand_down(directory)
        self._parent_is_known = True

    def _hand_down(self, directory: str) -> None:
        available = read_file(f"{directory}/cgroup.controllers").decode().split()
        enabled = read_file(f"{directory}/cgroup.subtree_control").decode().split()
        for controller in WANTED:
            if controller in available and controller not in enabled:
                try:
                    write_file(f"{directory}/cgroup.subtree_control", f"+{controller}")
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    raise Conflict(
                        f"cgroup {directory} has processes of its own and cannot hand the "
                        f"controller {controller} down; choose a --cgroup-parent without "
                        "processes, such as a delegated slice"
                    ) from error

    def _drop_cache(self, cgroup: Cgroup) -> None:
        """memory.reclaim (5.19) takes an amount and answers EAGAIN if it got less."""
        directory = cgroup.directories["unified"]
        usage = read_optional(f"{directory}/memory.current")
        if usage is not None:
            try:
                write_file(f"{directory}/memory.reclaim", usage.decode().strip())
            except OSError:
                pass
