"""The two ends of ``cp``: a path to take from, a path to put to, by docker's rules.

What stands at the destination, and whether the source is a directory, decide together where things
go (docs.docker.com, "docker container cp"):

    source      destination          result
    file        a directory          in it, under the source's name
    file        a file, or nothing   that file; not if the path ends in a slash
    directory   a directory          in it, under the source's name
    directory   nothing              that directory, with what the source has in it
    DIR/.       a directory          what the source has in it goes there

The source's end writes an archive whose first entry tells what the source is: it has the source's
name, or is called ``./`` for a source whose content alone is meant. Paths are looked up by a
:class:`Place`: inside a container's root, or as the caller of ``cp`` would. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from aruntime.errors import Conflict, NotFound
from aruntime.images.packing import OPEN_FILE, Packer, is_kernels
from aruntime.images.tar import shown
from aruntime.images.tree import RESOLVE
from aruntime.kernel import mounts

MAX_SYMLINKS = 40
MAX_RETRIES = 200
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


class Place:
    """Where paths are looked up.

    Args:
        root: descriptor of the directory that nothing leads out of, whatever the links in it; None:
            paths mean what they mean to this process.
    """

    def __init__(self, root: int | None = None) -> None:
        self._root = root

    def open(self, path: bytes, flags: int) -> int:
        """Open a path; the descriptor is the caller's.

        Raises:
            OSError: as open(2) or openat2(2).
        """
        try:
            return self._open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            error.filename = os.fsdecode(path)
            raise

    def _open(self, path: bytes, flags: int) -> int:
        if self._root is None:
            return os.open(path, flags)
        for _ in range(MAX_RETRIES):
            with contextlib.suppress(BlockingIOError):  # a directory on the way was moved
                return mounts.openat2(self._root, path.lstrip(b"/") or b".", flags, 0, RESOLVE)
        raise OSError(errno.EAGAIN, "the directory tree keeps changing")


def means_content(path: bytes) -> bool:
    """Whether a source path stands for what is in a directory: ``DIR/.``, ``.`` or the root."""
    last = path.rstrip(b"/").rpartition(b"/")[2]
    return last in (b"", b".")


def source_name(path: bytes, cwd: bytes) -> bytes:
    """Return the name of a source at its destination, empty if only its content is meant."""
    if means_content(path):
        return b""
    return os.path.basename(os.path.normpath(os.path.join(cwd, path)))


def take(place: Place, path: bytes, cwd: bytes, follow: bool, packer: Packer) -> None:
    """Write what is at a path as an archive.

    Args:
        place: where the path is looked up.
        path: of the source.
        cwd: what a relative path starts from.
        follow: a symbolic link at the path stands for what it leads to.
        packer: gets it.

    Raises:
        NotFound: there is nothing.
        OSError: as the file system says.
    """
    name = source_name(path, cwd)
    try:
        fd = place.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        reason = os.strerror(error.errno or 0).lower()
        raise NotFound(f"cannot read {os.fsdecode(path)}: {reason}") from None
    try:
        status = os.fstat(fd)
        if is_kernels(fd) or stat.S_ISSOCK(status.st_mode):
            what = "a socket" if stat.S_ISSOCK(status.st_mode) else "made up by the kernel"
            raise Conflict(f"cannot copy {os.fsdecode(path)}: it is {what}")
        if stat.S_ISDIR(status.st_mode):
            with _opened(place, path, os.O_RDONLY | os.O_DIRECTORY) as directory:
                packer.tree(directory, name)
        elif stat.S_ISREG(status.st_mode):
            with _opened(place, path, OPEN_FILE & ~(os.O_NOFOLLOW if follow else 0)) as file:
                if stat.S_ISREG(os.fstat(file).st_mode):
                    packer.file(file, name)
        else:
            packer.other(fd, b"", name, status)
    finally:
        os.close(fd)
    packer.finish()


@contextlib.contextmanager
def _opened(place: Place, path: bytes, flags: int) -> Iterator[int]:
    fd = place.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


class Spot(NamedTuple):
    """Where an archive goes."""

    directory: int
    """Descriptor of an existing directory; the caller's to close."""
    name: bytes
    """What the archive's first name becomes there; empty: it stays, or is ``./``."""
    exists: bool
    """Whether that is there already; it is no directory then."""
    is_file: bool = False
    """Whether it is a regular file."""


def find_spot(place: Place, path: bytes) -> Spot:
    """Find out what stands at a destination; symbolic links are followed.

    Raises:
        NotFound: the directory it would be in does not exist.
        OSError: as the file system says.
    """
    for _ in range(MAX_SYMLINKS):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return Spot(place.open(path, os.O_PATH | os.O_DIRECTORY), b"", True)
        parent, _, name = path.rstrip(b"/").rpartition(b"/")
        if name == b".":  # DIR/. of a directory that is not there
            path = parent
            continue
        parent = parent or (b"/" if path.startswith(b"/") else b".")
        directory = _parent(place, parent, path)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return Spot(directory, name, False)
        if not stat.S_ISLNK(status.st_mode):
            return Spot(directory, name, True, stat.S_ISREG(status.st_mode))
        target = os.readlink(name, dir_fd=directory)
        os.close(directory)
        path = target if target.startswith(b"/") else parent + b"/" + target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))


def _parent(place: Place, parent: bytes, path: bytes) -> int:
    try:
        return place.open(parent, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        raise NotFound(
            f"cannot write {os.fsdecode(path)}: {os.fsdecode(parent)} is no existing directory"
        ) from None


def check_spot(spot: Spot, path: bytes, is_directory: bool) -> None:
    """Check that a source can go to a destination.

    Args:
        spot: what stands at the destination.
        path: of the destination, as typed.
        is_directory: whether the source is one.

    Raises:
        Conflict, NotFound: it cannot.
    """
    if not spot.name or (is_directory and not spot.exists):
        return
    text = os.fsdecode(path)
    if spot.exists and not spot.is_file:
        raise Conflict(f"cannot copy to {text}: it is neither a file nor a directory")
    if is_directory:
        raise Conflict(f"cannot copy a directory to {text}: that is no directory")
    if path.endswith((b"/", b"/.")):
        what = "is no directory" if spot.exists else "does not exist"
        raise NotFound(f"cannot copy a file into {shown(path)}: that directory {what}")
