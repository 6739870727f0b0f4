"""The terminal of a container: a pty of its own devpts, and the standard streams of any process.

Runs inside the container (after pivot_root or setns): what it opens there is not trusted, so
every device is checked by its number before it is used (CVE-2025-31133, CVE-2025-52565).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios

from aruntime.kernel import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/asm-generic/ioctls.h
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441

# Documentation/admin-guide/devices.txt
NULL_DEVICE = os.makedev(1, 3)
PTMX_DEVICE = os.makedev(5, 2)

PTMX_PATH = "/dev/pts/ptmx"
NULL_PATH = "/dev/null"
CONSOLE_PATH = "/dev/console"

STDIO = (0, 1, 2)
NULL_REFUSALS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EISDIR}
)
"""No /dev/null, something else in its place, or a device list that forbids it."""
CHOWN_REFUSALS = frozenset({errno.EPERM, errno.EINVAL, errno.EROFS})
"""A stream that cannot be given to the user (no mapping, a foreign file system): runc goes on."""


def open_pty() -> tuple[int, int]:
    """Return master and slave of a new pty of the devpts on /dev/pts; the caller owns both.

    The master is non-blocking, for whoever moves its output.

    Raises:
        OSError: there is no devpts there, or what is there is not one (EINVAL).
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
    master = os.open(PTMX_PATH, flags)
    try:
        if os.fstat(master).st_rdev != PTMX_DEVICE:
            raise OSError(errno.EINVAL, "not the master of a devpts", PTMX_PATH)
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        # By the descriptor, not by a path: nobody can put another file in between.
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave


def connect_slave(slave: int, size: Sequence[int] | None, uid: int) -> None:
    """Make the slave the controlling terminal and the standard streams; closes it.

    Args:
        slave: of :func:`open_pty`; this process must be a session leader without a terminal.
        size: rows and columns, or None for the pty's default.
        uid: the user who owns the terminal from now on.

    Raises:
        OSError: as ioctl(2) and fchown(2).
    """
    if size:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", size[0], size[1], 0, 0))
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    try:
        os.fchown(slave, uid, -1)
    except OSError as error:
        if error.errno not in CHOWN_REFUSALS:
            raise
    for fd in STDIO:
        os.dup2(slave, fd, inheritable=True)
    os.close(slave)


def bind_console(slave: int) -> None:
    """Mount the slave on /dev/console, which is made if it is missing.

    Raises:
        OSError: /dev/console is a symbolic link or a directory (EINVAL), or cannot be mounted.
    """
    try:
        created = os.open(
            CONSOLE_PATH, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        os.close(created)
    except FileExistsError:
        pass
    target = os.open(CONSOLE_PATH, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = os.fstat(target).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
            raise OSError(errno.EINVAL, "neither a file nor a device", CONSOLE_PATH)
        tree = mounts.open_tree(slave, "", mounts.OPEN_TREE_CLONE | mounts.AT_EMPTY_PATH)
        try:
            mounts.move_mount(tree, "", target, "")
        finally:
            os.close(tree)
    finally:
        os.close(target)


def settle_streams(uid: int) -> None:
    """Give the standard streams to the user, and take the container's own /dev/null.

    A program opens /dev/stdout (that is /proc/self/fd/1) again with its own rights; and the
    host's null device must not be reachable through a descriptor.

    Raises:
        OSError: as fchown(2), but for refusals that runtimes go on with.
    """
    for fd in STDIO:
        status = os.fstat(fd)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL_DEVICE:
            take_null(fd)
        elif stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            try:
                os.fchown(fd, uid, -1)
            except OSError as error:
                if error.errno not in CHOWN_REFUSALS:
                    raise


def take_null(fd: int) -> None:
    """Replace a stream by the container's /dev/null, if that is the null device.

    Raises:
        OSError: as open(2), but for what an image or a device list may be like.
    """
    try:
        null = os.open(NULL_PATH, os.O_RDWR | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NULL_REFUSALS:
            return  # a container without /dev/null keeps the one it was given
        raise
    if os.fstat(null).st_rdev == NULL_DEVICE:
        os.dup2(null, fd, inheritable=True)
    os.close(null)
