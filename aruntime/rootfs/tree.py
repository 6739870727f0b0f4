"""The new root while it is being built, and where things are attached to it.

Runs in init: standard library only, and nothing is imported late.
"""

from __future__ import annotations

import errno
import os

from aruntime.kernel import mounts
from aruntime.rootfs import resolve

ROOT = "root"
PROC = "proc"


class Tree:
    """Owns every descriptor held on the way.

    Attributes:
        held: descriptors by name: the new root, its procfs, sources from the host.
    """

    __slots__ = ("held",)

    def __init__(self, held: dict[str, int]) -> None:
        self.held = held

    @property
    def root(self) -> int:
        """The descriptor of the new root."""
        return self.held[ROOT]

    def hold(self, key: str, fd: int) -> None:
        """Keep a descriptor under a name, closing what had it."""
        self.release(key)
        self.held[key] = fd

    def release(self, key: str) -> None:
        """Close a held descriptor, if there is one."""
        fd = self.held.pop(key, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close everything held."""
        for key in list(self.held):
            self.release(key)

    def attach(self, mount: int, target: int) -> None:
        """Attach a detached mount to a descriptor; both stay open."""
        mounts.move_mount(mount, "", target, "")

    def open_target(
        self, destination: str, *, directory: bool, strict: bool = False, over_proc: bool = False
    ) -> int:
        """Return a descriptor to attach a mount to, made if missing; the caller owns it.

        Args:
            destination: as in the specification.
            directory: what to make if it is missing.
            strict: refuse symbolic links on the way.
            over_proc: allow it to lie in a procfs.

        Raises:
            OSError: it cannot be resolved or made; EPERM for a place inside a procfs that must
                not be covered (what the runtime writes there would go elsewhere:
                CVE-2019-16884).
        """
        how = resolve.STRICT if strict else resolve.IN_ROOT
        fd = resolve.open_or_make(self.root, destination, directory=directory, resolve=how)
        try:
            if not over_proc and mounts.fstatfs_type(fd) == mounts.PROC_SUPER_MAGIC:
                raise OSError(errno.EPERM, "nothing may be mounted inside /proc", destination)
        except OSError:
            os.close(fd)
            raise
        return fd
