"""What podman keeps of a container, below its storage's graph root.

    overlay-images/IMAGE/=BASE64         the configuration of the image; its labels are inherited
    overlay-containers/containers.json   containers/storage: id, names, image; replaced by rename.
                                         The name of the directory begins with the storage driver's
    libpod/bolt_state.db                 podman up to 4 (and 5 on hosts it was updated on): bolt,
                                         bucket ctr, bucket ID, key config: JSON with the labels
    db.sql, libpod/db.sql                podman from 4.8 on by choice, from 5 on by default: SQLite,
                                         table ContainerConfig, columns ID and JSON

Seen with podman 4.3 (bolt); the SQLite schema is that of podman 5.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import glob
import json
import os
import sqlite3
import tomllib
from functools import partial
from typing import Any

from aruntime.metering.foreign import bolt
from aruntime.metering.foreign.known import (
    Known,
    labels,
    read_json,
    read_regular,
    table,
    text,
    unix_ns,
    without_image_tenant,
)

DEFAULT_ROOT = "/var/lib/containers/storage"
CONFIGURATION = "/etc/containers/storage.conf"
BOLT = "libpod/bolt_state.db"
SQLITE = ("db.sql", "libpod/db.sql")
SQLITE_SECONDS = 0.2
"""How long a writer may keep the reader waiting."""


def root(configuration: str = CONFIGURATION) -> str:
    """Return where root's containers are stored, by the host's configuration file.

    Raises:
        OSError: the file is there and cannot be read.
    """
    content = read_regular(configuration) or b""
    try:
        settings = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return DEFAULT_ROOT
    return text(table(settings.get("storage")).get("graphroot")) or DEFAULT_ROOT


def read(state: str, container_id: str) -> Known | None:
    """Return what podman knows of a container, None if it does not know it.

    Raises:
        OSError: a file is there and cannot be read.
    """
    stored = _stored(state, container_id)
    config = _config(state, container_id)
    if not stored and not config:
        return None
    try:
        metadata = table(json.loads(text(stored.get("metadata")) or "{}"))
    except ValueError:
        metadata = {}
    names = stored.get("names")
    first = names[0] if isinstance(names, list) and names else ""
    digest = text(config.get("rootfsImageID")) or text(stored.get("image"))
    return Known(
        name=text(config.get("name")) or text(metadata.get("name")) or text(first),
        image=text(config.get("rootfsImageName")) or text(metadata.get("image-name")),
        image_digest=f"sha256:{digest}" if digest else "",
        labels=without_image_tenant(
            labels(config.get("labels")), partial(_image_configuration, state, digest)
        ),
        created_ns=unix_ns(stored.get("created")),
    )


def is_known(state: str, container_id: str) -> bool:
    """Whether podman still has the container, running or not.

    Raises:
        OSError: a file is there and cannot be read.
    """
    return bool(_stored(state, container_id))


def _image_configuration(state: str, digest: str) -> Any:
    """The image's configuration, which containers/storage names by its digest in base64."""
    if not digest.isalnum():
        return None
    name = base64.b64encode(f"sha256:{digest}".encode()).decode()
    found = glob.glob(f"{glob.escape(state)}/*-images/{digest}/={name}")
    return read_json(found[0]) if found else None


def _stored(state: str, container_id: str) -> dict[str, Any]:
    """The row of containers/storage, empty if there is none."""
    for path in glob.glob(f"{glob.escape(state)}/*-containers/containers.json"):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(path)
            rows = _rows(path, (found.st_ino, found.st_mtime_ns, found.st_size))
            if container_id in rows:
                return rows[container_id]
    return {}


@functools.lru_cache(maxsize=4)
def _rows(path: str, _signature: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """All rows by id. One file holds every container: a thousand are not parsed a thousand times,
    and another signature (inode, time, size) is another file."""
    rows = read_json(path)
    tables = map(table, rows if isinstance(rows, list) else ())
    return {text(row.get("id")): row for row in tables}


def _config(state: str, container_id: str) -> dict[str, Any]:
    """podman's own configuration of the container, empty if no database has it."""
    content: bytes | str | None = None
    with contextlib.suppress(FileNotFoundError, bolt.Damaged):
        content = bolt.get(f"{state}/{BOLT}", (b"ctr", container_id.encode()), b"config")
    for name in SQLITE:
        if content is None and os.path.exists(f"{state}/{name}"):
            content = _from_sqlite(f"{state}/{name}", container_id)
    try:
        return table(json.loads(content)) if content is not None else {}
    except (ValueError, RecursionError):
        return {}


def _from_sqlite(path: str, container_id: str) -> str | None:
    """The JSON of a container; None if there is none, or it is no database of podman's."""
    uri = f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=SQLITE_SECONDS)) as database:
            row = database.execute(
                "SELECT JSON FROM ContainerConfig WHERE ID = ?", (container_id,)
            ).fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row is not None and isinstance(row[0], str) else None
