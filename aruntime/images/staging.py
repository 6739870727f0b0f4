"""Put blobs and unpacked layers into an ingest directory, under names their digests give.

Runs in the unpacking child. A layer's archive is read once: copied (or already there), digested
as it comes, decompressed, digested again, unpacked. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aruntime.errors import InvalidArchive
from aruntime.images import layers, layout
from aruntime.images.compression import Input, Limits, Plain
from aruntime.images.layout import LayerRecord

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
UNPACKING = "unpacking"
COPYING = "copying"


class Site(NamedTuple):
    """Where the child works, and within which bounds."""

    store: str
    """ROOT/images; only read."""
    ingest: str
    """The directory of this import or load."""
    limits: Limits
    alive: Callable[[], None]
    """Raises when nobody wants the result any more."""


class Layer(NamedTuple):
    """A layer that is in the ingest directory or in the store."""

    digest: str
    """Of the blob, as it came."""
    size: int
    """Of the blob."""
    media_type: str
    diff_id: str
    path: str
    """Its directory."""


def stage_stream(site: Site, fd: int) -> Layer:
    """Copy and unpack the only layer of an image, from any kind of descriptor.

    Raises:
        InvalidArchive: see :func:`aruntime.images.layers.unpack`.
        Unavailable: likewise.
    """
    copy = f"{site.ingest}/{COPYING}"
    copy_fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        source = Input(fd, copy_fd, site.alive)
        layer = _unpack(site, source, [], strict_end=True, expected="")
    finally:
        os.close(copy_fd)
    os.rename(copy, layout.blob_path(site.ingest, layer.digest))
    return layer


def stage_file(
    site: Site, path: str, below: Sequence[Layer], *, digest: str, diff_id: str
) -> Layer:
    """Move a layer's archive to its place among the blobs, and unpack it unless that is done.

    Args:
        site: where to work.
        path: the archive, a regular file below the ingest directory.
        below: the layers below, lowest first.
        digest: what the archive must hash to, or empty.
        diff_id: what it must hash to when decompressed, or empty.

    Raises:
        InvalidArchive: a digest is wrong, or the archive is broken.
        Unavailable: the disk is full, or the host fails otherwise.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        source = Input(fd, alive=site.alive)
        layer = _unpack(site, source, below, strict_end=not diff_id, expected=diff_id)
    finally:
        os.close(fd)
    if digest and layer.digest != digest:
        raise InvalidArchive(
            f"layer {digest} has digest {layer.digest}: the archive is damaged or was altered"
        )
    target = layout.blob_path(site.ingest, layer.digest)
    if path != target:
        os.rename(path, target)
    return layer


def _unpack(
    site: Site, source: Input, below: Sequence[Layer], *, strict_end: bool, expected: str
) -> Layer:
    plain = Plain(source, site.limits)
    chain = [layer.diff_id for layer in below]
    path = _find(site, [*chain, expected]) if expected else None
    record = None
    if path is None:
        directory = f"{site.ingest}/{UNPACKING}"
        os.mkdir(directory, 0o700)
        paths = [layer.path for layer in below]
        record = layers.unpack(plain.read, directory, paths, site.limits, strict_end=strict_end)
    else:
        while plain.read():
            pass
    if expected and plain.digest != expected:
        raise InvalidArchive(
            f"a layer's content has digest {plain.digest}, its configuration says {expected}:"
            " the archive is damaged or was altered"
        )
    if record is not None:
        path = _settle(site, [*chain, plain.digest], record)
    media_type = MEDIA_TYPE + plain.kind.suffix
    return Layer(source.digest, source.size, media_type, plain.digest, path or "")


def _find(site: Site, diff_ids: Sequence[str]) -> str | None:
    bases = (site.store, site.ingest)
    found = layout.find_layer(bases, diff_ids[-1], layout.chain_ids(diff_ids)[-1])
    return layout.layer_path(*found) if found else None


def _settle(site: Site, diff_ids: Sequence[str], record: LayerRecord) -> str:
    """Give the directory just unpacked its name, unless the layer turns out to be known."""
    unpacking = f"{site.ingest}/{UNPACKING}"
    known = _find(site, diff_ids)
    if known is not None:
        os.rename(unpacking, f"{site.ingest}/superfluous-{len(os.listdir(site.ingest))}")
        return known
    digest = layout.chain_ids(diff_ids)[-1] if record.depends else diff_ids[-1]
    path = layout.layer_path(site.ingest, layout.hexadecimal(digest))
    layout.write_durably(f"{path}.json", layout.layer_record_text(record))
    os.rename(unpacking, path)
    return path
