"""What both drivers do alike: name, find, suspend, kill and remove a cgroup.

Limits and counters, where v1 and v2 differ, are the drivers'. See
:class:`aruntime.cgroups.driver.Driver` for what each operation promises.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import partial

from aruntime.cgroups import freezer, tree
from aruntime.cgroups.block import BlkioSource, BlockSources
from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.freezer import Freezer
from aruntime.errors import ControllerUnavailable


class Lifecycle(ABC):
    """The base of both drivers. Owns the decisions on block counters.

    Args:
        hierarchy: this host's hierarchies.
        parent: the parent group's path, checked.
        counting: the directory key whose tree holds the CPU counter.
    """

    def __init__(self, hierarchy: Hierarchy, parent: str, counting: str) -> None:
        self.hierarchy = hierarchy
        self.parent = parent
        self._counting = counting
        self._mounts = dict(hierarchy.v1)
        if hierarchy.unified is not None:
            self._mounts["unified"] = hierarchy.unified
        self._sources = BlockSources(self.block_sources)

    def cgroup(self, container_id: str) -> Cgroup:
        """Return the handle of a container's cgroup, whether or not it exists."""
        return self.cgroup_at(f"{self.parent}/{container_id}")

    def cgroup_at(self, path: str) -> Cgroup:
        """Return the handle of any cgroup."""
        return Cgroup(path, self._mounts)

    def procs_paths(self, cgroup: Cgroup) -> list[str]:
        """Return each directory of the cgroup once."""
        return [point + cgroup.path for point in self.hierarchy.mount_points]

    def exists(self, cgroup: Cgroup) -> bool:
        """Return whether any directory of the cgroup is there."""
        return any(os.path.isdir(directory) for directory in self.procs_paths(cgroup))

    def counter_root(self) -> str:
        """Return where the hierarchy with the CPU counter is mounted."""
        root = self._mounts.get(self._counting)
        if root is None:
            raise ControllerUnavailable(
                f"metering needs the cgroup controller {self._counting}, which is not mounted on "
                "this host"
            )
        return root

    def inode(self, cgroup: Cgroup) -> int:
        """Return the inode of the directory with the CPU counter."""
        return os.stat(cgroup.directories[self._counting]).st_ino

    def pids(self, cgroup: Cgroup) -> list[int]:
        """Return the processes of the cgroup and its descendants."""
        return tree.list_pids(cgroup.directories[self._counting])

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
        freezer.kill(self._freezer(cgroup), cgroup.directories[self._counting])

    def destroy(self, cgroup: Cgroup, *, drop_cache: bool = False) -> None:
        """Remove the cgroup and its descendants from every hierarchy; gone already is fine."""
        if drop_cache:
            self._drop_cache(cgroup)
        busy: BlockingIOError | None = None
        for directory in self.procs_paths(cgroup):
            try:
                tree.remove(directory)
            except BlockingIOError as error:
                busy = error
        if busy is not None:
            raise busy

    @abstractmethod
    def block_sources(self) -> list[BlkioSource]:
        """Say per disk what would be believed, without switching anything on."""

    @abstractmethod
    def _drop_cache(self, cgroup: Cgroup) -> None:
        """Give charged page cache back, best effort; each version has a file of its own."""

    @abstractmethod
    def _ensure_parent(self) -> None:
        """Make the parent group where it is missing, ready to have children."""

    def _freezer(self, cgroup: Cgroup) -> Freezer:
        return Freezer(cgroup.directory("unified"), cgroup.directory("freezer"))

    def _make_directories(self, cgroup: Cgroup, undo: tree.Undo) -> None:
        """Make the cgroup in every hierarchy; ``undo`` learns to remove what was made."""
        for directory in self.procs_paths(cgroup):
            try:
                tree.make_fresh(directory)
            except FileNotFoundError:
                self._ensure_parent()  # somebody removed the empty parent group meanwhile
                tree.make_fresh(directory)
            undo.add(partial(tree.remove, directory))
