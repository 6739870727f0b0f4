"""Asking other DNS servers on behalf of containers: one question, one answer, with patience.

Every question goes out from a socket of its own, so from a port that nobody can guess, with a
number that is not the container's; what does not answer it is not read (RFC 5452). Sockets are
those of the host's network namespace: a server on the host's loopback can be asked.

Out of scope: who may ask, what is answered without asking (resolver).
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from typing import Any

import trio

from aruntime.network import dns

PORT = 53
TRY_SECONDS = 2.0
"""For one server; a client of ours gives up after five and asks again (resolv.conf(5))."""
ROUNDS = 2
MOST_SERVERS = 3
"""Of one container: as many as resolv.conf(5) takes."""
RECEIVE_BYTES = 65535
UNHELPFUL = frozenset({dns.SERVFAIL, dns.REFUSED, dns.NOTIMP})
"""Codes that another server may answer better."""


async def ask(query: bytes, servers: Sequence[str], *, tcp: bool) -> bytes | None:
    """Return a server's answer to a query, None when none answers.

    The servers are asked in turn, as resolv.conf(5) has it. An answer that tells a server's own
    failure is returned when there is no better one. Cancelled, it closes its socket.

    Args:
        query: a message with one question.
        servers: their addresses.
        tcp: how the query came, and is passed on.
    """
    exchange = _by_tcp if tcp else _by_udp
    unhelpful = None
    for _ in range(ROUNDS):
        for server in servers[:MOST_SERVERS]:
            own = dns.renumbered(query, secrets.randbelow(1 << 16))
            reply = None
            with trio.move_on_after(TRY_SECONDS):
                try:
                    reply = await exchange(own, server)
                except (OSError, trio.BrokenResourceError):
                    continue  # nobody listens, or there is no way there
            if reply is None:
                continue
            if dns.code_of(reply) not in UNHELPFUL:
                return dns.renumbered(reply, dns.number_of(query))
            unhelpful = unhelpful or dns.renumbered(reply, dns.number_of(query))
        if unhelpful is not None:
            break
    return unhelpful


async def _by_udp(query: bytes, server: str) -> bytes | None:
    family, address = _place(server)
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect(address)
        await sock.send(query)
        while True:
            reply = await sock.recv(RECEIVE_BYTES)
            if dns.is_answer_to(reply, query):
                return reply


async def _by_tcp(query: bytes, server: str) -> bytes | None:
    family, address = _place(server)
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        await sock.connect(address)
        stream = trio.SocketStream(sock)
        await send_message(stream, query)
        reply = await receive_message(stream)
        return reply if reply is not None and dns.is_answer_to(reply, query) else None


async def send_message(stream: trio.SocketStream, message: bytes) -> None:
    """Send a message with its length before it (RFC 1035, 4.2.2).

    Raises:
        trio.BrokenResourceError: the other side is gone.
    """
    await stream.send_all(len(message).to_bytes(2, "big") + message)


async def receive_message(stream: trio.SocketStream) -> bytes | None:
    """Receive a message with its length before it, None when the stream ends before its end.

    Raises:
        trio.BrokenResourceError: the other side is gone.
    """
    length = await _receive_exactly(stream, 2)
    if length is None:
        return None
    return await _receive_exactly(stream, int.from_bytes(length, "big"))


async def _receive_exactly(stream: trio.SocketStream, count: int) -> bytes | None:
    received = b""
    while len(received) < count:
        piece = await stream.receive_some(count - len(received))
        if not piece:
            return None
        received += piece
    return received


def _place(server: str) -> tuple[int, Any]:
    """Return family and socket address of a server.

    Raises:
        OSError: it is no address (socket.gaierror).
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(server, PORT, type=socket.SOCK_DGRAM, flags=flags)
    return found[0][0], found[0][4]
