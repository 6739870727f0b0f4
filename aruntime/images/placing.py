"""Put an archive into a tree where things are already: how ``cp`` writes.

Names are resolved inside the destination (:mod:`aruntime.images.tree`) and nothing that exists is
opened: a file is replaced by a new one that is there as a whole or not at all. A directory never
gives way to a file, nor a file to a directory (docker's rule for ``cp``), and a directory that is
there keeps its owner and mode, unless those are to be copied: an archive of ``.`` must not take the
sticky bit off /tmp.

In contrast to :mod:`aruntime.images.layers` a name that begins with ``.wh.`` is a name. Standard
library only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from aruntime.errors import AruntimeError, Conflict, InvalidArchive, Unavailable
from aruntime.images import attributes, layers, tar, tree
from aruntime.images.attributes import Attributes
from aruntime.images.compression import write_all
from aruntime.images.endpoints import Place, check_spot, find_spot
from aruntime.images.tar import Entry, shown

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
TEMPORARY = b".aruntime-cp-"
SPECIAL_BITS = 0o6000
USER_XATTR = b"user."
DEVICES = frozenset({tar.CHARACTER, tar.BLOCK_DEVICE})
REPLACEABLE = frozenset({stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR})
KINDS = {
    tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO
}  # fmt: skip


class Rules(NamedTuple):
    """What becomes of owners and rights."""

    owner: tuple[int, int] | None
    """Whom everything belongs to; None: as the archive says."""
    shift: tuple[int, int] = (0, 0)
    """First id and number of ids of the container's user namespace, which the archive's ids lie in;
    no ids at all: they are what they are."""
    adjusts: bool = False
    """Whether a directory that is there already gets the owner and mode that the archive has."""
    trusted: bool = True
    """False where the archive's maker must not gain by it: no devices, no setuid or setgid, no
    privileged attributes."""


class Interrupted(Exception):
    """The archive ends too early: whoever makes it has failed. What had come is there."""


class Placed(NamedTuple):
    """What was put down."""

    entries: int
    size: int
    """Bytes of regular files."""


def place_archive(
    place: Place, path: bytes, read: Callable[[int], bytes], rules: Rules, *, whole: bool
) -> Placed:
    """Put an archive at a destination.

    Args:
        place: where the path is looked up.
        path: the destination.
        read: ``read(count)`` returns the plain archive piece by piece.
        rules: see there.
        whole: the archive goes into the directory as it is, which must exist (``cp - DIR``).

    Raises:
        AruntimeError: it cannot go there; or the archive is broken, and part of it is there.
        Interrupted: the archive is cut off, but for ``whole``.
        OSError: the file system refused, before anything was changed.
    """
    try:
        return _place(place, path, tar.Reader(read, strict_end=True), rules, whole)
    except tar.Truncated as error:
        if whole:
            raise
        raise Interrupted from error


def _place(place: Place, path: bytes, reader: tar.Reader, rules: Rules, whole: bool) -> Placed:
    entries = iter(reader)
    first = next(entries, None)
    spot = find_spot(place, path)
    try:
        if whole and spot.name:
            raise Conflict(f"cannot unpack into {os.fsdecode(path)}: it must be a directory")
        if first is None:
            return Placed(0, 0)
        if not whole:
            check_spot(spot, path, first.type == tar.DIRECTORY)
        with _Placer(spot.directory, spot.name, reader, rules) as placer:
            placer.entry(first)
            for entry in entries:
                placer.entry(entry)
            reader.drain()
            return placer.finish()
    finally:
        os.close(spot.directory)


class _Placer:
    """One archive on its way into a directory. Owns descriptors below it."""

    def __init__(self, directory: int, top: bytes, reader: tar.Reader, rules: Rules) -> None:
        self._tree = tree.Tree(".", self._imply, base=directory)
        self._top = top
        self._reader = reader
        self._rules = rules
        self._directories: dict[bytes, Attributes] = {}
        self._is_content: bool | None = None
        """Whether the archive's root itself becomes ``top``; its first entry tells."""
        self._count = self._size = 0

    def __enter__(self) -> _Placer:
        return self

    def __exit__(self, *_: object) -> None:
        self._tree.__exit__()

    def entry(self, found: Entry) -> None:
        """Put one entry down.

        Raises:
            AruntimeError: with the name of the entry.
        """
        try:
            self._place(self._ruled(found), self._path(found.name))
        except OSError as error:
            raise explained(error, found) from error

    def finish(self) -> Placed:
        """Set what directories could not have while they were being filled."""
        self._tree.forget()
        for path, wanted in self._directories.items():
            try:
                fd = self._tree.open_directory(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # somebody took it away
                raise
            try:
                attributes.set_on_directory(fd, wanted)
            finally:
                os.close(fd)
        return Placed(self._count, self._size)

    def _path(self, name: bytes) -> bytes:
        """Return where an entry goes, relative to the destination's directory."""
        path = tree.clean(name)
        if not self._top:
            return path
        if self._is_content is None:
            self._is_content = not path
        rest = path if self._is_content else path.partition(b"/")[2]
        return self._top + b"/" + rest if rest else self._top

    def _ruled(self, found: Entry) -> Entry:
        rules = self._rules
        uid, gid = rules.owner or (found.uid, found.gid)
        found = found._replace(uid=self._shifted(uid), gid=self._shifted(gid))
        if rules.trusted:
            return found
        if found.type in DEVICES:
            raise Conflict(f"{shown(found.name)} is a device: only 'cp -a' copies it to the host")
        kept = {name: value for name, value in found.xattrs.items() if name.startswith(USER_XATTR)}
        return found._replace(mode=found.mode & ~SPECIAL_BITS, xattrs=kept)

    def _shifted(self, number: int) -> int:
        first, count = self._rules.shift
        if not count:
            return number
        if number >= count:
            raise Conflict(f"id {number} does not exist in the container: it has {count}")
        return first + number

    def _imply(self, path: bytes) -> None:
        uid, gid = map(self._shifted, self._rules.owner or (0, 0))
        self._directories[path] = layers.DEFAULT_DIRECTORY._replace(uid=uid, gid=gid)

    def _place(self, found: Entry, path: bytes) -> None:
        self._tree.trim()
        if not path:
            self._place_top(found)
            return
        parent, name = self._tree.parent(path)
        present = _status(parent, name)
        if present is not None:
            check_replacement(found, path, present)
        self._count += 1
        match found.type:
            case tar.DIRECTORY:
                if present is None:
                    os.mkdir(name, tree.PRIVATE, dir_fd=parent)
                if present is None or self._rules.adjusts:
                    self._directories[path] = attributes.of_entry(found)
            case tar.REGULAR:
                self._place_file(found, parent, name)
            case tar.HARD_LINK:
                self._place_link(found, parent, name)
            case _:
                self._replace(parent, name, lambda temporary: _make(found, parent, temporary))

    def _place_top(self, found: Entry) -> None:
        """The destination itself, which is there as any other directory may be."""
        if found.type != tar.DIRECTORY:
            raise InvalidArchive(f"{shown(found.name)}: the root must be a directory")
        if self._rules.adjusts:
            self._directories[b""] = attributes.of_entry(found)

    def _replace(self, parent: int, name: bytes, make: Callable[[bytes], None]) -> None:
        """Make something under a name of its own and give it the right one, whatever has that."""
        temporary = TEMPORARY + os.urandom(8).hex().encode()
        try:
            make(temporary)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            try:
                os.unlink(temporary, dir_fd=parent)
            except OSError:
                pass  # it was not made, or the file system is gone
            raise

    def _place_file(self, found: Entry, parent: int, name: bytes) -> None:
        def make(temporary: bytes) -> None:
            fd = os.open(temporary, NEW_FILE, found.mode & 0o777, dir_fd=parent)
            try:
                if found.extents is None:
                    for piece in self._reader.content():
                        write_all(fd, piece)
                else:
                    layers.write_extents(fd, found.extents, found.real_size, self._reader.content())
                # Also to root: a set-group-id directory gives its group to what is made in it.
                os.fchown(fd, found.uid, found.gid)
                attributes.set_on_new_file(fd, found)
            finally:
                os.close(fd)

        self._replace(parent, name, make)
        self._size += found.size

    def _place_link(self, found: Entry, parent: int, name: bytes) -> None:
        directory, _, base = self._path(found.linkname).rpartition(b"/")
        source = self._tree.existing(directory)
        if source is None or _status(source, base) is None:
            raise InvalidArchive(
                f"{shown(found.name)} is a hard link to {shown(found.linkname)}, which is not there"
            )

        if (present := _status(parent, name)) and os.path.samestat(
            present, os.stat(base, dir_fd=source, follow_symlinks=False)
        ):
            return  # rename(2) does nothing to two names of one file

        def make(temporary: bytes) -> None:
            os.link(base, temporary, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

        self._replace(parent, name, make)


def check_replacement(found: Entry, path: bytes, present: os.stat_result) -> None:
    """Check that an entry may take the place of what is there.

    Raises:
        Conflict: it may not.
    """
    is_directory = stat.S_ISDIR(present.st_mode)
    if is_directory != (found.type == tar.DIRECTORY):
        kinds = "a directory with something else" if is_directory else "a file with a directory"
        raise Conflict(f"cannot replace {kinds}: {shown(path)}")
    kind = stat.S_IFMT(present.st_mode)
    if kind not in REPLACEABLE and KINDS.get(found.type) != kind:
        raise Conflict(f"cannot replace a device, pipe or socket: {shown(path)}")


def _status(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _make(found: Entry, parent: int, name: bytes) -> None:
    """Make a symbolic link, a device or a FIFO."""
    if found.type == tar.SYMLINK:
        layers.make_symlink(found, parent, name)
    else:
        layers.make_node(found, parent, name)
    os.chown(name, found.uid, found.gid, dir_fd=parent, follow_symlinks=False)


def explained(error: OSError, entry: Entry) -> AruntimeError:
    """Say what a failed system call means to whoever copies."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    kind = Unavailable if error.errno in layers.FULL_ERRNOS | layers.HOST_ERRNOS else Conflict
    return kind(f"cannot write {shown(entry.name)}: {reason}")
