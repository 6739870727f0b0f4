"""The files of containers: taken out, put in, exported, whether a container runs or not.

The daemon never touches them itself: a child does (:mod:`aruntime.container.transfer`), with the
container's root as its world. A running container's files are seen as it sees them, mounts and all;
those of a stopped one with its volumes and binds in place, under its lock, so that it does not
start meanwhile and two overlays share one writable layer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import trio

from aruntime.daemon import bundle, children
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import Conflict
from aruntime.kernel import mounts
from aruntime.rootfs import idmap

PROGRAM = "container/transfer.py"
WHAT = "the copying process"
WORK = "copying"
"""Beside the container's own: overlayfs' scratch directory while a stopped container is written
to. Its own may bear the mark of a volatile mount, which forbids another."""
ROOT_OWNER = (0, 0)


def shift_of(parts: Parts, container: Container) -> tuple[int, int]:
    """Return the range of ids of a container's user namespace, (0, 0) if it has the host's."""
    if container.config.userns_mode != "auto":
        return (0, 0)
    return parts.id_range(container)


async def take(parts: Parts, container: Container, path: str, fd: int, *, follow: bool) -> int:
    """Write what is at a path of a container to a descriptor, as an archive.

    Args:
        parts: the daemon's.
        container: running or not.
        path: inside it; a relative one starts from its root.
        fd: to write to; stays the caller's. Its reader may go at any time.
        follow: a symbolic link at the path stands for what it leads to.

    Returns:
        Bytes written.

    Raises:
        AruntimeError: there is nothing at the path, or it cannot be read.
    """
    request = {"operation": "take", "path": path, "follow": follow}
    answer = await _transfer(parts, container, fd, request)
    return int(answer.get("size", 0))


async def place(
    parts: Parts,
    container: Container,
    path: str,
    fd: int,
    *,
    whole: bool,
    keep_owners: bool,
    adjusts: bool,
) -> int:
    """Put an archive into a container.

    Args:
        parts: the daemon's.
        container: running or not.
        path: inside it.
        fd: to read the archive from; stays the caller's.
        whole: the archive is the user's, compressed or not, and goes into an existing directory;
            otherwise it is of ``cp``, and cut off if its maker failed.
        keep_owners: ids are those of the archive, as ids inside; otherwise all is root's.
        adjusts: directories that are there already get owner and mode too.

    Returns:
        Bytes of files written.

    Raises:
        AruntimeError: it cannot go there; part of it may be there.
    """
    request = {
        "operation": "place",
        "path": path,
        "whole": whole,
        "owner": None if keep_owners else ROOT_OWNER,
        "adjusts": adjusts,
    }
    answer = await _transfer(parts, container, fd, request)
    return int(answer.get("size", 0))


async def export(parts: Parts, container: Container, fd: int) -> None:
    """Write a container's own files, without what is mounted over them, as one archive.

    A running container is not stopped: what it changes meanwhile may be there or not.

    Raises:
        AruntimeError: they cannot be read.
    """
    layers = [*container.config.layers, f"{container.directory}/upper"]
    await _ask(parts, container, fd, _merged(container, layers), {"operation": "tree"})


async def write_layer(parts: Parts, container: Container, fd: int, skipped: list[str]) -> None:
    """Write what a container changed as an image's layer.

    Args:
        parts: the daemon's.
        container: whose files should not change meanwhile: paused, or not running.
        fd: to write to; stays the caller's.
        skipped: paths that are left out if nothing is in them.

    Raises:
        Conflict: a file of it cannot be part of an image.
        AruntimeError: it cannot be read.
    """
    root = _merged(container, [f"{container.directory}/upper"])
    request = {"operation": "tree", "whiteouts": True, "skipped": skipped}
    await _ask(parts, container, fd, root, request)


def _merged(container: Container, directories: list[str]) -> list[Any]:
    return ["merged", f"{container.directory}/rootfs", directories]


async def _transfer(
    parts: Parts, container: Container, fd: int, request: dict[str, Any]
) -> dict[str, Any]:
    """Ask about the files as the container sees them."""
    await container.wait_launched()
    if container.removing:
        raise Conflict(f"container {container.short_id} is being removed")
    pidfd = _pidfd(container)
    if pidfd >= 0:
        try:
            return await _ask(parts, container, fd, ["live", pidfd], request, pidfd)
        finally:
            os.close(pidfd)
    async with container.lock:
        if not container.is_running:
            async with _operations(parts, container) as operations:
                root = ["stopped", operations, container.config.read_only]
                return await _ask(parts, container, fd, root, request)
    return await _transfer(parts, container, fd, request)  # it has started meanwhile


def _pidfd(container: Container) -> int:
    """Return a descriptor of a running container's init, the caller's; -1 if there is none."""
    return os.dup(container.pidfd) if container.is_running else -1


async def _ask(
    parts: Parts,
    container: Container,
    fd: int,
    root: list[Any],
    request: dict[str, Any],
    *more_fds: int,
) -> dict[str, Any]:
    shift = await trio.to_thread.run_sync(shift_of, parts, container)
    asked = {"fd": fd, "parent": os.getpid(), "root": root, "shift": shift, **request}
    packages = bool(request.get("whole"))  # compressed, maybe by zstd
    return await children.ask(PROGRAM, asked, (fd, *more_fds), what=WHAT, packages=packages)


@contextlib.asynccontextmanager
async def _operations(parts: Parts, container: Container) -> AsyncIterator[list[Any]]:
    """Yield what puts a stopped container's tree together, as its start would."""
    work = f"{container.directory}/{WORK}"
    volumes = await trio.to_thread.run_sync(_prepare, parts, container, work)
    try:
        yield operations_of(parts, container, work, volumes)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(shutil.rmtree, work, True)


def _prepare(parts: Parts, container: Container, work: str) -> dict[str, str]:
    """Make the scratch directory and missing volumes; return where volumes are."""
    shutil.rmtree(work, ignore_errors=True)
    os.mkdir(work, 0o700)
    return bundle.volume_directories(parts, container.config)


def operations_of(
    parts: Parts, container: Container, work: str, volumes: dict[str, str]
) -> list[Any]:
    """Return the operations of :mod:`aruntime.rootfs.apply`; the first mounts are the lowest."""
    config, directory = container.config, container.directory
    operations: list[Any] = [["private"]]
    if config.userns_mode == "auto":
        rows = idmap.id_map(parts.id_range(container))
        operations.append(["idmap", list(config.layers), rows, rows])
    operations.append(
        ["overlay", f"{directory}/rootfs", list(config.layers), f"{directory}/upper", work, []]
    )
    shown = [mount for mount in config.mounts if mount.type in ("bind", "volume")]
    for index, mount in enumerate(sorted(shown, key=lambda mount: mount.target.count("/"))):
        source = volumes.get(mount.source, mount.source)
        attributes = [mounts.MOUNT_ATTR_RDONLY if mount.read_only else 0, 0, 0, 0]
        key = f"mount {index}"
        operations += [
            ["source", source, key, mount.recursive, [], attributes, None],
            ["bind", mount.target, key, False],
        ]
    return operations
