"""Make an image of a container: what it changed, as a layer on top of its image.

Two children with a pipe between them do what takes long: one reads the container's writable layer
(:mod:`aruntime.daemon.files`), the other unpacks it into the store as it would any layer
(:mod:`aruntime.daemon.unpacking`). The container is paused meanwhile, unless told otherwise: files
that are half written are no good in an image.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from aruntime.container.config import ContainerConfig
from aruntime.container.state import Status
from aruntime.daemon import files, freezing, unpacking
from aruntime.daemon.health import check_object
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import Conflict, ImageNotFound, InvalidReference
from aruntime.images import changes, committing, difference, reference
from aruntime.images.image import Image
from aruntime.images.ingest import Ingest

MADE_BY_A_START = (
    "dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab",
)  # fmt: skip
"""Where something is mounted in every container: made in its writable layer if the image lacks
them, and nothing that the container did."""
TENANT_LABEL = "aruntime.tenant"
PAUSED_BY_US = "committing"
"""In a container's directory while it is paused for a commit, and would stay so if we died."""

journal = structlog.get_logger()


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody wants an image made."""

    name: str = ""
    """As typed, or empty."""
    message: str = ""
    author: str = ""
    change: tuple[str, ...] = ()
    """Dockerfile instructions."""
    pause: bool = True


async def commit(parts: Parts, container: Container, wish: Wish) -> Image:
    """Make an image of a container.

    Raises:
        InvalidReference: the name is malformed, or has a digest.
        InvalidParameter: a change is malformed.
        Conflict: its image is gone; a file of it cannot be part of an image.
        Unavailable: the disk is full.
    """
    name = full_name(wish.name)
    base = await trio.to_thread.run_sync(base_of, parts, container)
    document = await trio.to_thread.run_sync(committing.read_document, parts.images, base)
    config = changes.apply_changes(
        config_of(document.get("config") or {}, container.config), wish.change
    )
    ours = difference.mount_points_of_ours(container.config.layers, MADE_BY_A_START)
    async with resting(parts, container, wish.pause), unpacking.ingesting(parts.images) as ingest:
        layer = await _read_layer(parts, container, ingest, ours)
        make = partial(
            committing.commit_on_top, base=base, name=name, config=config,
            created_by=" ".join(container.config.args), message=wish.message, author=wish.author,
        )  # fmt: skip
        return await trio.to_thread.run_sync(make, parts.images, ingest, layer)


def full_name(text: str) -> str:
    """Return the normalised form of the new image's name.

    Raises:
        InvalidReference: it is malformed, or has a digest.
    """
    if not text:
        return ""
    found = reference.parse(text)
    if found.digest:
        raise InvalidReference(f"cannot commit under the digest in {text!r}")
    return str(found)


def base_of(parts: Parts, container: Container) -> Image:
    """Return the image that a container was made of.

    Raises:
        Conflict: it was removed by force.
    """
    try:
        return parts.images.resolve(container.config.image_id)
    except ImageNotFound:
        raise Conflict(
            f"the image of container {container.short_id} has been removed; keep its files with"
            f" 'aruntime export {container.config.name} | aruntime import - NAME'"
        ) from None


def config_of(image: dict[str, Any], config: ContainerConfig) -> dict[str, Any]:
    """Return an image's JSON of how it is started, with what the container was given instead."""
    labels = {key: value for key, value in config.labels.items() if key != TENANT_LABEL}
    given: dict[str, Any] = {
        "User": config.user,
        "Env": config.env,
        "Cmd": config.cmd or None,
        "Entrypoint": config.entrypoint or None,
        "WorkingDir": config.working_dir,
        "Labels": labels or None,
        "StopSignal": config.stop_signal,
    }
    if config.health is not None:
        given["Healthcheck"] = check_object(config.health)
    return {**image, **given}


@contextlib.asynccontextmanager
async def resting(parts: Parts, container: Container, pause: bool) -> AsyncIterator[None]:
    """Keep a container from changing its files: paused if it runs, else from starting."""
    await container.wait_launched()
    if not container.is_running:
        async with container.lock:
            yield
        return
    if not pause or container.state.status is Status.PAUSED:
        yield
        return
    mark = Path(container.directory) / PAUSED_BY_US
    await trio.to_thread.run_sync(mark.touch)
    try:
        await freezing.pause(parts, container)
        yield
    finally:
        with trio.CancelScope(shield=True):
            await _let_go(parts, container, mark)


async def _let_go(parts: Parts, container: Container, mark: Path) -> None:
    """Resume a container, unless somebody else did or it has ended, and forget why it rested."""
    with contextlib.suppress(Conflict):
        await freezing.resume(parts, container)
    with contextlib.suppress(FileNotFoundError):  # removed with the container
        await trio.to_thread.run_sync(mark.unlink)


async def resume_forgotten(parts: Parts, containers: Iterable[Container]) -> None:
    """Resume what a daemon that was killed had paused for a commit; called before any command."""
    for container in containers:
        mark = Path(container.directory) / PAUSED_BY_US
        if await trio.to_thread.run_sync(mark.exists):
            journal.warning("a commit was cut off: resumed", container=container.short_id)
            await _let_go(parts, container, mark)


async def _read_layer(
    parts: Parts, container: Container, ingest: Ingest, ours: Iterable[str]
) -> dict[str, Any]:
    """Unpack the writable layer into an ingest directory; return what the child says of it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    found: dict[str, Any] = {}

    async def unpack() -> None:
        try:
            found.update(await unpacking.unpack_stream(parts.images, ingest, reading))
        finally:
            os.close(reading)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unpack)
            try:
                await files.write_layer(parts, container, writing, list(ours))
            finally:
                os.close(writing)
    except BaseExceptionGroup as group:
        # The unpacker's complaint about a cut archive only follows the reader's.
        raise _first(group) from group
    return found


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that came first, out of nested groups."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
