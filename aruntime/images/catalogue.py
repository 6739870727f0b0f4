"""The images an index leads to: manifests and configurations read, checked and joined.

A catalogue belongs to one state of the index and is never changed; the store makes another one
for each new index and hands the old one over so that nothing is read twice. What a digest stands
for cannot change, only go or be damaged.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from aruntime.errors import ImageNotFound, InvalidArchive, InvalidParameter
from aruntime.images import layout, reference
from aruntime.images.image import Image, ParsedConfig, parse_config
from aruntime.images.index import Descriptor, Index


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest (image-spec, manifest.md), as far as it is used."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Parts(msgspec.Struct, frozen=True):
    """What a manifest's digest leads to."""

    manifest: Manifest
    config: ParsedConfig
    layers: tuple[str, ...]
    """Directories, lowest first."""
    records: tuple[layout.LayerRecord, ...]


def read_blob(base: str, digest: str) -> bytes:
    """Read a small blob and check it against its digest.

    Raises:
        InvalidArchive: it is gone or damaged.
    """
    try:
        with open(layout.blob_path(base, digest), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise InvalidArchive(f"blob {digest} is missing from the image store") from None
    if layout.sha256_of(content) != digest:
        raise InvalidArchive(f"blob {digest} of the image store is damaged")
    return content


def read_manifest(base: str, digest: str) -> Manifest:
    """Read a manifest.

    Raises:
        InvalidArchive: it is gone, damaged or not a manifest.
    """
    try:
        found = msgspec.json.decode(read_blob(base, digest), type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArchive(f"invalid image manifest {digest}: {error}") from error
    for part in (found.config, *found.layers):
        if not reference.is_sha256(part.digest):
            raise InvalidArchive(f"invalid image manifest {digest}: a digest is not sha256")
    return found


def read_config(base: str, manifest: Manifest) -> ParsedConfig:
    """Read the configuration of an image.

    Raises:
        InvalidArchive: it is gone, damaged, or does not fit the manifest.
    """
    found = parse_config(read_blob(base, manifest.config.digest))
    if not all(map(reference.is_sha256, found.diff_ids)):
        raise InvalidArchive("invalid image configuration: a diff id is not a sha256 digest")
    if len(found.diff_ids) != len(manifest.layers):
        raise InvalidArchive(
            f"invalid image configuration: {len(found.diff_ids)} diff ids"
            f" for {len(manifest.layers)} layers"
        )
    return found


def read_parts(base: str, digest: str) -> Parts:
    """Read all that belongs to an image but the content of its layers.

    Raises:
        InvalidArchive: something is gone or damaged.
    """
    manifest = read_manifest(base, digest)
    config = read_config(base, manifest)
    layers: list[str] = []
    records: list[layout.LayerRecord] = []
    for diff_id, chain_id in zip(config.diff_ids, layout.chain_ids(config.diff_ids), strict=True):
        found = layout.find_layer((base,), diff_id, chain_id)
        if found is None:
            raise InvalidArchive(f"layer {diff_id} is missing from the image store")
        layers.append(layout.layer_path(*found))
        records.append(layout.read_layer_record(*found))
    return Parts(manifest, config, tuple(layers), tuple(records))


def possible_layers(base: str, digest: str) -> set[str]:
    """Return the directories that the layers of a damaged image may have, as far as it says.

    Args:
        base: of the store.
        digest: of the manifest.
    """
    try:
        diff_ids = read_config(base, read_manifest(base, digest)).diff_ids
    except InvalidArchive:
        return set()
    names = map(layout.hexadecimal, (*diff_ids, *layout.chain_ids(diff_ids)))
    return {layout.layer_path(base, name) for name in names}


class Catalogue:
    """All images of one index."""

    def __init__(self, base: str, index: Index, known: dict[str, Parts] | None = None) -> None:
        self.index = index
        self.parts: dict[str, Parts] = {}
        self.damaged: dict[str, str] = {}
        """What is wrong, by digest of the manifest."""
        self._images: dict[str, Image] = {}
        for digest in index.manifests:
            try:
                self.parts[digest] = (known or {}).get(digest) or read_parts(base, digest)
            except InvalidArchive as error:
                self.damaged[digest] = error.message
        names: dict[str, list[str]] = {}
        for name, digest in sorted(index.names.items()):
            if digest in self.parts:
                names.setdefault(self.image_id(digest), []).append(name)
        for digest in self.parts:
            image_id = self.image_id(digest)
            if image_id not in self._images:
                self._images[image_id] = _assemble(
                    digest, self.parts[digest], names.get(image_id, ())
                )

    def image_id(self, digest: str) -> str:
        """Return the image id of a manifest that is not damaged."""
        return self.parts[digest].manifest.config.digest

    def image(self, image_id: str) -> Image:
        """Return the image of a full id that is here."""
        return self._images[image_id]

    def images(self) -> list[Image]:
        """Return all images, newest first."""
        return sorted(self._images.values(), key=lambda image: (-image.created_ns, image.id))

    def manifests_of(self, image_id: str) -> set[str]:
        """Return the digests of all manifests with this configuration."""
        return {digest for digest in self.parts if self.image_id(digest) == image_id}

    def resolve(self, text: str) -> str:
        """Return the digest of the manifest a reference, id or beginning of an id stands for.

        Raises:
            ImageNotFound: there is none.
            InvalidReference: the text is neither.
            InvalidParameter: the beginning of an id fits several images.
            InvalidArchive: the image is damaged.
        """
        digits = text.removeprefix("sha256:")
        if not (reference.is_sha256(text) or reference.is_identifier(text)):
            name = str(reference.parse(text))
            if name in self.index.names:
                return self._checked(self.index.names[name], text)
            if not reference.is_id_prefix(text):
                raise not_found(text)
        matching = [i for i in self._images if i.removeprefix("sha256:").startswith(digits)]
        if len(matching) > 1:
            raise InvalidParameter(f"image id {text} is ambiguous; give more of its digits")
        if matching:
            return self._images[matching[0]].digest
        if text in self.index.manifests:
            return self._checked(text, text)
        raise not_found(text)

    def _checked(self, digest: str, text: str) -> str:
        if digest in self.damaged:
            raise InvalidArchive(
                f"image {text} is damaged: {self.damaged[digest]};"
                " remove it with rmi -f and import, load or pull it again"
            )
        return digest


def not_found(text: str) -> ImageNotFound:
    """Build the error for a text that stands for no image."""
    return ImageNotFound(
        f"no such image: {text}; 'aruntime images' lists those there are,"
        " 'aruntime load' and 'aruntime import' add one"
    )


def _assemble(digest: str, parts: Parts, names: Iterable[str]) -> Image:
    config = parts.config
    roots = [record.root for record in parts.records if record.root is not None]
    mode, uid, gid = roots[-1] if roots else (0o755, 0, 0)
    return Image(
        id=parts.manifest.config.digest,
        digest=digest,
        names=tuple(name for name in names if "@" not in name),
        digests=tuple(name for name in names if "@" in name),
        config=config.config,
        layers=parts.layers,
        diff_ids=config.diff_ids,
        size=sum(record.size for record in parts.records),
        layer_sizes=tuple(record.size for record in parts.records),
        created_ns=config.created_ns,
        architecture=config.architecture,
        os=config.os,
        variant=config.variant,
        author=config.author,
        comment=config.comment,
        history=config.history,
        root_mode=mode,
        root_uid=uid,
        root_gid=gid,
    )
