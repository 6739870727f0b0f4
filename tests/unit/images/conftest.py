"""What the tests of images share: a store, and archives brought into it by the real child."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings

from aruntime.daemon.unpacking import Loaded, import_image, load_images
from aruntime.images.image import Image
from aruntime.images.store import Store

# A machine that is busy with other things is no reason to fail.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

Import = Callable[..., Image]
Load = Callable[..., list[Loaded]]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Yield a function that closes the store, if one is open, and opens it as a new daemon does."""
    if os.geteuid() != 0:
        pytest.skip("files in layers have owners: needs root")
    opened: list[Store] = []

    def run() -> Store:
        if opened:
            opened.pop().close()
        opened.append(Store(str(tmp_path / "root")))
        return opened[0]

    yield run
    if opened:
        opened.pop().close()


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    """Return an empty store."""
    return reopen()


@pytest.fixture
def import_tar(store: Store) -> Import:
    """Return a function that imports an archive into the store."""

    def run(archive: bytes, name: str = "", **options: Any) -> Image:
        with tempfile.TemporaryFile() as file:
            file.write(archive)
            file.seek(0)
            return trio.run(partial(import_image, store, file.fileno(), name=name, **options))

    return run


@pytest.fixture
def load_tar(store: Store) -> Load:
    """Return a function that loads an archive into the store."""

    def run(archive: bytes, **options: Any) -> list[Loaded]:
        with tempfile.TemporaryFile() as file:
            file.write(archive)
            file.seek(0)
            return trio.run(partial(load_images, store, file.fileno(), **options))

    return run


@pytest.fixture
def is_empty(store: Store) -> Callable[[], bool]:
    """Return a function that tells whether the store holds nothing, finished or not."""

    def check() -> bool:
        left = [
            name
            for directory in ("ingest", "layers", "blobs/sha256")
            for name in os.listdir(f"{store.base}/{directory}")
        ]
        return not left and not store.list()

    return check
