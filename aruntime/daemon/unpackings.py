"""How many layers of a pull are unpacked at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import trio


class Unpackings:
    """How many layers of an image are unpacked at a time, and who is next.

    One that depends on those below waits for them with its turn taken. So the lowest that is not
    done goes on even if all turns are taken: it waits for nobody.
    """

    def __init__(self, turns: int) -> None:
        self._left = turns
        self._changed = trio.Condition()

    @contextlib.asynccontextmanager
    async def turn(self, below: Sequence[trio.Event]) -> AsyncIterator[None]:
        """Wait for a turn and keep it while the block runs."""
        async with self._changed:
            while self._left <= 0 and not all(event.is_set() for event in below):
                await self._changed.wait()
            self._left -= 1
        try:
            yield
        finally:
            self._left += 1

    async def advance(self) -> None:
        """Look who is next; to be called when a layer is done."""
        async with self._changed:
            self._changed.notify_all()
