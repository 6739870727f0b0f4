"""Put blobs and unpacked layers into an ingest directory, under names their digests give.

Runs in the unpacking child. A layer's archive is read once: digested as it comes, decompressed,
digested again, unpacked. The blob that is kept is the archive as it came, but for bzip2 and xz,
which no layer's media type allows: of those the plain tar is kept. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aruntime.errors import InvalidArchive
from aruntime.images import layers, layout
from aruntime.images.ahead import Ahead
from aruntime.images.compression import Input, Limits, Plain
from aruntime.images.layout import LayerRecord
from aruntime.kernel import storage

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
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
    scratch: str = "unpacking"
    """Directory of the layer at work; several children may share an ingest directory."""


class Layer(NamedTuple):
    """A layer that is in the ingest directory or in the store."""

    digest: str
    """Of the blob."""
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
    source = Input(fd, site.alive)
    plain = Plain(source, site.limits)
    copy, copy_fd = _open_copy(site)
    try:
        if plain.kind.suffix is None:
            plain.copy_to(copy_fd)
        else:
            source.copy_to(copy_fd)
        diff_id, path = _unpack(site, plain, [], [], expected="")
    finally:
        os.close(copy_fd)
    layer = _described(source, plain, diff_id, path)
    os.rename(copy, layout.blob_path(site.ingest, layer.digest))
    return layer


def stage_file(site: Site, fd: int, below: Sequence[Layer], *, digest: str, diff_id: str) -> Layer:
    """Unpack a layer from a file of the ingest directory, unless that is done, and keep the file.

    Args:
        site: where to work.
        fd: of the archive, a regular file on the store's file system; stays the caller's.
        below: the layers below, lowest first.
        digest: what the archive must hash to, or empty.
        diff_id: what it must hash to when decompressed, or empty.

    Raises:
        InvalidArchive: a digest is wrong, or the archive is broken.
        Unavailable: the disk is full, or the host fails otherwise.
    """
    source = Input(fd, site.alive)
    plain = Plain(source, site.limits)
    copy, copy_fd = _open_copy(site) if plain.kind.suffix is None else ("", -1)
    try:
        if copy:
            plain.copy_to(copy_fd)
        chain, paths = [layer.diff_id for layer in below], [layer.path for layer in below]
        found, path = _unpack(site, plain, chain, paths, expected=diff_id)
    finally:
        if copy:
            os.close(copy_fd)
    if digest and source.digest != digest:
        raise InvalidArchive(
            f"layer {digest} has digest {source.digest}: the archive is damaged or was altered"
        )
    layer = _described(source, plain, found, path)
    if copy:
        os.rename(copy, layout.blob_path(site.ingest, layer.digest))
    else:
        keep_file(site, fd, layer.digest)
    return layer


def stage_blob(
    site: Site,
    source: Input,
    chain: Sequence[str],
    paths: Sequence[str],
    *,
    digest: str,
    diff_id: str,
) -> Layer:
    """Unpack a layer from a blob that stays where it is.

    Args:
        site: where to work.
        source: the blob.
        chain: diff ids of the layers below, lowest first.
        paths: their directories; only looked at if the layer needs them.
        digest: what the blob must hash to.
        diff_id: what it must hash to when decompressed.

    Raises:
        InvalidArchive: a digest is wrong, or the archive is broken.
        Unavailable: the disk is full, or the host fails otherwise.
    """
    plain = Plain(source, site.limits)
    if plain.kind.suffix is None:
        raise InvalidArchive(f"layer {digest} is compressed by {plain.kind.name}, as none may be")
    found, path = _unpack(site, plain, chain, paths, expected=diff_id)
    if source.digest != digest:
        raise InvalidArchive(f"layer {digest} has digest {source.digest}: it is damaged")
    return _described(source, plain, found, path)


def keep_file(site: Site, fd: int, digest: str) -> None:
    """Give an open file of the ingest directory a second name, among the blobs."""
    directory = os.open(f"{site.ingest}/{layout.BLOBS}", os.O_PATH | os.O_CLOEXEC)
    try:
        storage.link_descriptor(fd, directory, layout.hexadecimal(digest))
    except FileExistsError:
        pass  # the same content came before
    finally:
        os.close(directory)


def _open_copy(site: Site) -> tuple[str, int]:
    path = f"{site.ingest}/{COPYING}"
    return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _described(source: Input, plain: Plain, diff_id: str, path: str) -> Layer:
    if plain.kind.suffix is None:
        return Layer(diff_id, plain.size, MEDIA_TYPE, diff_id, path)
    return Layer(source.digest, source.size, MEDIA_TYPE + plain.kind.suffix, diff_id, path)


def _unpack(
    site: Site, plain: Plain, chain: Sequence[str], paths: Sequence[str], *, expected: str
) -> tuple[str, str]:
    """Read a layer to its end, unpack it unless it is known; return diff id and directory.

    Args:
        site: where to work.
        plain: the layer.
        chain: diff ids of the layers below.
        paths: their directories.
        expected: the diff id, or empty.
    """
    path = find(site, [*chain, expected]) if expected else None
    record = None
    if path is None:
        directory = f"{site.ingest}/{site.scratch}"
        os.mkdir(directory, 0o700)
        with reading(plain) as read:
            record = layers.unpack(read, directory, paths, site.limits, strict_end=not expected)
    else:
        while plain.read():
            pass
    diff_id = plain.digest
    if expected and diff_id != expected:
        raise InvalidArchive(
            f"a layer's content has digest {diff_id}, its configuration says {expected}:"
            " the archive is damaged or was altered"
        )
    if record is not None:
        path = _settle(site, [*chain, diff_id], record)
    return diff_id, path or ""


@contextlib.contextmanager
def reading(plain: Plain) -> Iterator[Callable[[int], bytes]]:
    """Yield what reads a stream; of a file it is read ahead.

    A pipe may be silent for long, and whoever gives up must not wait for it; a file that is still
    written is told.
    """
    if not plain.is_of_file:
        yield plain.read
        return
    with Ahead(plain.read, plain.give_up) as ahead:
        yield ahead.read


def find(site: Site, diff_ids: Sequence[str]) -> str | None:
    """Return the directory of the topmost layer of a chain if it is unpacked already."""
    bases = (site.store, site.ingest)
    found = layout.find_layer(bases, diff_ids[-1], layout.chain_ids(diff_ids)[-1])
    return layout.layer_path(*found) if found else None


def _settle(site: Site, diff_ids: Sequence[str], record: LayerRecord) -> str:
    """Give the directory just unpacked its name, unless the layer turns out to be known."""
    unpacking = f"{site.ingest}/{site.scratch}"
    known = find(site, diff_ids)
    if known is not None:
        count = len(os.listdir(site.ingest))
        os.rename(unpacking, f"{site.ingest}/superfluous-{site.scratch}-{count}")
        return known
    digest = layout.chain_ids(diff_ids)[-1] if record.depends else diff_ids[-1]
    path = layout.layer_path(site.ingest, layout.hexadecimal(digest))
    layout.write_durably(f"{path}.json", layout.layer_record_text(record))
    os.rename(unpacking, path)
    return path
