"""The content store: images by name and id, blobs by digest, layers unpacked once.

On disk it is what :mod:`aruntime.images.layout` draws. Methods are synchronous, safe to call from
any thread, and short but for :meth:`Store.collect`, which removes trees. The slow part of getting
an image in, unpacking, happens in a child that writes into an ingest directory
(:mod:`aruntime.images.unpack`); here its result is checked and moved into place, blobs and layers
first, the index last. A kill at any moment leaves either all of an image or nothing that the next
open or collection does not remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from aruntime.errors import InvalidArchive, InvalidReference, Unavailable
from aruntime.images import catalogue, collection, layout, reference, untag
from aruntime.images.catalogue import Catalogue
from aruntime.images.image import Image
from aruntime.images.index import Descriptor, Index, read_index, write_index
from aruntime.images.ingest import Ingest
from aruntime.kernel import storage

LOCK_SECONDS = 5.0
"""How long a new daemon waits for the unpacking children of a killed one to notice."""
LOCK_POLL_SECONDS = 0.05

InUse = Callable[[], Iterable[untag.Holder]]
"""Returns the containers there are, with what each holds."""


class Store:
    """The images below ROOT/images. Owns the store's lock; give it up with :meth:`close`.

    Raises:
        Unavailable: another daemon has this store, or its index is damaged.
        OSError: the directories cannot be made.
    """

    def __init__(self, root: str) -> None:
        self.base = f"{os.path.abspath(root)}/images"
        for path in ("", layout.BLOBS, layout.LAYERS, layout.INGEST):
            # Setuid programs of images must not be within reach of the host's users
            # (CVE-2021-41091): no one but root enters.
            os.makedirs(f"{self.base}/{path}", mode=0o700, exist_ok=True)
            os.chmod(f"{self.base}/{path}", 0o700)
        storage.scatter(f"{self.base}/{layout.INGEST}")
        self.lock_fd = _lock(f"{self.base}/{layout.LOCK}")
        self._mutex = threading.RLock()
        self._ingests: set[str] = set()
        self._held: dict[str, int] = {}
        try:
            collection.remove_leftovers(self.base)
            if not os.path.exists(f"{self.base}/{layout.OCI_LAYOUT}"):
                layout.write_durably(f"{self.base}/{layout.OCI_LAYOUT}", layout.LAYOUT_TEXT)
            index = read_index(f"{self.base}/{layout.INDEX}")
            self._catalogue = Catalogue(self.base, index)
        except BaseException:
            os.close(self.lock_fd)
            raise

    def close(self) -> None:
        """Give up the store."""
        os.close(self.lock_fd)

    def resolve(self, text: str) -> Image:
        """Find an image by reference, id or unambiguous beginning of an id.

        Raises:
            ImageNotFound: there is none.
            InvalidReference: the text is neither.
            InvalidParameter: the beginning of an id fits several images.
            InvalidArchive: a file of the image is damaged or gone.
        """
        found = self._catalogue
        return found.image(found.image_id(found.resolve(text)))

    def list(self) -> list[Image]:
        """Return all images, newest first.

        An image whose files are damaged is left out; :meth:`resolve` says what is wrong with it.
        """
        return self._catalogue.images()

    @property
    def index(self) -> Index:
        """The present index; it never changes, the store makes another."""
        return self._catalogue.index

    def names(self) -> dict[str, str]:
        """Return the digest of the manifest each normalised reference stands for."""
        return dict(self._catalogue.index.names)

    def names_with_blob(self, digest: str) -> set[str]:
        """Return the normalised references of images that have a layer, by digest of its blob."""
        found = self._catalogue
        having = {
            manifest
            for manifest, parts in found.parts.items()
            if any(layer.digest == digest for layer in parts.manifest.layers)
        }
        return {name for name, manifest in found.index.names.items() if manifest in having}

    def manifest(self, digest: str) -> Descriptor:
        """Return the descriptor of a manifest that is here."""
        return self._catalogue.index.manifests[digest]

    def add_name(self, name: str, digest: str) -> None:
        """Let a normalised reference stand for a manifest, unless that has gone meanwhile."""
        with self._mutex:
            if digest in self._catalogue.index.manifests:
                self._replace_index(self._catalogue.index.with_name(name, digest))

    def replace_manifest(self, ingest: Ingest, before: Descriptor, after: Descriptor) -> None:
        """Let another manifest stand for what one stood for: the same image, other blobs.

        A name with a digest stays with the manifest it names only if that is the new one.

        Raises:
            InvalidArchive: the manifest is wrong, or a part is missing.
        """
        with self._mutex:
            names = [n for n, d in self._catalogue.index.names.items() if d == before.digest]
            self.commit(ingest, after, [name for name in names if "@" not in name])
            self._replace_index(self._catalogue.index.without_manifests({before.digest}))

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether a blob is here and has the right size; its content is not looked at."""
        try:
            return os.stat(layout.blob_path(self.base, digest)).st_size == size
        except FileNotFoundError:
            return False

    def discard_blob(self, digest: str) -> None:
        """Forget a blob that was found damaged, so that it can be fetched anew."""
        with self._mutex, contextlib.suppress(FileNotFoundError):
            os.unlink(layout.blob_path(self.base, digest))

    def tag(self, source: str, target: str) -> Image:
        """Let another name stand for an image.

        Raises:
            InvalidReference: the target has a digest, or is no name.
            ImageNotFound: and others, as :meth:`resolve`.
        """
        name = reference.parse(target)
        if name.digest:
            raise InvalidReference(
                f"cannot tag {target!r}: a name with a digest stands for one image for ever"
            )
        with self._mutex:
            digest = self._catalogue.resolve(source)
            self._replace_index(self._catalogue.index.with_name(str(name), digest))
            return self.resolve(str(name))

    def remove(self, text: str, force: bool, in_use: InUse) -> tuple[untag.Removal, ...]:
        """Take a name away, and the image with its last name (docker's rules for ``rmi``).

        What no image and no container needs any more leaves the disk at the next
        :meth:`collect`.

        Args:
            text: reference, id or beginning of an id.
            force: as ``rmi -f``.
            in_use: see :data:`InUse`.

        Returns:
            What was untagged and deleted, in docker's order.

        Raises:
            ImageInUse: a container uses it; the message lists them.
            Conflict: the id has names in several repositories.
            ImageNotFound: and others, as :meth:`resolve`.
        """
        with self._mutex:
            damaged = self._damaged(text)
            if damaged and force:
                self._replace_index(self._catalogue.index.without_manifests({damaged}))
                return (untag.Removal("Untagged", text),)
            image = self.resolve(text)
            holders = list(in_use())
            plan = untag.plan_removal(image, self._name_of(image, text), force, holders)
            index = self._catalogue.index
            for name in plan.names:
                index = index.without_name(name)
            removals = [untag.Removal("Untagged", untag.familiar(name)) for name in plan.names]
            if plan.delete:
                others = [other for other in self.list() if other.id != image.id]
                removals += untag.deletions(image, others, holders)
                index = index.without_manifests(self._catalogue.manifests_of(image.id))
            self._replace_index(index)
            return tuple(removals)

    @contextmanager
    def hold(self, image: Image) -> Iterator[None]:
        """Keep an image's layers from being collected until a container is on record for them."""
        with self._mutex:
            for path in image.layers:
                self._held[path] = self._held.get(path, 0) + 1
        try:
            yield
        finally:
            with self._mutex:
                for path in image.layers:
                    self._held[path] -= 1
                    if not self._held[path]:
                        del self._held[path]

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        """Open an ingest directory; what is not committed of it is gone at the end."""
        made = Ingest(self.base)
        with self._mutex:
            self._ingests.add(made.path)
        try:
            with made as ingest:
                yield ingest
        finally:
            with self._mutex:
                self._ingests.discard(made.path)

    def commit(
        self, ingest: Ingest, manifest: Descriptor, names: Sequence[str]
    ) -> tuple[Image, dict[str, str]]:
        """Move one image of an ingest directory into the store.

        Args:
            ingest: holds whatever of the image the store does not have yet.
            manifest: of the image.
            names: normalised references that are to stand for it.

        Returns:
            The image; and the id of the image each name stood for before, if another.

        Raises:
            InvalidArchive: the manifest or configuration is wrong, or a part is missing.
        """
        with self._mutex:
            ingest.move_blob(manifest.digest)
            parts = catalogue.read_manifest(self.base, manifest.digest)
            for part in (parts.config, *parts.layers):
                ingest.move_blob(part.digest)
            ingest.move_layers(catalogue.read_config(self.base, parts).diff_ids)
            ingest.sync()
            displaced: dict[str, str] = {}
            index = self._catalogue.index.with_manifest(manifest)
            for name in names:
                before = self._catalogue.index.names.get(name)
                if before is not None and before in self._catalogue.parts:
                    displaced[name] = self._catalogue.image_id(before)
                index = index.with_name(name, manifest.digest)
            self._replace_index(index)
            image = self.resolve(manifest.digest)
            return image, {name: old for name, old in displaced.items() if old != image.id}

    def take_layers(self, ingest: Ingest, diff_ids: tuple[str, ...]) -> None:
        """Move unpacked layers that images of this store lacked into it.

        Raises:
            InvalidArchive: neither has one of them.
        """
        with self._mutex:
            ingest.move_layers(diff_ids)
            ingest.sync()
            self._replace_index(self._catalogue.index)

    def collect(self, in_use: InUse) -> collection.Collected:
        """Remove blobs and layers that no image needs and no container holds.

        Nothing is removed while an import or load is under way; the next call does it.
        """
        with self._mutex:
            if self._ingests:
                return collection.Collected(0, 0)
            trash = collection.set_aside(self.base, self._needed_blobs(), self._needed(in_use))
        return collection.empty_trash(trash)

    def unneeded(self, in_use: InUse, own: str) -> collection.Unneeded:
        """Return what :meth:`collect` or the next open would remove, and nobody is about to.

        Args:
            in_use: see :data:`InUse`.
            own: the caller's ingest directory.
        """
        with self._mutex:
            return collection.unneeded(
                self.base, self._needed_blobs(), self._needed(in_use), self._ingests | {own}
            )

    def remove_leftovers(self, names: Iterable[str]) -> None:
        """Remove ingest directories that :meth:`unneeded` named."""
        with self._mutex:
            collection.remove_ingests(self.base, names)

    def _needed(self, in_use: InUse) -> set[str]:
        """Return the directories of layers that an image needs or a container holds."""
        layers = {layer for holder in in_use() for layer in holder.layers} | set(self._held)
        layers |= {layer for image in self.list() for layer in image.layers}
        for digest in self._catalogue.damaged:
            layers |= catalogue.possible_layers(self.base, digest)
        return layers

    def _needed_blobs(self) -> set[str]:
        """Return the digests an image needs; of a damaged one those that it still leads to."""
        needed = set(self._catalogue.index.manifests)
        manifests = [parts.manifest for parts in self._catalogue.parts.values()]
        for digest in self._catalogue.damaged:
            with contextlib.suppress(InvalidArchive):
                manifests.append(catalogue.read_manifest(self.base, digest))
        for manifest in manifests:
            needed.add(manifest.config.digest)
            needed |= {layer.digest for layer in manifest.layers}
        return needed

    def _damaged(self, text: str) -> str:
        """Return the manifest digest of a damaged image that has this name, or empty."""
        if reference.is_sha256(text) or reference.is_identifier(text):
            return ""
        digest = self._catalogue.index.names.get(str(reference.parse(text)), "")
        return digest if digest in self._catalogue.damaged else ""

    def _name_of(self, image: Image, text: str) -> str:
        """Return the normalised reference a text is, or empty if it is an id."""
        if reference.is_sha256(text) or reference.is_identifier(text):
            return ""
        name = str(reference.parse(text))
        return name if name in (*image.names, *image.digests) else ""

    def _replace_index(self, index: Index) -> None:
        if index != self._catalogue.index:
            write_index(f"{self.base}/{layout.INDEX}", index)
        # What was damaged may be whole again: its digests say what it must be.
        if index != self._catalogue.index or self._catalogue.damaged:
            self._catalogue = Catalogue(self.base, index, self._catalogue.parts)


def _lock(path: str) -> int:
    """Lock the store and return the descriptor that holds the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise Unavailable(
                    f"the image store {os.path.dirname(path)} belongs to another daemon;"
                    " give this one a root of its own with --root"
                ) from None
        time.sleep(LOCK_POLL_SECONDS)
