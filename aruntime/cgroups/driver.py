"""What a cgroup driver does, and the choice of the driver for this host.

A driver makes, limits, suspends, reads and removes the cgroups of containers below one parent
group. It is synchronous and keeps no state about containers: everything is in the kernel, so a
restarted daemon finds what it left. The two implementations are :mod:`aruntime.cgroups.v1`
(legacy and hybrid hosts) and :mod:`aruntime.cgroups.v2`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from aruntime.cgroups.block import BlkioSource
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.reader import Reader
from aruntime.cgroups.resources import Resources
from aruntime.errors import InvalidParameter


class Cgroup(msgspec.Struct, frozen=True):
    """One cgroup, in every hierarchy the same path. A name, not an owner: it may be gone."""

    path: str
    """Below each mount point: ``/aruntime/<id>``."""
    mounts: Mapping[str, str]
    """Mount point by controller, shared by all handles; named hierarchies as ``name=…``, the
    cgroup2 tree as ``unified`` (with v2, every controller too leads to that one directory)."""
    is_foreign: bool = False
    """Another program's: it may leave trees out, and makes one directory after the other."""

    @property
    def directories(self) -> dict[str, str]:
        """Absolute directory by controller."""
        return {name: point + self.path for name, point in self.mounts.items()}

    def directory(self, name: str) -> str | None:
        """One of :attr:`directories`, None if it is not among them."""
        point = self.mounts.get(name)
        return point + self.path if point is not None else None

    def present(self) -> Cgroup:
        """Return the handle with those trees only in which the cgroup is at this moment."""
        mounts = self.mounts.items()
        there = {name: point for name, point in mounts if os.path.isdir(point + self.path)}
        return Cgroup(self.path, there, self.is_foreign)


class Driver(Protocol):
    """The operations on cgroups. Paths and limits in errors are the user's words where known."""

    hierarchy: Hierarchy
    parent: str

    def cgroup(self, container_id: str) -> Cgroup:
        """Return the handle of a container's cgroup, whether or not it exists."""
        ...

    def cgroup_at(self, path: str) -> Cgroup:
        """Return the handle of any cgroup, as for metering those of other programs."""
        ...

    def check(self, resources: Resources) -> None:
        """Check limits against this host before anything of a container is made.

        Raises:
            ControllerUnavailable: a limit needs a controller that is not mounted, named.
            InvalidParameter: a value is wrong, or names what this host does not have.
            KernelFeatureMissing: a weight without bfq, a file this kernel does not know.
        """
        ...

    def create(self, container_id: str, resources: Resources) -> Cgroup:
        """Make the container's cgroup in every hierarchy and write its limits.

        An empty leftover of the same name is replaced (a new incarnation needs new counters). On
        failure everything made is removed again.

        Raises:
            Conflict: a cgroup of this name has processes.
            AruntimeError: what ``check`` raises, and values the kernel refuses.
            OSError: any other failure of the kernel.
        """
        ...

    def apply(self, cgroup: Cgroup, resources: Resources) -> None:
        """Change the limits of a cgroup in use; on failure the old values are put back.

        Raises:
            Conflict: the memory in use does not fit a new limit.
            AruntimeError, OSError: as ``create``.
        """
        ...

    def procs_paths(self, cgroup: Cgroup) -> list[str]:
        """Return the directories whose cgroup.procs a process writes 0 to in order to join."""
        ...

    def open_reader(self, cgroup: Cgroup, *, keep_open: bool = True) -> Reader:
        """Open the counters; the caller closes the reader.

        Args:
            cgroup: an existing cgroup; of a foreign one, what is there of it is read.
            keep_open: False keeps the descriptors of the fast reading and of the directories
                only (about 9 instead of 22) and opens the other files for each reading.

        Raises:
            FileNotFoundError: the cgroup does not exist.
            InvalidParameter: it is the root cgroup.
            ControllerUnavailable: the host does not count CPU time.
        """
        ...

    def freeze(self, cgroup: Cgroup) -> None:
        """Suspend all processes and wait until they are; blocks."""
        ...

    def thaw(self, cgroup: Cgroup) -> None:
        """Let the processes run on and wait until they do; blocks."""
        ...

    def freeze_request(self, cgroup: Cgroup) -> None:
        """Ask for the freeze and return at once."""
        ...

    def is_frozen(self, cgroup: Cgroup) -> bool:
        """Return whether all processes are suspended."""
        ...

    def freezer_state(self, cgroup: Cgroup) -> str:
        """Return ``thawed``, ``freezing`` or ``frozen``."""
        ...

    def kill(self, cgroup: Cgroup) -> None:
        """Send SIGKILL to every process, also to frozen ones; does not wait."""
        ...

    def destroy(self, cgroup: Cgroup, *, drop_cache: bool = False) -> None:
        """Remove the cgroup and its descendants from every hierarchy; gone already is fine.

        Args:
            cgroup: the cgroup.
            drop_cache: give page cache charged to it back first, so that no dying memory cgroup
                lingers; costs the next container of the same image a warm cache.

        Raises:
            BlockingIOError: processes are still leaving; try again shortly.
        """
        ...

    def exists(self, cgroup: Cgroup) -> bool:
        """Return whether any directory of the cgroup is there."""
        ...

    def counter_root(self) -> str:
        """Return where the hierarchy with the CPU counter is mounted.

        Raises:
            ControllerUnavailable: the host does not count CPU time.
        """
        ...

    def inode(self, cgroup: Cgroup) -> int:
        """Return the inode of the directory with the CPU counter: one per incarnation.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        ...

    def pids(self, cgroup: Cgroup) -> list[int]:
        """Return the processes of the cgroup and its descendants, as this process numbers them."""
        ...

    def set_limits_view(self, cgroup: Cgroup) -> dict[str, Any]:
        """Return the limits in force in the specification's form; what is unlimited is left out.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        ...

    def activate_block_counters(self) -> Sequence[BlkioSource]:
        """Switch on the I/O counters of every leaf disk and say per disk what is believed."""
        ...

    def block_sources(self) -> Sequence[BlkioSource]:
        """Say per disk what would be believed, without switching anything on."""
        ...


def open_driver(hierarchy: Hierarchy, parent: str) -> Driver:
    """Return the driver for this host's hierarchies.

    Args:
        hierarchy: from :func:`aruntime.cgroups.detect.detect`.
        parent: ``--cgroup-parent``, such as ``/aruntime``; made when the first cgroup is, and
            left in place (its CPU counter keeps what removed children used).

    Raises:
        InvalidParameter: the parent is not a plain path below the root cgroup.
    """
    if hierarchy.mode == "unified":
        from aruntime.cgroups.v2 import V2Driver

        return V2Driver(hierarchy, checked_parent(parent))
    from aruntime.cgroups.v1 import V1Driver

    return V1Driver(hierarchy, checked_parent(parent))


def checked_parent(parent: str) -> str:
    """Return the parent group's path with a leading slash and without a trailing one.

    Raises:
        InvalidParameter: the path is empty or leaves the tree.
    """
    parts = [part for part in parent.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise InvalidParameter(
            f"invalid cgroup parent {parent!r}, use a path below the root such as /aruntime"
        )
    return "/" + "/".join(parts)
