"""Run the unpacking child and commit what it made: ``import``, ``load``, one layer of a pull.

Both the command line and the HTTP API come here. The child (:mod:`aruntime.images.unpack`) does
what takes long; the event loop only waits. Cancelling an operation kills the child and removes
what it had made.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import trio

from aruntime import errors
from aruntime.daemon import children
from aruntime.daemon.record import Container
from aruntime.images import changes, importing, layout, reference
from aruntime.images import platform as platforms
from aruntime.images.compression import Limits
from aruntime.images.image import Image
from aruntime.images.index import Descriptor
from aruntime.images.ingest import Ingest
from aruntime.images.store import Store
from aruntime.images.untag import Holder

CHILD = "images/unpack.py"
DEFAULT_MESSAGE = "Imported from -"


@asynccontextmanager
async def ingesting(store: Store) -> AsyncIterator[Ingest]:
    """Open an ingest directory; making and removing it happens off the event loop."""
    context = store.ingest()
    ingest = await trio.to_thread.run_sync(context.__enter__)
    try:
        yield ingest
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(context.__exit__, None, None, None)


async def import_image(
    store: Store,
    source: int,
    *,
    name: str = "",
    change: Iterable[str] = (),
    message: str = "",
    platform: str = "",
    limits: Limits | None = None,
) -> Image:
    """Make an image of a root file system in a tar archive.

    Args:
        store: gets the image.
        source: descriptor to read the archive from; stays the caller's.
        name: reference as typed, or empty.
        change: Dockerfile instructions.
        message: for the history.
        platform: as typed; the host's by default.
        limits: what it may unpack to.

    Raises:
        InvalidReference: the name is malformed, or has a digest.
        InvalidParameter: a change or the platform is malformed.
        InvalidArchive: the archive is broken or hostile.
        Unavailable: the disk is full.
    """
    full_name = ""
    if name:
        parsed = reference.parse(name)
        if parsed.digest:
            raise errors.InvalidReference(f"cannot import under the digest in {name!r}")
        full_name = str(parsed)
    commit = partial(
        importing.commit_layer,
        name=full_name,
        config=changes.apply_changes({}, change),
        message=message or DEFAULT_MESSAGE,
        platform=platforms.parse(platform) if platform else platforms.host(),
    )
    async with ingesting(store) as ingest:
        layer = await _unpack(store, ingest, "import", source, limits or Limits())
        return await trio.to_thread.run_sync(partial(commit, store, ingest, layer))


async def unpack_stream(store: Store, ingest: Ingest, source: int) -> dict[str, Any]:
    """Unpack one layer that depends on none below, from any kind of descriptor.

    Args:
        store: of the ingest directory.
        ingest: gets the layer and its blob.
        source: to read the archive from; stays the caller's.

    Returns:
        What :class:`aruntime.images.staging.Layer` holds.

    Raises:
        InvalidArchive: the archive is broken or hostile.
        Unavailable: the disk is full.
    """
    return await _unpack(store, ingest, "import", source, Limits())


def holders(containers: Iterable[Container]) -> list[Holder]:
    """Return what containers hold of the image store; from any thread."""
    return [
        Holder(
            id=container.id,
            name=container.config.name,
            image_id=container.config.image_id,
            layers=tuple(container.config.layers),
            running=container.is_running,
        )
        for container in containers
    ]


class Loaded:
    """One image that ``load`` brought in.

    Attributes:
        image: the image.
        names: normalised references it was given.
        displaced: id of the image that lost each of these names.
    """

    def __init__(self, image: Image, names: Sequence[str], displaced: dict[str, str]) -> None:
        self.image = image
        self.names = tuple(names)
        self.displaced = displaced


async def load_images(
    store: Store, source: int, *, platform: str = "", limits: Limits | None = None
) -> list[Loaded]:
    """Bring in every image of a docker or OCI archive.

    Args:
        store: gets the images.
        source: descriptor to read the archive from; stays the caller's.
        platform: which image to take of one for several; the host's by default.
        limits: what the archive, and each layer in it, may unpack to.

    Raises:
        InvalidArchive: the archive is broken or hostile; none of its images is there then.
        Unavailable: the disk is full.
    """
    chosen = platforms.parse(platform) if platform else platforms.host()
    async with ingesting(store) as ingest:
        found = await _unpack(
            store, ingest, "load", source, limits or Limits(), platform=list(chosen)
        )
        return await trio.to_thread.run_sync(_commit_all, store, ingest, found["images"])


def _commit_all(store: Store, ingest: Ingest, images: list[dict[str, Any]]) -> list[Loaded]:
    loaded: list[Loaded] = []
    for one in images:
        manifest = Descriptor(media_type=one["media_type"], digest=one["digest"], size=one["size"])
        image, displaced = store.commit(ingest, manifest, one["names"])
        loaded.append(Loaded(image, one["names"], displaced))
    return loaded


async def unpack_layer(
    store: Store,
    ingest: Ingest,
    source: int,
    below: Sequence[trio.Event],
    *,
    digest: str,
    diff_ids: Sequence[str],
    limits: Limits | None = None,
    size: int | None = None,
) -> None:
    """Unpack one layer of an image into an ingest directory.

    Layers of one image may be unpacked side by side; one that needs those below it waits for them.

    Args:
        store: of the ingest directory.
        ingest: gets the layer.
        source: descriptor of its archive, at its beginning; stays the caller's.
        below: set as the layers below are there, lowest first.
        digest: of the archive.
        diff_ids: of the layers below and, last, of this one.
        limits: what it may unpack to.
        size: bytes the archive will have, of one that still comes; it is waited for.

    Raises:
        InvalidArchive: the archive is broken or hostile, or has another digest.
        Unavailable: the disk is full.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def tell() -> None:
        for event in below:
            await event.wait()
        bases = (store.base, ingest.path)
        paths = await trio.to_thread.run_sync(layout.find_layers, bases, diff_ids[:-1])
        async with trio.lowlevel.FdStream(os.dup(writing)) as pipe:
            try:
                await pipe.send_all(json.dumps(paths).encode() + b"\n")
            except trio.BrokenResourceError:
                pass  # it did not need to know

    failures: list[errors.AruntimeError] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            try:
                await _unpack(
                    store, ingest, "layer", source, limits or Limits(), stdin=reading,
                    digest=digest, diff_id=diff_ids[-1], chain=diff_ids[:-1], size=size,
                )  # fmt: skip
            except errors.AruntimeError as error:
                failures.append(error)  # not as a group
            nursery.cancel_scope.cancel()
    finally:
        for fd in (reading, writing):
            os.close(fd)
    if failures:
        raise failures[0]


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Yield a descriptor of a file to be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


async def _unpack(
    store: Store,
    ingest: Ingest,
    operation: str,
    source: int,
    limits: Limits,
    *,
    stdin: int = subprocess.DEVNULL,
    **more: Any,
) -> dict[str, Any]:
    """Run the child on one archive and return its result.

    The child gets the archive and the store's lock, and nothing else of the daemon's.
    """
    request = {
        "operation": operation,
        "fd": source,
        "store": store.base,
        "ingest": ingest.path,
        "parent": os.getpid(),
        "limits": list(limits),
        **more,
    }
    return await children.ask(
        CHILD, request, (source, store.lock_fd), stdin=stdin, what="the unpacking process"
    )
