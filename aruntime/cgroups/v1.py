"""The driver for hosts with v1 controllers: legacy, and hybrid with a cgroup2 tree beside.

A container has a directory in every hierarchy, named ones and the cgroup2 tree included: the
latter gives freezing, killing, pressure and frozen time even without a controller. Which values
are written, and in which order, is :mod:`aruntime.cgroups.limits_v1`.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from aruntime.cgroups import (
    block,
    capacity,
    device_filter,
    devices,
    limits_v1,
    refusals,
    tree,
    writes,
)
from aruntime.cgroups.block import BlkioSource
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.devices import DeviceAccess
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.files import read_file, read_optional, write_file
from aruntime.cgroups.lifecycle import Lifecycle
from aruntime.cgroups.limits_v1 import FRESH, RT_PERIOD, RT_RUNTIME
from aruntime.cgroups.parsers import parse_device_list
from aruntime.cgroups.reader_v1 import V1Reader
from aruntime.cgroups.resources import Resources, Write, section, validate
from aruntime.cgroups.view_v1 import limits_view
from aruntime.errors import ControllerUnavailable, InvalidParameter, KernelFeatureMissing

_SETS = ("cpus", "mems")


class V1Driver(Lifecycle):
    """See :class:`aruntime.cgroups.driver.Driver`."""

    def __init__(self, hierarchy: Hierarchy, parent: str) -> None:
        super().__init__(hierarchy, parent, "cpuacct")
        self._parent_is_known = False
        self._clones_cpuset = False

    def check(self, resources: Resources) -> None:
        """Check limits against this host before anything of a container is made."""
        validate(resources)
        planned = limits_v1.writes(resources, FRESH)
        devices.device_access(resources)
        self._require_all(planned)
        capacity.check_block_devices(resources)
        capacity.check_weights(resources)
        if planned:
            parent = self.cgroup_at(self.parent).directories
            if not self._parent_is_known or not os.path.isdir(parent["cpuacct"]):
                self._ensure_parent()
            self._check_parent(resources, planned, parent)

    def create(self, container_id: str, resources: Resources) -> Cgroup:
        """Make the container's cgroup in every hierarchy and write its limits."""
        validate(resources)
        planned = limits_v1.writes(resources, FRESH)
        access = devices.device_access(resources)
        self._require_all(planned)
        if not self._parent_is_known:
            self._ensure_parent()
        cgroup = self.cgroup(container_id)
        undo = tree.Undo()
        try:
            self._make_directories(cgroup, undo)
            self._fill_cpuset(cgroup)
            writes.carry_out(cgroup.directories, planned)
            self._confine(cgroup, access)
        except BaseException as error:
            raise undo.run(error) from error.__cause__
        return cgroup

    def apply(self, cgroup: Cgroup, resources: Resources) -> None:
        """Change the limits of a cgroup in use; on failure the old values are put back."""
        validate(resources)
        planned = limits_v1.writes(resources, self._present(cgroup, resources))
        self._require_all(planned)
        refusals.check_before_update(cgroup.directories.get("memory", ""), resources)
        writes.carry_out_or_restore(cgroup.directories, planned)
        if resources.get("devices") is not None:
            self._confine_again(cgroup, devices.device_access(resources))

    def set_limits_view(self, cgroup: Cgroup) -> dict[str, Any]:
        """Return the limits in force in the specification's form."""
        return limits_view(cgroup)

    def open_reader(self, cgroup: Cgroup, *, keep_open: bool = True) -> V1Reader:
        """Open the counters; the caller closes the reader."""
        self._require("cpuacct", "metering")
        if not cgroup.path.strip("/"):
            raise InvalidParameter(
                "the root cgroup is not metered, reading its memory.stat can take seconds; "
                "name a group below it"
            )
        if cgroup.is_foreign:
            directory = cgroup.directories["cpuacct"]
            cgroup = cgroup.present()
            if "cpuacct" not in cgroup.mounts:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        return V1Reader(cgroup, self._sources, keep_open=keep_open)

    def activate_block_counters(self) -> list[BlkioSource]:
        """Switch on the I/O counters of every leaf disk and say per disk what is believed."""
        if "blkio" not in self.hierarchy.v1:
            return []
        self._ensure_parent()
        group = self.cgroup_at(self.parent).directories["blkio"]
        decisions = block.activate(self.hierarchy.v1["blkio"], group, block.leaf_disks())
        self._sources.record(decisions)
        return decisions

    def block_sources(self) -> list[BlkioSource]:
        """Say per disk what would be believed, without switching anything on."""
        root = self.hierarchy.v1.get("blkio")
        return [] if root is None else block.decide(root, block.leaf_disks())

    # -- what a limit needs ------------------------------------------------------------------

    def _require_all(self, planned: list[Write]) -> None:
        """Without cpuacct nothing can be billed, without device rules nothing is confined."""
        self._require("cpuacct", "a container")
        if self.hierarchy.unified is None:
            self._require("devices", "a container")
        for write in planned:
            self._require(write.controller, f"limit {write.file}")

    def _require(self, controller: str, what: str) -> None:
        if controller not in self.hierarchy.v1:
            raise ControllerUnavailable(
                f"{what} needs the cgroup controller {controller}, which is not mounted on this "
                f"host; mount it: mount -t cgroup -o {controller} {controller} "
                f"/sys/fs/cgroup/{controller}"
            )

    def _check_parent(
        self, resources: Resources, planned: list[Write], parent: dict[str, str]
    ) -> None:
        """Check against the parent group: files the kernel knows, CPUs, real-time budget."""
        for write in planned:
            if not os.path.exists(f"{parent[write.controller]}/{write.file}"):
                raise KernelFeatureMissing(
                    f"this kernel has no {write.file}; leave the limit out or use a kernel "
                    "with the option for it"
                )
        if any(write.controller == "cpuset" for write in planned):
            available = (read_file(f"{parent['cpuset']}/cpuset.{n}").decode() for n in _SETS)
            capacity.check_cpuset(resources, *available)
        self._check_realtime(resources, parent)

    def _check_realtime(self, resources: Resources, parent: dict[str, str]) -> None:
        """Real-time time is handed down: the parent group must have as much."""
        cpu = section(resources, "cpu")
        runtime = cpu.get("realtimeRuntime") or 0
        if not runtime:
            return
        period = cpu.get("realtimePeriod") or 1_000_000
        budget = int(read_file(f"{parent['cpu']}/{RT_RUNTIME}"))
        of = int(read_file(f"{parent['cpu']}/{RT_PERIOD}"))
        if runtime < 0 or runtime * of > budget * period:
            raise refusals.realtime(parent["cpu"], runtime, budget)

    def _present(self, cgroup: Cgroup, resources: Resources) -> dict[str, int]:
        """Return the present values that decide the order of writes, read only if needed."""
        present = dict(FRESH)
        for file in FRESH:
            controller = file.partition(".")[0]
            directory = cgroup.directories.get(controller)
            if directory is not None and section(resources, controller):
                text = read_optional(f"{directory}/{file}")
                if text is not None:
                    present[file] = int(text)
        return present

    # -- groups ------------------------------------------------------------------------------

    def _ensure_parent(self) -> None:
        """Make the parent group in every hierarchy; new cpusets below it start as copies of it."""
        made: set[str] = set()
        for point in self.hierarchy.mount_points:
            made.update(tree.missing_levels(point, self.parent))
            os.makedirs(point + self.parent, exist_ok=True)
        if "cpuset" in self.hierarchy.v1:
            self._ensure_parent_cpuset(self.hierarchy.v1["cpuset"], made)
        self._parent_is_known = True

    def _ensure_parent_cpuset(self, directory: str, made: set[str]) -> None:
        """Fill each empty cpuset on the way down; what we made hands its values on by itself."""
        for part in self.parent.strip("/").split("/"):
            above, directory = directory, f"{directory}/{part}"
            if not all(read_file(f"{directory}/cpuset.{name}").strip() for name in _SETS):
                _copy_cpuset(above, directory)
            if directory in made:
                write_file(f"{directory}/cgroup.clone_children", "1")
        flag = read_file(f"{directory}/cgroup.clone_children")
        self._clones_cpuset = flag.strip() == b"1"

    def _fill_cpuset(self, cgroup: Cgroup) -> None:
        """No process can join a cpuset without CPUs and memory nodes; the kernel starts it empty.

        The parent we made hands its own down (clone_children), which saves four system calls.
        """
        directory = cgroup.directories.get("cpuset")
        if directory is not None and not self._clones_cpuset:
            _copy_cpuset(os.path.dirname(directory), directory)

    def _confine(self, cgroup: Cgroup, access: DeviceAccess) -> None:
        """Put the device rules into force, by the cgroup2 tree where v1 has no controller."""
        if "devices" in cgroup.directories:
            writes.carry_out(cgroup.directories, devices.v1_writes(access))
        else:
            device_filter.confine(cgroup.directories["unified"], access)

    def _confine_again(self, cgroup: Cgroup, access: DeviceAccess) -> None:
        directory = cgroup.directories.get("devices")
        if directory is None:
            self._confine(cgroup, access)
            return
        present = parse_device_list(read_file(f"{directory}/devices.list"))
        writes.carry_out(cgroup.directories, devices.v1_update_writes(present, access))

    def _drop_cache(self, cgroup: Cgroup) -> None:
        """A group with processes left answers EBUSY, a removed one ENOENT."""
        directory = cgroup.directories.get("memory")
        if directory is not None:
            try:
                write_file(f"{directory}/memory.force_empty", "0")
            except OSError:
                pass


def _copy_cpuset(source: str, target: str) -> None:
    for name in _SETS:
        value = read_file(f"{source}/cpuset.{name}").decode().strip()
        write_file(f"{target}/cpuset.{name}", value)
