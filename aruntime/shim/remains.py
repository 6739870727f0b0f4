"""The namespaces of reaped children, let go a moment later.

Dropping the last reference to a mount namespace makes the caller unmount everything in it and wait
for all processors (namespace_unlock in fs/namespace.c); dropping a network namespace takes its
links down, which may send a last packet that would be counted as the container's. Whoever waits for
the end of a container shall wait for neither, and its last reading shall find the links as they
were: so nothing of this is done until the daemon has had its answer and closed its books.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from aruntime.shim.loop import Loop

REST_SECONDS = 0.01
"""Several times what a daemon needs from the reaping to its last look at the counters."""


class Remains:
    """Owns descriptors of namespaces whose containers have ended."""

    __slots__ = ("_fds", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._fds: list[int] = []

    def take(self, fds: Iterable[int]) -> None:
        """Take descriptors over; they are closed soon."""
        self._fds.extend(fds)
        if self._fds:
            self._loop.call_later("remains", REST_SECONDS, self.close)

    def close(self) -> None:
        """Close what is there."""
        fds, self._fds = self._fds, []
        for fd in fds:
            try:
                os.close(fd)
            except OSError:
                pass  # it is closed all the same (close(2)), and nobody waits for an answer
