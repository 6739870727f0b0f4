"""Whether an image store is whole: every blob against its digest, every layer in its place.

What it finds it only tells; :mod:`aruntime.daemon.commands.check` acts on it. What is unpacked is
not compared with the archive it came from. Synchronous, and as slow as the disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

import msgspec

from aruntime.errors import InvalidArchive
from aruntime.images import catalogue, layout, untag
from aruntime.images.compression import CHUNK
from aruntime.images.index import Descriptor, Index
from aruntime.images.store import Store

PRIVATE = 0o700


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    what: str
    advice: str
    grave: bool = True
    """Whether something is lost; else it only takes room."""
    blob: str = ""
    """Digest of a damaged blob that is there, or empty."""
    unpackable: tuple[str, str] | None = None
    """Digest of the manifest, and diff id, of a layer that its blob can be unpacked for anew."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at and what was found."""

    findings: tuple[Finding, ...]
    images: int
    blobs: int
    bytes: int
    """Of blobs whose content was read."""
    layers: int


def check(
    store: Store,
    in_use: Callable[[], Iterable[untag.Holder]],
    alive: Callable[[], None],
    *,
    read_content: bool = True,
) -> Report:
    """Look at everything a store has.

    Pulls and loads may go on meanwhile; nothing is collected.

    Args:
        store: to look at.
        in_use: returns the containers there are, with what each holds.
        alive: called now and then; raises when nobody wants the result any more.
        read_content: compare the content of blobs with their digests, not their sizes alone.
    """
    with store.ingest() as own:
        one = _Check(store, alive, read_content)
        findings = [
            *one.directories(),
            *one.manifests(),
            *one.containers(in_use()),
            *one.unneeded(own.path, in_use),
        ]
    return Report(
        findings=tuple(findings),
        images=len(one.index.manifests),
        blobs=len(one.reasons),
        bytes=one.bytes,
        layers=len(one.layers),
    )


class _Check:
    """One look at a store."""

    def __init__(self, store: Store, alive: Callable[[], None], read_content: bool) -> None:
        self.store = store
        self.index: Index = store.index
        self.reasons: dict[str, str] = {}
        """What is wrong with each blob looked at, by digest; empty: nothing."""
        self.layers: set[str] = set()
        self.bytes = 0
        self._alive = alive
        self._read_content = read_content

    def directories(self) -> Iterator[Finding]:
        """Nobody but root may reach the files of images (CVE-2021-41091)."""
        base = self.store.base
        for path in (base, *(f"{base}/{n}" for n in (layout.BLOBS, layout.LAYERS, layout.INGEST))):
            status = os.stat(path)
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid != os.geteuid() or mode != PRIVATE:
                yield Finding(
                    what=f"{path} belongs to user {status.st_uid} and has mode {mode:o}",
                    advice=f"'chown root {path}' and 'chmod 700 {path}' keep others out",
                )

    def manifests(self) -> Iterator[Finding]:
        """Look at every image's manifest, and at all that it leads to."""
        for digest, descriptor in self.index.manifests.items():
            shown = self._names(digest)
            yield from self._blob(descriptor, "manifest", shown)
            try:
                manifest = catalogue.read_manifest(self.store.base, digest)
            except InvalidArchive as error:
                if not self.reasons[digest]:
                    yield _lost(f"the manifest of {shown} is wrong: {error.message}", shown)
                continue
            yield from self._blob(manifest.config, "configuration", shown)
            for layer in manifest.layers:
                yield from self._blob(layer, "layer", shown)
            yield from self._unpacked(digest, manifest, shown)

    def _names(self, digest: str) -> str:
        """Return what a person calls a manifest."""
        names = [untag.familiar(n) for n, found in self.index.names.items() if found == digest]
        return ", ".join([name for name in names if "@" not in name] or names) or digest

    def _blob(self, descriptor: Descriptor, kind: str, shown: str) -> Iterator[Finding]:
        digest = descriptor.digest
        if digest in self.reasons:
            return
        self.reasons[digest] = reason = self._examined(descriptor)
        if reason:
            yield Finding(
                what=f"{kind} {digest} of {shown} {reason}",
                advice=f"'aruntime check --repair' forgets it; then pull or load {shown} again",
                blob="" if reason == MISSING else digest,
            )

    def _examined(self, descriptor: Descriptor) -> str:
        self._alive()
        found = hashlib.sha256()
        try:
            with open(layout.blob_path(self.store.base, descriptor.digest), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != descriptor.size:
                    return f"has {size} bytes instead of {descriptor.size}"
                if not self._read_content:
                    return ""
                while piece := file.read(CHUNK):
                    self._alive()
                    found.update(piece)
                    self.bytes += len(piece)
        except FileNotFoundError:
            return MISSING
        except OSError as error:
            return f"cannot be read: {(error.strerror or str(error)).lower()}"
        digest = f"sha256:{found.hexdigest()}"
        return "" if digest == descriptor.digest else f"is damaged: its content has digest {digest}"

    def _unpacked(self, digest: str, manifest: catalogue.Manifest, shown: str) -> Iterator[Finding]:
        try:
            diff_ids = catalogue.read_config(self.store.base, manifest).diff_ids
        except InvalidArchive as error:
            if not self.reasons[manifest.config.digest]:
                yield _lost(f"the configuration of {shown} is wrong: {error.message}", shown)
            return
        chain = layout.chain_ids(diff_ids)
        for layer, diff_id, chain_id in zip(manifest.layers, diff_ids, chain, strict=True):
            found = layout.find_layer((self.store.base,), diff_id, chain_id)
            if found is not None:
                self.layers.add(found[1])
                continue
            good = not self.reasons[layer.digest]
            yield Finding(
                what=f"layer {diff_id} of {shown} is not unpacked, or its record is damaged",
                advice=(
                    "'aruntime check --repair' unpacks it again"
                    if good
                    else f"pull or load {shown} again"
                ),
                unpackable=(digest, diff_id) if good else None,
            )

    def containers(self, holders: Iterable[untag.Holder]) -> Iterator[Finding]:
        """A container cannot start without the directories it is made of."""
        for holder in holders:
            for path in holder.layers:
                if os.path.isdir(path):
                    self.layers.add(os.path.basename(path))
                else:
                    yield Finding(
                        what=f"{path}, which container {holder.name} is made of, is gone",
                        advice="pull or load its image again, or remove the container",
                    )

    def unneeded(self, own: str, in_use: Callable[[], Iterable[untag.Holder]]) -> Iterator[Finding]:
        """What nothing leads to is no harm, but takes room until somebody removes it."""
        left = self.store.unneeded(in_use, own)
        for kind, names in (
            ("blobs that no image needs", left.blobs),
            ("layers that no image or container needs", left.layers),
            ("leftovers of pulls or loads that were killed", left.ingests),
        ):
            if names:
                yield Finding(
                    what=f"{len(names)} {kind}: {', '.join(names[:SHOWN])}"
                    + (" …" if len(names) > SHOWN else ""),
                    advice="'aruntime check --repair' or the next start of the daemon removes them",
                    grave=False,
                )


MISSING = "is missing"
SHOWN = 3
"""Of things that take room, how many are named."""


def _lost(what: str, shown: str) -> Finding:
    return Finding(
        what=what, advice=f"remove it with 'aruntime rmi -f', pull or load {shown} again"
    )
