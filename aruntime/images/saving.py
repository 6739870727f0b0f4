"""``save``: images as one archive that docker, podman, skopeo and containerd load.

An archive is an OCI image layout; a docker archive has docker's ``manifest.json`` besides (what
docker writes from version 25 on), so that every docker, and whoever reads docker's archives, finds
its way in it. Blobs go in as they are kept, so an image keeps its digests on the way:

    blobs/sha256/<hex>   manifests, configurations, layers
    index.json           the manifests, once for each name
    oci-layout
    manifest.json        [{"Config", "RepoTags", "Layers"}], docker archives only

Blobs are digested as they leave: a damaged one is found here and not by whoever loads it. Pure of
where the archive goes; a saver owns the descriptors of its blobs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import msgspec

from aruntime.errors import ImageNotFound, InvalidArchive
from aruntime.images import catalogue, layout, reference, tar, tar_headers
from aruntime.images.image import Image
from aruntime.images.index import MEDIA_TYPE, NAME_ANNOTATION, Descriptor
from aruntime.images.store import Store

DOCKER_ARCHIVE, OCI_ARCHIVE = "docker-archive", "oci-archive"
FORMATS = (DOCKER_ARCHIVE, OCI_ARCHIVE)
CONTAINERD_NAME = "io.containerd.image.name"
CHUNK = 1 << 20


class Chosen(msgspec.Struct):
    """An image that is saved, with the names that go along."""

    image: Image
    names: list[str]
    """Normalised references with tags."""


def choose(store: Store, texts: Sequence[str]) -> list[Chosen]:
    """Find what ``save`` is asked for, each image once.

    A name brings itself, a name without tag all tags of its repository (docker's rule), an id or a
    name with a digest no name at all.

    Raises:
        ImageNotFound: there is no such image; and others as :meth:`Store.resolve`.
    """
    chosen: dict[str, Chosen] = {}

    def add(image: Image, name: str = "") -> None:
        one = chosen.setdefault(image.id, Chosen(image, []))
        if name and name not in one.names:
            one.names.append(name)

    for text in texts:
        repository = _repository(text)
        tags = [
            name for name in sorted(store.names())
            if repository and "@" not in name and reference.parse(name).name == repository
        ]  # fmt: skip
        for name in tags:
            add(store.resolve(name), name)
        if not tags:
            image = store.resolve(text)
            given = "" if _is_id(text) else str(reference.parse(text))
            add(image, given if given in image.names else "")
    return list(chosen.values())


def _is_id(text: str) -> bool:
    return reference.is_sha256(text) or reference.is_identifier(text)


def _repository(text: str) -> str:
    """Return the normalised repository if the text is nothing but one, else empty."""
    if _is_id(text):
        return ""
    found = reference.parse(text)
    named = text.endswith((f":{found.tag}", f"@{found.digest}")) if found.suffix else False
    return "" if named else found.name


class Saver:
    """An archive in the making; owns descriptors of all blobs, use it in a ``with`` block.

    Blobs stay readable although their image is removed meanwhile.

    Args:
        store: has the images.
        chosen: the images.
        form: one of FORMATS.

    Raises:
        ImageNotFound: a blob of an image is gone.
        InvalidArchive: a document is damaged.
    """

    def __init__(self, store: Store, chosen: Sequence[Chosen], form: str) -> None:
        self._chosen = chosen
        self._form = form
        self._fds: dict[str, int] = {}
        digests = [one.image.digest for one in chosen]
        self._descriptors = [store.manifest(digest) for digest in digests]
        self._manifests = [catalogue.read_manifest(store.base, digest) for digest in digests]
        try:
            for one, manifest in zip(chosen, self._manifests, strict=True):
                for digest in (one.image.digest, one.image.id, *_layer_digests(manifest)):
                    self._hold(store.base, digest)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the blobs."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    @property
    def images(self) -> list[Image]:
        """What is saved."""
        return [one.image for one in self._chosen]

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive.

        Raises:
            InvalidArchive: a blob is damaged; what was yielded is no whole archive.
        """
        for directory in ("blobs", layout.BLOBS):
            yield tar_headers.encode(tar_headers.entry(f"{directory}/".encode(), tar.DIRECTORY))
        for digest, fd in sorted(self._fds.items()):
            yield from _blob(digest, fd)
        yield from _file("index.json", _json(self._index()))
        if self._form == DOCKER_ARCHIVE:
            yield from _file("manifest.json", _json(self._docker_manifest()))
        yield from _file(layout.OCI_LAYOUT, layout.LAYOUT_TEXT)
        yield tar_headers.END

    def _hold(self, base: str, digest: str) -> None:
        if digest in self._fds:
            return
        try:
            path = layout.blob_path(base, digest)
            self._fds[digest] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ImageNotFound(
                f"blob {digest} is missing from the image store; load or pull its image again"
            ) from None

    def _index(self) -> dict[str, Any]:
        entries: list[Descriptor] = []
        for one, bare in zip(self._chosen, self._descriptors, strict=True):
            entries += [
                msgspec.structs.replace(
                    bare, annotations={CONTAINERD_NAME: name, NAME_ANNOTATION: name}
                )
                for name in one.names
            ] or [bare]
        return {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE,
            "manifests": msgspec.to_builtins(entries),
        }

    def _docker_manifest(self) -> list[dict[str, Any]]:
        return [
            {
                "Config": _path(one.image.id),
                # Whole names: podman takes a familiar one for its own ("localhost/busybox").
                "RepoTags": one.names or None,
                "Layers": [_path(digest) for digest in _layer_digests(manifest)],
            }
            for one, manifest in zip(self._chosen, self._manifests, strict=True)
        ]


def _layer_digests(manifest: catalogue.Manifest) -> list[str]:
    return [layer.digest for layer in manifest.layers]


def _path(digest: str) -> str:
    return f"{layout.BLOBS}/{layout.hexadecimal(digest)}"


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _file(name: str, content: bytes) -> Iterator[bytes]:
    yield tar_headers.encode(tar_headers.entry(name.encode(), tar.REGULAR, size=len(content)))
    yield content + tar_headers.padding(len(content))


def _blob(digest: str, fd: int) -> Iterator[bytes]:
    """Yield one blob, compared with its digest while it passes."""
    size = os.fstat(fd).st_size
    hashed = hashlib.sha256()
    yield tar_headers.encode(tar_headers.entry(_path(digest).encode(), tar.REGULAR, size=size))
    at = 0
    while at < size:
        piece = os.pread(fd, min(CHUNK, size - at), at)
        if not piece:
            break
        hashed.update(piece)
        at += len(piece)
        yield piece
    if f"sha256:{hashed.hexdigest()}" != digest:
        raise InvalidArchive(f"blob {digest} of the image store is damaged; load or pull it again")
    yield tar_headers.padding(size)
