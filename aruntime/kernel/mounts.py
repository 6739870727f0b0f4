"""Mounts: mount(2) and umount2(2), the descriptor calls of Linux 5.2 to 5.12, and mountinfo.

Functions and constants are spelled as in the kernel's headers. Every descriptor returned is
close-on-exec and the caller's. Out of scope: what is mounted where, and resolving paths inside
a container's root (aruntime.rootfs).
"""

from __future__ import annotations

import ctypes
import os
import struct

from aruntime.kernel import libc

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

# include/linux/fs.h
MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_SYMLINKS = 0x00000001
MOVE_MOUNT_F_AUTOMOUNTS = 0x00000002
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_SYMLINKS = 0x00000010
MOVE_MOUNT_T_AUTOMOUNTS = 0x00000020
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# include/uapi/linux/fcntl.h
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# include/uapi/linux/magic.h
PROC_SUPER_MAGIC = 0x9FA0
KERNEL_VIEWS = frozenset(
    {
        PROC_SUPER_MAGIC,
        0x62656572,  # sysfs
        0x0027E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x62656570,  # configfs
        0xCAFE4A11,  # bpf
        0x6165676C,  # pstore
        0xDE5E81E4,  # efivarfs
        0x42494E4D,  # binfmt_misc
        0x65735543,  # fusectl
        0xF97CFF8C,  # selinuxfs
        0x19800202,  # mqueue
        0x00001CD1,  # devpts
    }
)
"""File systems (linux/magic.h) whose files show the kernel's state and are kept nowhere."""
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
OVERLAYFS_SUPER_MAGIC = 0x794C7630

_mount = libc.function("mount", libc.text, libc.text, libc.text, libc.ulong, libc.text)
_umount2 = libc.function("umount2", libc.text, libc.cint)
_pivot_root = libc.function("pivot_root", libc.text, libc.text)
_open_tree = libc.syscall(428, libc.cint, libc.text, libc.uint)
_move_mount = libc.syscall(429, libc.cint, libc.text, libc.cint, libc.text, libc.uint)
_fsopen = libc.syscall(430, libc.text, libc.uint)
_fsconfig = libc.syscall(431, libc.cint, libc.uint, libc.text, libc.text, libc.cint)
_fsmount = libc.syscall(432, libc.cint, libc.uint, libc.uint)
_openat2 = libc.syscall(437, libc.cint, libc.text, libc.text, ctypes.c_size_t)
_mount_setattr = libc.syscall(442, libc.cint, libc.text, libc.uint, libc.text, ctypes.c_size_t)

_fstatfs = libc.function("fstatfs", libc.cint, libc.pointer)

_OPEN_HOW = struct.Struct("=QQQ")
_MOUNT_ATTR = struct.Struct("=QQQQ")
# struct statfs begins with f_type, a long; 120 bytes on 64-bit machines
_STATFS_TYPE = struct.Struct("@l")
_STATFS_BYTES = 256


def mount(
    source: str | bytes | None,
    target: str | bytes,
    fstype: str | None = None,
    flags: int = 0,
    data: str | bytes | None = None,
) -> None:
    """mount(2); ``data`` is at most one page long (the kernel cuts it without a word).

    Raises:
        OSError: as mount(2), with the target as filename.
    """
    encoded = libc.encoded
    result = _mount(encoded(source), encoded(target), encoded(fstype), flags, encoded(data))
    libc.check(result, "mount", target)


def umount2(target: str | bytes, flags: int = 0) -> None:
    """umount2(2).

    Raises:
        OSError: as umount2(2), with the target as filename.
    """
    libc.check(_umount2(libc.encoded(target), flags), "umount2", target)


def pivot_root(new_root: str | bytes, put_old: str | bytes) -> None:
    """pivot_root(2); ``(".", ".")`` stacks the old root on the new one, ready to be unmounted.

    Raises:
        OSError: as pivot_root(2), with the new root as filename.
    """
    result = _pivot_root(libc.encoded(new_root), libc.encoded(put_old))
    libc.check(result, "pivot_root", new_root)


def open_tree(dirfd: int, path: str | bytes, flags: int = 0) -> int:
    """Return a descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy of it.

    Raises:
        OSError: as open_tree(2).
    """
    return libc.check(
        _open_tree(dirfd, libc.encoded(path), flags | OPEN_TREE_CLOEXEC), "open_tree", path
    )


def move_mount(
    from_dirfd: int, from_path: str | bytes, to_dirfd: int, to_path: str | bytes, flags: int = 0
) -> None:
    """Attach a detached mount, or move an attached one; empty paths mean the descriptors.

    Raises:
        OSError: as move_mount(2), with the destination as filename.
    """
    if not from_path:
        flags |= MOVE_MOUNT_F_EMPTY_PATH
    if not to_path:
        flags |= MOVE_MOUNT_T_EMPTY_PATH
    result = _move_mount(
        from_dirfd, libc.encoded(from_path), to_dirfd, libc.encoded(to_path), flags
    )
    libc.check(result, "move_mount", to_path or to_dirfd)


def mount_setattr(
    fd: int,
    path: str | bytes = "",
    flags: int = 0,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change the MOUNT_ATTR_* and the propagation of a mount (with AT_RECURSIVE, of a tree).

    Raises:
        OSError: as mount_setattr(2) (Linux 5.12).
    """
    attr = _MOUNT_ATTR.pack(attr_set, attr_clr, propagation, userns_fd)
    if not path:
        flags |= AT_EMPTY_PATH
    result = _mount_setattr(fd, libc.encoded(path), flags, attr, len(attr))
    libc.check(result, "mount_setattr", path or fd)


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """Return a context in which a new file system is configured.

    Raises:
        OSError: as fsopen(2); ENODEV for an unknown type.
    """
    return libc.check(_fsopen(libc.encoded(fstype), flags), "fsopen", fstype)


def fsconfig_flag(fd: int, key: str) -> None:
    """Set a parameter that has no value (``ro``).

    Raises:
        OSError: as fsconfig(2), with the key as filename.
    """
    _configure(fd, FSCONFIG_SET_FLAG, key, None, 0)


def fsconfig_string(fd: int, key: str, value: str | bytes) -> None:
    """Set a parameter; unlike in mount(2) data, commas and colons in it mean nothing special.

    Raises:
        OSError: as fsconfig(2), with the value as filename.
    """
    _configure(fd, FSCONFIG_SET_STRING, key, value, 0)


def fsconfig_fd(fd: int, key: str, value: int) -> None:
    """Set a parameter to an open descriptor, which stays the caller's.

    Raises:
        OSError: as fsconfig(2), with the key as filename.
    """
    _configure(fd, FSCONFIG_SET_FD, key, None, value)


def fsconfig_create(fd: int) -> None:
    """Make the superblock (FSCONFIG_CMD_CREATE).

    Raises:
        OSError: as fsconfig(2); :func:`fsopen_log` may know more.
    """
    _configure(fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsconfig_reconfigure(fd: int) -> None:
    """Change the superblock of a context made by fspick(2).

    Raises:
        OSError: as fsconfig(2).
    """
    _configure(fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def _configure(fd: int, command: int, key: str | None, value: str | bytes | None, aux: int) -> None:
    result = _fsconfig(fd, command, libc.encoded(key), libc.encoded(value), aux)
    libc.check(result, "fsconfig", value or key)


def fsopen_log(fd: int) -> str:
    """Return what the kernel has to say about a failed configuration, in one line."""
    lines = []
    while True:
        try:
            # Each read(2) returns one message: "e ", "w " or "i ", then the text.
            lines.append(os.read(fd, 8192).decode(errors="replace")[2:].strip())
        except OSError:
            return "; ".join(lines)


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, attr_flags: int = 0) -> int:
    """Return a descriptor of a detached mount of a configured file system.

    Raises:
        OSError: as fsmount(2).
    """
    return libc.check(_fsmount(fd, flags, attr_flags), "fsmount")


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open a path with restrictions on how it may be resolved (RESOLVE_*).

    Raises:
        OSError: as openat2(2) (Linux 5.6), with the path as filename; EAGAIN when the tree
            changed meanwhile and the caller may try again.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    return libc.check(_openat2(dirfd, libc.encoded(path), how, len(how)), "openat2", path)


def fstatfs_type(fd: int) -> int:
    """Return the magic number (f_type) of the file system a descriptor lies on.

    Raises:
        OSError: as fstatfs(2).
    """
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc.check(_fstatfs(fd, ctypes.addressof(buffer)), "fstatfs", fd)
    return int(_STATFS_TYPE.unpack_from(buffer)[0])


class MountInfo:
    """One line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    __slots__ = (
        "device",
        "fstype",
        "mount_id",
        "mount_point",
        "options",
        "parent_id",
        "propagation",
        "root",
        "source",
        "super_options",
    )

    def __init__(self, line: bytes) -> None:
        fields = line.split(b" ")
        dash = fields.index(b"-", 6)
        self.mount_id, self.parent_id = int(fields[0]), int(fields[1])
        major, _, minor = fields[2].partition(b":")
        self.device = os.makedev(int(major), int(minor))
        self.root, self.mount_point = unescape(fields[3]), unescape(fields[4])
        self.options = fields[5].decode().split(",")
        self.propagation = [field.decode() for field in fields[6:dash]]
        """``shared:N``, ``master:N``, ``propagate_from:N``, ``unbindable``; empty if private."""
        self.fstype = fields[dash + 1].decode()
        self.source = unescape(fields[dash + 2])
        self.super_options = os.fsdecode(fields[dash + 3]).split(",")

    def __repr__(self) -> str:
        return f"<MountInfo {self.mount_id} {self.fstype} on {self.mount_point}>"


def unescape(field: bytes) -> str:
    r"""Return a path of mountinfo, where blank, tab, line feed and backslash are ``\ooo``."""
    first, *rest = field.split(b"\\")
    plain = first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)
    return os.fsdecode(plain)


def mountinfo(path: str = "/proc/self/mountinfo") -> list[MountInfo]:
    """Return the mounts of a mount namespace, in the order in which they were made.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return [MountInfo(line) for line in file.read().splitlines()]
