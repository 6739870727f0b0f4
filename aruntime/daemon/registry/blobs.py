"""Blobs on their way from a registry into an ingest directory: once each, checked, resumed.

What comes is digested as it streams and written off the event loop, a piece while the next is
received. A connection that breaks is taken up where it broke. However many pulls want a blob at a
time, one downloads it and the others link its file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Self

import httpx
import trio

from aruntime.daemon.registry.client import ATTEMPTS, BrokenOff, pause, received
from aruntime.daemon.registry.repository import Repository
from aruntime.errors import FULL, InvalidArchive, Unavailable
from aruntime.images.compression import write_all

PIECE_BYTES = 1 << 20
PIECES_AHEAD = 2
PARTIAL = ".partial"

Report = Callable[[int], None]
"""Called with the number of bytes that are there."""


class Downloads:
    """The blobs under way in this daemon, and where those are that have come."""

    def __init__(self) -> None:
        self._turns: dict[str, trio.Lock] = {}
        self._wanted: dict[str, int] = {}
        self._places: dict[str, list[str]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Let one at a time work on something, a digest for instance."""
        lock = self._turns.setdefault(key, trio.Lock())
        self._wanted[key] = self._wanted.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                del self._wanted[key], self._turns[key]

    def link(self, digest: str, target: str) -> bool:
        """Take over a blob that has come, for this pull or another; whether there is one."""
        for place in self._places.get(digest, ()):
            with contextlib.suppress(FileNotFoundError):
                if place != target:
                    os.link(place, target)
                    return True
                if os.path.exists(target):
                    return True
        self._places.pop(digest, None)
        return False

    def remember(self, digest: str, path: str) -> None:
        """Let others take a blob over for as long as its file is there."""
        self._places.setdefault(digest, []).append(path)


class Arrival:
    """A blob that comes, for who does not want to wait for its end; use it in a ``with`` block.

    Attributes:
        begun: set once there is a file it comes into; never, if it was here already.
        fd: of that file, at its beginning, to be read; the arrival's own.
        restarted: whether it began anew, so that what was read before may be of another.
    """

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.fd = -1
        self.restarted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def begin(self, path: str) -> None:
        """Tell of the file.

        Raises:
            OSError: it cannot be opened.
        """
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.begun.set()


async def download(
    repository: Repository, digest: str, size: int, target: str, report: Report, arrival: Arrival
) -> None:
    """Download a blob into a new file.

    Cancelled or failed, it leaves a partial file beside it, which goes with its directory.

    Args:
        repository: has it.
        digest: what it must hash to.
        size: bytes it must have.
        target: path of the file.
        report: told of progress.
        arrival: told of the file.

    Raises:
        InvalidArchive: it has another digest or size.
        Unavailable: the disk is full.
        RegistryFailed: the registry fails for good.
    """
    partial = f"{target}{PARTIAL}"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        arrival.begin(partial)
        file = _Growing(fd, size, report, arrival)
        await _receive_all(repository, digest, file)
        if file.digest != digest:
            raise InvalidArchive(
                f"blob {digest} came with digest {file.digest}: it was altered on its way"
            )
    except OSError as error:
        if error.errno not in FULL:
            raise
        directory = os.path.dirname(target)
        raise Unavailable(
            f"the disk of {directory} is full, no space left for {digest}; free some, with"
            " 'aruntime rmi' for instance, and try again"
        ) from error
    finally:
        os.close(fd)
    os.rename(partial, target)


async def _receive_all(repository: Repository, digest: str, file: _Growing) -> None:
    """Receive until all is there; a connection that breaks without any progress is given up."""
    attempt = 1
    while True:
        before = file.size
        try:
            async with repository.blob(digest, before) as (offset, response):
                if offset != before:
                    await trio.to_thread.run_sync(file.restart)
                await file.take(response)
            if file.size < file.expected:
                raise BrokenOff(f"the registry sent {file.size} bytes of {file.expected}")
            return
        except BrokenOff:
            attempt = 1 if file.size > before else attempt + 1
            if attempt == ATTEMPTS:
                raise
        await trio.sleep(pause(attempt))


class _Growing:
    """The file a blob grows in, and the digest of what it has so far."""

    def __init__(self, fd: int, expected: int, report: Report, arrival: Arrival) -> None:
        self.fd = fd
        self.expected = expected
        self.size = 0
        self._hash = hashlib.sha256()
        self._report = report
        self._arrival = arrival

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def restart(self) -> None:
        """Forget everything: the registry cannot go on in the middle."""
        self._arrival.restarted = True
        os.lseek(self.fd, 0, os.SEEK_SET)
        os.ftruncate(self.fd, 0)
        self.size = 0
        self._hash = hashlib.sha256()

    async def take(self, response: httpx.Response) -> None:
        """Write a body as it comes; what has come is written even if no more does."""
        sending, receiving = trio.open_memory_channel[bytes](PIECES_AHEAD)
        failures: list[Exception] = []
        broken: list[Exception] = []

        async def receive() -> None:
            async with sending, received(response, PIECE_BYTES) as pieces:
                try:
                    async for piece in pieces:
                        await sending.send(piece)
                except Exception as error:  # re-raised below, when all of it is written
                    broken.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            try:
                async for piece in receiving:
                    self._check(piece)
                    await trio.to_thread.run_sync(self._write, piece)
                    self._report(self.size)
            except (OSError, InvalidArchive) as error:
                # Not as a group, and no more need come.
                failures.append(error)
                nursery.cancel_scope.cancel()
        if failures or broken:
            raise [*failures, *broken][0]

    def _check(self, piece: bytes) -> None:
        if self.size + len(piece) > self.expected:
            raise InvalidArchive(f"a blob has more than the {self.expected} bytes it should have")

    def _write(self, piece: bytes) -> None:
        write_all(self.fd, piece)
        self._hash.update(piece)
        self.size += len(piece)
