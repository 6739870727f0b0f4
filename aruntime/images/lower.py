"""Look a path up in the layers below the one being unpacked, as overlayfs would show it.

Two things need it: a hard link whose target is in a lower layer, and a parent directory that an
archive does not list, whose mode and owner are those it has below. Nothing here is changed, and
no symbolic link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from aruntime.images.tree import OPAQUE, is_whiteout

NO_XATTR = frozenset({errno.ENODATA, errno.ENOTSUP})
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """Where a path is in a lower layer."""

    parent: int
    """Descriptor of the directory it is in, good inside the ``with`` block."""
    name: bytes
    status: os.stat_result


@contextmanager
def find(layers: Sequence[str], path: bytes) -> Iterator[Found | None]:
    """Find what the layers show under a path.

    Args:
        layers: directories of the layers, lowest first.
        path: relative and clean, not empty.
    """
    for layer in reversed(layers):
        walk = _Walk(os.open(layer, _FLAGS))
        try:
            status = walk.follow(path)
            if status is not None:
                yield Found(walk.fd, path.rpartition(b"/")[2], status)
                return
            if walk.hides_below:
                break
        finally:
            os.close(walk.fd)
    yield None


class _Walk:
    """The way down one layer; owns one descriptor, that of the directory it has come to."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.hides_below = False
        """Whether what is not found here is not to be looked for further down."""

    def follow(self, path: bytes) -> os.stat_result | None:
        """Go to the directory the path is in; return the status of its last component."""
        *parents, name = path.split(b"/")
        for part in parents:
            status = self._status(part)
            if status is None:
                return None
            if not stat.S_ISDIR(status.st_mode):
                self.hides_below = True
                return None
            below = os.open(part, _FLAGS, dir_fd=self.fd)
            os.close(self.fd)
            self.fd = below
            self.hides_below = self.hides_below or is_opaque(below)
        status = self._status(name)
        if status is not None and is_whiteout(status):
            self.hides_below = True
            return None
        return status

    def _status(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


def is_opaque(directory: int) -> bool:
    """Whether a directory hides those of its name in the layers below."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in NO_XATTR:
            return False
        raise


def names(layers: Sequence[str], path: bytes) -> set[bytes]:
    """Return what the layers show in a directory; nothing if they show none there."""
    candidates: set[bytes] = set()
    for layer in layers:
        walk = _Walk(os.open(layer, _FLAGS))
        try:
            status = walk.follow(path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                fd = os.open(path.rpartition(b"/")[2], _FLAGS, dir_fd=walk.fd)
                try:
                    candidates.update(map(os.fsencode, os.listdir(fd)))
                finally:
                    os.close(fd)
        finally:
            os.close(walk.fd)
    shown: set[bytes] = set()
    for name in candidates:
        with find(layers, path + b"/" + name) as found:
            if found is not None:
                shown.add(name)
    return shown
