"""Read what ``docker save`` writes: manifest.json, and the older form with ``repositories``.

    manifest.json    [{"Config": path, "RepoTags": [name], "Layers": [path, …]}, …]
    repositories     {name: {tag: layer id}}, and per layer a directory with json and layer.tar

Paths may lead through symbolic links of the archive (docker 1.10 to 24 wrote a layer that occurs
twice as a link to ``../<id>/layer.tar``). Source: moby, image/tarexport; the older form is moby's
image/spec/v1.md. Standard library only.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any

from aruntime.errors import InvalidArchive, InvalidReference
from aruntime.images import layout, reference
from aruntime.images.members import Members, field, parse_json, strings
from aruntime.images.staged import StagedImage, Stager, write_image
from aruntime.images.staging import Layer, Site

_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")
LEGACY_LAYERS = 128
"""Longest chain of the old form (docker's own limit was 127)."""


def load(site: Site, members: Members) -> list[StagedImage]:
    """Stage the images of manifest.json.

    Raises:
        InvalidArchive: something is malformed, missing or altered.
        Unavailable: the disk is full.
    """
    stager = Stager(site, members)
    entries = parse_json(members.read("manifest.json"), "manifest.json", list)
    return [_image(stager, members, entry) for entry in entries]


def _image(stager: Stager, members: Members, entry: Any) -> StagedImage:
    if not isinstance(entry, dict):
        raise InvalidArchive("manifest.json has an entry that is no object")
    path = field(entry, "Config", str, "manifest.json")
    config = members.read(path)
    _check_name(path, config)
    document = parse_json(config, path, dict)
    root = field(document, "rootfs", dict, path)
    diff_ids = strings(root, "diff_ids", path)
    paths = strings(entry, "Layers", "manifest.json")
    if len(diff_ids) != len(paths):
        raise InvalidArchive(f"{path} has {len(diff_ids)} diff ids for {len(paths)} layers")
    layers: list[Layer] = []
    for layer_path, diff_id in zip(paths, diff_ids, strict=True):
        if not reference.is_sha256(diff_id):
            raise InvalidArchive(f"{path} has a diff id that is not a sha256 digest")
        layers.append(stager.stage(layer_path, layers, digest="", diff_id=diff_id))
    names = [normalised(name) for name in strings(entry, "RepoTags", "manifest.json")]
    return write_image(stager, config, layers, names)


def _check_name(path: str, config: bytes) -> None:
    """Check a configuration against the digest it is named after, if it is."""
    name = posixpath.basename(path).removesuffix(".json")
    if _HEXADECIMAL.fullmatch(name) and layout.sha256_of(config) != f"sha256:{name}":
        raise InvalidArchive(f"{path} has another digest: the archive is damaged or was altered")


def normalised(name: str) -> str:
    """Return a name of an archive as the store keeps it.

    Raises:
        InvalidArchive: it is malformed, or has a digest.
    """
    try:
        found = reference.parse(name)
    except InvalidReference as error:
        raise InvalidArchive(f"the archive names an image wrongly: {error.message}") from None
    if found.digest:
        raise InvalidArchive(f"the archive names an image by digest: {name}")
    return str(found)


def load_legacy(site: Site, members: Members) -> list[StagedImage]:
    """Stage the images of an archive from before docker 1.10.

    Raises:
        InvalidArchive: something is malformed or missing.
        Unavailable: the disk is full.
    """
    stager = Stager(site, members)
    names: dict[str, list[str]] = {}
    repositories = parse_json(members.read("repositories"), "repositories", dict)
    for repository, tags in repositories.items():
        if not isinstance(tags, dict):
            raise InvalidArchive(f"repositories has no valid tags of {repository!r}")
        for tag, top in tags.items():
            if not isinstance(top, str) or not _HEXADECIMAL.fullmatch(top):
                raise InvalidArchive(f"repositories has no valid id of {repository}:{tag}")
            names.setdefault(top, []).append(normalised(f"{repository}:{tag}"))
    return [_legacy_image(stager, members, top, given) for top, given in names.items()]


def _legacy_image(stager: Stager, members: Members, top: str, names: list[str]) -> StagedImage:
    chain = _legacy_chain(members, top)
    layers: list[Layer] = []
    history: list[dict[str, Any]] = []
    for layer_id, document in chain:
        path = f"{layer_id}/layer.tar"
        layers.append(stager.stage(path, layers, digest="", diff_id=""))
        command = (document.get("container_config") or {}).get("Cmd") or []
        history.append(
            {
                "created": document.get("created"),
                "created_by": " ".join(map(str, command)),
            }
        )
    last = chain[-1][1]
    config: dict[str, Any] = {
        **{key: last[key] for key in ("created", "author", "architecture", "os") if key in last},
        "config": last.get("config") or {},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": history,
    }
    config.setdefault("os", "linux")
    text = json.dumps(config, sort_keys=True).encode()
    return write_image(stager, text, layers, names)


def _legacy_chain(members: Members, top: str) -> list[tuple[str, dict[str, Any]]]:
    """Return id and description of each layer, lowest first."""
    chain: list[tuple[str, dict[str, Any]]] = []
    current: Any = top
    while current:
        if not isinstance(current, str) or not _HEXADECIMAL.fullmatch(current):
            raise InvalidArchive(f"layer {chain[-1][0]} has an invalid parent")
        if len(chain) == LEGACY_LAYERS:
            raise InvalidArchive(f"layer {top} has more than {LEGACY_LAYERS} parents, or itself")
        path = f"{current}/json"
        document = parse_json(members.read(path), path, dict)
        chain.append((current, document))
        current = document.get("parent")
    return chain[::-1]
