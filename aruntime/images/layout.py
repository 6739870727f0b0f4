"""Where things are below ROOT/images, and how a file gets there so that a crash cannot hurt.

    images/                    0700
      lock                     flock(2): one daemon per store; unpacking children share the lock
      oci-layout  index.json   an OCI image layout: any tool that reads those reads this
      blobs/sha256/<hex>       configurations, manifests, layer archives as they came
      layers/<hex>/            0700 above it; one unpacked layer, whiteouts in overlayfs form
      layers/<hex>.json        its LayerRecord
      ingest/<random>/         one import or load under way; nothing else is ever incomplete

A layer is named after its diff id, or after its chain id when what was unpacked depended on the
layers below (a hard link into them, a parent directory the archive does not list).

Standard library only: the unpacking child imports it. What the files mean is
:mod:`aruntime.images.store`'s affair.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

BLOBS = "blobs/sha256"
LAYERS = "layers"
INGEST = "ingest"
INDEX = "index.json"
OCI_LAYOUT = "oci-layout"
LOCK = "lock"
OUTER = "outer"
"""Inside an ingest directory: the members of the archive being loaded."""

LAYOUT_TEXT = b'{"imageLayoutVersion":"1.0.0"}'


class LayerRecord(NamedTuple):
    """What is known of an unpacked layer."""

    size: int
    """Bytes of its regular files."""
    entries: int
    depends: bool
    """Whether the result depended on the layers below."""
    root: tuple[int, int, int] | None
    """Mode, uid and gid of the root directory if the archive lists it."""


def hexadecimal(digest: str) -> str:
    """Return the digits of a sha256 digest."""
    return digest.removeprefix("sha256:")


def blob_path(base: str, digest: str) -> str:
    """Path of a blob below a store or an ingest directory."""
    return f"{base}/{BLOBS}/{hexadecimal(digest)}"


def layer_path(base: str, name: str) -> str:
    """Path of an unpacked layer below a store or an ingest directory."""
    return f"{base}/{LAYERS}/{name}"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Return the chain id of each layer (OCI image-spec, config.md, Layer ChainID)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(sha256_of(text.encode()) if text else diff_id)
    return chain


def sha256_of(content: bytes) -> str:
    """Return the digest of some bytes as ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read_layer_record(base: str, name: str) -> LayerRecord:
    """Read the record of an unpacked layer.

    Raises:
        FileNotFoundError: there is no such layer.
    """
    with open(f"{layer_path(base, name)}.json", "rb") as file:
        found = json.load(file)
    root = tuple(found["root"]) if found["root"] else None
    return LayerRecord(found["size"], found["entries"], found["depends"], root)


def layer_record_text(record: LayerRecord) -> bytes:
    """Encode what :func:`read_layer_record` reads."""
    return json.dumps(record._asdict()).encode()


def find_layer(bases: Sequence[str], diff_id: str, chain_id: str) -> tuple[str, str] | None:
    """Find an unpacked layer that may stand at this place of a chain.

    Args:
        bases: the store, or the store and an ingest directory.
        diff_id: of the layer.
        chain_id: of the layer on top of those below it.

    Returns:
        The base it is below and its name, or None.
    """
    for base in bases:
        for digest in (chain_id, diff_id):
            name = hexadecimal(digest)
            try:
                record = read_layer_record(base, name)
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                continue  # damaged: as good as none
            usable = digest == chain_id or not record.depends
            if usable and os.path.isdir(layer_path(base, name)):
                return base, name
    return None


def find_layers(bases: Sequence[str], diff_ids: Sequence[str]) -> list[str]:
    """Return the directories of a chain of layers as far as it is unpacked, lowest first."""
    paths: list[str] = []
    for diff_id, chain_id in zip(diff_ids, chain_ids(diff_ids), strict=True):
        found = find_layer(bases, diff_id, chain_id)
        if found is None:
            break
        paths.append(layer_path(*found))
    return paths


def write_durably(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that after a crash there is the old one or the new one, whole.

    The temporary file stands beside it with the suffix ``.tmp``; one writer at a time.
    """
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    fsync_directory(os.path.dirname(path))


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
