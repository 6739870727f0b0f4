"""A daemon to be killed in the middle of a commit: it dies at its n-th call to the disk.

Run by test_commit_crash with a root, a directory that has a manifest, blobs and layers, and the
number of the call it dies before. Exits with 0 if it got through.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from aruntime.images import layout
from aruntime.images.index import Descriptor
from aruntime.images.store import Store

CALLS = ("rename", "fsync", "unlink", "mkdir", "rmdir", "open")
DEAD = 9


def main(root: str, source: str, number: int) -> None:
    """Commit the image that stands in the source directory, as a pull does."""
    store = Store(root)
    with open(f"{source}/request.json") as file:
        request: dict[str, Any] = json.load(file)
    left = [number]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os._exit(DEAD)
            return call(*args, **more)

        return counted

    with store.ingest() as ingest:
        shutil.copytree(source, ingest.path, dirs_exist_ok=True)
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        ingest.make_durable()
        manifest = Descriptor(
            media_type=request["media_type"], digest=request["digest"], size=request["size"]
        )
        store.commit(ingest, manifest, request["names"])
        layout.fsync_directory(store.base)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
