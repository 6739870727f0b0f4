"""Operations that attach something inside the new root: file systems, binds, masks, views.

Every destination is a descriptor resolved inside the root; see :mod:`aruntime.rootfs.resolve`.

Runs in init: standard library only, and nothing is imported late.
"""

from __future__ import annotations

import errno
import os
import stat

from aruntime.kernel import mounts
from aruntime.rootfs import copying, resolve, roots
from aruntime.rootfs.tree import PROC, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    Parameters = list[list[str | None]]

CLONE = mounts.OPEN_TREE_CLONE
SAFE = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
RDONLY = mounts.MOUNT_ATTR_RDONLY
KERNEL_VIEWS = frozenset({"proc", "sysfs"})
"""Mounted on a plain directory only: through a link they would land elsewhere, and what the
runtime writes to /proc with them (CVE-2019-19921)."""
NULL_DEVICE = os.makedev(1, 3)


def detached(fstype: str, device: str, attributes: int, parameters: Parameters) -> int:
    """Return a descriptor of a new file system, mounted nowhere; the caller owns it.

    Raises:
        OSError: the type is unknown, or a parameter is refused.
    """
    context = mounts.fsopen(fstype)
    try:
        if device:
            mounts.fsconfig_string(context, "source", device)
        for key, value in parameters:
            assert key is not None
            if value is None:
                mounts.fsconfig_flag(context, key)
            else:
                mounts.fsconfig_string(context, key, value)
        mounts.fsconfig_create(context)
        return mounts.fsmount(context, attr_flags=attributes)
    except OSError as error:
        said = mounts.fsopen_log(context)
        text = f"{error.strerror} ({said})" if said else error.strerror
        raise OSError(error.errno, text) from None
    finally:
        os.close(context)


def mount(
    tree: Tree,
    destination: str,
    fstype: str,
    device: str,
    attributes: int,
    parameters: Parameters,
    propagation: int,
    copy_up: bool,
) -> None:
    """Mount a file system at a destination inside the root."""
    strict = fstype in KERNEL_VIEWS
    if fstype == "tmpfs" and not any(key == "mode" for key, _ in parameters):
        parameters = [*parameters, *_present_mode(tree, destination)]
    is_proc = fstype == "proc"
    target = tree.open_target(destination, directory=True, strict=strict, over_proc=is_proc)
    try:
        fd = detached(fstype, device, 0 if copy_up else attributes, parameters)
        try:
            if copy_up:
                _copy_up(tree, destination, fd)
                mounts.mount_setattr(fd, attr_set=attributes)
            tree.attach(fd, target)
            if propagation:
                mounts.mount_setattr(fd, propagation=propagation)
        except OSError:
            os.close(fd)
            raise
    finally:
        os.close(target)
    if is_proc:
        tree.hold(PROC, fd)
    else:
        os.close(fd)


def _present_mode(tree: Tree, destination: str) -> Parameters:
    """Give a tmpfs the mode of the directory it covers: /tmp stays 1777, /run 755."""
    try:
        fd = resolve.open_in_root(tree.root, destination)
    except FileNotFoundError:
        return []
    try:
        return [["mode", f"{stat.S_IMODE(os.fstat(fd).st_mode):o}"]]
    finally:
        os.close(fd)


def _copy_up(tree: Tree, destination: str, mount_fd: int) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    below = resolve.open_in_root(tree.root, destination, flags)
    try:
        inside = os.open(".", flags, dir_fd=mount_fd)
        try:
            copying.copy_tree(below, inside)
        finally:
            os.close(inside)
    finally:
        os.close(below)


def bind(tree: Tree, destination: str, key: str, over_proc: bool) -> None:
    """Attach a held source; a missing destination is made as what the source is.

    What is bound on /proc itself must be a procfs (CVE-2019-19921).
    """
    fd = tree.held[key]
    directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    is_proc = destination == "/proc"
    if is_proc and mounts.fstatfs_type(fd) != mounts.PROC_SUPER_MAGIC:
        raise OSError(errno.EPERM, "only a procfs may be mounted there", destination)
    strict = is_proc or over_proc
    target = tree.open_target(destination, directory=directory, strict=strict, over_proc=strict)
    try:
        if stat.S_ISDIR(os.fstat(target).st_mode) != directory:
            # move_mount would only say EINVAL.
            raise OSError(errno.ENOTDIR, "a directory and a file cannot cover each other")
        tree.attach(fd, target)
    finally:
        os.close(target)
    tree.release(key)


def cgroup_view(
    tree: Tree,
    destination: str,
    attributes: list[int],
    directories: list[list[str]],
    links: list[list[str]],
) -> None:
    """Show the container's own cgroup of every v1 hierarchy below one tmpfs.

    Args:
        tree: the new root.
        destination: /sys/fs/cgroup.
        attributes: as for ``source``; the tmpfs gets the first of them once it is filled.
        directories: (name below the destination, path on the host); a source held under the
            path is used instead of it.
        links: (name, target): controllers mounted together have one directory and a link each.
    """
    target = tree.open_target(destination, directory=True, strict=True)
    try:
        fd = detached("tmpfs", "cgroup", 0, [["mode", "755"], ["size", "64k"]])
        try:
            tree.attach(fd, target)
            for name, path in directories:
                os.mkdir(name, 0o755, dir_fd=fd)
                if path not in tree.held:
                    roots.source(tree, path, path, False, [], attributes, None)
                mounts.move_mount(tree.held[path], "", fd, name)
                tree.release(path)
            for name, points_at in links:
                os.symlink(points_at, name, dir_fd=fd)
            mounts.mount_setattr(fd, attr_set=attributes[0])
        finally:
            os.close(fd)
    finally:
        os.close(target)


def mask(tree: Tree, paths: list[str]) -> None:
    """Cover files with /dev/null and directories with an empty read-only tmpfs.

    The /dev/null is the host's, and checked to be it: one inside the root may be a link to
    anything (CVE-2025-31133). What does not exist needs no mask.
    """
    held: dict[str, int] = {}
    try:
        for path in paths:
            target = _open_existing(tree, path)
            if target < 0:
                continue
            try:
                _cover(tree, target, held)
            except OSError as error:
                error.filename = path
                raise
            finally:
                os.close(target)
    finally:
        for fd in held.values():
            os.close(fd)


def _cover(tree: Tree, target: int, held: dict[str, int]) -> None:
    """Attach a copy of one null device, or of one empty file system, made when first needed."""
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        if "null" not in held:
            held["null"] = open_null()
        _attach_copy(tree, held["null"], target)
    elif "empty" in held:
        _attach_copy(tree, held["empty"], target)
    else:
        held["empty"] = detached("tmpfs", "tmpfs", SAFE | RDONLY, [["size", "0"]])
        tree.attach(held["empty"], target)


def open_null() -> int:
    """Return a descriptor of the null device of the tree that ``/`` is now; the caller owns it.

    Raises:
        OSError: ENODEV when /dev/null is something else.
    """
    fd = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != NULL_DEVICE:
            raise OSError(errno.ENODEV, "the host's /dev/null is no null device", "/dev/null")
    except OSError:
        os.close(fd)
        raise
    return fd


def readonly(tree: Tree, paths: list[str]) -> None:
    """Cover paths with read-only copies of themselves; what does not exist is skipped."""
    for path in paths:
        target = _open_existing(tree, path)
        if target < 0:
            continue
        try:
            _attach_copy(tree, target, target, mounts.AT_RECURSIVE, RDONLY)
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(target)


def _open_existing(tree: Tree, path: str) -> int:
    """Return a descriptor, -1 if nothing is there."""
    try:
        return resolve.open_in_root(tree.root, path)
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _attach_copy(tree: Tree, origin: int, target: int, recurse: int = 0, attr: int = 0) -> None:
    fd = mounts.open_tree(origin, "", CLONE | mounts.AT_EMPTY_PATH | recurse)
    try:
        if attr:
            mounts.mount_setattr(fd, flags=recurse, attr_set=attr)
        tree.attach(fd, target)
    finally:
        os.close(fd)


def sysctls(tree: Tree, values: dict[str, str]) -> None:
    """Write kernel parameters through a procfs of our own, whatever is mounted on /proc.

    Raises:
        OSError: with the file below /proc/sys as filename.
    """
    beneath = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_XDEV
    if PROC not in tree.held:
        tree.hold(PROC, detached("proc", "proc", SAFE, []))
    for name, value in values.items():
        try:
            fd = mounts.openat2(tree.held[PROC], f"sys/{name}", os.O_WRONLY, 0, beneath)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            error.filename = f"/proc/sys/{name}"
            raise
