"""Read an OCI image layout: index.json, manifests and nested indexes, blobs by digest.

Every document and layer is checked against the digest and size that lead to it; what makes a
document valid is :mod:`aruntime.images.manifests`'s affair. Source: OCI image-spec v1.1. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aruntime.errors import InvalidArchive
from aruntime.images import layout, manifests
from aruntime.images.docker_archive import normalised
from aruntime.images.manifests import INDEX_TYPES, MANIFEST_TYPES, Json
from aruntime.images.members import Members, field, parse_json, strings
from aruntime.images.platform import Platform
from aruntime.images.staged import StagedImage, Stager
from aruntime.images.staging import Layer, Site, keep_file

NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
INDEX_DEPTH = 4
"""Deepest nesting of indexes."""


def load(site: Site, members: Members, wanted: Platform) -> list[StagedImage]:
    """Stage the images of an OCI layout, one for each name in index.json.

    Raises:
        InvalidArchive: something is malformed, missing or altered.
        Unavailable: the disk is full.
    """
    stager = Stager(site, members)
    index = parse_json(members.read("index.json"), "index.json", dict)
    manifests.check_index(index, "index.json")
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
        descriptor = manifests.checked_descriptor(entry, "index.json")
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
    found = group[0] if len(group) == 1 else manifests.best(group, wanted)
    if found["mediaType"] in MANIFEST_TYPES:
        return found
    text = _read(members, found)
    chosen = manifests.choose(text, wanted, f"index {found['digest']}", "the archive")
    return _choose(members, [chosen], wanted, depth - 1)


def _path(descriptor: Json) -> str:
    return f"{layout.BLOBS}/{layout.hexadecimal(descriptor['digest'])}"


def _read(members: Members, descriptor: Json) -> bytes:
    """Read a document and check it against its descriptor."""
    content = members.read(_path(descriptor))
    manifests.check_content(content, descriptor, "the archive")
    return content


def _image(stager: Stager, members: Members, descriptor: Json, names: list[str]) -> StagedImage:
    digest = descriptor["digest"]
    what = f"manifest {digest}"
    text = _read(members, descriptor)
    config, found = manifests.parse_manifest(text, descriptor["mediaType"], what)
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
    manifests.check_layers(found, diff_ids, what)
    layers: list[Layer] = []
    for descriptor, diff_id in zip(found, diff_ids, strict=True):
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
