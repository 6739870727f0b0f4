"""A one-shot event that weighs nothing until somebody waits for it.

A daemon keeps several per container, and almost nobody ever waits: trio's own event, with its set
of waiting tasks, is eight times the size. Only for the event loop.
"""

from __future__ import annotations

import trio


class Announcement:
    """Becomes true once and stays true."""

    __slots__ = ("_event", "_made")

    def __init__(self) -> None:
        self._made = False
        self._event: trio.Event | None = None

    def is_set(self) -> bool:
        """Whether it has been announced."""
        return self._made

    def set(self) -> None:
        """Announce; who waits goes on."""
        self._made = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait until it is announced."""
        if self._made:
            await trio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()
