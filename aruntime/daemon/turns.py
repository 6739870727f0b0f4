"""A lock that weighs nothing until somebody waits for it, and costs no turn of the loop when free.

Every container has one. trio's own gives other tasks a turn each time it is taken, which is right
for a loop around it and one of dozens of turns in the start of a container. Only for the event
loop.
"""

from __future__ import annotations

import trio


class Turns:
    """Whoever is inside ``async with`` is alone there; the others follow in their order.

    Cancelled while waiting, a task leaves the queue.
    """

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting: trio.lowlevel.ParkingLot | None = None

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()  # whoever leaves hands it over, taken

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            self._waiting.unpark()
        else:
            self._taken = False
            self._waiting = None
