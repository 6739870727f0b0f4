"""Making and removing networks for users: the registry's work in a thread, and its events.

And what the registry wants done now and then.

Out of scope: how networks work (:mod:`aruntime.network`), who stands in them (connections).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from aruntime.network import Network, Networks, Wanted

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts

journal = structlog.get_logger()

SWEEP_SECONDS = 1.0


async def create(parts: Parts, wanted: Wanted) -> Network:
    """Make a network and what it needs on the host; what was changed there is logged.

    Not cancelled half-way.

    Raises:
        AruntimeError, OSError: as ``Networks.create``; nothing is left then.
    """
    with trio.CancelScope(shield=True):
        network, changes = await trio.to_thread.run_sync(parts.networks.create, wanted)
    for change in changes:
        journal.info("network prepared", network=network.name, change=change)
    publish(parts, "create", network)
    return network


async def remove(parts: Parts, network: Network) -> None:
    """Remove a network in which no container runs; what was prepared on the host goes with it.

    Raises:
        Conflict: it is in use, or every daemon has it.
        AruntimeError, OSError: as ``Networks.remove``.
    """
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(parts.networks.remove, network)
    publish(parts, "destroy", network)


def publish(parts: Parts, action: str, network: Network, **more: str) -> None:
    """Tell of a change of a network, as docker does."""
    attributes = {"name": network.name, "type": "bridge", **more}
    parts.events.publish("network", action, network.definition.id, attributes)


async def sweep(networks: Networks) -> None:
    """Remove links of ended containers that the kernel keeps, until cancelled.

    What is left at the end is found by the next daemon.
    """
    while True:
        await trio.sleep(SWEEP_SECONDS)
        if not networks.is_sweep_due():
            continue
        try:
            for link in await trio.to_thread.run_sync(networks.sweep):
                journal.info("removed the link of an ended container", link=link)
        except OSError as error:
            journal.error("link of an ended container not removed", why=str(error))
