"""ROOT/containers/<id>: made with its records and the overlay's directories, removed as a whole.

Synchronous; called in worker threads.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from aruntime.container import store
from aruntime.daemon import bundle
from aruntime.errors import AruntimeError
from aruntime.rootfs import volumes as rootfs_volumes

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

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
        bundle.fill_volumes(parts, container.config)
    except (AruntimeError, OSError):
        store.remove(directory)
        raise


def remove(parts: Parts, container: Container, *, volumes: bool) -> None:
    """Remove a container's directory, and its anonymous volumes if asked."""
    store.remove(container.directory)
    if volumes:
        bundle.remove_anonymous_volumes(parts, container.config)


def remove_leftovers(parts: Parts) -> None:
    """Finish removals and makings that a crash cut off; called before anything else runs.

    Raises:
        OSError: something cannot be removed.
    """
    store.remove_leftovers(str(parts.settings.root / "containers"))
    rootfs_volumes.remove_leftovers(str(parts.settings.root / "volumes"))


def reset_work(directory: str) -> None:
    """Make the overlay's scratch directory anew.

    A volatile overlay leaves a mark there that forbids a second mount, because a crash of the
    host might have cost it writes (overlayfs.rst); as long as the host lives nothing is lost.
    """
    shutil.rmtree(f"{directory}/work")
    os.mkdir(f"{directory}/work", 0o755)
