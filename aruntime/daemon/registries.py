"""The way to registries, imported when it is first gone: HTTP and TLS take a while to load.

The daemon starts without them, and so does the client that prints a help text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aruntime.daemon.registry.policy import Policy
from aruntime.images.store import Store

if TYPE_CHECKING:
    from aruntime.daemon.pulling import Puller


class Registries:
    """Makes the one :class:`~aruntime.daemon.pulling.Puller` of a daemon when it is needed."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self._puller: Puller | None = None
        self._lock = trio.Lock()

    async def puller(self) -> Puller:
        """Return what pulls images."""
        async with self._lock:
            if self._puller is None:
                self._puller = await trio.to_thread.run_sync(self._load)
            return self._puller

    def _load(self) -> Puller:
        from aruntime.daemon.pulling import Puller

        return Puller(self._store, self._policy)
