"""update: change limits and restart policy of containers, running or not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aruntime.daemon import updating
from aruntime.daemon.commands.flags import Command, Parsed
from aruntime.daemon.commands.lifecycle import each
from aruntime.daemon.commands.run_flags import UPDATE_FLAGS
from aruntime.daemon.commands.run_limits import block_device_numbers, requested_patch
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon


async def run_update(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Apply the flags given to every container named."""

    async def update(container: Container) -> None:
        patch = requested_patch(
            parsed,
            container.config.resources,
            cpu_count=os.cpu_count() or 1,
            device_numbers=block_device_numbers,
        )
        restart = parsed["restart"] if "restart" in parsed.given else None
        rate = parsed.integer("network-rate") if "network-rate" in parsed.given else None
        await updating.update(daemon.parts, container, patch, restart, rate)

    return await each(session, daemon, parsed.args, update)


COMMANDS = [
    Command(
        "update", "Update configuration of one or more containers", run_update,
        "CONTAINER [CONTAINER...]", UPDATE_FLAGS, minimum=1, completes="containers",
    ),
]  # fmt: skip
