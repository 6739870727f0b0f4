"""Make an image of one layer: what ``import`` does with a root file system.

The layer is in the ingest directory already; configuration and manifest are written here and
everything is committed together.
"""

from __future__ import annotations

import json
import time
from typing import Any

from aruntime.images.image import Image, format_time_ns
from aruntime.images.index import Descriptor
from aruntime.images.ingest import Ingest
from aruntime.images.platform import Platform
from aruntime.images.store import Store

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def commit_layer(
    store: Store,
    ingest: Ingest,
    layer: dict[str, Any],
    *,
    name: str,
    config: dict[str, Any],
    message: str,
    platform: Platform,
) -> Image:
    """Make an image of a layer that was unpacked from a tar archive.

    Args:
        store: gets the image.
        ingest: holds the layer.
        layer: what the unpacking child said of it.
        name: normalised reference, or empty for an image without a name.
        config: docker's JSON object of how to start it.
        message: for the history.
        platform: what it runs on.
    """
    created = format_time_ns(time.time_ns())
    document = {
        "created": created,
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"]]},
        "history": [{"created": created, "comment": message}],
    }
    text = json.dumps(document).encode()
    described = Descriptor(media_type=CONFIG_TYPE, digest=ingest.add_blob(text), size=len(text))
    manifest = write_manifest(ingest, described, [layer])
    image, _ = store.commit(ingest, manifest, [name] if name else [])
    return image


def write_manifest(ingest: Ingest, config: Descriptor, layers: list[dict[str, Any]]) -> Descriptor:
    """Write an image manifest and describe it."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": config.media_type, "digest": config.digest, "size": config.size
        },
        "layers": [
            {"mediaType": one["media_type"], "digest": one["digest"], "size": one["size"]}
            for one in layers
        ],
    }  # fmt: skip
    text = json.dumps(document).encode()
    return Descriptor(media_type=MANIFEST_TYPE, digest=ingest.add_blob(text), size=len(text))
