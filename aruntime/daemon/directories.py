"""ROOT/containers/<id>: made with its records and the overlay's directories, removed as a whole.

Synchronous; called in worker threads.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import structlog

from aruntime.container import store
from aruntime.daemon import bundle
from aruntime.errors import AruntimeError
from aruntime.images.removal import remove_tree
from aruntime.kernel import storage
from aruntime.rootfs import volumes as rootfs_volumes

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

journal = structlog.get_logger()

SUBDIRECTORIES = ("upper", "work", "rootfs")
"""The overlay's writable layer and its scratch space, and where the root is put together."""


def make(parts: Parts, container: Container) -> None:
    """Make a container's directory durably, and fill its new volumes.

    Raises:
        AruntimeError, OSError: the disk refused, a volume cannot be filled; nothing stays.
    """
    containers = str(parts.settings.root / "containers")
    directory = store.make(containers, container.config, container.state)
    try:
        for name in SUBDIRECTORIES:
            os.mkdir(f"{directory}/{name}", 0o755)
        take_root_attributes(parts, container, f"{directory}/upper")
        bundle.fill_volumes(parts, container.config)
    except (AruntimeError, OSError):
        bundle.remove_anonymous_volumes(parts, container.config)
        store.remove(directory)
        raise


def take_root_attributes(parts: Parts, container: Container, upper: str) -> None:
    """Give the writable layer the image's root attributes: overlayfs shows its upper's."""
    image = parts.images.resolve(container.config.image_id)
    os.chmod(upper, image.root_mode)
    os.chown(upper, image.root_uid, image.root_gid)


def remove(parts: Parts, container: Container, *, volumes: bool) -> str:
    """Take a container off the disk, with its anonymous volumes if asked.

    Returns:
        Where its files are, for :func:`delete`: unlinking many files takes the disk a while.

    Raises:
        OSError: the disk refused.
    """
    if volumes:
        # Before the record that names them: who dies in between can be removed again.
        bundle.remove_anonymous_volumes(parts, container.config)
    return store.hide(container.directory)


def delete(hidden: str) -> None:
    """Delete the files of a removed container; what is left over goes when a daemon starts."""
    parent, name = os.path.split(hidden)
    try:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent_fd, os.fsencode(name))
        finally:
            os.close(parent_fd)
    except OSError as error:
        journal.error("files of a removed container stay", path=hidden, error=str(error))


def make_ready(parts: Parts) -> None:
    """Make what all containers and volumes lie in, and finish what a crash cut off.

    Called before anything else runs.

    Raises:
        OSError: the disk refused, or something cannot be removed.
    """
    containers, volumes = (str(parts.settings.root / name) for name in ("containers", "volumes"))
    for path in (containers, volumes):
        os.makedirs(path, mode=store.DIRECTORIES_MODE, exist_ok=True)
        storage.scatter(path)
    store.remove_leftovers(containers)
    rootfs_volumes.remove_leftovers(volumes)


def reset_work(directory: str) -> None:
    """Make the overlay's scratch directory anew.

    A volatile overlay leaves a mark there that forbids a second mount, because a crash of the
    host might have cost it writes (overlayfs.rst); as long as the host lives nothing is lost.
    """
    shutil.rmtree(f"{directory}/work")
    os.mkdir(f"{directory}/work", 0o755)
