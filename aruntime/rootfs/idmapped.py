"""Idmapped mounts (Linux 5.12; under overlayfs 5.19): layers whose files change owner on the way.

The kernel takes the mapping from a user namespace, and a user namespace needs a process to be
born in: :func:`userns_fd` makes one for a moment. Executed by a single-threaded process with the
host's privileges, before it clones the container's init.

Standard library only, and nothing is imported late.
"""

from __future__ import annotations

import os

from aruntime.kernel import mounts, namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Map = Sequence[Sequence[int]]
    """Rows of (id inside, id outside, count)."""


def userns_fd(uid_map: Map, gid_map: Map) -> int:
    """Return a descriptor of a user namespace with these maps; the caller owns it.

    A child holds the namespace while its maps are written and is gone on return.

    Raises:
        OSError: EPERM or EINVAL for maps the kernel refuses; ENOSPC at the limit of namespaces.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = namespaces.clone3(namespaces.CLONE_NEWUSER)
    if pid == 0:
        _wait_for_hangup(read_fd, write_fd)
    os.close(read_fd)
    try:
        namespaces.write_uid_map(pid, uid_map)
        namespaces.write_gid_map(pid, gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(write_fd)
        process.pidfd_send_signal(pidfd, process.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def _wait_for_hangup(read_fd: int, write_fd: int) -> None:
    """Keep the namespace alive until the parent has it, then end without any cleaning up."""
    try:
        os.close(write_fd)
        os.read(read_fd, 1)
    finally:
        os._exit(0)


def remap_in_place(path: str, userns: int) -> None:
    """Cover a directory with an idmapped mount of itself, in the present mount namespace.

    What looks it up from here on (overlayfs, for one) finds the files with their owners mapped.

    Raises:
        OSError: EINVAL when the file system of the directory cannot be idmapped.
    """
    fd = mounts.open_tree(mounts.AT_FDCWD, path, mounts.OPEN_TREE_CLONE)
    try:
        mounts.mount_setattr(fd, attr_set=mounts.MOUNT_ATTR_IDMAP, userns_fd=userns)
        mounts.move_mount(fd, "", mounts.AT_FDCWD, path)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
