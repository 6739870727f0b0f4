"""Unpack one layer: a tar stream in, a directory that overlayfs takes as lowerdir out.

The archive is untrusted. Names are resolved inside the directory (:mod:`aruntime.images.tree`),
nothing that exists is ever opened for writing, numbers are checked before they reach the kernel,
and only extended attributes that mean something inside a container are kept: an archive that could
set ``trusted.overlay.*`` could redirect overlayfs. What comes later replaces what came earlier, but
a directory over a directory only changes its attributes.

Whiteouts (image-spec, layer.md) become overlayfs': ``.wh.NAME`` a character device 0:0 called
NAME, ``.wh..wh..opq`` the attribute trusted.overlay.opaque on the directory it is in
(Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").

Out of scope: where the stream comes from, digests, and where the directory goes when it is done.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from aruntime.errors import AruntimeError, InvalidArchive, Unavailable
from aruntime.images import attributes, lower, tar
from aruntime.images.attributes import Attributes
from aruntime.images.compression import Limits, write_all
from aruntime.images.layout import LayerRecord
from aruntime.images.tar import Entry, shown
from aruntime.images.tree import Tree, clean, is_whiteout

WHITEOUT = b".wh."
OPAQUE_WHITEOUT = b".wh..wh..opq"
RESERVED = b".wh..wh."
"""Marks of aufs, which no container can see."""
DEFAULT_DIRECTORY = Attributes(mode=0o755, uid=0, gid=0, mtime_ns=0, xattrs={})
"""Of a root or parent directory about which nothing is said."""
DEVICE_MAJORS, DEVICE_MINORS = 1 << 12, 1 << 20
HOST_ERRNOS = frozenset(
    {errno.ENOMEM, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES}
)
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

FILE_KINDS = frozenset({tar.REGULAR, tar.HARD_LINK, tar.SYMLINK, tar.DIRECTORY})
"""Types of entries that are nothing but files."""
ALL_KINDS = FILE_KINDS | {tar.CHARACTER, tar.BLOCK_DEVICE, tar.FIFO}

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(
    read: Callable[[int], bytes],
    directory: str,
    below: Sequence[str],
    limits: Limits,
    *,
    strict_end: bool,
    kinds: frozenset[int] = ALL_KINDS,
) -> LayerRecord:
    """Unpack a layer into an empty directory.

    The process's umask must be 0. On failure the directory holds whatever was unpacked before;
    it is the caller's to remove.

    Args:
        read: ``read(count)`` returns the plain tar stream, piece by piece; read to its end.
        directory: gets the content; the mode of the root directory is set too.
        below: directories of the layers below, lowest first.
        limits: of the number of entries; the stream holds itself to the number of bytes.
        strict_end: see :class:`aruntime.images.tar.Reader`.
        kinds: types of entries that are accepted.

    Raises:
        InvalidArchive: the archive is broken or hostile; the message names the entry.
        Unavailable: the disk is full, or the host fails otherwise.
    """
    reader = tar.Reader(read, strict_end=strict_end)
    layer = _Layer(directory, below, reader)
    with layer.tree:
        entry = None
        try:
            for entry in reader:
                layer.count += 1
                if layer.count > limits.entries:
                    raise InvalidArchive(f"the archive has more than {limits.entries} entries")
                if entry.type not in kinds:
                    raise InvalidArchive(f"{shown(entry.name)} has no place in such an archive")
                layer.place(entry)
            reader.drain()
            layer.finish()
        except OSError as error:
            raise explained(error, entry, directory) from error
    return layer.record()


def explained(error: OSError, entry: Entry | None, directory: str) -> AruntimeError:
    """Say what a failed system call means to whoever wants an archive unpacked."""
    what = shown(entry.name) if entry else "the archive"
    if error.errno in FULL_ERRNOS:
        return Unavailable(
            f"the disk of {directory} is full, no space or no inodes left for {what};"
            " free some, with 'aruntime rmi' for instance, and try again"
        )
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    if error.errno in HOST_ERRNOS:
        return Unavailable(f"cannot unpack {what} into {directory}: {reason}")
    return InvalidArchive(f"cannot unpack {what}: {reason}")


class _Layer:
    """One layer being unpacked."""

    def __init__(self, directory: str, below: Sequence[str], reader: tar.Reader) -> None:
        self.tree = Tree(directory, self.imply)
        self.count = 0
        self._below = below
        self._reader = reader
        self._size = 0
        self._depends = False
        self._directories: dict[bytes, Attributes] = {}
        self._root: Attributes | None = None

    def record(self) -> LayerRecord:
        root = self._root
        return LayerRecord(
            size=self._size,
            entries=self.count,
            depends=self._depends,
            root=(root.mode, root.uid, root.gid) if root else None,
        )

    def place(self, entry: Entry) -> None:
        """Make one entry."""
        path = clean(entry.name)
        if not path:
            self._place_root(entry)
            return
        self.tree.trim()
        if WHITEOUT in path:
            _check_reserved(path)
        parent, name = self.tree.parent(path)
        if name.startswith(WHITEOUT):
            self._place_whiteout(parent, name)
            return
        match entry.type:
            case tar.REGULAR:
                self._place_file(entry, parent, name)
            case tar.DIRECTORY:
                self.tree.make_directory(parent, name)
                self._directories[path] = attributes.of_entry(entry)
            case tar.SYMLINK:
                self._replace(parent, name, lambda: make_symlink(entry, parent, name))
            case tar.HARD_LINK:
                self._place_hard_link(entry, parent, name)
            case _:
                self._replace(parent, name, lambda: make_node(entry, parent, name))

    def imply(self, path: bytes) -> None:
        """Give a parent directory that was not listed the attributes it has below."""
        self._depends = True
        with lower.find(self._below, path) as found:
            if found is not None and stat.S_ISDIR(found.status.st_mode):
                self._directories[path] = attributes.of_lower(found)
            else:
                self._directories[path] = DEFAULT_DIRECTORY

    def finish(self) -> None:
        """Set what directories could not have while they were being filled."""
        self.tree.forget()
        for path, wanted in self._directories.items():
            try:
                fd = self.tree.open_directory(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # replaced by a later entry
            except OSError as error:
                if error.errno == errno.ELOOP:
                    continue  # replaced by a symbolic link
                raise
            try:
                attributes.set_on_directory(fd, wanted)
            finally:
                os.close(fd)
        attributes.set_on_directory(self.tree.fd, self._root or DEFAULT_DIRECTORY)

    def _place_root(self, entry: Entry) -> None:
        if entry.type != tar.DIRECTORY:
            raise InvalidArchive(f"{shown(entry.name)}: the root must be a directory")
        self._root = attributes.of_entry(entry)

    def _replace(self, parent: int, name: bytes, make: Callable[[], None]) -> None:
        """Make something that must not exist yet, removing what has its name."""
        try:
            make()
        except FileExistsError:
            self.tree.remove(parent, name)
            make()

    def _place_file(self, entry: Entry, parent: int, name: bytes) -> None:
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        except FileExistsError:
            self.tree.remove(parent, name)
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        try:
            if entry.extents is None:
                for piece in self._reader.content():
                    write_all(fd, piece)
            else:
                write_extents(fd, entry.extents, entry.real_size, self._reader.content())
            self._size += entry.size
            attributes.set_on_new_file(fd, entry)
        finally:
            os.close(fd)

    def _place_hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        target = clean(entry.linkname)
        if not target:
            raise InvalidArchive(f"{shown(entry.name)} is a hard link to the root")
        directory, _, base = target.rpartition(b"/")
        source = self.tree.existing(directory)
        if source is not None:
            try:
                status = os.stat(base, dir_fd=source, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                if not is_whiteout(status):
                    self._link(source, base, parent, name)
                    return
        self._depends = True
        with lower.find(self._below, target) as found:
            if found is None:
                raise InvalidArchive(
                    f"{shown(entry.name)} is a hard link to {shown(entry.linkname)},"
                    " which does not exist"
                )
            self._link(found.parent, base, parent, name)

    def _link(self, source: int, base: bytes, parent: int, name: bytes) -> None:
        def make() -> None:
            os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

        try:
            make()
        except FileExistsError:
            if _same_file(source, base, parent, name):
                return
            self.tree.remove(parent, name)
            make()

    def _place_whiteout(self, parent: int, name: bytes) -> None:
        if name == OPAQUE_WHITEOUT:
            self.tree.make_opaque(parent, b".")
            return
        if name.startswith(RESERVED):
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise InvalidArchive(f"{shown(name)} is a whiteout of nothing")
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # A whiteout hides only what is below: the layer's own entry of that name stays.
            status = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self.tree.make_opaque(parent, hidden)


def write_extents(
    fd: int, extents: Sequence[tuple[int, int]], real_size: int, pieces: Iterator[bytes]
) -> None:
    """Write the content of a sparse file; what no extent covers stays a hole.

    Args:
        fd: of the empty file; stays the caller's.
        extents: (offset, length), ascending, adding up to the content.
        real_size: bytes of the file, holes included.
        pieces: the content, exactly.
    """
    os.ftruncate(fd, real_size)
    piece = memoryview(b"")
    for offset, length in extents:
        end = offset + length
        while offset < end:
            if not piece:
                piece = memoryview(next(pieces))
            written = os.pwrite(fd, piece[: end - offset], offset)
            offset += written
            piece = piece[written:]


def make_symlink(entry: Entry, parent: int, name: bytes) -> None:
    """Make a symbolic link; its name must be free."""
    if not entry.linkname:
        raise InvalidArchive(f"{shown(entry.name)} is a symbolic link to nothing")
    os.symlink(entry.linkname, name, dir_fd=parent)
    attributes.set_on_link(parent, name, entry)


def make_node(entry: Entry, parent: int, name: bytes) -> None:
    """Make a FIFO or a device; its name must be free."""
    if entry.type == tar.FIFO:
        os.mkfifo(name, entry.mode & 0o777, dir_fd=parent)
    else:
        if entry.major >= DEVICE_MAJORS or entry.minor >= DEVICE_MINORS:
            raise InvalidArchive(
                f"{shown(entry.name)} has device number {entry.major}:{entry.minor},"
                " which Linux does not have"
            )
        kind = stat.S_IFCHR if entry.type == tar.CHARACTER else stat.S_IFBLK
        device = os.makedev(entry.major, entry.minor)
        os.mknod(name, kind | entry.mode & 0o777, device, dir_fd=parent)
    attributes.set_on_node(parent, name, entry)


def _same_file(one: int, name: bytes, two: int, other: bytes) -> bool:
    return os.path.samestat(
        os.stat(name, dir_fd=one, follow_symlinks=False),
        os.stat(other, dir_fd=two, follow_symlinks=False),
    )


def _check_reserved(path: bytes) -> None:
    """Refuse a directory whose name only a whiteout may have (image-spec, layer.md)."""
    for part in path.split(b"/")[:-1]:
        if part.startswith(WHITEOUT):
            raise InvalidArchive(f"{shown(path)} is inside something named as a whiteout")
