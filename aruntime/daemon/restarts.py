"""When the restart policy of a container wants another run, and how long that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aruntime.container.state import Status, move
from aruntime.daemon.announcement import Announcement

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

FIRST_SECONDS = 0.1
MOST_SECONDS = 60.0
RESET_SECONDS = 10.0
"""A run that lasted this long starts the back-off over (as docker's restart manager does)."""


def wants_restart(container: Container) -> bool:
    """Whether a run that has ended is to be followed by another."""
    policy = container.config.restart
    if container.stop_requested or container.removing:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            left = not policy.max_retries or container.state.restart_count < policy.max_retries
            return container.state.exit_code != 0 and left
        case _:
            return False


async def wait_backoff(parts: Parts, container: Container, seconds: float) -> bool:
    """Wait before a restart; False if the container was stopped meanwhile."""
    move(container.state, Status.RESTARTING)
    container.woken = Announcement()
    with trio.move_on_after(seconds):
        await container.woken.wait()
    container.woken = None
    if container.stop_requested or container.removing:
        move(container.state, Status.EXITED)
        await parts.save_state(container)
        return False
    return True
