"""What happened to containers, images and volumes, as `aruntime events` tells it.

Events live in memory: a bounded ring for ``--since`` and a channel per listener. They are for
people and their scripts; accounting never depends on them (that is the ledger's work). The names
of actions and attributes are docker's.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping

import msgspec
import trio

RING_EVENTS = 256
LISTENER_EVENTS = 4096


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event; ``time_ns`` is Unix time."""

    kind: str
    """``container``, ``image``, ``volume`` or ``network``."""
    action: str
    actor_id: str
    attributes: Mapping[str, str]
    time_ns: int


class Events:
    """The ring and its listeners; only touched from the event loop."""

    def __init__(self) -> None:
        self._ring: collections.deque[Event] = collections.deque(maxlen=RING_EVENTS)
        self._listeners: set[trio.MemorySendChannel[Event]] = set()

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Tell everyone. A listener that fell 4096 events behind is cut off, not waited for.

        The attributes are kept as they are: nobody may change them afterwards.
        """
        event = Event(
            kind=kind,
            action=action,
            actor_id=actor_id,
            attributes=attributes,
            time_ns=time.time_ns(),
        )
        self._ring.append(event)
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.discard(listener)
                listener.close()

    def since(self, time_ns: int) -> list[Event]:
        """Return the remembered events from a moment on, oldest first."""
        return [event for event in self._ring if event.time_ns >= time_ns]

    @contextlib.contextmanager
    def listen(self) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """Yield a channel of what happens while the block runs."""
        sending, receiving = trio.open_memory_channel[Event](LISTENER_EVENTS)
        self._listeners.add(sending)
        try:
            yield receiving
        finally:
            self._listeners.discard(sending)
            sending.close()
            receiving.close()
