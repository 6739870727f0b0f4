"""A person at a terminal: the client on a real pty, what it shows and what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from types import TracebackType
from typing import Self

from tests.harness import RunningDaemon

PROMPT = r"root@([0-9a-f]{12}):([^\r\n]*)# "
"""Debian's prompt of bash: the host name, which is the short id, and the directory."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
"""Colours and bracketed paste, which say nothing about the text."""


def set_size(fd: int, rows: int, columns: int) -> None:
    """Set the window size of a terminal; see tty_ioctl(4)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Terminal:
    """The client, started on a pty of its own; leaving the block kills it if it still runs.

    Attributes:
        shown: what was shown and not yet asked for.
    """

    def __init__(
        self, daemon: RunningDaemon, *args: str, rows: int = 24, columns: int = 400
    ) -> None:
        self.shown = ""
        self._code: int | None = None
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            set_size(0, rows, columns)
            os.execve(daemon.client, ["aruntime", *args], daemon.env)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Give the window another size, which the client hears of by SIGWINCH."""
        set_size(self._master, rows, columns)

    def type(self, text: str) -> None:
        """Type at the keyboard."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Read until the pattern is shown; what comes up to its end is used up.

        Raises:
            AssertionError: it was not shown in time, or the client ended before.
        """
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown)):
            assert self._read(deadline), f"{pattern!r} was not shown: {self.shown!r}"
        self.shown = self.shown[found.end() :]
        return found

    def ask(self, command: str, seconds: float = 20) -> str:
        """Type a command at the shell's prompt; returns what it shows up to the next prompt."""
        self.type(f"{command}\n")
        found = self.expect(
            rf"{re.escape(command)}\r\n\r?(?P<answer>(?s:.*?))\r?{PROMPT}\Z", seconds
        )
        return found["answer"].replace("\r\n", "\n").strip("\r\n")

    def wait(self, seconds: float = 20) -> int:
        """Wait for the client's end and return its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        _, status = os.waitpid(self._pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def leave(self) -> int:
        """Leave the shell with exit and return the client's exit code."""
        self.type("exit\n")
        return self.wait()

    def _read(self, deadline: float) -> bool:
        """Read once; False at the end of the client's output or when time is up."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._master], [], [], left)[0]:
            return False
        chunk = b""
        with contextlib.suppress(OSError):  # EIO: the last process has closed its end
            chunk = os.read(self._master, 65536)
        self.shown = ESCAPES.sub("", self.shown + chunk.decode(errors="replace"))
        return bool(chunk)
