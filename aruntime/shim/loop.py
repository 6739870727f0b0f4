"""The shim's event loop: one epoll, callbacks by descriptor, one timer per purpose.

Single-threaded, because it forks. Callbacks never block and never raise what they can answer.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_EVENTS = 128


class Loop:
    """Owns the epoll descriptor; the descriptors watched stay their owners'."""

    __slots__ = ("_callbacks", "_epoll", "_stopped", "_timers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._stopped = False

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call back whenever the descriptor is readable (and, with ``write``, writable).

        Watching it again replaces what was asked before.
        """
        events = select.EPOLLIN | (select.EPOLLOUT if write else 0)
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Stop watching; to be called before the descriptor is closed. Unknown ones are fine."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, unless a call of this name is pending already."""
        self._timers.setdefault(name, (time.monotonic() + seconds, callback))

    def cancel(self, name: str) -> None:
        """Forget a pending call; none is fine."""
        self._timers.pop(name, None)

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch until stopped; may be called again."""
        self._stopped = False
        while not self._stopped:
            for fd, _ in self._epoll.poll(self._timeout(), MOST_EVENTS):
                callback = self._callbacks.get(fd)
                if callback is not None:  # else a callback before it has just closed this one
                    callback()
            self._run_timers()

    def _timeout(self) -> float:
        if not self._timers:
            return -1
        return max(0.0, min(due for due, _ in self._timers.values()) - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        for name in [name for name, (due, _) in self._timers.items() if due <= now]:
            _, callback = self._timers.pop(name)
            callback()

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()
