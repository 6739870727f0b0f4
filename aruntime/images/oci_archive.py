"""Read an OCI image layout: index.json, manifests and nested indexes, blobs by digest.

Every document and layer is checked against the digest and size that lead to it, and a document
that could be read as two things is refused: a manifest with ``manifests`` or an index with
``layers`` would be one image to one program and another to the next (CVE-2021-41190). Both OCI's
and docker's media types are known. Source: OCI image-spec v1.1. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aruntime.errors import InvalidArchive
from aruntime.images import layout, platform, reference
from aruntime.images.docker_archive import normalised
from aruntime.images.members import Members, field, parse_json, strings
from aruntime.images.platform import Platform
from aruntime.images.staged import CONFIG_TYPE, MANIFEST_TYPE, StagedImage, Stager
from aruntime.images.staging import Layer, Site, keep_file

INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
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
NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
INDEX_DEPTH = 4
"""Deepest nesting of indexes."""

Json = dict[str, Any]


def load(site: Site, members: Members, wanted: Platform) -> list[StagedImage]:
    """Stage the images of an OCI layout, one for each name in index.json.

    Raises:
        InvalidArchive: something is malformed, missing or altered.
        Unavailable: the disk is full.
    """
    stager = Stager(site, members)
    index = parse_json(members.read("index.json"), "index.json", dict)
    _check_index(index, "index.json")
    names: dict[str, list[str]] = {}
    chosen: dict[str, Json] = {}
    for group in _grouped(field(index, "manifests", list, "index.json")):
        manifest = _choose(members, group, wanted, INDEX_DEPTH)
        chosen[manifest["digest"]] = manifest
        names.setdefault(manifest["digest"], []).extend(_names(group[0]))
    return [_image(stager, members, one, names[digest]) for digest, one in chosen.items()]


def _grouped(entries: Sequence[Any]) -> list[list[Json]]:
    """Put descriptors of one name together: they are one image for several platforms.

    Nameless ones belong together if they say what they run on; otherwise each is an image.
    """
    groups: dict[tuple[str, str], list[Json]] = {}
    for entry in entries:
        descriptor = _checked_descriptor(entry, "index.json")
        if descriptor["mediaType"] not in INDEX_TYPES | MANIFEST_TYPES:
            continue  # signatures and other attachments
        name = _annotation(descriptor)
        apart = "" if name or descriptor.get("platform") else descriptor["digest"]
        groups.setdefault((name, apart), []).append(descriptor)
    return list(groups.values())


def _choose(members: Members, group: Sequence[Json], wanted: Platform, depth: int) -> Json:
    """Return the manifest that fits the platform, looking into indexes."""
    if not depth:
        raise InvalidArchive("the indexes of the archive are nested too deeply")
    found = group[0] if len(group) == 1 else _best(group, wanted)
    if found["mediaType"] in MANIFEST_TYPES:
        return found
    what = f"index {found['digest']}"
    index = parse_json(_read(members, found), what, dict)
    _check_index(index, what)
    entries = [_checked_descriptor(one, what) for one in field(index, "manifests", list, what)]
    known = [one for one in entries if one["mediaType"] in INDEX_TYPES | MANIFEST_TYPES]
    fitting = [one for one in known if _rank(one, wanted)]
    if not fitting:
        there = ", ".join(sorted({_shown_platform(one) for one in known})) or "nothing"
        raise InvalidArchive(f"the archive has no image for {wanted}, but for {there}")
    return _choose(members, [_best(fitting, wanted)], wanted, depth - 1)


def _best(group: Sequence[Json], wanted: Platform) -> Json:
    return max(group, key=lambda one: _rank(one, wanted))


def _rank(descriptor: Json, wanted: Platform) -> int:
    """Tell how well a descriptor fits; one that does not say may do."""
    found = descriptor.get("platform")
    return platform.rank(found, wanted) if isinstance(found, Mapping) else 1


def _shown_platform(descriptor: Json) -> str:
    found = descriptor.get("platform") or {}
    return f"{found.get('os')}/{found.get('architecture')}"


def _check_index(index: Json, what: str) -> None:
    if "layers" in index or "config" in index:
        raise InvalidArchive(f"{what} is ambiguous: an index must not have layers or config")
    if index.get("mediaType", "") not in {"", *INDEX_TYPES}:
        raise InvalidArchive(f"{what} says it is a {index['mediaType']}, not an index")


def _checked_descriptor(found: Any, what: str) -> Json:
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


def _path(descriptor: Json) -> str:
    return f"{layout.BLOBS}/{layout.hexadecimal(descriptor['digest'])}"


def _read(members: Members, descriptor: Json) -> bytes:
    """Read a document and check it against its descriptor."""
    content = members.read(_path(descriptor))
    digest = descriptor["digest"]
    if len(content) != descriptor["size"] or layout.sha256_of(content) != digest:
        raise InvalidArchive(f"blob {digest} of the archive is damaged or was altered")
    return content


def _image(stager: Stager, members: Members, descriptor: Json, names: list[str]) -> StagedImage:
    digest = descriptor["digest"]
    what = f"manifest {digest}"
    manifest = parse_json(_read(members, descriptor), what, dict)
    if "manifests" in manifest:
        raise InvalidArchive(f"{what} is ambiguous: a manifest must not have manifests")
    if manifest.get("mediaType", descriptor["mediaType"]) != descriptor["mediaType"]:
        raise InvalidArchive(f"{what} is ambiguous: its media type is not its descriptor's")
    config = _checked_descriptor(manifest.get("config"), what)
    if config["mediaType"] not in CONFIG_TYPES:
        raise InvalidArchive(
            f"{what} is no container image: its configuration is a {config['mediaType'][:80]}"
        )
    found = [_checked_descriptor(one, what) for one in field(manifest, "layers", list, what)]
    document = parse_json(_read(members, config), f"configuration of {what}", dict)
    root = field(document, "rootfs", dict, f"configuration of {what}")
    diff_ids = strings(root, "diff_ids", f"configuration of {what}")
    _stage_layers(stager, members, found, diff_ids, what)
    for part in (descriptor, config):
        with members.open(_path(part)) as fd:
            keep_file(stager.site, fd, part["digest"])
    return StagedImage(descriptor["mediaType"], digest, descriptor["size"], names)


def _stage_layers(
    stager: Stager, members: Members, found: Sequence[Json], diff_ids: Sequence[str], what: str
) -> None:
    if len(found) != len(diff_ids):
        raise InvalidArchive(f"{what} has {len(found)} layers for {len(diff_ids)} diff ids")
    layers: list[Layer] = []
    for descriptor, diff_id in zip(found, diff_ids, strict=True):
        if descriptor["mediaType"] not in LAYER_TYPES:
            raise InvalidArchive(
                f"{what} has a layer of unknown type {descriptor['mediaType'][:80]}"
            )
        if not reference.is_sha256(diff_id):
            raise InvalidArchive(f"{what} has a diff id that is not a sha256 digest")
        digest = descriptor["digest"]
        layer = stager.stage(_path(descriptor), layers, digest=digest, diff_id=diff_id)
        if layer.size != descriptor["size"]:
            raise InvalidArchive(f"layer {digest} has {layer.size} bytes, not as described")
        layers.append(layer)


def _annotation(descriptor: Json) -> str:
    annotations = descriptor.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidArchive("index.json has annotations that are no object")
    found = next((annotations[key] for key in NAME_ANNOTATIONS if annotations.get(key)), "")
    if not isinstance(found, str):
        raise InvalidArchive("index.json has an annotation that is no string")
    return found


def _names(descriptor: Json) -> list[str]:
    """Return the references an entry of index.json gives, normalised.

    A bare word is a tag of a repository nobody named (umoci writes such): no name at all.
    """
    name = _annotation(descriptor)
    return [normalised(name)] if any(sign in name for sign in ":/@") else []
