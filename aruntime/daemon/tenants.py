"""Read-only access for tenants: what those see who may look at a tenant's containers.

They come by a second command socket, ``RUN_DIR/tenants.sock``, which every user of the host can
reach; who is who is :mod:`aruntime.daemon.readers`'. A reader gets the commands of READING, and of
containers those of the tenants that are theirs; anybody else is turned away before a byte of
theirs is read. The client takes this socket when the daemon's own is closed to its user.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from aruntime.daemon.commands.flags import Command, Parsed
from aruntime.daemon.commands.inspect import inspect_command
from aruntime.daemon.commands.registry import Registry, registry
from aruntime.daemon.events import Event
from aruntime.daemon.record import TENANT_LABEL, Container
from aruntime.daemon.session import Session
from aruntime.errors import ContainerNotFound, NotFound, UsageError

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

SOCKET_NAME = "tenants.sock"
SOCKET_MODE = 0o666
READING = frozenset({"ps", "logs", "inspect", "stats", "top", "events", "wait", "version"})
"""Commands that change nothing and show containers one by one."""


SUMS = frozenset({"usage", "bill", "dashboard"})
"""Commands that add up what a tenant used, named by their flag ``--tenant``."""


def _of_own_tenant(command: Command) -> Command:
    """A command of SUMS that adds up no other tenant's usage."""

    async def run(session: Session, parsed: Parsed, daemon: TenantDaemon) -> int:
        if parsed.values.get("issue"):
            raise UsageError("bills are issued by who runs the daemon: leave --issue out")
        wanted = parsed.string("tenant")
        if not wanted and len(daemon.tenants) > 1:
            names = ", ".join(sorted(daemon.tenants))
            raise UsageError(f"name one of your tenants with --tenant: {names}")
        tenant = wanted or next(iter(daemon.tenants))
        if tenant not in daemon.tenants:
            raise NotFound(f"no such tenant: {tenant}")
        own = dataclasses.replace(parsed, values={**parsed.values, "tenant": tenant})
        return await command.run(session, own, daemon)

    return dataclasses.replace(command, run=run)


def reading_registry(known: Registry) -> Registry:
    """The commands of READING and SUMS; ``inspect`` shows containers and nothing else."""
    kept = []
    for command in known:
        if command.name == "inspect":
            kept.append(dataclasses.replace(command, run=inspect_command("container").run))
        elif command.name in SUMS:
            kept.append(_of_own_tenant(command))
        elif command.name in READING:
            kept.append(command)
    return dataclasses.replace(registry(kept), may_debug=False)


class TenantSupervisor:
    """What the supervisor knows of some tenants' containers; the others do not exist."""

    def __init__(self, daemon: Daemon, tenants: frozenset[str]) -> None:
        self._supervisor = daemon.supervisor
        self._tenants = tenants

    def __iter__(self) -> Iterator[Container]:
        return (one for one in self._supervisor if one.config.tenant in self._tenants)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find(self, reference: str) -> Container:
        """Return the container with this name, id or unambiguous id prefix among the tenants' own.

        Raises:
            ContainerNotFound: none of theirs, or a prefix of several of theirs.
        """
        own = {one.id: one for one in self}
        named = {one.config.name: one for one in own.values()}
        exact = own.get(reference) or named.get(reference.removeprefix("/"))
        if exact is not None:
            return exact
        found = [one for key, one in own.items() if reference and key.startswith(reference)]
        if len(found) > 1:
            raise ContainerNotFound(
                f"container id prefix {reference} is ambiguous: give more digits of the id"
            )
        if not found:
            raise ContainerNotFound(f"No such container: {reference}")
        return found[0]

    async def wait(self, container: Container, condition: str = "not-running") -> int:
        """Wait for the end of a container that :meth:`find` returned."""
        return await self._supervisor.wait(container, condition)


class TenantEvents:
    """Events of some tenants' containers."""

    def __init__(self, daemon: Daemon, tenants: frozenset[str]) -> None:
        self._events = daemon.events
        self._tenants = tenants

    def _is_theirs(self, event: Event) -> bool:
        tenant = event.attributes.get(TENANT_LABEL)
        return event.kind == "container" and tenant in self._tenants

    def since(self, time_ns: int) -> list[Event]:
        """Return the remembered events from a moment on, oldest first."""
        return [event for event in self._events.since(time_ns) if self._is_theirs(event)]

    @contextlib.contextmanager
    def listen(self) -> Iterator[AsyncIterator[Event]]:
        """Yield an iterator over what happens while the block runs."""
        with self._events.listen() as happening:
            yield self._theirs(happening)

    async def _theirs(self, happening: AsyncIterator[Event]) -> AsyncIterator[Event]:
        async for event in happening:
            if self._is_theirs(event):
                yield event


class TenantDaemon:
    """The daemon as the commands of READING see it for some tenants."""

    def __init__(self, daemon: Daemon, tenants: frozenset[str]) -> None:
        self.tenants = tenants
        self.settings = daemon.settings
        self.pricing = daemon.pricing
        self.meter = daemon.meter
        self.networks = daemon.networks
        self.parts = daemon.parts
        self.started_ns = daemon.started_ns
        self.supervisor = TenantSupervisor(daemon, tenants)
        self.events = TenantEvents(daemon, tenants)
