"""Images that nobody has, for tests that count what travels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests import archives

LAYER_BYTES = 3 << 20


class Made(NamedTuple):
    """An image of layers that do not compress, in an OCI archive."""

    path: Path
    blobs: list[str]
    """Digests of its layers' blobs."""

    @property
    def parts(self) -> list[str]:
        """What the paths of its blobs at a registry end with."""
        return [f"blobs/{digest}" for digest in self.blobs]


def made(directory: Path, count: int = 3, below: Sequence[bytes] = ()) -> Made:
    """Make an image of random layers on top of given ones."""
    layout = archives.OciLayout()
    layers = [
        archives.tar(archives.file(f"random/{n}", os.urandom(LAYER_BYTES))) for n in range(count)
    ]
    image = layout.image([*below, *layers])
    path = directory / "made.tar"
    path.write_bytes(layout.archive(archives.named(image, "made:1")))
    manifest = json.loads(layout.blobs[image["digest"]])
    return Made(path, [layer["digest"] for layer in manifest["layers"]])
