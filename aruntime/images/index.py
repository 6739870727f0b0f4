"""ROOT/images/index.json: which manifests the store keeps, and under which names.

It is the index of an OCI image layout (image-spec, image-layout.md): one descriptor for each
name, with the name as annotation, and one without a name for an image that has none. Whatever
no descriptor leads to may be collected, so this file alone decides what exists.
"""

from __future__ import annotations

import msgspec

from aruntime.errors import Unavailable
from aruntime.images import layout

NAME_ANNOTATION = "org.opencontainers.image.ref.name"
MEDIA_TYPE = "application/vnd.oci.image.index.v1+json"


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What leads to a blob (image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True):
    """The content of index.json; changing it means making another one."""

    manifests: dict[str, Descriptor] = {}
    """By digest, in the order they came."""
    names: dict[str, str] = {}
    """Digest of the manifest by normalised reference."""

    def with_manifest(self, manifest: Descriptor) -> Index:
        """Keep one more manifest."""
        bare = msgspec.structs.replace(manifest, annotations={})
        return Index({**self.manifests, manifest.digest: bare}, self.names)

    def with_name(self, name: str, digest: str) -> Index:
        """Let a name stand for a manifest; what it stood for stays, nameless if need be."""
        return Index(self.manifests, {**self.names, name: digest})

    def without_name(self, name: str) -> Index:
        """Forget a name."""
        return Index(self.manifests, {k: v for k, v in self.names.items() if k != name})

    def without_manifests(self, digests: set[str]) -> Index:
        """Forget manifests and all their names."""
        return Index(
            {k: v for k, v in self.manifests.items() if k not in digests},
            {k: v for k, v in self.names.items() if v not in digests},
        )


class _IndexFile(msgspec.Struct, kw_only=True, rename="camel"):
    schema_version: int
    media_type: str = MEDIA_TYPE
    manifests: list[Descriptor]


def read_index(path: str) -> Index:
    """Read the index; it is empty when there is no file yet.

    Raises:
        Unavailable: the file is damaged.
    """
    try:
        with open(path, "rb") as file:
            found = msgspec.json.decode(file.read(), type=_IndexFile)
    except FileNotFoundError:
        return Index()
    except msgspec.DecodeError as error:
        raise Unavailable(
            f"the image index {path} is damaged: {error}; move it away to begin with no images"
        ) from error
    manifests: dict[str, Descriptor] = {}
    names: dict[str, str] = {}
    for descriptor in found.manifests:
        manifests[descriptor.digest] = msgspec.structs.replace(descriptor, annotations={})
        name = descriptor.annotations.get(NAME_ANNOTATION)
        if name is not None:
            names[name] = descriptor.digest
    return Index(manifests, names)


def write_index(path: str, index: Index) -> None:
    """Replace the index, durably and at once."""
    names: dict[str, list[str]] = {}
    for name, digest in sorted(index.names.items()):
        names.setdefault(digest, []).append(name)
    entries: list[Descriptor] = []
    for digest, manifest in index.manifests.items():
        entries += [
            msgspec.structs.replace(manifest, annotations={NAME_ANNOTATION: name})
            for name in names.get(digest, ())
        ] or [manifest]
    text = msgspec.json.encode(_IndexFile(schema_version=2, manifests=entries))
    layout.write_durably(path, text)
