"""Operations on device nodes and the links of /dev.

Runs in init: standard library only, and nothing is imported late.
"""

from __future__ import annotations

import errno
import os
import stat

from aruntime.kernel import mounts
from aruntime.rootfs import attach, resolve
from aruntime.rootfs.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    Node = list[str | int]
    """Path, type letter, major, minor, mode, uid, gid."""

NODE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
"""Letters of config-linux.md, Devices."""


class Parents:
    """Owns descriptors of the directories that nodes and links are made in, opened once each."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._fds: dict[str, int] = {}

    def __enter__(self) -> Parents:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def of(self, path: str) -> tuple[int, str]:
        """Return the directory of a path, made if missing, and the last component.

        Raises:
            OSError: it cannot be resolved inside the root.
        """
        parent, _, name = path.rpartition("/")
        if parent not in self._fds:
            self._fds[parent], name = resolve.open_parent(self._tree.root, path)
        return self._fds[parent], name


def devices(tree: Tree, nodes: list[Node]) -> None:
    """Make device nodes; one that is there already must be the same device.

    Raises:
        OSError: with the path of the node; EEXIST when something else is there.
    """
    with Parents(tree) as parents:
        for node in nodes:
            parent, name = parents.of(str(node[0]))
            try:
                make_node(parent, name, node)
            except OSError as error:
                error.filename = str(node[0])
                raise


def make_node(parent: int, name: str, node: Node) -> None:
    """Make one node below a directory descriptor, with its mode and owner.

    Raises:
        OSError: as mknod(2); EEXIST when something else is there.
    """
    _, letter, major, minor, mode, uid, gid = node
    kind = NODE_TYPES[str(letter)]
    device = 0 if kind == stat.S_IFIFO else os.makedev(int(major), int(minor))
    try:
        os.mknod(name, kind | int(mode), device, dir_fd=parent)
    except FileExistsError:
        found = os.lstat(name, dir_fd=parent)
        if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != device:
            raise OSError(errno.EEXIST, "something else is in the place of the device") from None
    if uid or gid:
        os.chown(name, int(uid), int(gid), dir_fd=parent, follow_symlinks=False)


def nodes(tree: Tree, staging: str, entries: list[list[str | Node]]) -> None:
    """Hold device nodes made with the host's privileges, for binding inside a user namespace.

    A file system mounted in a user namespace has no devices; these are on a tmpfs of the host's,
    mounted at the staging directory while they are made.

    Args:
        tree: holds them.
        staging: an existing directory.
        entries: (key, node); ids are the host's.
    """
    fd = attach.detached("tmpfs", "tmpfs", mounts.MOUNT_ATTR_NOSUID, [["mode", "755"]])
    try:
        mounts.move_mount(fd, "", mounts.AT_FDCWD, staging)
        for number, (key, node) in enumerate(entries):
            assert isinstance(node, list)
            make_node(fd, str(number), node)
            copy = mounts.open_tree(fd, str(number), mounts.OPEN_TREE_CLONE)
            tree.hold(str(key), copy)
        mounts.umount2(staging, mounts.MNT_DETACH)
    finally:
        os.close(fd)


def links(tree: Tree, pairs: list[list[str]]) -> None:
    """Make symbolic links (path, target); what is there already stays."""
    with Parents(tree) as parents:
        for path, target in pairs:
            parent, name = parents.of(path)
            try:
                os.symlink(target, name, dir_fd=parent)
            except FileExistsError:
                pass


def files(tree: Tree, paths: list[str]) -> None:
    """Make empty files to bind something on later; what is there already stays."""
    for path in paths:
        os.close(resolve.open_or_make(tree.root, path, directory=False))
