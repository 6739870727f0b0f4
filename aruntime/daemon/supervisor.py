"""All containers of this daemon: finding, creating, starting, stopping, pausing, removing them.

One task per running container, in one nursery; the command socket and the HTTP API call the
operations here and neither knows the other. An operation that names a container which is not in a
state for it raises Conflict with docker's words. What happens within a run is
:mod:`aruntime.daemon.life`; taking containers back after a restart is
:mod:`aruntime.daemon.adoption`.

Cancelling the supervisor leaves every container running: the shim goes on with it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import structlog
import trio

from aruntime.container.config import ContainerConfig
from aruntime.container.state import ContainerState, Status
from aruntime.daemon import directories, freezing, health, launching, life, restarts
from aruntime.daemon.announcement import Announcement
from aruntime.daemon.commands import names
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import (
    AruntimeError,
    Conflict,
    ContainerExists,
    ContainerNotFound,
    ShimUnavailable,
)

journal = structlog.get_logger()


class Supervisor:
    """The registry of containers and the nursery of their tasks."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        parts.find = self.find
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._nursery: trio.Nursery | None = None
        self.started = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the containers' tasks until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, reference: str) -> Container:
        """Return the container with this name, id or unambiguous id prefix.

        Raises:
            ContainerNotFound: none, or a prefix of several.
        """
        found = self._by_id.get(reference) or self._by_name.get(reference.removeprefix("/"))
        if found is not None:
            return found
        prefixed = [
            item for key, item in self._by_id.items() if reference and key.startswith(reference)
        ]
        if len(prefixed) == 1:
            return prefixed[0]
        if prefixed:
            raise ContainerNotFound(
                f"container id prefix {reference} is ambiguous: give more digits of the id"
            )
        raise ContainerNotFound(f"No such container: {reference}")

    def is_name_taken(self, name: str) -> bool:
        """Whether a container of this name exists."""
        return name in self._by_name

    def register(self, container: Container) -> None:
        """Make a container known that is complete on disk."""
        self._by_id[container.id] = container
        self._by_name[container.config.name] = container

    async def create(
        self,
        config: ContainerConfig,
        *,
        starting: bool = False,
        prepare: bool = False,
        console_size: tuple[int, int] = (0, 0),
    ) -> Container:
        """Make a container on disk; nothing runs yet.

        Args:
            config: what it is to be.
            starting: it is about to be started (run): with --rm it goes if the daemon dies first.
            prepare: make what the start needs, too; it must follow at once. What fails of that
                fails the start.
            console_size: rows and columns of the terminal that starts it.

        Raises:
            ContainerExists: the name is taken.
            ControllerUnavailable: a limit needs a controller that is not mounted.
            OSError: the disk refused.
        """
        if config.name in self._by_name:
            other = self._by_name[config.name].short_id
            raise ContainerExists(
                f'the container name "{config.name}" is already in use by container {other};'
                " remove or rename that container to use the name again"
            )
        parts = self._parts
        parts.driver.check(config.resources)
        directory = str(parts.settings.root / "containers" / config.id)
        state = ContainerState(starting=starting and config.auto_remove)
        container = Container(config, state, directory)
        container.console_size = console_size
        making = container.launching = Announcement()
        # The name is taken before the first await: two creates cannot both have it.
        self._by_name[config.name] = container
        if prepare:
            with contextlib.suppress(ShimUnavailable):  # the start will say so
                container.prepared = launching.begin(parts, container)
        make = launching.make_and_prepare if container.prepared else directories.make
        try:
            await trio.to_thread.run_sync(make, parts, container)
        except BaseException:
            if container.prepared:
                container.prepared.close()
            del self._by_name[config.name]
            raise
        finally:
            container.launching = None
            making.set()
        self._by_id[config.id] = container
        parts.meter.declare(parts.meter_subject(container), "created")
        parts.events.publish("container", "create", container.id, container.event_attributes())
        return container

    async def start(self, container: Container) -> None:
        """Start a container and supervise it from now on; returns once its program runs."""
        while True:
            await container.wait_launched()
            if container.state.status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.state.status is Status.RESTARTING:
                container.wake()
                return
            if container.is_running:
                return
            if container.supervised is None:
                break
            await container.supervised.wait()  # its last run is being wound up
        if container.removing:
            raise Conflict(f"container {container.short_id} is marked for removal")
        container.supervised = Announcement()
        try:
            await self._launch(container)
        except BaseException:
            self._let_go(container)
            raise
        container.state.stopped_by_user = False
        self.supervise_soon(container)

    async def _launch(self, container: Container, *, restarted: bool = False) -> None:
        launching = container.launching = Announcement()
        try:
            await life.launch(self._parts, container, restarted=restarted)
        finally:
            container.launching = None
            launching.set()

    def supervise_soon(self, container: Container) -> None:
        """Give a running container its task."""
        assert self._nursery is not None, "the supervisor does not run yet"
        if container.supervised is None:
            container.supervised = Announcement()
        self._nursery.start_soon(self._own, container)

    @staticmethod
    def _let_go(container: Container) -> None:
        """Tell those who wait that no task has the container any more."""
        if container.supervised is not None:
            container.supervised.set()
            container.supervised = None

    async def _own(self, container: Container) -> None:
        """Own a running container: watch it to its end, restart it by its policy, remove it."""
        # Bound for good: the context is this task's own.
        structlog.contextvars.bind_contextvars(container=container.short_id)
        try:
            if container.pidfd >= 0 and container.config.health is None:
                # Not two calls deeper: most of what an idle container weighs is what waits.
                await trio.lowlevel.wait_readable(container.pidfd)
            await self._supervise(container)
        except Exception:
            # One broken container must not take the others' tasks down with it.
            journal.exception("supervision of a container failed")
        finally:
            self._let_go(container)

    async def _supervise(self, container: Container) -> None:
        parts = self._parts
        backoff = restarts.FIRST_SECONDS
        while True:
            if container.config.health is None:
                await life.watch(parts, container)
            else:
                await self._watch_and_probe(container)
            while restarts.wants_restart(container):
                if container.run_seconds >= restarts.RESET_SECONDS:
                    backoff = restarts.FIRST_SECONDS
                if not await restarts.wait_backoff(parts, container, backoff):
                    break
                backoff = min(backoff * 2, restarts.MOST_SECONDS)
                container.state.restart_count += 1
                try:
                    await self._launch(container, restarted=True)
                    break
                except (AruntimeError, OSError) as error:
                    journal.error("restart failed", error=str(error))
            if not container.is_running:
                break
        self._let_go(container)
        if container.config.auto_remove:
            await self.remove(container, volumes=True)

    async def _watch_and_probe(self, container: Container) -> None:
        """Wait for the end of a run, probing its health meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(health.check, self._parts, container)
            await life.watch(self._parts, container)
            nursery.cancel_scope.cancel()

    async def signal(self, container: Container, number: int) -> None:
        """Send a signal to init; a paused container gets it and is resumed (docker's kill).

        Raises:
            Conflict: the container is not running.
        """
        if not container.is_running:
            raise Conflict(f"container {container.short_id} is not running")
        if number == signal.SIGKILL:
            container.stop_requested = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(container.pidfd, number)
        attributes = container.event_attributes(signal=str(number))
        self._parts.events.publish("container", "kill", container.id, attributes)
        if container.state.status is Status.PAUSED:
            await freezing.resume(self._parts, container)

    async def stop(
        self,
        container: Container,
        *,
        timeout: int | None = None,
        number: int | None = None,
        by_user: bool = True,
    ) -> None:
        """Stop a container: its stop signal, then SIGKILL after ``timeout`` seconds.

        A timeout of -1 waits for ever. Stopping a stopped container does nothing.

        Args:
            by_user: the policy unless-stopped keeps it down from now on; not so when all are
                stopped with the daemon.
        """
        await container.wait_launched()
        container.stop_requested = True
        container.wake()
        changed = by_user and not container.state.stopped_by_user
        container.state.stopped_by_user |= by_user
        if not container.is_running:
            if changed and not container.removing:
                await self._parts.keep_state(container)
            return
        # From here on the end of the run writes the state.
        config = container.config
        exited = container.exited
        seconds = config.stop_timeout if timeout is None else timeout
        await self.signal(container, number or launching.signal_number(config.stop_signal))
        with trio.move_on_after(seconds if seconds >= 0 else float("inf")) as scope:
            await exited.wait()
        if scope.cancelled_caught and container.is_running:
            await self.signal(container, signal.SIGKILL)
            await exited.wait()
        self._parts.events.publish("container", "stop", container.id, container.event_attributes())

    async def kill(self, container: Container, number: int) -> None:
        """Send a signal for a user: SIGKILL is a stop like any other (docker's rule).

        Raises:
            Conflict: the container is not running.
        """
        container.state.stopped_by_user |= container.is_running and number == signal.SIGKILL
        await self.signal(container, number)

    async def restart(self, container: Container, *, timeout: int | None = None) -> None:
        """Stop and start again."""
        await self.stop(container, timeout=timeout)
        await self.start(container)
        attributes = container.event_attributes()
        self._parts.events.publish("container", "restart", container.id, attributes)

    async def remove(
        self, container: Container, *, force: bool = False, volumes: bool = False
    ) -> None:
        """Remove a container and everything it owns on disk; its usage stays in the totals.

        Raises:
            Conflict: it is running and ``force`` is not given.
        """
        if container.removing:
            await container.removed.wait()
            return
        await container.wait_launched()
        active = container.is_running or container.state.status is Status.RESTARTING
        if active and not force:
            raise Conflict(
                f"cannot remove {container.state.status.value} container {container.short_id}:"
                " stop the container before removing it, or force the removal with -f"
            )
        container.removing = True
        if active:
            container.wake()
            if container.is_running:
                exited = container.exited
                await self.signal(container, signal.SIGKILL)
                await exited.wait()
        with trio.CancelScope(shield=True):
            await self._erase(container, volumes=volumes)

    async def _erase(self, container: Container, *, volumes: bool) -> None:
        async with container.lock:
            await life.discard_prepared(self._parts, container)
            hidden = container.hidden or await trio.to_thread.run_sync(
                lambda: directories.remove(self._parts, container, volumes=volumes)
            )
        if container.config.auto_remove:
            self._parts.trash.put(hidden)
        else:
            await trio.to_thread.run_sync(directories.delete, hidden)
        self._parts.meter.forget(container.id)
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.config.name) is container:
            del self._by_name[container.config.name]
        self._parts.events.publish(
            "container", "destroy", container.id, container.event_attributes()
        )
        container.removed.set()

    async def rename(self, container: Container, name: str) -> None:
        """Give a container another name.

        Raises:
            InvalidParameter: the name is malformed.
            ContainerExists: it is taken.
        """
        name = names.check_name(name)
        if name in self._by_name:
            raise ContainerExists(f'the container name "{name}" is already in use')
        old = container.config.name
        self._by_name[name] = container
        container.config.name = name
        try:
            await self._parts.save_config(container)
        except BaseException:
            container.config.name = old
            del self._by_name[name]
            raise
        del self._by_name[old]
        self._parts.meter.rename(container.id, name)
        self._parts.networks.endpoints.rename(container.id, name)
        attributes = container.event_attributes(oldName=f"/{old}")
        self._parts.events.publish("container", "rename", container.id, attributes)

    async def wait(self, container: Container, condition: str = "not-running") -> int:
        """Wait for the end of a run, return its exit code (-1 if it is unknown).

        ``condition`` is not-running (now, if it is not running), next-exit or removed.
        """
        if condition == "not-running" and not container.is_running:
            return container.shown_code
        if condition == "removed":
            await container.removed.wait()
        else:
            await container.exited.wait()
        return container.shown_code
