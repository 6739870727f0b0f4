"""The parts of a running daemon, handed to those who work on containers.

One explicit record instead of globals: the composition root (:mod:`aruntime.daemon.main`) makes
it, everything below gets it as an argument.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog
import trio

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Driver
from aruntime.container import store
from aruntime.container.state import ContainerState
from aruntime.daemon.events import Events
from aruntime.daemon.pump import Pump
from aruntime.daemon.record import Container
from aruntime.daemon.settings import Settings
from aruntime.errors import Conflict, ContainerNotFound, os_error_text
from aruntime.images.store import Store as ImageStore
from aruntime.metering.meter import Meter
from aruntime.metering.subject import MeterSubject
from aruntime.network import Networks
from aruntime.rootfs import idmap

if TYPE_CHECKING:
    from aruntime.daemon.shim_link import ShimLink
    from aruntime.daemon.trash import Trash


journal = structlog.get_logger()

ID_RANGE_NAME = "id-range"


def unknown_container(reference: str) -> Container:
    """Stand for the look-up until there is a supervisor: no container is known."""
    raise ContainerNotFound(f"No such container: {reference}")


def read_id_range(directory: str) -> tuple[int, int] | None:
    """Return the id range of a container's directory, None if it has none."""
    try:
        with open(f"{directory}/{ID_RANGE_NAME}", "rb") as file:
            first, size = file.read().split()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return int(first), int(size)


class Parts:
    """What a daemon is made of.

    Attributes:
        find: the supervisor's look-up by name or id.
        boot_id: /proc/sys/kernel/random/boot_id: pids and counters of another boot mean nothing.
        disk: limits how many threads wait for the disk and the kernel at once.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        hierarchy: Hierarchy,
        driver: Driver,
        meter: Meter,
        networks: Networks,
        images: ImageStore,
        events: Events,
        pump: Pump,
        shim: ShimLink,
        trash: Trash,
        nursery: trio.Nursery,
        boot_id: str,
    ) -> None:
        self.settings = settings
        self.hierarchy = hierarchy
        self.driver = driver
        self.meter = meter
        self.networks = networks
        self.network = networks.default
        self.images = images
        self.events = events
        self.pump = pump
        self.shim = shim
        self.trash = trash
        self.boot_id = boot_id
        self._id_ranges_lock = threading.Lock()
        self.find: Callable[[str], Container] = unknown_container
        self._nursery = nursery

    def spawn(self, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run something in the background for as long as the daemon lives."""
        self._nursery.start_soon(call, *args)

    def cgroup_names(self) -> set[str]:
        """Return the names of the groups below our parent, in whichever hierarchy (blocks)."""
        found: set[str] = set()
        for directory in set(self.driver.cgroup_at(self.driver.parent).directories.values()):
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
                found.update(entry.name for entry in entries if entry.is_dir())
        return found

    def pid_of(self, reference: str) -> int:
        """Return the init of a running container, whose namespaces another one joins.

        Raises:
            Conflict: it does not run.
        """
        container = self.find(reference)
        if not container.is_running:
            raise Conflict(
                f"cannot join the namespaces of container {container.short_id}: it is not running"
            )
        return container.state.pid

    def id_range(self, container: Container) -> tuple[int, int]:
        """Return the host ids of a container with --userns auto; once chosen they stay its own.

        Kept in its directory (blocks): files in its writable layer belong to these ids.

        Raises:
            AruntimeError: no range is free.
        """
        with self._id_ranges_lock:
            own = read_id_range(container.directory)
            if own is not None:
                return own
            containers = self.settings.root / "containers"
            taken = [read_id_range(str(path)) for path in containers.iterdir()]
            chosen = idmap.allocate([found for found in taken if found is not None])
            store.replace(f"{container.directory}/{ID_RANGE_NAME}", b"%d %d\n" % chosen)
            return chosen

    def meter_subject(self, container: Container) -> MeterSubject:
        """Return what the meter has to know about a container."""
        config = container.config
        return MeterSubject(
            id=config.id,
            name=config.name,
            tenant=config.tenant,
            image=config.image,
            image_digest=config.image_digest or config.image_id,
            network_mode=config.network_mode,
            restart_policy=config.restart.name,
            labels=config.labels,
            created_ns=config.created_ns,
            started_ns=container.state.started_ns,
            cpu_request_milli=config.cpu_request_milli,
            resources=config.resources,
            cgroup=container.cgroup,
        )

    async def save_state(self, container: Container, coming: ContainerState | None = None) -> None:
        """Write state.json: durably and off the event loop, unless it goes with --rm.

        Args:
            coming: what the state is about to be, instead of what it is.

        Raises:
            OSError: the disk refused.
        """
        state = container.state if coming is None else coming
        if container.config.auto_remove:
            # Nothing waits for the disk here: a worker thread would cost more than the write.
            store.save_state(container.directory, state, durable=False)
        else:
            await trio.to_thread.run_sync(store.save_state, container.directory, state)

    async def keep_state(self, container: Container) -> None:
        """Write state.json where a refusal must not undo what has happened; it is logged.

        The next change writes it again, and the next daemon asks the kernel and the shim first.
        """
        try:
            await self.save_state(container)
        except OSError as error:
            reason = os_error_text(error)
            journal.error("state of a container not saved", id=container.id, error=reason)

    async def save_config(self, container: Container) -> None:
        """Write config.json durably, off the event loop."""
        await trio.to_thread.run_sync(store.save_config, container.directory, container.config)
