"""The command socket: listens, greets clients, runs one command per connection.

Access is by the socket's file mode (0660, root and optionally a group); who asked for what is
logged with the kernel's word for it (SO_PEERCRED). Frames are :mod:`aruntime.daemon.session`'s,
commands :mod:`aruntime.daemon.dispatch`'s.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog
import trio

from aruntime import __version__, wire
from aruntime.daemon import dispatch
from aruntime.daemon.commands.registry import Registry
from aruntime.daemon.hello import Peer, peer_of, receive_hello
from aruntime.daemon.session import Session
from aruntime.errors import Conflict, InvalidParameter

journal = structlog.get_logger()

BACKLOG = 1024
HELLO_SECONDS = 10.0
"""A client that connects and says nothing is dropped after this time."""
REQUEST_GRACE_SECONDS = 5.0
"""How long a stopping daemon lets commands finish (open-ended ones are ended at once)."""
FAREWELL_SECONDS = 1.0
"""How long a stopping daemon tries to tell clients that it stops."""
STRANGER = (
    "you may not look at any tenant's containers; run this as root, join the group that owns the"
    " daemon's socket, or have yourself named with --tenant-reader of aruntimed"
)
Admit = Callable[[trio.socket.SocketType, Peer], Any]
"""Returns what commands of a client get as the daemon, or None for a client that gets nothing."""
STOPPING = "the daemon is stopping; containers run on"


@contextlib.contextmanager
def bound_socket(path: Path, group: str, mode: int = 0o660) -> Iterator[socket.socket]:
    """Listen at a pathname while the block runs; the file never has a wider mode than that.

    A socket left behind by a dead daemon is replaced.

    Raises:
        Conflict: something else is there, or another daemon answers.
        InvalidParameter: there is no such group.
        OSError: the kernel refused.
    """
    gid = _group_id(group)
    _clear(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        os.fchmod(listening.fileno(), 0o600)  # Linux: bind(2) makes the file with this mode
        listening.bind(os.fspath(path))
        try:
            os.chown(path, -1, gid)
            os.chmod(path, mode)
            listening.listen(BACKLOG)
            yield listening
        finally:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass  # somebody cleaned /run


def _group_id(group: str) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidParameter(
            f"--socket-group: there is no group {group}; make it with 'groupadd --system {group}'"
        ) from None


def _clear(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} exists and is not a socket; remove it or choose another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            os.unlink(path)
        else:
            raise Conflict(f"another daemon answers at {path}; stop it or choose another --socket")


class CommandServer:
    """Serves clients; it owns their sessions.

    Args:
        listening: the socket, bound and listening; closed when the server stops listening.
        known: all commands.
        daemon: passed on to the commands.
        admit: says of each client what stands for the daemon, or turns it away; None: the daemon
            itself, for everybody who could connect.
    """

    def __init__(
        self,
        listening: socket.socket,
        known: Registry,
        daemon: Any,
        admit: Admit | None = None,
    ) -> None:
        self._listening = listening
        self._known = known
        self._daemon = daemon
        self._admit = admit
        self._accepting = trio.CancelScope()
        self._stopping = False
        self._sessions: set[Session] = set()
        self.stopped = trio.Event()
        """Set when the last client has been served after :meth:`stop`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop`, then let commands finish and return; started = listening."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listening))
        async with trio.open_nursery() as clients:
            task_status.started()
            with self._accepting:
                await trio.serve_listeners(self._serve, [listener], handler_nursery=clients)
            await self._finish_requests()
            clients.cancel_scope.deadline = trio.current_time() + FAREWELL_SECONDS
        self.stopped.set()

    def stop(self) -> None:
        """Take no more clients; :meth:`run` returns once the present ones are done."""
        self._stopping = True
        self._accepting.cancel()

    async def _finish_requests(self) -> None:
        with trio.move_on_after(REQUEST_GRACE_SECONDS):
            for session in list(self._sessions):
                await session.settled.wait()
        for session in self._sessions:
            session.scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One client, from hello to exit; whatever it sends stays its own affair."""
        connection = stream.socket
        peer = peer_of(connection)
        daemon = self._daemon
        try:
            if self._admit is not None:
                daemon = self._admit(connection, peer)
            if daemon is None:
                await _turn_away(connection)
                return
            decoder = wire.Decoder()
            hello = None
            with trio.move_on_after(HELLO_SECONDS):
                hello = await receive_hello(connection, decoder)
            if hello is None:
                return
            session = Session(connection, peer, hello)
            self._sessions.add(session)
            try:
                await self._attend(session, decoder, hello.version, daemon)
            finally:
                self._sessions.discard(session)
                session.settled.set()
        except (wire.ProtocolError, OSError) as error:
            journal.warning("client dropped", reason=str(error), pid=peer.pid, uid=peer.uid)
        finally:
            connection.close()

    async def _attend(
        self, session: Session, decoder: wire.Decoder, version: str, daemon: Any
    ) -> None:
        began = time.monotonic_ns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive, session, decoder)
            nursery.start_soon(session.pass_on_stdin)
            code = dispatch.FAILED
            if version == __version__:
                code = await dispatch.execute(session, self._known, daemon)
            else:
                await session.err(f"aruntime: {mismatch(version)}\n")
            if self._stopping and session.scope.cancelled_caught:
                await session.err(f"aruntime: {STOPPING}\n")
            await session.exit(code)
            nursery.cancel_scope.cancel()
        journal.info(
            "command",
            argv0=next((word for word in session.argv if not word.startswith("-")), ""),
            code=code,
            uid=session.uid,
            gid=session.gid,
            pid=session.pid,
            ms=(time.monotonic_ns() - began) // 1_000_000,
        )


async def _turn_away(connection: trio.socket.SocketType) -> None:
    """Say why, without having read anything; a client that does not listen is left."""
    said = wire.frame(wire.STDERR, f"aruntime: {STRANGER}\n".encode())
    with trio.move_on_after(FAREWELL_SECONDS):
        await connection.send(said + wire.frame(wire.EXIT, b"%d" % dispatch.FAILED))


async def _receive(session: Session, decoder: wire.Decoder) -> None:
    try:
        await session.receive(decoder)
    except wire.ProtocolError as error:
        journal.warning("client broke the protocol", reason=str(error), pid=session.pid)


def mismatch(version: str) -> str:
    """What to tell a client of another version."""
    shown = version[:40] if version.isprintable() else "unknown"
    return (
        f"this client is version {shown}, the daemon is {__version__};"
        " restart the daemon after an upgrade ('systemctl restart aruntimed')"
    )
