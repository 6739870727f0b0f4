"""The daemon's side of the shim's socket: requests out, answers matched, descriptors received.

The protocol is drawn in ``aruntime.container.messages``. Requests for different containers may be
in flight at once; answers carry the container's id and, for exec, the exec's id.

Ownership: descriptors given to a request stay the caller's (the kernel duplicates them on their
way); descriptors in an answer belong to the caller who gets it. A request that is cancelled
leaves its answer to be thrown away, descriptors closed.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import structlog
import trio

from aruntime import __version__
from aruntime.container import messages
from aruntime.errors import (
    CommandNotFound,
    CommandNotInvokable,
    InitFailed,
    ShimUnavailable,
)

journal = structlog.get_logger()

MAX_MESSAGE = 1 << 16
MAX_FDS = 32
LOST = "the shim went away; running containers go on, try again"


class ShimGone(ShimUnavailable):
    """The shim ended while it was talked to."""


class Reply(msgspec.Struct):
    """One message of the shim: its fields and the descriptors that came with it, by name."""

    fields: dict[str, Any]
    fds: dict[str, int]

    def take(self, name: str) -> int:
        """Return a descriptor that the caller owns from now on, or -1 if it did not come."""
        return self.fds.pop(name, -1)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


class ShimClient:
    """A connection to the shim.

    Attributes:
        lost: set when the connection ended, by :meth:`aclose` or because the shim died.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._raw = connection
        self._socket = trio.socket.from_stdlib_socket(connection)
        self._send_lock = trio.Lock()
        self._waiting: dict[tuple[str, str], trio.MemorySendChannel[Reply]] = {}
        self.lost = trio.Event()
        self.pid = 0
        self._forks_early = False

    @classmethod
    async def connect(cls, path: str) -> ShimClient:
        """Connect to the shim's socket.

        Raises:
            OSError: there is no socket, or nobody listens on it.
        """
        client = cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        try:
            await client._socket.connect(path)
        except BaseException:
            client.close()
            raise
        return client

    async def hello(self) -> list[Reply]:
        """Introduce this daemon; return every child the shim holds, with its descriptors.

        From the answer on this daemon moves the output of these containers, not the shim.

        Raises:
            ShimGone: it ended meanwhile; another one may be had.
            ShimUnavailable: it refused: another daemon is connected.
        """
        await self.send({"op": messages.HELLO, "version": __version__}, {})
        held: list[Reply] = []
        while True:
            reply = await self._receive()
            if reply is None:
                raise ShimGone("the shim hung up while it was greeted; see RUN_DIR/shim.log")
            match reply.fields["op"]:
                case messages.WELCOME:
                    self.pid = reply.fields["pid"]
                    self._forks_early = bool(reply.fields.get("early"))
                case messages.CONTAINER:
                    held.append(reply)
                case messages.HANDED_OVER:
                    return held
                case messages.REFUSED:
                    raise ShimUnavailable(str(reply.fields.get("message", "the shim refused")))
                case other:
                    raise ShimUnavailable(f"the shim answered {other!r} to hello")

    async def run(self) -> None:
        """Hand answers to those who wait for them, until the connection ends."""
        try:
            while (reply := await self._receive()) is not None:
                key = reply_key(reply.fields)
                waiting = self._waiting.get(key)
                if waiting is None:
                    if reply.fields["op"] != messages.FAILED:
                        journal.debug("shim message nobody waits for", **reply.fields)
                    reply.close()
                    continue
                try:
                    waiting.send_nowait(reply)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    reply.close()
        finally:
            self.lost.set()
            for channel in self._waiting.values():
                channel.close()

    async def execute(
        self, container_id: str, exec_id: str, *, tty: bool, fds: Mapping[str, int]
    ) -> Reply:
        """Run one more process in a container; its program runs when this returns."""
        request = {"op": messages.EXEC, "id": container_id, "exec_id": exec_id, "tty": tty}
        with self.answers_to(request) as answers:
            await self.send(request, fds)
            created = await expect(answers, messages.CREATED)
            try:
                (await expect(answers, messages.RUNNING)).close()
            except BaseException:
                created.close()
                raise
            return created

    async def reap(self, container_id: str, exec_id: str = "") -> dict[str, Any]:
        """Collect a dead child; returns its code, status and resource usage."""
        request = {"op": messages.REAP, "id": container_id, **exec_field(exec_id)}
        with self.answers_to(request) as answers:
            await self.send(request, {})
            reply = await expect(answers, messages.REAPED)
            reply.close()
            return reply.fields

    async def close_stdin(self, container_id: str, exec_id: str = "") -> None:
        """Let the shim drop its copy of a stdin, so that the reader sees end of file."""
        request = {"op": messages.CLOSE_STDIN, "id": container_id, **exec_field(exec_id)}
        await self.send(request, {})

    async def replace_logs(self, container_id: str, log_fd: int, index_fd: int) -> None:
        """Give the shim the new log files after a rotation."""
        request = {"op": messages.LOGS, "id": container_id}
        await self.send(request, {"log": log_fd, "index": index_fd})

    async def goodbye(self) -> None:
        """Say that this daemon leaves: the shim moves output again from now on."""
        await self.send({"op": messages.GOODBYE}, {})

    async def shutdown(self) -> None:
        """Ask the shim to end; it refuses while it holds children."""
        await self.send({"op": messages.SHUTDOWN}, {})

    def close(self) -> None:
        """Close the connection; the shim takes over at once."""
        self._socket.close()
        self.lost.set()

    @contextlib.contextmanager
    def answers_to(self, request: dict[str, Any]) -> Iterator[trio.MemoryReceiveChannel[Reply]]:
        """Collect the answers to one request while the block runs.

        Raises:
            ShimUnavailable: the shim is gone, or another request like it is under way.
        """
        key = reply_key(request)
        if self.lost.is_set():
            raise ShimUnavailable(LOST)
        if key in self._waiting:
            raise ShimUnavailable(f"a request for {key[0][:12]} is already in flight")
        sending, receiving = trio.open_memory_channel[Reply](4)
        self._waiting[key] = sending
        try:
            yield receiving
        finally:
            del self._waiting[key]
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    receiving.receive_nowait().close()
            receiving.close()

    async def send(self, fields: dict[str, Any], fds: Mapping[str, int]) -> None:
        """Send one message; the descriptors stay the caller's.

        Raises:
            ShimUnavailable: the connection has ended.
        """
        content, ancillary = encoded(fields, fds)
        try:
            if not self._send_lock.locked() and self._sent_at_once(content, ancillary):
                return
            async with self._send_lock:
                await self._socket.sendmsg([content], ancillary)
        except OSError as error:
            raise ShimUnavailable(f"{LOST} ({error.strerror})") from error

    def sent_from_thread(self, fields: dict[str, Any], fds: Mapping[str, int]) -> bool:
        """Send one message from a worker thread; False if that has to be left to the event loop.

        Messages are whole, so this may come between those of the event loop.
        """
        try:
            return self._forks_early and self._sent_at_once(*encoded(fields, fds))
        except OSError:
            return False

    def _sent_at_once(self, content: bytes, ancillary: list[Any]) -> bool:
        """Send a message if the shim has room for it, which costs no turn of the loop.

        Raises:
            OSError: the connection has ended.
        """
        try:
            self._raw.sendmsg([content], ancillary)
        except BlockingIOError:
            return False
        return True

    async def _receive(self) -> Reply | None:
        try:
            content, ancillary, _, _ = await self._socket.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None
        if not content:
            return None
        numbers = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(payload[: len(payload) // numbers.itemsize * numbers.itemsize])
        fields = json.loads(content)
        names = fields.pop("fds", [])
        return Reply(fields, dict(zip(names, numbers, strict=True)))


def encoded(fields: dict[str, Any], fds: Mapping[str, int]) -> tuple[bytes, list[Any]]:
    """Return a message and what travels with it."""
    if fds:
        fields = {**fields, "fds": list(fds)}
    content = json.dumps(fields, separators=(",", ":")).encode()
    if not fds:
        return content, []
    return content, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds.values()))]


def exec_field(exec_id: str) -> dict[str, str]:
    """Return the field that names an exec, none for the container's init."""
    return {"exec_id": exec_id} if exec_id else {}


def reply_key(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return what matches answers to requests: container id and exec id."""
    return str(fields.get("id", "")), str(fields.get("exec_id", ""))


async def expect(answers: trio.MemoryReceiveChannel[Reply], op: str) -> Reply:
    """Wait for the answer ``op``.

    Raises:
        InitFailed: the shim answered ``failed`` instead.
        ShimUnavailable: the connection ended, or another message came (named in the error).
    """
    try:
        reply = await answers.receive()
    except trio.EndOfChannel:
        raise ShimUnavailable(LOST) from None
    if reply.fields["op"] == op:
        return reply
    reply.close()
    if reply.fields["op"] == messages.FAILED:
        raise init_failure(reply.fields)
    raise ShimUnavailable(f"the shim answered {reply.fields['op']!r} where {op!r} was expected")


def init_failure(fields: Mapping[str, Any]) -> InitFailed:
    """Turn a ``failed`` message into the error a user reads.

    Only the look-up and the execution of the program decide between docker's exit codes 126 and
    127; a missing file in an earlier step is the runtime's failure (125).
    """
    step, number, path = str(fields["step"]), int(fields["errno"]), str(fields["path"])
    reason = str(fields["strerror"])
    if step in messages.PROGRAM_STEPS:
        kind = CommandNotFound if number in (errno.ENOENT, errno.ENOTDIR) else CommandNotInvokable
        return kind(reason, step=step, errno=number, path=path)
    place = f" {path}" if path else ""
    return InitFailed(
        f"cannot set up the container: {step}{place}: {reason}", step=step, errno=number, path=path
    )
