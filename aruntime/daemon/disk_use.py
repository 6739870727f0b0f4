"""How much of the disk images, containers and volumes take: figures for people, not for bills.

Bytes of regular files; holes do not count, and a file with several names counts once. Trees are
walked beside descriptors without following a link, since whoever lives in a container chooses
what is in them. Synchronous, and slow for large volumes: for worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from aruntime.daemon.record import Container
from aruntime.errors import ImageNotFound
from aruntime.images.image import Image
from aruntime.images.packing import DISK_BLOCK, OPEN_DIRECTORY, RACED, open_below
from aruntime.images.store import Store


class Shares(msgspec.Struct, frozen=True):
    """How the bytes of one image are held."""

    shared: int
    """Bytes of layers that another image has too."""
    unique: int


def shares(images: Iterable[Image]) -> dict[str, Shares]:
    """Return by image id what each image shares with others. Pure."""
    known = list(images)
    holders = Counter(layer for image in known for layer in set(image.layers))
    return {
        image.id: Shares(
            sum(size for layer, size in _sizes(image).items() if holders[layer] > 1),
            sum(size for layer, size in _sizes(image).items() if holders[layer] == 1),
        )
        for image in known
    }


def layer_bytes(images: Iterable[Image]) -> int:
    """Return the bytes of the layers of images, each layer once. Pure."""
    found: dict[str, int] = {}
    for image in images:
        found |= _sizes(image)
    return sum(found.values())


def _sizes(image: Image) -> Mapping[str, int]:
    return dict(zip(image.layers, image.layer_sizes, strict=True))


def container_bytes(images: Store, container: Container) -> tuple[int, int]:
    """Return the bytes that a container wrote, and those with its image.

    Raises:
        OSError: its files cannot be read.
    """
    written = tree_bytes(f"{container.directory}/upper")
    try:
        below = images.resolve(container.config.image_id).size
    except ImageNotFound:
        below = sum(map(tree_bytes, container.config.layers))
    return written, written + below


def tree_bytes(path: str) -> int:
    """Return the bytes of the files in a directory; 0 if it is not there.

    Raises:
        OSError: it cannot be read.
    """
    try:
        top = os.open(path, OPEN_DIRECTORY)
    except FileNotFoundError:
        return 0
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [b""]
    try:
        while pending:
            below = pending.pop()
            try:
                fd = open_below(top, below)
            except OSError as error:
                if error.errno not in RACED | {errno.ENAMETOOLONG}:
                    raise
                continue
            try:
                size, names = _files(fd, seen)
            finally:
                os.close(fd)
            total += size
            pending += [below + b"/" + name if below else name for name in names]
    finally:
        os.close(top)
    return total


def _files(directory: int, seen: set[tuple[int, int]]) -> tuple[int, list[bytes]]:
    """Return the bytes of the files of one directory, and the names of its directories."""
    total = 0
    directories: list[bytes] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(os.fsencode(entry.name))
                    continue
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            key = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode) and (status.st_nlink == 1 or key not in seen):
                seen.add(key)
                total += min(status.st_size, status.st_blocks * DISK_BLOCK)
    return total, directories
