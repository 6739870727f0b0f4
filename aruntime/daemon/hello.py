"""The first message of a client of the command socket, and who sent it.

What follows is :mod:`aruntime.daemon.session`'s.
"""

from __future__ import annotations

import os
import socket
import struct

import msgspec
import trio

from aruntime import wire

RECEIVE_BYTES = 64 << 10


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end, by SO_PEERCRED (unix(7)): the kernel's word, not the client's."""

    pid: int
    uid: int
    gid: int


class Hello(msgspec.Struct, frozen=True):
    """The client's first message; see :func:`aruntime.wire.encode_hello`."""

    version: str
    cwd: str
    terminals: tuple[bool, bool, bool]
    rows: int
    columns: int
    argv: list[str]
    env: dict[str, str]


def peer_of(connection: trio.socket.SocketType) -> Peer:
    """Ask the kernel who connected."""
    ucred = struct.Struct("3i")
    return Peer(
        *ucred.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size))
    )


def decode_hello(payload: bytes) -> Hello:
    """Take the first message apart. Raises ProtocolError."""
    fields = [os.fsdecode(field) for field in payload.split(b"\0")]
    try:
        version, cwd, terminals, rows, columns, count = fields[:6]
        if len(terminals) != 3 or not 0 <= int(count) <= len(fields) - 6:
            raise ValueError(f"{count} arguments in {len(fields)} fields")
        split = 6 + int(count)
        return Hello(
            version=version,
            cwd=cwd,
            terminals=(terminals[0] == "1", terminals[1] == "1", terminals[2] == "1"),
            rows=int(rows),
            columns=int(columns),
            argv=fields[6:split],
            env=dict(field.split("=", 1) for field in fields[split:] if "=" in field),
        )
    except ValueError as error:
        raise wire.ProtocolError(f"malformed hello: {error}") from None


async def receive_hello(connection: trio.socket.SocketType, decoder: wire.Decoder) -> Hello | None:
    """Wait for the first message; None when the client leaves without one.

    Raises:
        ProtocolError: something else came.
    """
    payload = b""
    while True:
        while (frame := decoder.next_frame()) is not None:
            kind, part = frame
            payload += part
            if kind not in (wire.HELLO, wire.HELLO_PART) or len(payload) > wire.MAX_HELLO:
                raise wire.ProtocolError("no hello")
            if kind == wire.HELLO:
                return decode_hello(payload)
        received = await connection.recv(RECEIVE_BYTES)
        if not received:
            return None
        decoder.feed(received)


def numbers(payload: bytes, count: int) -> list[int]:
    """Read the decimal numbers of a frame.

    Raises:
        ProtocolError: there are not exactly so many.
    """
    words = payload.split()
    if len(words) != count or not all(word.isdigit() and len(word) < 10 for word in words):
        raise wire.ProtocolError(f"malformed numbers {payload[:40]!r}")
    return [int(word) for word in words]
