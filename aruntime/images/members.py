"""The files of an archive being loaded, once they are in the ingest directory.

The archive is unpacked like a layer, but only files, links and directories are let in; paths that
its own JSON names are resolved inside it, links included, and only regular files are read.
Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from aruntime.errors import InvalidArchive
from aruntime.images import layers, layout
from aruntime.images.compression import Input, Plain
from aruntime.images.staging import Site
from aruntime.images.tar import shown
from aruntime.images.tree import RESOLVE
from aruntime.kernel import mounts

DOCUMENT_BYTES = 8 << 20
"""Longest JSON document (containerd's limit for manifests)."""
ABSENT_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class Members:
    """The unpacked archive; owns a descriptor, use it in a ``with`` block.

    Raises:
        InvalidArchive: see :func:`aruntime.images.layers.unpack`.
        Unavailable: likewise.
    """

    def __init__(self, site: Site, fd: int) -> None:
        directory = f"{site.ingest}/{layout.OUTER}"
        os.mkdir(directory, 0o700)
        plain = Plain(Input(fd, site.alive), site.limits)
        layers.unpack(
            plain.read, directory, [], site.limits, strict_end=True, kinds=layers.FILE_KINDS
        )
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def has(self, path: str) -> bool:
        """Whether there is a regular file under this path."""
        try:
            with self.open(path):
                return True
        except InvalidArchive:
            return False

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """Yield a descriptor of a file.

        Raises:
            InvalidArchive: there is none, or it is not a regular file.
        """
        what = shown(path.encode("utf-8", "surrogateescape"))
        if not path or "\0" in path:
            raise InvalidArchive(f"the archive names {what} as a file of its own")
        # NONBLOCK: nothing but files was let in, yet open(2) must not wait whatever comes.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = mounts.openat2(self._fd, os.fsencode(path), flags, 0, RESOLVE)
        except OSError as error:
            if error.errno not in ABSENT_ERRNOS:
                raise
            raise InvalidArchive(f"the archive has no {what}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidArchive(f"{what} of the archive is not a file")
            yield fd
        finally:
            os.close(fd)

    def read(self, path: str) -> bytes:
        """Read a JSON document's bytes.

        Raises:
            InvalidArchive: it is not there, or too long.
        """
        with self.open(path) as fd:
            size = os.fstat(fd).st_size
            if size > DOCUMENT_BYTES:
                raise InvalidArchive(f"{path} has {size} bytes, too many for a document")
            return os.pread(fd, size, 0)


def parse_json(text: bytes, what: str, kind: type) -> Any:
    """Read JSON of the given outermost type.

    Raises:
        InvalidArchive: it is something else.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"{what} is not valid JSON: {error}") from None
    if not isinstance(found, kind):
        raise InvalidArchive(f"{what} is not a JSON {'list' if kind is list else 'object'}")
    return found


def field(document: dict[str, Any], name: str, kind: type, what: str) -> Any:
    """Return a member of a JSON object.

    Raises:
        InvalidArchive: it is missing or of another type.
    """
    found = document.get(name)
    if not isinstance(found, kind):
        raise InvalidArchive(f"{what} has no valid {name}")
    return found


def strings(document: dict[str, Any], name: str, what: str) -> list[str]:
    """Return a member that is a list of strings; null and absent are empty.

    Raises:
        InvalidArchive: it is something else.
    """
    found = document.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidArchive(f"{what} has no valid {name}")
    return found
