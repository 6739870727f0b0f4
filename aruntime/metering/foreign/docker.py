"""What dockerd keeps of a container: ``ROOT/containers/ID/config.v2.json``.

dockerd writes the file (by rename) before it starts the container, again at each change of its
state and when it is renamed, and removes the directory with the container. Seen with docker 20.10;
the names of the fields are the same since 1.10.
"""

from __future__ import annotations

import glob
import os
from functools import partial
from typing import Any

from aruntime.metering.foreign.known import (
    Known,
    labels,
    read_json,
    table,
    text,
    unix_ns,
    without_image_tenant,
)

DEFAULT_ROOT = "/var/lib/docker"
CONFIGURATION = "/etc/docker/daemon.json"


def root(configuration: str = CONFIGURATION) -> str:
    """Return where the host's dockerd keeps its state, by its configuration file.

    Raises:
        OSError: the file is there and cannot be read.
    """
    settings = table(read_json(configuration))
    return text(settings.get("data-root")) or text(settings.get("graph")) or DEFAULT_ROOT


def state_file(state: str, container_id: str) -> str:
    """Return the path of a container's file; it exists as long as docker knows the container."""
    return f"{state}/containers/{container_id}/config.v2.json"


def read(state: str, container_id: str) -> Known | None:
    """Return what docker knows of a container, None if it does not know it.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found = table(read_json(state_file(state, container_id)))
    if not found:
        return None
    config = table(found.get("Config"))
    digest = text(found.get("Image"))
    return Known(
        name=text(found.get("Name")).removeprefix("/"),
        image=text(config.get("Image")),
        image_digest=digest,
        labels=without_image_tenant(
            labels(config.get("Labels")), partial(_image_configuration, state, digest)
        ),
        created_ns=unix_ns(found.get("Created")),
    )


def is_known(state: str, container_id: str) -> bool:
    """Whether docker still has the container, running or not."""
    return os.path.exists(state_file(state, container_id))


def _image_configuration(state: str, digest: str) -> Any:
    """The image's configuration; its store's directory is named after the storage driver."""
    name = digest.removeprefix("sha256:")
    if not name.isalnum():
        return None
    stores = glob.glob(f"{glob.escape(state)}/image/*/imagedb/content/sha256/{name}")
    return read_json(stores[0]) if stores else None
