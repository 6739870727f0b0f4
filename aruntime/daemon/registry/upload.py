"""Blobs and manifests into a repository (OCI distribution-spec v1.1, "Push").

A blob that is there is not sent; one of another repository of the registry is mounted from it.
Small ones go in one piece. Large ones go in chunks: when a connection breaks, the registry is asked
how far it got, and the upload goes on from there, or from the start if the registry has lost it.
Registries that take no second chunk get large ones in one piece too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx
import trio

from aruntime.daemon.registry.client import ATTEMPTS, MissingThere, Rejected, pause
from aruntime.daemon.registry.repository import Repository
from aruntime.errors import AccessDenied, InvalidArchive, RegistryFailed

PIECE_BYTES = 1 << 20
CHUNK_BYTES = 16 << 20
"""Most bytes that one request carries, unless the registry asks for more."""
LONGEST_CHUNK_BYTES = 1 << 30
OCTETS = {"Content-Type": "application/octet-stream"}

Report = Callable[[int], None]


async def exists(repository: Repository, digest: str) -> bool:
    """Whether the repository has a blob."""
    try:
        await repository.registry.ask(
            "HEAD", repository.url("blobs", digest), scope=repository.scope
        )
    except MissingThere:
        return False
    return True


class Upload:
    """One blob on its way.

    Args:
        repository: gets it.
        digest: of the blob.
        path: of its file.
        report: told of the bytes that are there.
    """

    def __init__(self, repository: Repository, digest: str, path: str, report: Report) -> None:
        self._repository = repository
        self._registry = repository.registry
        self._digest = digest
        self._path = path
        self._report = report
        self._location = ""
        self._chunk_bytes = CHUNK_BYTES

    async def begin(self, others: Iterable[str]) -> str:
        """Begin, unless the blob can be mounted from another repository; return that one's name.

        Args:
            others: repositories of this registry that may have the blob.

        Raises:
            AccessDenied, RegistryFailed: the registry refuses, or fails.
        """
        for other in others:
            scope = f"{self._repository.scope} repository:{other}:pull"
            try:
                response = await self._post(scope, {"mount": self._digest, "from": other})
            except (AccessDenied, MissingThere, Rejected):
                continue  # not ours to read, or no such thing as a mount there
            if response.status_code == httpx.codes.CREATED:
                return other
            self._take_location(response)
            return ""
        self._take_location(await self._post(self._repository.scope, {}))
        return ""

    async def send(self) -> None:
        """Send the content and finish.

        Raises:
            DamagedBlob: the file is damaged or gone.
            AccessDenied, RegistryFailed: the registry refuses, or fails for good.
        """
        attempt, whole = 1, False
        while True:
            try:
                await self._send(whole)
                return
            except Rejected:
                await self._check_file()
                if whole:
                    raise
                whole = True
            except (MissingThere, RegistryFailed):
                if await exists(self._repository, self._digest):
                    return  # only the answer was lost
                if attempt == ATTEMPTS:
                    raise
                await trio.sleep(pause(attempt))
                attempt += 1
            self._take_location(await self._post(self._repository.scope, {}))

    async def _send(self, whole: bool) -> None:
        """Send everything once.

        Raises:
            MissingThere: the registry has lost the upload.
            Rejected: it wants the blob otherwise, or not at all.
        """
        try:
            size = os.stat(self._path).st_size
        except FileNotFoundError:
            raise damaged(self._digest) from None
        if whole or size <= self._chunk_bytes:
            await self._finish(size)
            return
        offset, attempt = 0, 1
        while offset < size:
            try:
                reached = await self._send_chunk(offset, min(self._chunk_bytes, size - offset))
            except Rejected:
                raise
            except RegistryFailed:
                if attempt == ATTEMPTS:
                    raise
                await trio.sleep(pause(attempt))
                reached = await self._reached()
            attempt = 1 if reached > offset else attempt + 1
            offset = reached
        await self._finish(0)

    async def _send_chunk(self, offset: int, length: int) -> int:
        """Send a chunk; return how far the upload is then."""
        response = await self._request(
            "PATCH", self._location, self._content(offset, length), length,
            {"Content-Range": f"{offset}-{offset + length - 1}"},
        )  # fmt: skip
        self._take_location(response)
        return offset + length

    async def _finish(self, size: int) -> None:
        """Say that this was all, with what is left."""
        url = httpx.URL(self._location).copy_merge_params({"digest": self._digest})
        await self._request("PUT", str(url), self._content(0, size), size, {})

    async def _check_file(self) -> None:
        """Tell a file that is damaged from a registry that is."""
        try:
            found = await trio.to_thread.run_sync(digest_of_file, self._path)
        except FileNotFoundError:
            found = ""
        if found != self._digest:
            raise damaged(self._digest)

    async def _reached(self) -> int:
        """Ask how many bytes of the upload the registry has."""
        try:
            response = await self._registry.ask("GET", self._location, scope=self._repository.scope)
        except Rejected as error:
            # docker's registry forgets an upload that broke, and says that the request is wrong.
            raise MissingThere(error.message) from error
        self._take_location(response)
        first, dash, last = response.headers.get("range", "").removeprefix("bytes=").partition("-")
        if not dash or not last.isdecimal() or first != "0":
            return 0
        # "0-0" is one byte to the specification and none to docker's registry.
        return int(last) + 1 if int(last) else 0

    async def _post(self, scope: str, fields: dict[str, str]) -> httpx.Response:
        url = httpx.URL(f"/v2/{self._repository.path}/blobs/uploads/", params=fields)
        return await self._registry.ask(
            "POST", str(url), scope=scope, headers={"Content-Length": "0"}
        )

    async def _request(
        self, method: str, url: str, content: Any, length: int, headers: dict[str, str]
    ) -> httpx.Response:
        return await self._registry.ask(
            method, url, scope=self._repository.scope, content=content, attempts=1,
            headers={**OCTETS, **headers, "Content-Length": str(length)},
        )  # fmt: skip

    def _take_location(self, response: httpx.Response) -> None:
        location = response.headers.get("location", "")
        if not location:
            raise RegistryFailed("the registry does not say where a blob is to be uploaded")
        self._location = str(response.url.join(location))
        least = response.headers.get("oci-chunk-min-length", "")
        if least.isdecimal():
            self._chunk_bytes = min(max(self._chunk_bytes, int(least)), LONGEST_CHUNK_BYTES)

    def _content(self, offset: int, length: int) -> Callable[[], AsyncIterator[bytes]]:
        """Return what reads a part of the file; again if it is to be sent again."""

        async def read() -> AsyncIterator[bytes]:
            file = await trio.open_file(self._path, "rb")
            async with file:
                await file.seek(offset)
                left = length
                while left:
                    piece = await file.read(min(PIECE_BYTES, left))
                    if not piece:
                        raise damaged(self._digest)
                    left -= len(piece)
                    yield piece
                    self._report(offset + length - left)

        return read


class DamagedBlob(InvalidArchive):
    """A blob of the store is not what it should be."""


def damaged(digest: str) -> DamagedBlob:
    """Build the error for a blob that rotted on the disk."""
    return DamagedBlob(
        f"blob {digest} of the image store is damaged or gone; pull or load the image again"
    )


def digest_of_file(path: str) -> str:
    """Return the digest of a file; blocks.

    Raises:
        FileNotFoundError: there is none.
    """
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


async def put_manifest(repository: Repository, name: str, content: bytes, media_type: str) -> None:
    """Put a manifest under a tag or digest.

    Raises:
        AccessDenied, RegistryFailed: the registry refuses it.
    """
    await repository.registry.ask(
        "PUT", repository.url("manifests", name), scope=repository.scope, content=content,
        headers={"Content-Type": media_type},
    )  # fmt: skip
