"""Operations on whole trees: sources of the host, the new root, pivot_root(2).

Runs in init (the first ones, with a user namespace, in the process before it): standard library
only, and nothing is imported late.
"""

from __future__ import annotations

import os

from aruntime.kernel import mounts
from aruntime.rootfs import idmapped, overlay
from aruntime.rootfs.tree import ROOT, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    Map = list[list[int]]

CLONE = mounts.OPEN_TREE_CLONE


def private(_tree: Tree) -> None:
    """Cut this mount namespace off from the host's, in both directions."""
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)


def source(
    tree: Tree,
    path: str,
    key: str,
    recursive: bool,
    propagation: list[int],
    attributes: list[int],
    maps: list[Map] | None,
) -> None:
    """Hold a detached copy of a directory or file of the host, ready to be attached.

    Args:
        tree: holds it.
        path: on the host; symbolic links are followed.
        key: its name among what is held.
        recursive: take submounts along.
        propagation: MS_SHARED … and AT_RECURSIVE or 0, empty for none; only a source opened
            before ``private`` can receive the host's mounts.
        attributes: to set and to clear, then to set and to clear on the submounts as well.
        maps: uid and gid map of an idmapped mount, or None.
    """
    recurse = mounts.AT_RECURSIVE if recursive else 0
    fd = mounts.open_tree(mounts.AT_FDCWD, path, CLONE | recurse)
    tree.hold(key, fd)
    attr_set, attr_clr, recursive_set, recursive_clr = attributes
    if propagation:
        kind, everywhere = propagation
        mounts.mount_setattr(fd, flags=everywhere, propagation=kind)
    if recursive_set or recursive_clr:
        everywhere = mounts.AT_RECURSIVE
        mounts.mount_setattr(fd, "", everywhere, recursive_set, recursive_clr)
    if attr_set or attr_clr:
        mounts.mount_setattr(fd, "", 0, attr_set, attr_clr)
    if maps:
        userns = idmapped.userns_fd(*maps)
        try:
            mapped = mounts.MOUNT_ATTR_IDMAP
            mounts.mount_setattr(fd, flags=recurse, attr_set=mapped, userns_fd=userns)
        finally:
            os.close(userns)


def idmap_layers(_tree: Tree, paths: list[str], uid_map: Map, gid_map: Map) -> None:
    """Cover the layers with idmapped mounts of themselves."""
    userns = idmapped.userns_fd(uid_map, gid_map)
    try:
        for path in paths:
            idmapped.remap_in_place(path, userns)
    finally:
        os.close(userns)


def own(_tree: Tree, path: str, uid: int, gid: int) -> None:
    """Give a directory of the host (upperdir) to the container's root."""
    os.chown(path, uid, gid, follow_symlinks=False)


def mount_overlay(
    tree: Tree, staging: str, lower: list[str], upper: str, work: str, flags: list[str]
) -> None:
    """Mount the layers at the staging directory: the new root."""
    tree.hold(ROOT, overlay.mount_writable(lower, upper, work, staging, flags))


def attach_rootfs(tree: Tree, staging: str) -> None:
    """Attach the held source named ``root`` at the staging directory: the new root."""
    mounts.move_mount(tree.root, "", mounts.AT_FDCWD, staging)


def enter(tree: Tree) -> None:
    """Make the new root the working directory.

    A clone into a new mount namespace takes its working directory along, to its own copy of the
    mount: no path has to be walked with the rights of a mapped user.
    """
    os.fchdir(tree.root)


def rebind(tree: Tree) -> None:
    """Bind the working directory over itself.

    Mounts inherited from a more privileged mount namespace are locked, and pivot_root(2) refuses
    a locked root; the top of a copy is not locked (mount_namespaces(7)).
    """
    here, flags = mounts.AT_FDCWD, mounts.AT_RECURSIVE | mounts.AT_EMPTY_PATH
    tree.hold(ROOT, mounts.open_tree(here, "", CLONE | flags))
    mounts.move_mount(tree.root, "", here, "")


def pivot(tree: Tree) -> None:
    """Make the new root the root, and let go of the host's tree."""
    os.fchdir(tree.root)
    # The old root is stacked on the new one and is what "." means to umount2 (pivot_root(2)).
    mounts.pivot_root(".", ".")
    mounts.umount2(".", mounts.MNT_DETACH)
    os.chdir("/")
    tree.close()


def propagate(_tree: Tree, propagation: int) -> None:
    """Give the root mount, after ``pivot``, the propagation of linux.rootfsPropagation."""
    mounts.mount(None, "/", None, propagation)


def readonly_root(_tree: Tree) -> None:
    """Make the root mount, after ``pivot``, read-only; what is mounted below it stays as it is."""
    mounts.mount_setattr(mounts.AT_FDCWD, "/", attr_set=mounts.MOUNT_ATTR_RDONLY)
