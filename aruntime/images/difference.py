"""``diff``: what a writable layer changes of the layers below it, as docker tells it.

The overlay's upperdir is read as it is, beside descriptors and without following a link, since
whoever lives in the container may be changing it. A directory is changed if its owner or mode is,
or if anything in it is added, changed or deleted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from typing import NamedTuple

from aruntime.images import lower
from aruntime.images.packing import OPEN_DIRECTORY, RACED, open_below
from aruntime.images.tree import is_whiteout

ADDED, CHANGED, DELETED = "A", "C", "D"


class Change(NamedTuple):
    """One line of ``diff``."""

    path: bytes
    """Absolute, inside the container."""
    kind: str


def mount_points_of_ours(layers: Sequence[str], candidates: Collection[str]) -> list[str]:
    """Return the paths a start has to make because no layer has them."""
    missing: list[str] = []
    for path in candidates:
        with lower.find(layers, os.fsencode(path)) as found:
            if found is None:
                missing.append(path)
    return missing


def changes(
    upper: str, layers: Sequence[str], ours: Collection[bytes], shift: tuple[int, int] = (0, 0)
) -> list[Change]:
    """Return all changes, by path.

    Args:
        upper: the writable layer.
        layers: directories below it, lowest first.
        ours: paths that are no change if nothing is in them.
        shift: first id and number of ids that the writable layer's ids lie in.

    Raises:
        OSError: a directory cannot be read.
    """
    found = _Comparison(layers, frozenset(ours), shift)
    fd = os.open(upper, OPEN_DIRECTORY)
    try:
        found.directory(fd, b"", below=True)
    finally:
        os.close(fd)
    return sorted(Change(b"/" + path, kind) for path, kind in found.kinds.items())


class _Comparison:
    def __init__(
        self, layers: Sequence[str], ours: frozenset[bytes], shift: tuple[int, int]
    ) -> None:
        self.kinds: dict[bytes, str] = {}
        self._layers = layers
        self._ours = ours
        self._shift = shift

    def directory(self, top: int, path: bytes, *, below: bool) -> None:
        """Compare what is in a directory of the writable layer, and in those in it.

        Args:
            top: descriptor of it; stays the caller's.
            path: of it.
            below: whether the layers below show through.
        """
        pending = [(path, below)]
        while pending:
            path, below = pending.pop()
            try:
                fd = open_below(top, path)
            except OSError as error:
                if error.errno not in RACED:
                    raise
                continue
            try:
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    full = path + b"/" + name if path else name
                    through = self._one_of(fd, name, full, below)
                    if through is not None:
                        pending.append((full, through))
            finally:
                os.close(fd)

    def _one_of(self, parent: int, name: bytes, path: bytes, below: bool) -> bool | None:
        try:
            return self._one(parent, name, path, below)
        except OSError as error:
            if error.errno not in RACED:
                raise
            return None

    def _one(self, parent: int, name: bytes, path: bytes, below: bool) -> bool | None:
        """Compare one name; for a directory return whether the layers below show through it."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        before = self._before(path) if below else None
        if is_whiteout(status):
            if before is not None:
                self._record(path, DELETED)
            return None
        if not stat.S_ISDIR(status.st_mode):
            if before is not None or path not in self._ours or status.st_size:
                self._record(path, ADDED if before is None else CHANGED)
            return None
        if before is None or not stat.S_ISDIR(before.st_mode):
            if path not in self._ours:
                self._record(path, ADDED if before is None else CHANGED)
            return False
        opaque = _is_opaque(parent, name)
        if opaque or self._differs(status, before):
            self._record(path, CHANGED)
        if opaque:
            self._record_hidden(parent, name, path)
        return not opaque

    def _before(self, path: bytes) -> os.stat_result | None:
        with lower.find(self._layers, path) as found:
            return found.status if found else None

    def _differs(self, status: os.stat_result, before: os.stat_result) -> bool:
        first, count = self._shift

        def own(number: int) -> int:
            return number - first if first <= number < first + count else number

        return (status.st_mode, own(status.st_uid), own(status.st_gid)) != (
            before.st_mode, own(before.st_uid), own(before.st_gid)
        )  # fmt: skip

    def _record_hidden(self, parent: int, name: bytes, path: bytes) -> None:
        """Tell what a directory made anew has no more."""
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
        try:
            kept = set(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)
        for gone in lower.names(self._layers, path) - kept:
            self._record(path + b"/" + gone, DELETED)

    def _record(self, path: bytes, kind: str) -> None:
        self.kinds[path] = kind
        while b"/" in path:
            path = path.rpartition(b"/")[0]
            self.kinds.setdefault(path, CHANGED)


def _is_opaque(parent: int, name: bytes) -> bool:
    fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    try:
        return lower.is_opaque(fd)
    finally:
        os.close(fd)
