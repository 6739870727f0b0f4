"""Layers that are kept plain become gzip ones, the same bytes each time: for registries.

``import`` keeps an uncompressed archive as it came. What is sent to others, and kept from then on,
is its gzip form, made with a fixed level and no time stamp, so that everybody who pushes the same
layer names it alike. Synchronous; the threads that call it hold no lock while zlib works.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

from aruntime.errors import InvalidArchive
from aruntime.images import layout
from aruntime.images.compression import CHUNK, write_all
from aruntime.images.index import Descriptor
from aruntime.images.ingest import Ingest
from aruntime.images.manifests import MANIFEST_TYPES
from aruntime.images.staging import MEDIA_TYPE

LEVEL = 6
GZIP_WINDOW = 31
PLAIN_TYPES = frozenset({MEDIA_TYPE, "application/vnd.docker.image.rootfs.diff.tar"})
GZIP_TYPE = f"{MEDIA_TYPE}+gzip"


class GzipFile:
    """A gzip file in the making; it knows the digests of what went in and what came out.

    Args:
        fd: of an empty file; stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # zlib writes a header without name and time when it is told the window alone.
        self._zlib = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW)
        self._plain = hashlib.sha256()
        self._packed = hashlib.sha256()
        self.size = 0
        """Bytes of the file."""

    def write(self, content: bytes) -> None:
        """Add plain bytes."""
        self._plain.update(content)
        self._put(self._zlib.compress(content))

    def finish(self) -> tuple[str, str]:
        """Write what is left; return the diff id and the digest of the file."""
        self._put(self._zlib.flush())
        return f"sha256:{self._plain.hexdigest()}", f"sha256:{self._packed.hexdigest()}"

    def _put(self, packed: bytes) -> None:
        write_all(self._fd, packed)
        self._packed.update(packed)
        self.size += len(packed)


def compressed_manifest(
    ingest: Ingest, manifest: Descriptor, content: bytes, alive: Callable[[], None]
) -> Descriptor:
    """Put an image's plain layers, compressed, and the manifest that names them, into an ingest.

    Args:
        ingest: gets them.
        manifest: of the image.
        content: the manifest.
        alive: called now and then; raises when nobody wants the result any more.

    Returns:
        The new manifest; the given one if no layer is plain.

    Raises:
        InvalidArchive: the archive of a layer is gone.
        OSError: the disk refused.
    """
    document: dict[str, Any] = json.loads(content)
    plain = [one for one in document["layers"] if one["mediaType"] in PLAIN_TYPES]
    if not plain or manifest.media_type not in MANIFEST_TYPES:
        return manifest
    for layer in plain:
        digest, size = _compress(ingest, layer["digest"], alive)
        layer["digest"], layer["size"] = digest, size
        layer["mediaType"] = (
            GZIP_TYPE if layer["mediaType"] == MEDIA_TYPE else f"{layer['mediaType']}.gzip"
        )
    text = json.dumps(document).encode()
    return Descriptor(media_type=manifest.media_type, digest=ingest.add_blob(text), size=len(text))


def _compress(ingest: Ingest, digest: str, alive: Callable[[], None]) -> tuple[str, int]:
    """Compress a blob of the store into the ingest directory; return its digest and size."""
    partial = f"{ingest.path}/compressing"
    source = layout.blob_path(ingest.store, digest)
    if not os.path.exists(source):
        raise InvalidArchive(f"blob {digest} is missing from the image store")
    with open(source, "rb", buffering=0) as plain_file, open(partial, "wb", buffering=0) as target:
        packed = GzipFile(target.fileno())
        while piece := plain_file.read(CHUNK):
            alive()
            packed.write(piece)
        plain, found = packed.finish()
    if plain != digest:
        raise InvalidArchive(
            f"blob {digest} of the image store is damaged; import or load the image again"
        )
    os.rename(partial, layout.blob_path(ingest.path, found))
    return found, packed.size
