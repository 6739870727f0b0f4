"""Pause and resume: every process of a container frozen and thawed.

The two, launch, update and the start of an exec exclude each other by the container's lock. Paused
time is counted from the moment the kernel says frozen to the moment the thaw is written.
"""

from __future__ import annotations

import contextlib

import trio

from aruntime.cgroups.driver import Cgroup
from aruntime.container.state import Status, move
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import AruntimeError, Conflict


async def pause(parts: Parts, container: Container) -> None:
    """Freeze every process of a container; returns when the kernel says frozen.

    Raises:
        Conflict: it is not running, or paused already.
        Unavailable: no freezer on this host, or the processes cannot be frozen.
    """
    async with container.lock:
        if container.state.status is Status.PAUSED:
            raise Conflict(f"container {container.short_id} is already paused")
        if not container.is_running or container.cgroup is None:
            raise Conflict(f"container {container.short_id} is not running")
        with trio.CancelScope(shield=True):
            move(container.state, Status.PAUSING)
            parts.meter.state(container.id, "pausing")
            await _freeze(parts, container, container.cgroup)
            move(container.state, Status.PAUSED)
            parts.meter.state(container.id, "paused")
            await parts.keep_state(container)
            await parts.meter.cut(container.id, "pause")
    parts.events.publish("container", "pause", container.id, container.event_attributes())


async def _freeze(parts: Parts, container: Container, cgroup: Cgroup) -> None:
    try:
        await trio.to_thread.run_sync(parts.driver.freeze, cgroup)
    except (AruntimeError, OSError):
        with contextlib.suppress(OSError):
            await trio.to_thread.run_sync(parts.driver.thaw, cgroup)
        move(container.state, Status.RUNNING)
        parts.meter.state(container.id, "running")
        raise


async def resume(parts: Parts, container: Container) -> None:
    """Thaw a paused container.

    Raises:
        Conflict: it is not paused.
    """
    async with container.lock:
        cgroup = container.cgroup
        if container.state.status is not Status.PAUSED or cgroup is None:
            raise Conflict(f"container {container.short_id} is not paused")
        with trio.CancelScope(shield=True):
            await parts.meter.cut(container.id, "resume")
            await trio.to_thread.run_sync(parts.driver.thaw, cgroup)
            move(container.state, Status.RUNNING)
            parts.meter.state(container.id, "running")
            await parts.keep_state(container)
    attributes = container.event_attributes()
    parts.events.publish("container", "unpause", container.id, attributes)
