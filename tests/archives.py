"""Archives for tests: tar members of every kind, docker archives, OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

Member = tuple[tarfile.TarInfo, bytes]

OCI = "application/vnd.oci.image"


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> Member:
    """Make a member; fields are TarInfo's (mode, uid, mtime, linkname, pax_headers …)."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content)
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def file(name: str, content: bytes = b"", **fields: Any) -> Member:
    """Make a regular file."""
    return entry(name, tarfile.REGTYPE, content, **fields)


def directory(name: str, **fields: Any) -> Member:
    """Make a directory."""
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> Member:
    """Make a symbolic link."""
    return entry(name, tarfile.SYMTYPE, linkname=target, **fields)


def hard_link(name: str, target: str, **fields: Any) -> Member:
    """Make a hard link."""
    return entry(name, tarfile.LNKTYPE, linkname=target, **fields)


def tar(*members: Member, end: bool = True) -> bytes:
    """Write an archive in pax format."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
        if not end:
            return buffer.getvalue()
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """Return ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image_config(layers: Sequence[bytes], **config: Any) -> bytes:
    """Write an image configuration for plain layers."""
    document = {
        "created": "2024-05-06T07:08:09.123456789Z",
        "architecture": "amd64",
        "os": "linux",
        "config": config or {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created_by": "test"} for _ in layers],
    }
    return json.dumps(document).encode()


def docker_members(
    layers: Sequence[bytes], tags: Sequence[str], config: bytes | None = None
) -> list[Member]:
    """Return the members of what ``docker save`` writes."""
    text = image_config(layers) if config is None else config
    name = f"{digest(text)[7:]}.json"
    paths = [f"{number}/layer.tar" for number, _ in enumerate(layers)]
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
    return [
        file(name, text),
        *(file(path, layer) for path, layer in zip(paths, layers, strict=True)),
        file("manifest.json", json.dumps(manifest).encode()),
    ]


def docker_archive(layers: Sequence[bytes], *tags: str, config: bytes | None = None) -> bytes:
    """Write what ``docker save`` writes."""
    return tar(*docker_members(layers, tags, config))


class OciLayout:
    """An OCI layout in the making: blobs by digest, then an index."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def add(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Add a blob and return its descriptor."""
        self.blobs[digest(content)] = content
        return {
            "mediaType": media_type,
            "digest": digest(content),
            "size": len(content),
            **more,
        }

    def add_json(self, document: Mapping[str, Any], media_type: str, **more: Any) -> dict[str, Any]:
        """Add a document and return its descriptor."""
        return self.add(json.dumps(document).encode(), media_type, **more)

    def image(
        self, layers: Sequence[bytes], *, config: bytes | None = None, **more: Any
    ) -> dict[str, Any]:
        """Add an image of gzipped layers; ``more`` goes into the manifest."""
        text = image_config(layers) if config is None else config
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.add(text, f"{OCI}.config.v1+json"),
            "layers": [
                self.add(gzip.compress(layer, 1, mtime=0), f"{OCI}.layer.v1.tar+gzip")
                for layer in layers
            ],
            **more,
        }
        return self.add_json(manifest, f"{OCI}.manifest.v1+json")

    def archive(self, *descriptors: Mapping[str, Any], **more: Any) -> bytes:
        """Write the layout as an archive whose index.json has these descriptors."""
        index = {"schemaVersion": 2, "manifests": list(descriptors), **more}
        return tar(
            file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            file("index.json", json.dumps(index).encode()),
            *(file(f"blobs/sha256/{name[7:]}", blob) for name, blob in self.blobs.items()),
        )


def named(descriptor: Mapping[str, Any], name: str, **more: Any) -> dict[str, Any]:
    """Return a descriptor with a name for its image."""
    return {
        **descriptor,
        "annotations": {"org.opencontainers.image.ref.name": name},
        **more,
    }
