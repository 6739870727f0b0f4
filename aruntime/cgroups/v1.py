"""The driver for hosts with v1 controllers: legacy, and hybrid with a cgroup2 tree beside.

A container has a directory in every hierarchy, named ones and the cgroup2 tree included: the
latter gives freezing, killing, pressure and frozen time even without a controller. Which values
are written, and in which order, is :mod:`aruntime.cgroups.limits_v1`.
"""

from __future__ import annotations

import os
from typing import Any

from aruntime.cgroups import block, capacity, devices, freezer, limits_v1, refusals, tree
from aruntime.cgroups.block import BlkioSource, BlockSources
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.files import read_file, read_optional, write_file
from aruntime.cgroups.freezer import Freezer
from aruntime.cgroups.limits_v1 import FRESH, RT_RUNTIME
from aruntime.cgroups.parsers import parse_device_list
from aruntime.cgroups.reader_v1 import V1Reader
from aruntime.cgroups.resources import Resources, Write, section, validate
from aruntime.cgroups.view_v1 import limits_view
from aruntime.errors import ControllerUnavailable, KernelFeatureMissing

NEEDED = ("cpuacct", "devices")
"""Without the first nothing can be billed, without the second nothing is confined."""
_LISTS = ("devices.", "blkio.throttle.")
"""Files that hold a list of lines: their old content cannot be written back as one value."""


class V1Driver:
    """See :class:`aruntime.cgroups.driver.Driver`. Owns the decisions on block counters."""

    def __init__(self, hierarchy: Hierarchy, parent: str) -> None:
        self.hierarchy = hierarchy
        self.parent = parent
        self._block_sources = BlockSources(hierarchy.v1.get("blkio", ""))
        self._parent_is_known = False
        self._clones_cpuset = False

    # -- names -------------------------------------------------------------------------------

    def cgroup(self, container_id: str) -> Cgroup:
        """Return the handle of a container's cgroup, whether or not it exists."""
        return self.cgroup_at(f"{self.parent}/{container_id}")

    def cgroup_at(self, path: str) -> Cgroup:
        """Return the handle of any cgroup."""
        directories = {name: point + path for name, point in self.hierarchy.v1.items()}
        if self.hierarchy.unified is not None:
            directories["unified"] = self.hierarchy.unified + path
        return Cgroup(path, directories)

    def procs_paths(self, cgroup: Cgroup) -> list[str]:
        """Return each directory of the cgroup once."""
        return [point + cgroup.path for point in self.hierarchy.mount_points]

    def exists(self, cgroup: Cgroup) -> bool:
        """Return whether any directory of the cgroup is there."""
        return any(os.path.isdir(directory) for directory in self.procs_paths(cgroup))

    def inode(self, cgroup: Cgroup) -> int:
        """Return the inode of the cpuacct directory."""
        return os.stat(cgroup.directories["cpuacct"]).st_ino

    def pids(self, cgroup: Cgroup) -> list[int]:
        """Return the processes of the cgroup and its descendants."""
        return tree.list_pids(cgroup.directories["cpuacct"])

    # -- limits ------------------------------------------------------------------------------

    def check(self, resources: Resources) -> None:
        """Check limits against this host before anything of a container is made."""
        validate(resources)
        writes = limits_v1.writes(resources, FRESH)
        devices.device_access(resources)
        for controller in (*NEEDED, *(write.controller for write in writes)):
            self._require(controller, writes)
        capacity.check_block_devices(resources)
        capacity.check_weights(resources)
        if writes:
            self._ensure_parent()
            self._check_parent(resources, writes, self.cgroup_at(self.parent).directories)

    def _require(self, controller: str, writes: list[Write]) -> None:
        if controller in self.hierarchy.v1:
            return
        files = [write.file for write in writes if write.controller == controller]
        what = f"limit {files[0]}" if files else "a container"
        raise ControllerUnavailable(
            f"{what} needs the cgroup controller {controller}, which is not mounted on this host; "
            f"mount it: mount -t cgroup -o {controller} {controller} /sys/fs/cgroup/{controller}"
        )

    def _check_parent(
        self, resources: Resources, writes: list[Write], parent: dict[str, str]
    ) -> None:
        """Check against the parent group: files the kernel knows, CPUs, real-time budget."""
        for write in writes:
            if not os.path.exists(f"{parent[write.controller]}/{write.file}"):
                raise KernelFeatureMissing(
                    f"this kernel has no {write.file}; leave the limit out or use a kernel "
                    "with the option for it"
                )
        if any(write.controller == "cpuset" for write in writes):
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
        of = int(read_file(f"{parent['cpu']}/{limits_v1.RT_PERIOD}"))
        if runtime < 0 or runtime * of > budget * period:
            raise refusals.realtime(parent["cpu"], runtime, budget)

    def create(self, container_id: str, resources: Resources) -> Cgroup:
        """Make the container's cgroup in every hierarchy and write its limits."""
        validate(resources)
        writes = limits_v1.writes(resources, FRESH)
        writes += devices.v1_writes(devices.device_access(resources))
        for write in writes:
            self._require(write.controller, writes)
        if not self._parent_is_known:
            self._ensure_parent()
        cgroup = self.cgroup(container_id)
        undo = tree.Undo()
        try:
            for directory in self.procs_paths(cgroup):
                self._make(directory)
                undo.add(lambda directory=directory: tree.remove(directory))  # type: ignore[misc]
            self._fill_cpuset(cgroup)
            for write in writes:
                self._write(cgroup, write)
        except BaseException as error:
            raise undo.run(error) from None
        return cgroup

    def _make(self, directory: str) -> None:
        try:
            tree.make_fresh(directory)
        except FileNotFoundError:
            self._ensure_parent()
            tree.make_fresh(directory)

    def _ensure_parent(self) -> None:
        """Make the parent group in every hierarchy; new cpusets below it start as copies of it."""
        cpuset = self.hierarchy.v1.get("cpuset")
        for point in self.hierarchy.mount_points:
            for directory in tree.missing_levels(point, self.parent):
                os.makedirs(directory, exist_ok=True)
                if point == cpuset:
                    _copy_cpuset(os.path.dirname(directory), directory)
                    write_file(f"{directory}/cgroup.clone_children", "1")
        if cpuset is not None:
            flag = read_file(f"{cpuset}{self.parent}/cgroup.clone_children")
            self._clones_cpuset = flag.strip() == b"1"
        self._parent_is_known = True

    def _fill_cpuset(self, cgroup: Cgroup) -> None:
        """No process can join a cpuset without CPUs and memory nodes; the kernel starts it empty.

        The parent we made hands its own down (clone_children), which saves four system calls.
        """
        directory = cgroup.directories.get("cpuset")
        if directory is not None and not self._clones_cpuset:
            _copy_cpuset(os.path.dirname(directory), directory)

    def apply(self, cgroup: Cgroup, resources: Resources) -> None:
        """Change the limits of a cgroup in use; on failure the old values are put back."""
        validate(resources)
        writes = limits_v1.writes(resources, self._present(cgroup, resources))
        for write in writes:
            self._require(write.controller, writes)
        refusals.check_before_update(cgroup.directories.get("memory", ""), resources)
        if resources.get("devices") is not None:
            present = read_file(f"{cgroup.directories['devices']}/devices.list")
            access = devices.device_access(resources)
            writes += devices.v1_update_writes(parse_device_list(present), access)
        undo = tree.Undo()
        try:
            for write in writes:
                path = f"{cgroup.directories[write.controller]}/{write.file}"
                old = None if write.file.startswith(_LISTS) else read_optional(path)
                self._write(cgroup, write)
                if old is not None:
                    value = old.decode().strip()
                    undo.add(lambda path=path, value=value: write_file(path, value))  # type: ignore[misc]
        except BaseException as error:
            raise undo.run(error) from None

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

    def _write(self, cgroup: Cgroup, write: Write) -> None:
        directory = cgroup.directories[write.controller]
        try:
            write_file(f"{directory}/{write.file}", write.value)
        except OSError as error:
            raise refusals.explained(error, directory, write) from error

    def set_limits_view(self, cgroup: Cgroup) -> dict[str, Any]:
        """Return the limits in force in the specification's form."""
        return limits_view(cgroup)

    # -- life --------------------------------------------------------------------------------

    def _freezer(self, cgroup: Cgroup) -> Freezer:
        return Freezer(cgroup.directories.get("unified"), cgroup.directories.get("freezer"))

    def freeze(self, cgroup: Cgroup) -> None:
        """Suspend all processes and wait until they are; blocks."""
        freezer.freeze(self._freezer(cgroup))

    def thaw(self, cgroup: Cgroup) -> None:
        """Let the processes run on and wait until they do; blocks."""
        freezer.thaw(self._freezer(cgroup))

    def freeze_request(self, cgroup: Cgroup) -> None:
        """Ask for the freeze and return at once."""
        freezer.freeze_request(self._freezer(cgroup))

    def is_frozen(self, cgroup: Cgroup) -> bool:
        """Return whether all processes are suspended."""
        return freezer.is_frozen(self._freezer(cgroup))

    def freezer_state(self, cgroup: Cgroup) -> str:
        """Return ``thawed``, ``freezing`` or ``frozen``."""
        return freezer.state(self._freezer(cgroup))

    def kill(self, cgroup: Cgroup) -> None:
        """Send SIGKILL to every process, also to frozen ones; does not wait."""
        freezer.kill(self._freezer(cgroup), cgroup.directories["cpuacct"])

    def destroy(self, cgroup: Cgroup, *, drop_cache: bool = False) -> None:
        """Remove the cgroup and its descendants from every hierarchy; gone already is fine."""
        if drop_cache and "memory" in cgroup.directories:
            self._drop_cache(cgroup.directories["memory"])
        busy: BlockingIOError | None = None
        for directory in self.procs_paths(cgroup):
            try:
                tree.remove(directory)
            except BlockingIOError as error:
                busy = error
        if busy is not None:
            raise busy

    def _drop_cache(self, directory: str) -> None:
        """Best effort: a group with processes left answers EBUSY, a removed one ENOENT."""
        try:
            write_file(f"{directory}/memory.force_empty", "0")
        except OSError:
            pass

    # -- counters ----------------------------------------------------------------------------

    def open_reader(self, cgroup: Cgroup, *, keep_open: bool = True) -> V1Reader:
        """Open the counters; the caller closes the reader."""
        self._require("cpuacct", [])
        return V1Reader(cgroup, self._block_sources, keep_open=keep_open)

    def activate_block_counters(self) -> list[BlkioSource]:
        """Switch on the I/O counters of every leaf disk and say per disk what is believed."""
        if "blkio" not in self.hierarchy.v1:
            return []
        self._ensure_parent()
        group = self.cgroup_at(self.parent).directories["blkio"]
        decisions = block.activate(group, block.leaf_disks())
        self._block_sources.record(decisions)
        return decisions

    def block_sources(self) -> list[BlkioSource]:
        """Say per disk what would be believed, without switching anything on."""
        root = self.hierarchy.v1.get("blkio")
        return [] if root is None else block.decide(root, block.leaf_disks())


_SETS = ("cpus", "mems")


def _copy_cpuset(source: str, target: str) -> None:
    for name in _SETS:
        value = read_file(f"{source}/cpuset.{name}").decode().strip()
        write_file(f"{target}/cpuset.{name}", value)
