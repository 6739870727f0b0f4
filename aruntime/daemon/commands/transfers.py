"""What a client sees of images on their way: docker's lines, redrawn on a terminal.

On a terminal each layer has a line that changes in place, with a bar while bytes move; elsewhere
each change of status is a line of its own, and what moves is not told. Nothing waits for a slow
client: what changes meanwhile is shown when it is drawn again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from aruntime.daemon.commands.values import format_size

REDRAW_SECONDS = 0.1
BAR_CELLS = 50
NARROW_COLUMNS = 110
"""A terminal with fewer columns gets the sizes without the bar (docker's rule)."""
SHORT_DIGITS = 12
MOVING = frozenset({"Downloading", "Extracting", "Pushing"})
"""Statuses of a layer whose bytes move: for terminals alone (docker's rule)."""

Write = Callable[[str], Awaitable[None]]


class Transfers:
    """The lines of one pull or push. Statuses come from anywhere on the event loop.

    Args:
        write: to the client.
        columns: of the client's terminal, 0 if it has none there.
    """

    def __init__(self, write: Write, columns: int) -> None:
        self._write = write
        self._columns = columns
        self._lines: dict[str, str] = {}
        self._drawn: dict[str, str] = {}
        self._pending: list[str] = []
        self._statuses: dict[str, str] = {}
        self._changed = trio.Event()

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[Transfers]:
        """Draw while the block runs, and what is left when it ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._draw_on)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()
        await self._draw()

    def layer(self, digest: str, status: str, done: int = 0, total: int = 0) -> None:
        """Tell of a layer, by digest of its blob; sizes in bytes."""
        name = digest.removeprefix("sha256:")[:SHORT_DIGITS]
        if self._columns:
            self._lines[name] = self._cut(f"{name}: {status}{self._bar(done, total)}")
        elif self._statuses.get(name) != status and status not in MOVING:
            self._pending.append(f"{name}: {status}\n")
        self._statuses[name] = status
        self._changed.set()

    async def _draw_on(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._draw()
            await trio.sleep(REDRAW_SECONDS if self._columns else 0)

    async def _draw(self) -> None:
        text = "".join(self._pending)
        self._pending.clear()
        below = len(self._drawn)
        for position, (name, line) in enumerate(self._lines.items()):
            if name not in self._drawn:
                text += f"{line}\n"
            elif self._drawn[name] != line:
                up = below - position
                text += f"\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B"
            below += name not in self._drawn
            self._drawn[name] = line
        if text:
            await self._write(text)

    def _bar(self, done: int, total: int) -> str:
        if not total:
            return ""
        sizes = f"{format_size(done)}/{format_size(total)}"
        if self._columns < NARROW_COLUMNS:
            return f" {sizes}"
        filled = min(BAR_CELLS, BAR_CELLS * done // total)
        head = ">" if filled < BAR_CELLS else ""
        return f" [{'=' * filled}{head}{' ' * (BAR_CELLS - filled - len(head))}] {sizes}"

    def _cut(self, line: str) -> str:
        """A line that wraps would take two, and the cursor would miss."""
        return line[: self._columns - 1]


class Silence:
    """Nothing, for --quiet."""

    def layer(self, digest: str, status: str, done: int = 0, total: int = 0) -> None:
        """Tell nobody."""
