"""Owner, mode, time and extended attributes of what a layer's entries became.

The order matters: chown(2) takes setuid and file capabilities away, every change touches times.
Directories get theirs last, when nothing more is put into them; until then no set-group-id bit and
no default ACL of theirs can rub off on what is.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from aruntime.images.lower import NO_XATTR, Found
from aruntime.images.tar import Entry

KEPT_XATTRS = frozenset(
    {b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"}
)
KEPT_NAMESPACE = b"user."
OVERLAY_NAMESPACE = b"user.overlay."
"""What overlayfs reads in user namespaces (mount option userxattr), as trusted.overlay. here."""
UNSUPPORTED = frozenset({errno.ENOTSUP})
"""Attributes that the file system does not have are left out, as docker does."""


class Attributes(NamedTuple):
    """What a directory gets when all is inside it."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


def of_entry(entry: Entry) -> Attributes:
    """Return the attributes an archive gives a directory."""
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)


def of_lower(found: Found) -> Attributes:
    """Return the attributes a directory has in a lower layer."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(found.name, flags, dir_fd=found.parent)
    try:
        xattrs = {os.fsencode(name): os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        xattrs = {}
    finally:
        os.close(fd)
    status = found.status
    mode = stat.S_IMODE(status.st_mode)
    return Attributes(mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


def is_kept(name: bytes) -> bool:
    """Whether an extended attribute of an archive is set.

    trusted.overlay.* would let an archive redirect overlayfs, security.* (but for capabilities)
    belongs to the host's own security modules.
    """
    if name in KEPT_XATTRS:
        return True
    return name.startswith(KEPT_NAMESPACE) and not name.startswith(OVERLAY_NAMESPACE)


def set_on_new_file(fd: int, entry: Entry) -> None:
    """Set what open(2) did not, on a file made with the entry's permission bits."""
    if entry.uid or entry.gid:
        os.fchown(fd, entry.uid, entry.gid)
    if entry.mode & 0o7000:
        os.fchmod(fd, entry.mode)
    if entry.xattrs:
        _set_xattrs(fd, entry.xattrs)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def set_on_directory(fd: int, wanted: Attributes) -> None:
    """Set everything on an open directory."""
    os.fchown(fd, wanted.uid, wanted.gid)
    os.fchmod(fd, wanted.mode)
    if wanted.xattrs:
        _set_xattrs(fd, wanted.xattrs)
    os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))


def set_on_link(parent: int, name: bytes, entry: Entry) -> None:
    """Set owner and time of a symbolic link; it has nothing else that a container can see."""
    if entry.uid or entry.gid:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def set_on_node(parent: int, name: bytes, entry: Entry) -> None:
    """Set owner, mode and time of a device or FIFO, just made by the only one who is here."""
    if entry.uid or entry.gid:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    os.chmod(name, entry.mode, dir_fd=parent)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _set_xattrs(fd: int, xattrs: dict[bytes, bytes]) -> None:
    for name, value in xattrs.items():
        if not is_kept(name):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
