"""Images whose parts are in an ingest directory: their manifests, and layers seen before.

What docker and OCI archives have in common once their own JSON is read. Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from aruntime.images import layout, staging
from aruntime.images.members import Members
from aruntime.images.staging import Layer, Site

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class StagedImage(NamedTuple):
    """An image ready to be committed."""

    media_type: str
    """Of the manifest."""
    digest: str
    """Of the manifest."""
    size: int
    """Of the manifest."""
    names: list[str]
    """Normalised references."""


class Stager:
    """Stages the layers of one archive; a file that several images share is read once."""

    def __init__(self, site: Site, members: Members) -> None:
        self.site = site
        self._members = members
        self._seen: dict[int, Layer] = {}

    def stage(self, path: str, below: Sequence[Layer], *, digest: str, diff_id: str) -> Layer:
        """Stage one layer; see :func:`aruntime.images.staging.stage_file`."""
        with self._members.open(path) as fd:
            inode = os.fstat(fd).st_ino
            seen = self._seen.get(inode)
            if seen is not None and diff_id in ("", seen.diff_id) and digest in ("", seen.digest):
                directory = staging.find(
                    self.site, [*(layer.diff_id for layer in below), seen.diff_id]
                )
                if directory is not None:
                    return seen._replace(path=directory)
            layer = staging.stage_file(self.site, fd, below, digest=digest, diff_id=diff_id)
            self._seen[inode] = layer
            return layer

    def write_blob(self, content: bytes) -> str:
        """Write a document among the blobs and return its digest."""
        digest = layout.sha256_of(content)
        layout.write_durably(layout.blob_path(self.site.ingest, digest), content)
        return digest


def write_image(
    stager: Stager, config: bytes, layers: Sequence[Layer], names: list[str]
) -> StagedImage:
    """Write an OCI manifest for a configuration and its layers."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": stager.write_blob(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
            for layer in layers
        ],
    }
    text = json.dumps(document).encode()
    return StagedImage(MANIFEST_TYPE, stager.write_blob(text), len(text), names)
