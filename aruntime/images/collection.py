"""Removal of what nothing needs: leftovers of killed daemons, blobs and layers of no image.

Trees are first renamed into the ingest directory, under the store's mutex, and then removed
without it: a kill in between leaves a leftover, never half a layer under its name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from aruntime.images import layout
from aruntime.images.removal import remove_tree

TEMPORARY = ".tmp"
TRASH = "trash-"


class Collected(NamedTuple):
    """What a collection removed."""

    blobs: int
    layers: int


class Unneeded(NamedTuple):
    """What is there and nothing leads to, by name."""

    blobs: list[str]
    layers: list[str]
    """Directories, whole layers or not, and records."""
    ingests: list[str]


class Trash(NamedTuple):
    """Where set-aside things are until they are removed."""

    path: str
    blobs: int
    layers: int


def remove_leftovers(store: str) -> None:
    """Remove what a killed daemon was busy with: ingest directories and temporary files."""
    empty_directory(f"{store}/{layout.INGEST}")
    for name in os.listdir(store):
        if name.endswith(TEMPORARY):
            os.unlink(f"{store}/{name}")


def unneeded(store: str, blobs: set[str], layers: set[str], ingests: set[str]) -> Unneeded:
    """Name all but the given blobs, layers and ingest directories.

    Args:
        store: the store's directory.
        blobs: digests to keep.
        layers: directories to keep.
        ingests: directories to keep.
    """
    kept_blobs = {layout.hexadecimal(digest) for digest in blobs}
    kept_layers = {os.path.basename(layer) for layer in layers}
    kept_ingests = {os.path.basename(ingest) for ingest in ingests}
    return Unneeded(
        blobs=[n for n in os.listdir(f"{store}/{layout.BLOBS}") if n not in kept_blobs],
        layers=[
            name
            for name in os.listdir(f"{store}/{layout.LAYERS}")
            if name.partition(".")[0] not in kept_layers
        ],
        ingests=[
            name
            for name in os.listdir(f"{store}/{layout.INGEST}")
            if name not in kept_ingests and not name.startswith(TRASH)  # which is on its way out
        ],
    )


def set_aside(store: str, blobs: set[str], layers: set[str]) -> Trash:
    """Take away all but the given blobs and layers.

    Args:
        store: the store's directory.
        blobs: digests to keep.
        layers: directories to keep.
    """
    path = f"{store}/{layout.INGEST}/{TRASH}{secrets.token_hex(8)}"
    os.mkdir(path, 0o700)
    gone = unneeded(store, blobs, layers, set())
    for name in gone.blobs:
        os.rename(f"{store}/{layout.BLOBS}/{name}", f"{path}/{name}.blob")
    # Records first: a directory without its record is no layer.
    for name in sorted(gone.layers, key=lambda name: not name.endswith(".json")):
        os.rename(f"{store}/{layout.LAYERS}/{name}", f"{path}/{name}")
    return Trash(path, len(gone.blobs), sum("." not in name for name in gone.layers))


def empty_trash(trash: Trash) -> Collected:
    """Remove what was set aside."""
    empty_directory(trash.path)
    os.rmdir(trash.path)
    return Collected(trash.blobs, trash.layers)


def remove_ingests(store: str, names: Iterable[str]) -> None:
    """Remove ingest directories by name."""
    fd = os.open(f"{store}/{layout.INGEST}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            remove_tree(fd, os.fsencode(name))
    finally:
        os.close(fd)


def empty_directory(path: str) -> None:
    """Remove everything in a directory of the store's own."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            try:
                os.unlink(name, dir_fd=fd)
            except IsADirectoryError:
                remove_tree(fd, os.fsencode(name))
    finally:
        os.close(fd)
