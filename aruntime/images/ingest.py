"""One import or load under way: a directory of its own inside the store.

The unpacking child writes blobs and layers into it; the store moves out what an image needs.
Content is named after its digest, so whoever comes second to a name drops its copy.
"""

from __future__ import annotations

import os
import secrets
from typing import Self

from aruntime.errors import InvalidArchive
from aruntime.images import layout
from aruntime.images.removal import remove_tree
from aruntime.kernel import storage


class Ingest:
    """An ingest directory; owns it between ``with`` and the end of the block."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.path = f"{store}/{layout.INGEST}/{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        for name in (layout.BLOBS, layout.LAYERS):
            os.makedirs(f"{self.path}/{name}", mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        parent, name = os.path.split(self.path)
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, os.fsencode(name))
        finally:
            os.close(fd)

    def add_blob(self, content: bytes) -> str:
        """Write a small blob durably and return its digest."""
        digest = layout.sha256_of(content)
        layout.write_durably(layout.blob_path(self.path, digest), content)
        return digest

    def move_blob(self, digest: str) -> None:
        """Move a blob into the store; one that is there is replaced, since it may be damaged.

        Raises:
            InvalidArchive: neither has it.
        """
        target = layout.blob_path(self.store, digest)
        try:
            os.rename(layout.blob_path(self.path, digest), target)
        except FileNotFoundError:
            if not os.path.exists(target):
                raise InvalidArchive(f"the archive has no blob {digest}") from None

    def move_layers(self, diff_ids: tuple[str, ...]) -> None:
        """Move the unpacked layers of a chain into the store unless they are there.

        Raises:
            InvalidArchive: neither has one of them.
        """
        for diff_id, chain_id in zip(diff_ids, layout.chain_ids(diff_ids), strict=True):
            if layout.find_layer((self.store,), diff_id, chain_id):
                continue
            found = layout.find_layer((self.path,), diff_id, chain_id)
            if found is None:
                raise InvalidArchive(f"the archive has no layer {diff_id}")
            source = layout.layer_path(*found)
            target = layout.layer_path(self.store, found[1])
            # The record last: a directory without one is no layer yet, and replaced. One whose
            # record is damaged came here whole, and a container may stand on it: it stays.
            if not (os.path.exists(f"{target}.json") and os.path.isdir(target)):
                _discard(self.store, found[1])
                os.rename(source, target)
            os.rename(f"{source}.json", f"{target}.json")

    def make_durable(self) -> None:
        """Write everything in it out, before an index promises that it is there.

        Raises:
            OSError: the disk refused.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            storage.syncfs(fd)
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Make the moves durable."""
        for name in (layout.BLOBS, layout.LAYERS):
            layout.fsync_directory(f"{self.store}/{name}")


def _discard(store: str, name: str) -> None:
    """Remove a directory that a kill between the two renames left in the way."""
    fd = os.open(f"{store}/{layout.LAYERS}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, name.encode())
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)
