"""Manifests and indexes of images: their media types, what makes one valid, which one to take.

Both OCI's and docker's media types are known. A document that could be read as two things is
refused: a manifest with ``manifests`` or an index with ``layers`` would be one image to one program
and another to the next (CVE-2021-41190). Pure: where documents come from is the affair of
:mod:`aruntime.images.oci_archive` and of whoever speaks to a registry. Source: OCI image-spec v1.1.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aruntime.errors import InvalidArchive
from aruntime.images import layout, platform, reference
from aruntime.images.members import field, parse_json
from aruntime.images.platform import Platform
from aruntime.images.staged import CONFIG_TYPE, MANIFEST_TYPE

OCI_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
INDEX_TYPES = frozenset(
    {OCI_INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"}
)
MANIFEST_TYPES = frozenset({MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json"})
CONFIG_TYPES = frozenset({CONFIG_TYPE, "application/vnd.docker.container.image.v1+json"})
LAYER_TYPES = frozenset(
    {
        f"application/vnd.oci.image.layer.{kind}v1.tar{suffix}"
        for kind in ("", "nondistributable.")
        for suffix in ("", "+gzip", "+zstd")
    }
    | {
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)

Json = dict[str, Any]


def checked_descriptor(found: Any, what: str) -> Json:
    """Return a descriptor whose digest, media type and size are of the right form.

    Raises:
        InvalidArchive: one is not.
    """
    if not isinstance(found, dict):
        raise InvalidArchive(f"{what} has a descriptor that is no object")
    digest = field(found, "digest", str, f"a descriptor of {what}")
    field(found, "mediaType", str, f"a descriptor of {what}")
    size = field(found, "size", int, f"a descriptor of {what}")
    if not reference.is_sha256(digest):
        raise InvalidArchive(f"{what} has a digest other than sha256: {digest[:80]!r}")
    if size < 0:
        raise InvalidArchive(f"{what} has a descriptor of negative size")
    return found


def check_content(content: bytes, descriptor: Mapping[str, Any], where: str) -> None:
    """Check a document against the descriptor that leads to it.

    Raises:
        InvalidArchive: size or digest are others.
    """
    digest = descriptor["digest"]
    if len(content) != descriptor["size"] or layout.sha256_of(content) != digest:
        raise InvalidArchive(f"blob {digest} of {where} is damaged or was altered")


def check_index(index: Json, what: str) -> None:
    """Check that a document can only be read as an index.

    Raises:
        InvalidArchive: it can be read otherwise.
    """
    if "layers" in index or "config" in index:
        raise InvalidArchive(f"{what} is ambiguous: an index must not have layers or config")
    if index.get("mediaType", "") not in {"", *INDEX_TYPES}:
        raise InvalidArchive(f"{what} says it is a {index['mediaType']}, not an index")


def choose(text: bytes, wanted: Platform, what: str, where: str) -> Json:
    """Return the descriptor of an index that fits a platform best; it may be another index.

    Args:
        text: the index.
        wanted: the platform.
        what: names the index in errors.
        where: what it comes from, for errors (``the archive``).

    Raises:
        InvalidArchive: it is malformed, ambiguous, or has nothing for the platform.
    """
    index = parse_json(text, what, dict)
    check_index(index, what)
    entries = [checked_descriptor(one, what) for one in field(index, "manifests", list, what)]
    known = [one for one in entries if one["mediaType"] in INDEX_TYPES | MANIFEST_TYPES]
    fitting = [one for one in known if rank(one, wanted)]
    if not fitting:
        there = ", ".join(sorted({_shown_platform(one) for one in known})) or "nothing"
        raise InvalidArchive(f"{where} has no image for {wanted}, but for {there}")
    return best(fitting, wanted)


def best(group: Sequence[Json], wanted: Platform) -> Json:
    """Return the descriptor that fits a platform best; the first of equals."""
    return max(group, key=lambda one: rank(one, wanted))


def rank(descriptor: Json, wanted: Platform) -> int:
    """Tell how well a descriptor fits; one that does not say may do."""
    found = descriptor.get("platform")
    return platform.rank(found, wanted) if isinstance(found, Mapping) else 1


def _shown_platform(descriptor: Json) -> str:
    found = descriptor.get("platform") or {}
    return f"{found.get('os')}/{found.get('architecture')}"


def parse_manifest(text: bytes, media_type: str, what: str) -> tuple[Json, list[Json]]:
    """Return the descriptors of configuration and layers of an image's manifest.

    Raises:
        InvalidArchive: it is malformed, ambiguous, or not of a container image.
    """
    manifest = parse_json(text, what, dict)
    if "manifests" in manifest:
        raise InvalidArchive(f"{what} is ambiguous: a manifest must not have manifests")
    if manifest.get("mediaType", media_type) != media_type:
        raise InvalidArchive(f"{what} is ambiguous: its media type is not its descriptor's")
    config = checked_descriptor(manifest.get("config"), what)
    if config["mediaType"] not in CONFIG_TYPES:
        raise InvalidArchive(
            f"{what} is no container image: its configuration is a {config['mediaType'][:80]}"
        )
    return config, [checked_descriptor(one, what) for one in field(manifest, "layers", list, what)]


def check_layers(layers: Sequence[Json], diff_ids: Sequence[str], what: str) -> None:
    """Check the layers of a manifest against the diff ids of its configuration.

    Raises:
        InvalidArchive: they do not go together, or a media type is unknown.
    """
    if len(layers) != len(diff_ids):
        raise InvalidArchive(f"{what} has {len(layers)} layers for {len(diff_ids)} diff ids")
    for descriptor, diff_id in zip(layers, diff_ids, strict=True):
        if descriptor["mediaType"] not in LAYER_TYPES:
            raise InvalidArchive(
                f"{what} has a layer of unknown type {descriptor['mediaType'][:80]}"
            )
        if not reference.is_sha256(diff_id):
            raise InvalidArchive(f"{what} has a diff id that is not a sha256 digest")
