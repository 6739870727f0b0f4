"""``pull``: an image of a registry becomes one of the store.

    manifest → configuration → layers, several at a time: download → unpack → all durable → commit

A layer is unpacked while it comes, beside others that come. Nothing of an image is in the store
before all of it is; what a killed pull leaves goes when the next daemon opens the store. Pulls of
one image at a time share the work: the second waits and finds everything there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import msgspec
import structlog
import trio

from aruntime.daemon import unpacking
from aruntime.daemon.commands.flags import PROGRAM
from aruntime.daemon.registry import client, endpoints
from aruntime.daemon.registry.authority import FindLogin, Login
from aruntime.daemon.registry.blobs import Arrival, Downloads, download
from aruntime.daemon.registry.client import MissingThere
from aruntime.daemon.registry.endpoints import Endpoint
from aruntime.daemon.registry.policy import Policy
from aruntime.daemon.registry.repository import Document, Repository, choose
from aruntime.daemon.unpackings import Unpackings
from aruntime.errors import (
    AccessDenied,
    AruntimeError,
    ImageNotFound,
    InvalidArchive,
    RegistryFailed,
)
from aruntime.images import layout, manifests
from aruntime.images.catalogue import read_blob
from aruntime.images.compression import Limits
from aruntime.images.image import Image
from aruntime.images.index import Descriptor
from aruntime.images.ingest import Ingest
from aruntime.images.manifests import Json
from aruntime.images.members import field, parse_json, strings
from aruntime.images.platform import Platform
from aruntime.images.reference import Reference
from aruntime.images.store import Store

log = structlog.get_logger()

DOWNLOADS = 3
"""Blobs of one pull that come at a time (docker's default)."""
UNPACKINGS = max(os.cpu_count() or 1, DOWNLOADS + 1)
"""Layers of one pull that are unpacked at a time: those that still come, which are mostly waited
for, and one that is there."""

FOUND, WAITING = "Pulling fs layer", "Waiting"
DOWNLOADING, DOWNLOADED = "Downloading", "Download complete"
EXTRACTING, COMPLETE, EXISTS = "Extracting", "Pull complete", "Already exists"


Unpack = Callable[..., Awaitable[None]]
"""Unpacks one layer, of a descriptor, and of how many bytes if it still comes."""


class Progress(Protocol):
    """Who is told how a pull goes."""

    def layer(self, digest: str, status: str, done: int = 0, total: int = 0) -> None:
        """Hear of a layer, by digest of its blob; sizes in bytes."""


class Pulled(msgspec.Struct, frozen=True):
    """What a pull brought."""

    image: Image
    digest: str
    """Of what the name stands for at the registry: a manifest's or an index's."""
    newer: bool
    """Whether the name stood for another image before, or for none."""


class Puller:
    """Pulls images into one store; the daemon has one."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.downloads = Downloads()

    async def pull(
        self,
        name: Reference,
        platform: Platform,
        find_login: FindLogin,
        progress: Progress,
        limits: Limits | None = None,
    ) -> Pulled:
        """Pull one image.

        Cancelled, it leaves nothing.

        Args:
            name: with a tag or a digest.
            platform: which image to take of one for several.
            find_login: finds who the client is to the registry.
            progress: is told how it goes.
            limits: what a layer may unpack to.

        Raises:
            ImageNotFound, AccessDenied, RegistryFailed: the registry has none, refuses, or fails.
            InvalidArchive: what it has is broken or hostile.
            Unavailable: the disk is full.
        """
        with saying(f"cannot pull {name.familiar}"):
            for mirror in endpoints.mirrors(name.domain, self.policy):
                try:
                    return await self._pull_from(
                        [mirror], name, platform, find_login, progress, limits
                    )
                except (ImageNotFound, AccessDenied, RegistryFailed) as error:
                    log.warning("mirror failed", mirror=mirror.url, error=error.message)
            places = endpoints.places(name.domain, self.policy)
            return await self._pull_from(places, name, platform, find_login, progress, limits)

    async def _pull_from(
        self,
        places: Sequence[Endpoint],
        name: Reference,
        platform: Platform,
        find_login: FindLogin,
        progress: Progress,
        limits: Limits | None,
    ) -> Pulled:
        """Pull one image from the first of some places that answers."""
        async with client.contact(places, self.policy, find_login) as registry:
            repository = Repository(registry, name.path)
            with naming(name):
                top = await repository.manifest(name.digest or name.tag)
                chosen = await choose(repository, top, platform)
            async with self.downloads.turn(chosen.digest):
                one = _Pull(self, repository, chosen, progress, limits)
                return await one.run(names_of(name, top.digest), top.digest)

    async def check_login(self, domain: str, login: Login) -> None:
        """Try a login with a registry.

        Raises:
            AccessDenied: it is wrong.
            RegistryFailed: the registry cannot be reached.
        """

        async def find(_host: str) -> Login:
            return login

        places = endpoints.places(domain, self.policy)
        async with client.contact(places, self.policy, find) as registry:
            await registry.ask("GET", "/v2/")

    async def tags(self, name: Reference, find_login: FindLogin) -> list[str]:
        """Return the tags of a repository.

        Raises:
            ImageNotFound, AccessDenied, RegistryFailed: as :meth:`pull`.
        """
        places = endpoints.places(name.domain, self.policy)
        async with client.contact(places, self.policy, find_login) as registry:
            with naming(name._replace(tag="", digest="")):
                return await Repository(registry, name.path).tags()


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    """Say in the error of a registry that fails what it was asked for."""
    try:
        yield
    except RegistryFailed as error:
        raise RegistryFailed(f"{what}: {error}") from error


@contextlib.contextmanager
def naming(name: Reference) -> Iterator[None]:
    """Say in the error which image the registry does not have, or keeps from us."""
    try:
        yield
    except MissingThere as error:
        raise ImageNotFound(f"{name.familiar} not found: {error.message}") from error
    except AccessDenied as error:
        raise AccessDenied(
            f"access denied for {name.familiar}: it does not exist, or may require"
            f" '{PROGRAM} login': {error.message}"
        ) from error


def names_of(name: Reference, digest: str) -> list[str]:
    """Return the references an image gets: the one that was asked for, and its digest."""
    pinned = str(name._replace(tag="", digest=digest))
    return [pinned] if name.digest else [str(name._replace(digest="")), pinned]


class _Pull:
    """One image on its way, its manifest chosen."""

    def __init__(
        self,
        puller: Puller,
        repository: Repository,
        manifest: Document,
        progress: Progress,
        limits: Limits | None,
    ) -> None:
        self.store = puller.store
        self.downloads = puller.downloads
        self.repository = repository
        self.manifest = manifest
        self.progress = progress
        self.limits = limits
        self.slots = trio.CapacityLimiter(DOWNLOADS)
        self.unpackings = Unpackings(UNPACKINGS)

    async def run(self, names: Sequence[str], digest: str) -> Pulled:
        """Bring in what is missing and let the names stand for the image."""
        what = f"manifest {self.manifest.digest}"
        config, layers = manifests.parse_manifest(
            self.manifest.content, self.manifest.media_type, what
        )
        async with unpacking.ingesting(self.store) as ingest:
            diff_ids = await self._configuration(ingest, config)
            manifests.check_layers(layers, diff_ids, what)
            await self._layers(ingest, layers, diff_ids)
            return await trio.to_thread.run_sync(self._commit, ingest, names, digest)

    def _commit(self, ingest: Ingest, names: Sequence[str], digest: str) -> Pulled:
        ingest.add_blob(self.manifest.content)
        ingest.make_durable()
        before = self.store.names()
        described = Descriptor(
            media_type=self.manifest.media_type,
            digest=self.manifest.digest,
            size=len(self.manifest.content),
        )
        image, _ = self.store.commit(ingest, described, names)
        newer = any(before.get(name) != self.manifest.digest for name in names)
        return Pulled(image, digest, newer)

    async def _configuration(self, ingest: Ingest, config: Json) -> list[str]:
        """Fetch the configuration unless it is here; return the diff ids."""
        digest = config["digest"]
        try:
            text = await trio.to_thread.run_sync(read_blob, self.store.base, digest)
        except InvalidArchive:  # not here, or damaged
            text = await self.repository.small_blob(digest, config["size"])
            await trio.to_thread.run_sync(ingest.add_blob, text)
        what = f"configuration {digest}"
        root = field(parse_json(text, what, dict), "rootfs", dict, what)
        return strings(root, "diff_ids", what)

    async def _layers(
        self, ingest: Ingest, layers: Sequence[Json], diff_ids: Sequence[str]
    ) -> None:
        """Bring in all layers."""
        done = [trio.Event() for _ in layers]
        failures: list[AruntimeError] = []

        async def bring(number: int) -> None:
            try:
                await self._layer(ingest, layers[number], diff_ids[: number + 1], done[:number])
            except AruntimeError as error:
                # One reason is enough, and not as a group: the others end with it.
                failures.append(error)
                nursery.cancel_scope.cancel()
            else:
                done[number].set()
                await self.unpackings.advance()

        async with trio.open_nursery() as nursery:
            for number, layer in enumerate(layers):
                self.progress.layer(layer["digest"], FOUND)
                nursery.start_soon(bring, number)
        if failures:
            raise failures[0]

    async def _layer(
        self, ingest: Ingest, layer: Json, diff_ids: Sequence[str], below: Sequence[trio.Event]
    ) -> None:
        """Bring in one layer, its blob and what it unpacks to."""
        digest = layer["digest"]
        if await trio.to_thread.run_sync(self._is_here, layer, diff_ids):
            self.progress.layer(digest, EXISTS)
            return
        for earlier, event in zip(diff_ids, below, strict=False):
            if earlier == diff_ids[-1]:  # one image may have a layer twice
                await event.wait()

        async def unpack(source: int, size: int | None = None) -> None:
            async with self.unpackings.turn(below):
                if size is None:
                    self.progress.layer(digest, EXTRACTING)
                await unpacking.unpack_layer(
                    self.store, ingest, source, below, digest=digest, diff_ids=diff_ids,
                    limits=self.limits, size=size,
                )  # fmt: skip

        with Arrival() as arrival:
            blob, is_unpacked = await self._arriving(ingest, layer, arrival, unpack)
        if not is_unpacked:
            await self._unpack_whole(ingest, layer, blob, unpack)
        self.progress.layer(digest, COMPLETE)

    async def _arriving(
        self, ingest: Ingest, layer: Json, arrival: Arrival, unpack: Unpack
    ) -> tuple[str, bool]:
        """Download a blob, and unpack it meanwhile; return its path, and whether that is done.

        It is not if the blob was here already, or came in parts that do not belong together.
        """
        failures: list[AruntimeError] = []
        fault: InvalidArchive | None = None

        async def follow() -> None:
            nonlocal fault
            await arrival.begun.wait()
            try:
                await unpack(arrival.fd, layer["size"])
            except InvalidArchive as error:
                fault = error  # unless the blob turns out to be another than it should be
            except AruntimeError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            try:
                blob = await self._blob(ingest, layer, arrival)
            except AruntimeError as error:
                failures.append(error)
            if failures or not arrival.begun.is_set():
                nursery.cancel_scope.cancel()
            else:
                self.progress.layer(layer["digest"], EXTRACTING)
        if failures:
            raise failures[0]
        if fault is not None and not arrival.restarted:
            raise fault
        return blob, arrival.begun.is_set() and fault is None

    async def _unpack_whole(self, ingest: Ingest, layer: Json, blob: str, unpack: Unpack) -> None:
        """Unpack a layer whose blob is there."""
        try:
            with unpacking.opened(blob) as source:
                await unpack(source)
        except InvalidArchive:
            if blob.startswith(f"{ingest.path}/"):
                raise
            # It has been in the store for long and was damaged there: fetch it anew.
            await trio.to_thread.run_sync(self.store.discard_blob, layer["digest"])
            with Arrival() as arrival:
                again = await self._blob(ingest, layer, arrival)
            with unpacking.opened(again) as source:
                await unpack(source)

    def _is_here(self, layer: Json, diff_ids: Sequence[str]) -> bool:
        """Whether the store has a layer, blob and all."""
        chain_id = layout.chain_ids(diff_ids)[-1]
        unpacked = layout.find_layer((self.store.base,), diff_ids[-1], chain_id)
        return unpacked is not None and self.store.has_blob(layer["digest"], layer["size"])

    async def _blob(self, ingest: Ingest, layer: Json, arrival: Arrival) -> str:
        """Return the path of a layer's blob, downloaded if it is not here; the arrival tells."""
        digest, size = layer["digest"], layer["size"]
        target = layout.blob_path(ingest.path, digest)
        async with self.downloads.turn(digest):
            if await trio.to_thread.run_sync(self.store.has_blob, digest, size):
                return layout.blob_path(self.store.base, digest)
            if self.downloads.link(digest, target):
                return target
            if not self.slots.available_tokens:
                self.progress.layer(digest, WAITING)
            async with self.slots:
                report = partial(self.progress.layer, digest, DOWNLOADING, total=size)
                await download(self.repository, digest, size, target, report, arrival)
            self.downloads.remember(digest, target)
        self.progress.layer(digest, DOWNLOADED)
        return target
