"""A directory tree that an untrusted archive fills: every path is resolved inside it.

Paths are bytes, relative, without ``.`` and ``..`` (:func:`clean`). Parents are opened with
openat2(2) under RESOLVE_IN_ROOT, so that a symbolic link, absolute or not, that the archive has
put into a path leads somewhere inside the tree, as it would in the container; the last component
is only ever used beside its parent's descriptor and never followed. Whiteouts are known here in
overlayfs form, because they stand where a directory may have to come.

What the entries of an archive are made into is :mod:`aruntime.images.layers`'s affair.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from aruntime.errors import InvalidArchive
from aruntime.images.removal import remove_tree
from aruntime.images.tar import shown
from aruntime.kernel import mounts

CACHED = 64
"""Most directories kept open between entries."""
RESOLVE = mounts.RESOLVE_IN_ROOT | mounts.RESOLVE_NO_MAGICLINKS
OPAQUE = "trusted.overlay.opaque"
PRIVATE = 0o700


def clean(name: bytes) -> bytes:
    """Return a name as a path inside the tree, empty for its root.

    ``.`` and empty components go, ``..`` takes the component before it, as docker does.

    Raises:
        InvalidArchive: it leads above the root.
    """
    parts = name.split(b"/")
    if b"" not in parts and b"." not in parts and b".." not in parts:
        return name
    kept: list[bytes] = []
    for part in parts:
        if part == b"..":
            if not kept:
                raise InvalidArchive(f"{shown(name)} lies outside the archive's root")
            kept.pop()
        elif part not in (b"", b"."):
            kept.append(part)
    return b"/".join(kept)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs' mark of a removed name: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class Tree:
    """An open tree. Owns its descriptors; use it in a ``with`` block.

    Args:
        path: of the root directory, which exists.
        base: descriptor of the directory that a relative path starts from; stays the caller's.
        implied: called with the path of each parent directory that had to be made because no
            entry came before what is in it.
    """

    def __init__(
        self,
        path: str,
        implied: Callable[[bytes], None] = lambda path: None,
        *,
        base: int | None = None,
    ) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
        self._implied = implied
        self._open: dict[bytes, int] = {}
        self._stale = False
        """Whether a removal has changed what paths mean; descriptors in use stay good."""

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        os.close(self.fd)

    def forget(self) -> None:
        """Close the directories kept open."""
        self._stale = False
        while self._open:
            os.close(self._open.popitem()[1])

    def trim(self) -> None:
        """Close what must not stay open. Descriptors handed out before are void then."""
        if self._stale or len(self._open) > CACHED:
            self.forget()

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return the directory a path is in, made if need be, and the last component.

        The descriptor stays the tree's and is good until :meth:`trim` or :meth:`forget`.
        """
        directory, _, name = path.rpartition(b"/")
        return self.directory(directory), name

    def directory(self, path: bytes) -> int:
        """Return a descriptor of a directory, made with its parents if need be.

        Raises:
            NotADirectoryError: something else has the name.
        """
        if not path:
            return self.fd
        fd = self._open.get(path)
        if fd is None:
            try:
                fd = self._openat2(path)
            except (FileNotFoundError, NotADirectoryError):
                fd = self._make(path)
            self._open[path] = fd
        return fd

    def existing(self, path: bytes) -> int | None:
        """Return a descriptor of a directory if it is there; as :meth:`directory` otherwise."""
        fd = self.fd if not path else self._open.get(path)
        if fd is None:
            try:
                fd = self._open[path] = self._openat2(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return fd

    def open_directory(self, path: bytes) -> int:
        """Open a directory by its path, the last component not followed. The caller's to close."""
        return self._openat2(path or b".", os.O_NOFOLLOW)

    def remove(self, parent: int, name: bytes) -> bool:
        """Remove whatever has a name. Returns whether it was a whiteout."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self._stale = True
            remove_tree(parent, name)
        else:
            self._stale = self._stale or stat.S_ISLNK(status.st_mode)
            os.unlink(name, dir_fd=parent)
        return is_whiteout(status)

    def make_directory(self, parent: int, name: bytes) -> None:
        """Make a directory where there is none; over a whiteout it hides what is below."""
        try:
            os.mkdir(name, PRIVATE, dir_fd=parent)
            return
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return
        hidden = self.remove(parent, name)
        os.mkdir(name, PRIVATE, dir_fd=parent)
        if hidden:
            self.make_opaque(parent, name)

    def make_opaque(self, parent: int, name: bytes) -> None:
        """Let a directory hide the directories of that name below it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent)
        try:
            os.setxattr(fd, OPAQUE, b"y")
        finally:
            os.close(fd)

    def _openat2(self, path: bytes, flags: int = 0) -> int:
        return mounts.openat2(
            self.fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags, 0, RESOLVE
        )

    def _make(self, path: bytes) -> int:
        """Make a directory and its parents, one after another from the root."""
        current = os.dup(self.fd)
        done = b""
        try:
            for name in path.split(b"/"):
                done = done + b"/" + name if done else name
                try:
                    following = self._openat2(done)
                except (FileNotFoundError, NotADirectoryError) as error:
                    self._make_implied(current, name, done, error)
                    following = self._openat2(done)
                os.close(current)
                current = following
        except BaseException:
            os.close(current)
            raise
        return current

    def _make_implied(self, parent: int, name: bytes, path: bytes, error: OSError) -> None:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, PRIVATE, dir_fd=parent)
        else:
            if not is_whiteout(status):
                # A file, or a link that leads nowhere: nothing can be put into it.
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
            self.make_directory(parent, name)
        self._implied(path)
