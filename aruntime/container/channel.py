"""Init's end of the socket pair to the shim: reports out, the permission to start in.

The messages are drawn in :mod:`aruntime.container.messages`, section 2. The descriptor is
close-on-exec: its disappearance tells the shim that execve succeeded.
"""

from __future__ import annotations

import _socket
import errno
import os

from aruntime.container import messages
from aruntime.kernel import process
from aruntime.rootfs import apply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_TEXT = 4096
"""Longest path or error text in a report: it must fit the message whole."""


class Channel:
    """Owns init's descriptor and knows the step that is being taken.

    Attributes:
        step: what a failure is reported as; each step sets it before it begins.
        warnings: texts for READY.
    """

    __slots__ = ("_socket", "step", "warnings")

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock
        self.step = messages.STEP_INIT
        self.warnings: list[str] = []

    @property
    def fd(self) -> int:
        """The descriptor, for close_range to spare."""
        return self._socket.fileno()

    def renumber(self) -> None:
        """Move to the lowest free number: the network's agreed one (250) must stay free."""
        fd = os.dup(self._socket.fileno())
        self._socket.close()
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)

    def close(self) -> None:
        """Close this end; the shim sees end of file when the last copy is gone."""
        self._socket.close()

    def send(self, kind: bytes, fields: dict[str, Any], fds: dict[str, int] | None = None) -> None:
        """Send one message; the descriptors stay open here.

        Raises:
            OSError: the shim is gone.
        """
        rights = []
        if fds:
            fields = {**fields, "fds": list(fds)}
            rights = [messages.rights(fds.values())]
        content = kind + messages.encode(fields)
        self._socket.sendmsg([content], rights, _socket.MSG_NOSIGNAL)

    def fail(self, error: BaseException) -> None:
        """Report that the present step failed; a dead shim is not told."""
        step, cause = self.step, error
        if isinstance(error, apply.StepFailed):
            step, cause = f"{step} ({error.step.partition(' /')[0]})", error.error
        fields = messages.failure(step, cause)
        for key in ("strerror", "path"):
            fields[key] = fields[key][:MAX_TEXT]
        try:
            self.send(messages.INIT_FAILED, fields)
        except OSError:
            pass  # nobody is left to hear it

    def wait_for_start(self) -> None:
        """Block until the shim lets the program run.

        Raises:
            OSError: EPIPE when the shim hung up (this container will never start), EPROTO for
                any other message.
        """
        content = self._socket.recv(messages.MAX_MESSAGE)
        if content == messages.INIT_START:
            return
        if not content:
            raise OSError(errno.EPIPE, "the shim hung up")
        raise OSError(errno.EPROTO, f"expected start, got {content[:16]!r}")


def close_others(keep: list[int]) -> None:
    """Close every descriptor above 2 that is not in ``keep``.

    What a container could find open is a way out of it (CVE-2024-21626), and a pipe end of
    another container held here would keep its reader from seeing the end of file.
    """
    first = 3
    for fd in sorted({fd for fd in keep if fd > 2}):
        if fd > first:
            process.close_range(first, fd - 1)
        first = fd + 1
    process.close_range(first)
