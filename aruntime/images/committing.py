"""Make an image of another one and a layer on top: what ``commit`` does.

The base's layers are taken over as they are; only the layer, a configuration and a manifest are
new. Source: OCI image-spec, config.md and manifest.md.
"""

from __future__ import annotations

import json
import time
from typing import Any

from aruntime.errors import Conflict, InvalidArchive
from aruntime.images import catalogue
from aruntime.images.image import Image, format_time_ns
from aruntime.images.importing import CONFIG_TYPE, write_manifest
from aruntime.images.index import Descriptor
from aruntime.images.ingest import Ingest
from aruntime.images.store import Store

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{OCI_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{OCI_LAYER}+zstd",
}
"""docker's media types of layers in the words of an OCI manifest: the bytes are the same."""


def read_document(store: Store, image: Image) -> dict[str, Any]:
    """Return the configuration file of an image, with whatever other tools put into it.

    Raises:
        Conflict: its file is gone, or damaged.
    """
    try:
        document: dict[str, Any] = json.loads(catalogue.read_blob(store.base, image.id))
    except InvalidArchive as error:
        raise Conflict(f"cannot build upon image {image.id}: {error.message}") from None
    return document


def commit_on_top(
    store: Store,
    ingest: Ingest,
    layer: dict[str, Any],
    *,
    base: Image,
    name: str,
    config: dict[str, Any],
    created_by: str,
    message: str,
    author: str,
) -> Image:
    """Make an image of a base and a layer that was unpacked into an ingest directory.

    Args:
        store: has the base and gets the image.
        ingest: holds the layer.
        layer: what the unpacking child said of it.
        base: the image below.
        name: normalised reference, or empty.
        config: docker's JSON object of how to start it.
        created_by: what the container ran, for the history.
        message: for the history.
        author: of the image.

    Raises:
        Conflict: a file of the base is gone.
    """
    document = read_document(store, base)
    created = format_time_ns(time.time_ns())
    step = {"created": created, "created_by": created_by, "author": author, "comment": message}
    document.update(
        created=created,
        config=config,
        rootfs={"type": "layers", "diff_ids": [*base.diff_ids, layer["diff_id"]]},
        history=[
            *(document.get("history") or [{} for _ in base.diff_ids]),
            {key: value for key, value in step.items() if value},
        ],
    )
    # What docker keeps of the container that a build step ran in is not of this image.
    for key in ("container", "container_config", "parent", "id", "author"):
        document.pop(key, None)
    if author:
        document["author"] = author
    text = json.dumps(document).encode()
    described = Descriptor(media_type=CONFIG_TYPE, digest=ingest.add_blob(text), size=len(text))
    below = [
        {
            "media_type": OCI_LAYER_TYPES.get(one.media_type, one.media_type),
            "digest": one.digest,
            "size": one.size,
        }
        for one in catalogue.read_manifest(store.base, base.digest).layers
    ]
    manifest = write_manifest(ingest, described, [*below, layer])
    image, _ = store.commit(ingest, manifest, [name] if name else [])
    return image
