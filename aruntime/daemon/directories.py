"""ROOT/containers/<id>: made with its records and the overlay's directories, removed as a whole.

Synchronous; called in worker threads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aruntime.container import store
from aruntime.daemon import bundle

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

SUBDIRECTORIES = ("upper", "work", "rootfs")
"""The overlay's writable layer and its scratch space, and where the root is put together."""


def make(parts: Parts, container: Container) -> None:
    """Make a container's directory durably.

    Raises:
        OSError: the disk refused; nothing stays.
    """
    containers = str(parts.settings.root / "containers")
    directory = store.make(containers, container.config, container.state)
    try:
        for name in SUBDIRECTORIES:
            os.mkdir(f"{directory}/{name}", 0o755)
    except OSError:
        store.remove(directory)
        raise


def remove(parts: Parts, container: Container, *, volumes: bool) -> None:
    """Remove a container's directory, and its anonymous volumes if asked."""
    store.remove(container.directory)
    if volumes:
        bundle.remove_anonymous_volumes(parts, container.config)
