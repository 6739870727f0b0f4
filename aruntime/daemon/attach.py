"""Joins a client to a process: its output to the client, the client's keys and signals to it.

Used by run, start -a, attach and exec. Whoever runs :func:`attached` gets back why it ended: the
process's output is over, the user typed the detach keys, or the client went (cancellation: the
process goes on, that is docker's rule).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable

import trio

from aruntime.container import logfile
from aruntime.daemon.log_reader import Chunk
from aruntime.daemon.record import Input
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
CONTROL_KEYS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str) -> bytes:
    """Return the byte sequence of ``--detach-keys`` (``ctrl-p,ctrl-q``; letters stand alone).

    Raises:
        InvalidParameter: a key is not known.
    """
    keys = bytearray()
    for name in (text or DEFAULT_DETACH_KEYS).split(","):
        letter = name.removeprefix("ctrl-")
        if name.startswith("ctrl-") and len(letter) == 1 and letter.lower().isalpha():
            keys.append(ord(letter.lower()) - ord("a") + 1)
        elif name.startswith("ctrl-") and letter in CONTROL_KEYS:
            keys.append(CONTROL_KEYS[letter])
        elif len(name) == 1 and name.isascii():
            keys.append(ord(name))
        else:
            raise InvalidParameter(
                f"invalid detach keys {text!r}: give letters or ctrl-LETTER, separated by commas"
            )
    return bytes(keys)


class DetachScanner:
    """Looks for the detach keys in what a user types, across chunks.

    Keys that may be the beginning of the sequence are held back until the next key decides.
    """

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return what goes to the process, and whether the sequence is complete."""
        passed = bytearray()
        for position, key in enumerate(typed):
            if key == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._held]
            self._held = 0
            if key == self._keys[0]:
                self._held = 1
                if len(self._keys) == 1:
                    return bytes(passed), True
            else:
                passed.append(typed[position])
        return bytes(passed), False


async def attached(
    session: Session,
    output: AsyncIterable[Chunk],
    *,
    entrance: Input | None,
    close_entrance: Callable[[], Awaitable[None]],
    send_signal: Callable[[int], Awaitable[None]] | None,
    resize: Callable[[int, int], None],
    tty: bool,
    detach_keys: bytes,
    streams: frozenset[int] = frozenset({logfile.STDOUT, logfile.STDERR}),
) -> bool:
    """Pass bytes both ways until the output ends; True if the user detached instead.

    Args:
        session: the client.
        output: chunks of the process's output.
        entrance: where keys go, None for no stdin.
        close_entrance: called at the client's end of file.
        send_signal: where the client's signals go, None to leave them to the client.
        resize: told the window size now and at every change (pty only).
        tty: whether the process has a pty: the client's terminal is then put in raw mode.
        detach_keys: the sequence that detaches.
        streams: which of stdout and stderr the client wants.
    """
    raw = tty and session.stdin_tty and entrance is not None
    if raw:
        await session.raw_mode(True)
    if tty and session.rows:
        resize(session.rows, session.cols)
    typing = Typing(session, entrance, close_entrance, DetachScanner(detach_keys) if tty else None)
    async with trio.open_nursery() as nursery:
        if tty:
            nursery.start_soon(pass_sizes, session, resize)
        if entrance is not None:
            nursery.start_soon(typing.run, nursery.cancel_scope)
        if send_signal is not None and not raw:
            # Asked for before the first output: whoever sees that may send a signal at once.
            signals = await session.forward_signals()
            nursery.start_soon(pass_signals, signals, send_signal)
        async for chunk in output:
            if chunk.stream in streams:
                write = session.err if chunk.stream == logfile.STDERR else session.out
                await write(chunk.content)
        nursery.cancel_scope.cancel()
    if raw:
        await session.raw_mode(False)
    return typing.detached


class Typing:
    """What a client types, on its way into a process.

    Attributes:
        detached: the user typed the detach keys.
    """

    def __init__(
        self,
        session: Session,
        entrance: Input | None,
        close_entrance: Callable[[], Awaitable[None]],
        scanner: DetachScanner | None,
    ) -> None:
        self._session = session
        self._entrance = entrance
        self._close_entrance = close_entrance
        self._scanner = scanner
        self.detached = False

    async def run(self, attachment: trio.CancelScope) -> None:
        """Pass on until the client's end of file; the detach keys end the whole attachment."""
        entrance = self._entrance
        assert entrance is not None
        async for typed in await self._session.stdin():
            passed, self.detached = (
                self._scanner.feed(typed) if self._scanner is not None else (typed, False)
            )
            await entrance.send(passed)
            if self.detached:
                attachment.cancel()
                return
        await self._close_entrance()


async def pass_signals(
    signals: trio.MemoryReceiveChannel[int], send_signal: Callable[[int], Awaitable[None]]
) -> None:
    """Hand the client's signals on until cancelled."""
    async for number in signals:
        await send_signal(number)


async def pass_sizes(session: Session, resize: Callable[[int, int], None]) -> None:
    """Hand the client's window sizes on until cancelled."""
    async for rows, columns in session.resizes:
        resize(rows, columns)
