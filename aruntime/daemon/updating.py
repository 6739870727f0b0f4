"""update: new limits, rates and restart policies for containers, running or not.

An operation on one container, like those of :mod:`aruntime.daemon.freezing`; the container's lock
keeps it apart from launch, pause and resume.
"""

from __future__ import annotations

import contextlib

import trio

from aruntime.container.config import RestartPolicy
from aruntime.daemon import joining
from aruntime.daemon.commands.run_limits import merge_resources
from aruntime.daemon.commands.run_rate import check_network_rate
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import InvalidParameter


async def update(
    parts: Parts,
    container: Container,
    resources: dict[str, object],
    restart: RestartPolicy | None,
    rate_bits: int | None = None,
) -> None:
    """Change limits (an OCI ``linux.resources`` patch), the restart policy, the network's rate.

    Raises:
        InvalidParameter, ControllerUnavailable, OSError: nothing has changed then.
    """
    config = container.config
    if restart is not None and config.auto_remove and restart.name != "no":
        raise InvalidParameter("restart policy cannot be updated because --rm is given")
    if rate_bits is not None:
        check_network_rate(config, rate_bits)
    async with container.lock:
        merged = merge_resources(config.resources, resources)
        parts.driver.check(merged)
        before = config.resources, config.restart, config.network_rate_bits
        config.resources, config.restart = merged, restart or config.restart
        if rate_bits is not None:
            config.network_rate_bits = rate_bits
        try:
            # First what a full disk refuses: limits that were changed are not as easily put back.
            await parts.save_config(container)
            await apply(parts, container, resources)
            if rate_bits is not None and container.is_running:
                await trio.to_thread.run_sync(joining.set_rate, parts, container, rate_bits // 8)
        except BaseException:
            config.resources, config.restart, config.network_rate_bits = before
            with trio.CancelScope(shield=True), contextlib.suppress(OSError):
                await parts.save_config(container)
            raise
    if container.cgroup is not None:
        parts.meter.update(parts.meter_subject(container))
    attributes = container.event_attributes()
    parts.events.publish("container", "update", container.id, attributes)


async def apply(parts: Parts, container: Container, resources: dict[str, object]) -> None:
    """Write limits into the cgroup of a container that runs.

    Raises:
        InvalidParameter, OSError: the kernel refused one.
    """
    cgroup = container.cgroup
    if cgroup is not None and resources:
        await parts.meter.cut(container.id, "update")
        await trio.to_thread.run_sync(parts.driver.apply, cgroup, resources)
