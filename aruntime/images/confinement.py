"""A file system of its own for the unpacking child: the store read-only, its ingest directory.

Paths stay what they are, so that nothing else has to know. Whatever an archive may bring the child
to do, there is no other file of the host to do it to: no /proc, no /dev, no /etc. Standard library
only; everything must be imported before.
"""

from __future__ import annotations

import os

from aruntime.kernel import mounts, namespaces

HARMLESS = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC


def confine(store: str, ingest: str) -> None:
    """Leave this process nothing but two directories, in namespaces of its own.

    The mounts end with the process; the host sees none of them.

    Args:
        store: ROOT/images; read-only from now on.
        ingest: the only directory that can be written.

    Raises:
        OSError: this process may not make mounts.
    """
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    held = [(path, _copy(path)) for path in (store, ingest)]
    # The new root is mounted over a directory that is already held; any would do.
    mounts.mount("tmpfs", ingest, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=700,size=1m")
    for path, _ in held:
        os.makedirs(f"{ingest}{path}", mode=0o700, exist_ok=True)
    for path, fd in held:
        target = f"{ingest}{path}"
        attributes = HARMLESS if path == ingest else HARMLESS | mounts.MOUNT_ATTR_RDONLY
        mounts.mount_setattr(fd, "", attr_set=attributes)
        mounts.move_mount(fd, "", mounts.AT_FDCWD, target)
        os.close(fd)
    os.chdir(ingest)
    mounts.pivot_root(".", ".")
    mounts.umount2(".", mounts.MNT_DETACH)
    os.chdir("/")


def _copy(path: str) -> int:
    """Hold a detached copy of a directory's mount."""
    return mounts.open_tree(mounts.AT_FDCWD, path, mounts.OPEN_TREE_CLONE)
