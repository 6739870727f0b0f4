"""The files of containers that went by themselves: deleted in the background, some at a time.

Nobody waits for the space of a container with --rm, but the next one may well be starting just
now: so its files go a moment later, when a burst of ends is over. What is left when the daemon is
killed goes when the next one starts (:func:`aruntime.daemon.directories.make_ready`).
"""

from __future__ import annotations

import trio

from aruntime.daemon import directories

DELAY_SECONDS = 0.1


class Trash:
    """Paths of hidden directories (``directories.remove``), and the task that deletes them."""

    def __init__(self) -> None:
        self._hidden: list[str] = []
        self._filled = trio.Event()

    def put(self, hidden: str) -> None:
        """Hand over a directory."""
        self._hidden.append(hidden)
        self._filled.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Delete what comes until cancelled; then what is there."""
        task_status.started()
        try:
            while True:
                await self._filled.wait()
                await trio.sleep(DELAY_SECONDS)
                await self._empty()
        finally:
            with trio.CancelScope(shield=True):
                await self._empty()

    async def _empty(self) -> None:
        self._filled = trio.Event()
        hidden, self._hidden = self._hidden, []
        if hidden:
            await trio.to_thread.run_sync(delete_all, hidden)


def delete_all(hidden: list[str]) -> None:
    """Delete directories (blocks); a failure is logged, the others go."""
    for path in hidden:
        directories.delete(path)
