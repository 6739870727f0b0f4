"""The shim's socket: one daemon at a time, messages with descriptors in both directions.

SOCK_SEQPACKET keeps messages whole. Nothing here blocks: what the daemon does not take at once
waits in a queue, and a daemon that dies with messages unread costs nothing but those.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from aruntime.container import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from aruntime.shim.children import Child
    from aruntime.shim.loop import Loop

LISTEN_BACKLOG = 8
SOCKET_MODE = 0o600
MESSAGES_PER_TURN = 32
"""Most requests of one turn: a flood of them must not keep exits and output waiting."""

SEQPACKET = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
# struct ucred of unix(7)
UCRED = struct.Struct("3i")

GONE_ERRNOS = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})
ACCEPT_ERRNOS = frozenset(
    {errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""Nobody waits any more, or no descriptor is left for them at the moment."""
BUSY_ERRNOS = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS})


class Connection:
    """A peer on the socket: the daemon, or somebody who is told to go away.

    Owns its socket. ``on_message`` gets each message with its descriptors, which it then owns;
    ``on_hangup`` is called once, after the socket was closed.
    """

    __slots__ = ("_loop", "_queue", "_socket", "_waits", "on_hangup", "on_message", "pid", "uid")

    def __init__(
        self,
        loop: Loop,
        sock: _socket.socket,
        on_message: Callable[[Connection, dict[str, Any], dict[str, int]], None],
        on_hangup: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._queue: list[tuple[bytes, Child | None, tuple[str, ...]]] = []
        self._waits = False
        self.on_message = on_message
        self.on_hangup = on_hangup
        credentials = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, UCRED.size)
        self.pid, self.uid, _ = UCRED.unpack(credentials)
        loop.watch(sock.fileno(), self._ready)

    @property
    def is_open(self) -> bool:
        """Whether the peer may still be there."""
        return self._socket.fileno() >= 0

    def send(
        self, fields: dict[str, Any], child: Child | None = None, names: tuple[str, ...] = ()
    ) -> None:
        """Send a message, now or when the peer has room.

        Args:
            fields: the message.
            child: its pidfd travels along; if it is forgotten before its turn comes, so is the
                message.
            names: which more of its descriptors travel.
        """
        if not self.is_open:
            return
        if child is not None:
            fields = {**fields, "fds": list(child.held(names))}
        self._queue.append((messages.encode(fields), child, names))
        if len(self._queue) == 1:
            self._flush()

    def close(self) -> None:
        """Hang up; ``on_hangup`` is not called."""
        if self.is_open:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
        self._queue.clear()

    def _ready(self) -> None:
        """Readable, writable or hung up."""
        if self._queue:
            self._flush()
        for _ in range(MESSAGES_PER_TURN):
            if not self.is_open or not self._receive():
                return

    def _flush(self) -> None:
        sent = 0
        for content, child, names in self._queue:
            if child is not None and child.pidfd < 0:
                sent += 1
                continue
            ancillary = [] if child is None else [messages.rights(child.held(names).values())]
            try:
                self._socket.sendmsg([content], ancillary, _socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno not in BUSY_ERRNOS:
                    self._hang_up()
                    return
                break
            sent += 1
        del self._queue[:sent]
        if self._waits != bool(self._queue):
            self._waits = bool(self._queue)
            self._loop.watch(self._socket.fileno(), self._ready, write=self._waits)

    def _receive(self) -> bool:
        """Take one message; False if there is none."""
        try:
            content, ancillary, flags, _ = self._socket.recvmsg(
                messages.MAX_MESSAGE, messages.RIGHTS_SPACE, _socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            if error.errno not in BUSY_ERRNOS:
                self._hang_up()
            return False
        numbers = messages.received_fds(ancillary)
        if not content:
            self._hang_up()
            return False
        fields, fds = parse(content, numbers, truncated=bool(flags & CUT_OFF))
        self.on_message(self, fields, fds)
        return True

    def _hang_up(self) -> None:
        self.close()
        self.on_hangup(self)


CUT_OFF = _socket.MSG_CTRUNC | _socket.MSG_TRUNC


def parse(
    content: bytes, numbers: list[int], *, truncated: bool = False
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the fields of a message and its descriptors by name.

    What cannot be understood has no ``op``; its descriptors are closed.
    """
    try:
        fields = messages.decode(content)
        names = fields.pop("fds", [])
        if truncated or len(set(names)) != len(numbers):
            raise ValueError("the message and its descriptors do not fit")
    except (ValueError, TypeError) as error:
        for fd in numbers:
            os.close(fd)
        return {"reason": str(error)}, {}
    return fields, dict(zip(names, numbers, strict=True))


def listen(path: str) -> _socket.socket:
    """Return a listening socket at a path; a stale file there is replaced.

    Raises:
        OSError: EADDRINUSE when another shim answers there; as bind(2), listen(2).
    """
    if answers(path):
        raise OSError(errno.EADDRINUSE, "another shim answers", path)
    temporary = f"{path}.{os.getpid()}"
    sock = _socket.socket(_socket.AF_UNIX, SEQPACKET)
    previous = os.umask(0o777 & ~SOCKET_MODE)
    try:
        sock.bind(short_path(temporary))
        sock.listen(LISTEN_BACKLOG)
        # The name appears when somebody listens behind it, never before.
        os.rename(temporary, path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(previous)
    return sock


def answers(path: str) -> bool:
    """Whether somebody listens on the socket at a path."""
    with_peer = _socket.socket(_socket.AF_UNIX, SEQPACKET)
    try:
        with_peer.connect(short_path(path))
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        with_peer.close()
    return True


def short_path(path: str) -> str:
    """Return a name for a path that fits sockaddr_un: relative to the working directory.

    The shim's working directory is the run directory (108 bytes are soon used up by a deep one).
    """
    directory, name = os.path.split(path)
    return name if directory == os.getcwd() else path


def accept(listener: _socket.socket) -> _socket.socket | None:
    """Return a connection that waits, or None.

    Raises:
        OSError: the listener is broken.
    """
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # _socket's own, without socket.py
    except OSError as error:
        if error.errno in ACCEPT_ERRNOS:
            return None
        raise
    sock = _socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock
