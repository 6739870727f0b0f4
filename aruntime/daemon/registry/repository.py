"""One repository of a registry: its manifests, blobs and tags (OCI distribution-spec v1.1).

Reading. Writing is :mod:`aruntime.daemon.registry.upload`'s affair.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx

from aruntime.daemon.registry.client import Registry
from aruntime.errors import InvalidArchive, RegistryFailed
from aruntime.images import layout, manifests, reference
from aruntime.images.manifests import INDEX_TYPES, MANIFEST_TYPES
from aruntime.images.members import DOCUMENT_BYTES, parse_json, strings
from aruntime.images.oci_archive import INDEX_DEPTH
from aruntime.images.platform import Platform

ACCEPTED = ", ".join(sorted(INDEX_TYPES | MANIFEST_TYPES))
OLD_TYPES = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
PULL, PUSH = "pull", "pull,push"
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
TAG_PAGES = 1000


class Document(NamedTuple):
    """A manifest or index as it came."""

    content: bytes
    media_type: str
    digest: str


class Repository:
    """What a registry keeps under one name."""

    def __init__(self, registry: Registry, path: str, actions: str = PULL) -> None:
        self.registry = registry
        self.path = path
        self.scope = f"repository:{path}:{actions}"

    def url(self, kind: str, name: str) -> str:
        """Return the path of a manifest or blob."""
        return f"/v2/{self.path}/{kind}/{name}"

    async def manifest(self, name: str) -> Document:
        """Fetch a manifest or index by tag or digest and check it.

        Raises:
            InvalidArchive: its digest is not the one asked for, or it is of an unknown kind.
            MissingThere: there is none; and others as :meth:`Registry.ask`.
        """
        url = self.url("manifests", name)
        content, response = await self.registry.fetch(url, self.scope, {"Accept": ACCEPTED})
        media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        if media_type in OLD_TYPES:
            raise InvalidArchive(
                "the manifest is of schema 1, which docker gave up too; push the image anew"
            )
        if media_type not in INDEX_TYPES | MANIFEST_TYPES:
            raise InvalidArchive(f"the registry gives a {media_type[:80]!r} for a manifest")
        digest = layout.sha256_of(content)
        promised = response.headers.get("docker-content-digest", "")
        asked = name if reference.is_sha256(name) else ""
        for expected in (asked, promised):
            if reference.is_sha256(expected) and expected != digest:
                raise InvalidArchive(
                    f"manifest {expected} came with digest {digest}: it was altered on its way"
                )
        return Document(content, media_type, digest)

    async def small_blob(self, digest: str, size: int) -> bytes:
        """Fetch a blob that is kept in memory, and check it.

        Raises:
            InvalidArchive: it is too long, or has another digest.
        """
        if size > DOCUMENT_BYTES:
            raise InvalidArchive(f"blob {digest} has {size} bytes, too many for a document")
        content, _ = await self.registry.fetch(self.url("blobs", digest), self.scope)
        if len(content) != size or layout.sha256_of(content) != digest:
            raise InvalidArchive(f"blob {digest} came damaged, or was altered on its way")
        return content

    @contextlib.asynccontextmanager
    async def blob(self, digest: str, offset: int) -> AsyncIterator[tuple[int, httpx.Response]]:
        """Yield a blob's content from an offset on, or from the start if there is no other way.

        Yields:
            The offset it begins at, and the answer, whose body is to be read.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.registry.stream(
            "GET", self.url("blobs", digest), scope=self.scope, headers=headers
        ) as response:
            began = 0
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                found = response.headers.get("content-range", "")
                if not found.startswith(f"bytes {offset}-"):
                    raise RegistryFailed(f"the registry was asked for byte {offset}: {found!r}")
                began = offset
            yield began, response

    async def tags(self) -> list[str]:
        """Return all tags, following the pages of a long list."""
        url, found = f"/v2/{self.path}/tags/list", dict[str, None]()
        for _ in range(TAG_PAGES):
            content, response = await self.registry.fetch(url, self.scope)
            found.update(dict.fromkeys(_tags_of(content)))
            following = _NEXT.search(response.headers.get("link", ""))
            if following is None:
                break
            url = following[1]
        return list(found)


def _tags_of(content: bytes) -> list[str]:
    found: dict[str, Any] = parse_json(content, "the list of tags", dict)
    return strings(found, "tags", "the list of tags")


async def choose(repository: Repository, top: Document, platform: Platform) -> Document:
    """Follow indexes to the manifest that fits a platform.

    Raises:
        InvalidArchive: there is none, or the indexes are nested too deeply.
    """
    found = top
    for _ in range(INDEX_DEPTH):
        if found.media_type in MANIFEST_TYPES:
            return found
        what = f"index {found.digest}"
        entry = manifests.choose(found.content, platform, what, "the registry")
        found = await repository.manifest(entry["digest"])
        manifests.check_content(found.content, entry, "the registry")
    raise InvalidArchive("the indexes of the registry are nested too deeply")
