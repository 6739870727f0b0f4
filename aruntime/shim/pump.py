"""Moves containers' output into their logs while no daemon is connected.

One pump at a time (design.md §9.1): :meth:`Pump.start` when the daemon is gone, :meth:`Pump.stop`
before the next one is welcomed. Bytes go from pipe to log by splice(2) alone, so that no moment
exists in which a killed process could lose them; a pty goes through a private pipe. An exec has
no log: its output is thrown away, so that it runs on without its client.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios

from aruntime.container import logfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aruntime.shim.children import Child
    from aruntime.shim.loop import Loop

STREAMS = (("stdout_read", logfile.STDOUT), ("stderr_read", logfile.STDERR))
MASTER = "master"
RETRY_SECONDS = 1.0
"""How long a full disk keeps a container's output waiting before it is tried again."""
RETRY_TIMER = "pump"
DISCARD_BYTES = 1 << 16
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pump:
    """Watches the output of children on the shim's loop.

    Owns a descriptor of /dev/null; the children's descriptors stay theirs.
    """

    __slots__ = ("_log", "_loop", "_null_fd", "_stalled", "active")

    def __init__(self, loop: Loop, log: Callable[[str], None]) -> None:
        self._loop = loop
        self._log = log
        self._null_fd = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self._stalled: list[tuple[Child, str]] = []
        self.active = False

    def start(self, children: Iterable[Child]) -> None:
        """Move output from now on, first what is left of the former pump."""
        self.active = True
        for child in children:
            self.add(child)

    def stop(self, children: Iterable[Child]) -> None:
        """Leave output alone: a daemon moves it."""
        self.active = False
        self._stalled.clear()
        self._loop.cancel(RETRY_TIMER)
        for child in children:
            self.remove(child)

    def add(self, child: Child) -> None:
        """Watch a child that is set up, if output is moved here at the moment."""
        if not self.active or not child.is_set_up:
            return
        for name in (*(name for name, _ in STREAMS), MASTER):
            if name in child.fds and name not in child.ended:
                self._watch(child, name)
                if name == MASTER:
                    self._move(child, name)  # the private pipe may hold bytes from before

    def remove(self, child: Child) -> None:
        """Forget a child; to be called before its descriptors are closed."""
        for name in (*(name for name, _ in STREAMS), MASTER):
            if name in child.fds:
                self._loop.forget(child.fds[name])
        self._stalled = [entry for entry in self._stalled if entry[0] is not child]

    def close(self) -> None:
        """Close the pump's own descriptor."""
        os.close(self._null_fd)

    def _watch(self, child: Child, name: str) -> None:
        self._loop.watch(child.fds[name], lambda: self._move(child, name))

    def _move(self, child: Child, name: str) -> None:
        try:
            ended = self._move_chunk(child, name)
        except OSError as error:
            self._stall(child, name, error)
            return
        if ended:
            self._loop.forget(child.fds[name])
            child.ended += (name,)

    def _move_chunk(self, child: Child, name: str) -> bool:
        """Move what is there; True at the end of the stream."""
        fds = child.fds
        if "log" not in fds or "index" not in fds:
            return self._discard(fds[name])
        if name == MASTER:
            return move_terminal(fds)
        stream = dict(STREAMS)[name]
        return logfile.move_chunk(fds[name], fds["log"], fds["index"], stream) == 0

    def _discard(self, fd: int) -> bool:
        try:
            return not os.read(fd, DISCARD_BYTES)
        except OSError as error:
            return error.errno in logfile.END_ERRNOS

    def _stall(self, child: Child, name: str, error: OSError) -> None:
        """Let the container wait: its bytes stay in the pipe, none is lost."""
        if error.errno not in logfile.FULL_ERRNOS:
            self._log(f"log of {child.id[:12]} cannot be written: {error}")
        self._loop.forget(child.fds[name])
        self._stalled.append((child, name))
        self._loop.call_later(RETRY_TIMER, RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        stalled, self._stalled = self._stalled, []
        for child, name in stalled:
            self._watch(child, name)
            self._move(child, name)


def move_terminal(fds: dict[str, int]) -> bool:
    """Move one chunk master → private pipe → log; True once the terminal is closed and all moved.

    Raises:
        OSError: the log cannot be written; the bytes are in the private pipe or the terminal.
    """
    ended = False
    try:
        ended = not os.splice(fds[MASTER], fds["pty_write"], logfile.CHUNK, flags=SPLICE_FLAGS)
    except OSError as error:
        if error.errno in logfile.END_ERRNOS:
            ended = True
        elif error.errno not in logfile.EMPTY_ERRNOS:
            raise
    while held_bytes(fds["pty_read"]):
        logfile.move_chunk(fds["pty_read"], fds["log"], fds["index"], logfile.STDOUT)
    return ended


def held_bytes(pipe_fd: int) -> int:
    """Return how many bytes wait in a pipe (FIONREAD)."""
    return int.from_bytes(fcntl.ioctl(pipe_fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)
