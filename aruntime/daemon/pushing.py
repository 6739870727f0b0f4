"""``push``: an image of the store becomes one of a registry.

    plain layers compressed, once → blobs, several at a time: there? mounted? sent → manifest

Layers go as they are kept, so what was pulled has the digests it had where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import trio

from aruntime.daemon import unpacking
from aruntime.daemon.commands.flags import PROGRAM
from aruntime.daemon.pulling import Puller, saying
from aruntime.daemon.registry import client, endpoints, upload
from aruntime.daemon.registry.authority import FindLogin
from aruntime.daemon.registry.repository import PUSH, Repository
from aruntime.daemon.registry.upload import DamagedBlob, Upload
from aruntime.errors import AccessDenied, AruntimeError
from aruntime.images import catalogue, layout, recompression, reference
from aruntime.images.image import Image
from aruntime.images.index import Descriptor
from aruntime.images.ingest import Ingest
from aruntime.images.reference import Reference
from aruntime.images.store import Store

UPLOADS = 5
"""Blobs of one push that go at a time (docker's default)."""
MOUNTS_TRIED = 4
"""Other repositories that are asked for a blob before it is sent (docker's number)."""
PREPARING, PUSHING, PUSHED = "Preparing", "Pushing", "Pushed"
EXISTS, MOUNTED = "Layer already exists", "Mounted from"


class Progress(Protocol):
    """Who is told how a push goes."""

    def layer(self, digest: str, status: str, done: int = 0, total: int = 0) -> None:
        """Hear of a layer, by its diff id; sizes in bytes."""


class Pushed(msgspec.Struct, frozen=True):
    """What a push put there."""

    digest: str
    """Of the manifest."""
    size: int
    """Of the manifest."""


class Pusher:
    """Pushes images of one store."""

    def __init__(self, puller: Puller) -> None:
        self.store = puller.store
        self.policy = puller.policy
        self.turn = puller.downloads.turn

    async def push(
        self, image: Image, name: Reference, find_login: FindLogin, progress: Progress
    ) -> Pushed:
        """Push one image under one name.

        Args:
            image: of the store.
            name: with a tag.
            find_login: finds who the client is to the registry.
            progress: is told how it goes.

        Raises:
            AccessDenied, RegistryFailed: the registry refuses, or fails.
            InvalidArchive: the image is damaged.
        """
        places = endpoints.places(name.domain, self.policy)
        with saying(f"cannot push {name.familiar}"):
            async with client.contact(places, self.policy, find_login) as registry:
                repository = Repository(registry, name.path, PUSH)
                try:
                    return await self._push_to(repository, image, name, progress)
                except AccessDenied as error:
                    raise AccessDenied(
                        f"push access denied for {name.familiar_name}: {error.message};"
                        f" see '{PROGRAM} login'"
                    ) from error

    async def _push_to(
        self, repository: Repository, image: Image, name: Reference, progress: Progress
    ) -> Pushed:
        # For as long as an ingest is open nothing of the store is collected.
        async with unpacking.ingesting(self.store) as ingest:
            manifest = await self._compressed(image, ingest)
            parts = await trio.to_thread.run_sync(
                catalogue.read_manifest, self.store.base, manifest.digest
            )
            content = await trio.to_thread.run_sync(
                catalogue.read_blob, self.store.base, manifest.digest
            )
            await self._blobs(repository, name, parts, image.diff_ids, progress)
            await upload.put_manifest(repository, name.tag, content, manifest.media_type)
        pinned = name._replace(tag="", digest=manifest.digest)
        await trio.to_thread.run_sync(self.store.add_name, str(pinned), manifest.digest)
        return Pushed(manifest.digest, manifest.size)

    async def _compressed(self, image: Image, ingest: Ingest) -> Descriptor:
        """Return the image's manifest, its layers compressed in the store if they were not."""
        async with self.turn(image.id):
            return await trio.to_thread.run_sync(compress_in_store, self.store, ingest, image.id)

    async def _blobs(
        self,
        repository: Repository,
        name: Reference,
        parts: catalogue.Manifest,
        diff_ids: Sequence[str],
        progress: Progress,
    ) -> None:
        slots = trio.CapacityLimiter(UPLOADS)
        failures: list[AruntimeError] = []

        async def send(descriptor: Descriptor, shown: str) -> None:
            try:
                async with slots:
                    await self._blob(repository, name, descriptor, shown, progress)
            except AruntimeError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            sent: set[str] = set()
            for descriptor, shown in zip(parts.layers, diff_ids, strict=True):
                progress.layer(shown, PREPARING)
                if descriptor.digest not in sent:
                    sent.add(descriptor.digest)
                    nursery.start_soon(send, descriptor, shown)
        if failures:
            raise failures[0]
        await self._blob(repository, name, parts.config, "", progress)

    async def _blob(
        self,
        repository: Repository,
        name: Reference,
        descriptor: Descriptor,
        shown: str,
        progress: Progress,
    ) -> None:
        """Bring one blob there."""

        def report(status: str, done: int = 0) -> None:
            if shown:
                progress.layer(shown, status, done, descriptor.size if done else 0)

        digest = descriptor.digest
        if await upload.exists(repository, digest):
            report(EXISTS)
            return
        path = layout.blob_path(self.store.base, digest)
        sending = Upload(repository, digest, path, lambda done: report(PUSHING, done))
        others = list(repositories_with(self.store, digest, name))
        mounted = await sending.begin(others)
        if mounted:
            report(f"{MOUNTED} {mounted}")
            return
        try:
            await sending.send()
        except DamagedBlob:
            # Whoever follows the advice to pull again must not find it and be content.
            await trio.to_thread.run_sync(self.store.discard_blob, digest)
            raise
        report(PUSHED)


def repositories_with(store: Store, digest: str, name: Reference) -> Iterator[str]:
    """Name other repositories of a registry that are likely to have a blob."""
    parsed = map(reference.parse, sorted(store.names_with_blob(digest)))
    found = dict.fromkeys(one.path for one in parsed if one.domain == name.domain)
    found.pop(name.path, None)
    yield from list(found)[:MOUNTS_TRIED]


def compress_in_store(store: Store, ingest: Ingest, image_id: str) -> Descriptor:
    """Let an image's plain layers be replaced by compressed ones, for good; blocks.

    Its id stays, since that is of what the layers hold. The disk gains: the plain archives go with
    the next collection.
    """
    image = store.resolve(image_id)
    content = catalogue.read_blob(store.base, image.digest)
    before = store.manifest(image.digest)
    after = recompression.compressed_manifest(
        ingest, before, content, trio.from_thread.check_cancelled
    )
    if after == before:
        return before
    ingest.make_durable()
    store.replace_manifest(ingest, before, after)
    return after
