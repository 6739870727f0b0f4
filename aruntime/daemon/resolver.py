"""The resolver of users' networks: containers ask it for each other's names, and for all others.

It listens at the gateway of every network in which a container stands, on UDP and TCP, bound to
the bridge: nothing that did not come in from there reaches it, and of that it hears only who holds
an address of the network. Sockets are opened by the thread that connects a container, before its
program runs; a question that comes at once waits in them.

A container that asks too much is not heard for a while, and what is asked of other servers is
limited per container and in all: nobody keeps the daemon from its work or others from their names.

Out of scope: messages (aruntime.network.dns), who is called what (aruntime.network.names), other
servers (upstream). While no daemon runs nobody answers.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import threading
from collections.abc import Callable, Sequence

import structlog
import trio

from aruntime.daemon import upstream
from aruntime.errors import AruntimeError, os_error_text
from aruntime.network import DEFAULT, Endpoint, Networks, dns, nft, redirect
from aruntime.network.endpoints import Change
from aruntime.network.names import Directory, View

journal = structlog.get_logger()

BACKLOG = 64
BIND_ATTEMPTS = 8
"""A port that is free for UDP may not be so for TCP."""
RECEIVE_BYTES = 65535
QUERIES_PER_SECOND = 500
"""Of one container, sustained; a query costs the daemon some 0.2 ms."""
BURST_QUERIES = 1000
UNHEARD = 64
"""So many packets of those who ask too much are thrown away before the socket rests."""
REST_SECONDS = 0.01
MOST_FORWARDED = 64
"""Questions of one container that wait for another server."""
MOST_FORWARDED_IN_ALL = 512
MOST_CONNECTIONS = 16
"""TCP connections of one container."""
IDLE_SECONDS = 10.0
"""How long a connection may say nothing, or not take its answer."""
FAULT_SECONDS = 1.0
"""How long a socket rests that reports an error."""

Servers = Callable[[str], Sequence[str]]
"""Returns the servers that a container's other questions go to, by its id; called on the event
loop, must be quick."""


class _Client:
    """What one container may still ask."""

    def __init__(self, now: float) -> None:
        self.forwarded = 0
        self.connections = 0
        self._left = float(BURST_QUERIES)
        self._counted = now

    def may_ask(self, now: float) -> bool:
        """Count a question; False when there were too many."""
        earned = (now - self._counted) * QUERIES_PER_SECOND
        self._left = min(BURST_QUERIES, self._left + earned)
        self._counted = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Listener:
    """The sockets of one network; owned until ``close``."""

    def __init__(self, network: str, bridge: str, gateway: str) -> None:
        self.network = network
        self.ifindex = socket.if_nametoindex(bridge)
        self.scope = trio.CancelScope()
        udp, tcp = _bound(bridge, gateway)
        self.port: int = udp.getsockname()[1]
        """Another one than 53 if somebody else has that."""
        self.udp = trio.socket.from_stdlib_socket(udp)
        self.tcp = trio.socket.from_stdlib_socket(tcp)

    def close(self) -> None:
        """Close the sockets; whoever waits for one of them is woken."""
        self.scope.cancel()
        self.udp.close()
        self.tcp.close()


def _bound(bridge: str, gateway: str) -> tuple[socket.socket, socket.socket]:
    """Return sockets for UDP and TCP at one port: 53, or any if somebody else has that.

    Raises:
        OSError: there are none to be had.
    """
    for attempt in range(BIND_ATTEMPTS):
        with contextlib.ExitStack() as undo:
            udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            tcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            # Connections of a former daemon may still be known to the kernel.
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for one in (udp, tcp):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(bridge))
                # A container may publish port 53 of all addresses (network.holding).
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(not attempt))
            try:
                udp.bind((gateway, 0 if attempt else upstream.PORT))
                tcp.bind(udp.getsockname())
                tcp.listen(BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or attempt == BIND_ATTEMPTS - 1:
                    raise
                continue
            undo.pop_all()
            return udp, tcp
    raise AssertionError("unreachable")


class Resolver:
    """Answers the containers in users' networks; ``changed`` is a listener of their endpoints.

    Args:
        networks: where the bridges are found.
        servers: whom a container's other questions go to.
    """

    def __init__(self, networks: Networks, servers: Servers) -> None:
        self.directory = Directory()
        self._networks = networks
        self._servers = servers
        self._lock = threading.Lock()
        """Held while sockets are opened and closed, by whichever thread."""
        self._listeners: dict[str, _Listener] = {}
        self._clients: dict[str, _Client] = {}
        self._forwarded = 0
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def changed(self, change: Change, endpoint: Endpoint) -> None:
        """Take in that an endpoint came or went: its names, and the sockets of its network.

        Called in worker threads. Sockets that cannot be had are logged: the container starts, and
        has no names.
        """
        self.directory.changed(change, endpoint)
        if endpoint.network == DEFAULT:
            return
        if change == "disconnect":
            self._soon(self._retire, endpoint)
            return
        try:
            self._listen(endpoint)
        except (AruntimeError, OSError) as error:
            journal.warning(
                "no names in this network: its resolver cannot listen",
                network=endpoint.network,
                address=f"{endpoint.gateway}:{upstream.PORT}",
                error=os_error_text(error) if isinstance(error, OSError) else error.message,
            )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the sockets are closed then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self._token = nursery, trio.lowlevel.current_trio_token()
                with self._lock:
                    for listener in self._listeners.values():
                        nursery.start_soon(self._serve, listener)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = self._token = None
            with self._lock:
                for listener in self._listeners.values():
                    listener.close()
                self._listeners.clear()

    def _soon(self, call: Callable[..., object], *args: object) -> None:
        """Have the event loop call something, if it still runs."""
        token = self._token
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(call, *args)

    def _listen(self, endpoint: Endpoint) -> None:
        bridge = self._networks.get(endpoint.network).bridge
        with self._lock:
            former = self._listeners.get(endpoint.network)
            if former is not None:
                if former.ifindex == socket.if_nametoindex(bridge):
                    self._lead(former.port, bridge, endpoint)
                    return
                # The bridge was made anew: the old sockets hear nothing any more.
                del self._listeners[endpoint.network]
                self._soon(former.close)
            listener = _Listener(endpoint.network, bridge, endpoint.gateway)
            self._listeners[endpoint.network] = listener
            self._soon(self._start, listener)
            self._lead(listener.port, bridge, endpoint, is_new=True)

    def _lead(self, port: int, bridge: str, endpoint: Endpoint, *, is_new: bool = False) -> None:
        """Lead questions to a port that is not 53, or no more.

        Raises:
            Unavailable, OSError: nft or the kernel refused.
        """
        is_led = self._networks.tables.is_table(redirect.table_of(bridge))
        if port != upstream.PORT and (is_new or not is_led):
            nft.run(redirect.ruleset(bridge, endpoint.gateway, port))
        elif port == upstream.PORT and is_led:
            nft.run(redirect.removal(bridge))

    def _start(self, listener: _Listener) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, listener)

    def _retire(self, endpoint: Endpoint) -> None:
        """Forget who went, and close the sockets of a network in which nobody is left."""
        if not self.directory.networks_of(endpoint.container_id):
            self._clients.pop(endpoint.container_id, None)
        with self._lock:
            if not self.directory.is_used(endpoint.network):
                listener = self._listeners.pop(endpoint.network, None)
                if listener is not None:
                    listener.close()

    async def _serve(self, listener: _Listener) -> None:
        """Serve one network until its sockets are closed."""
        await trio.to_thread.run_sync(dns.load)
        try:
            with listener.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve_udp, listener, nursery)
                    await trio.serve_listeners(
                        functools.partial(self._serve_tcp, listener),
                        [trio.SocketListener(listener.tcp)],
                    )
        except* trio.ClosedResourceError:
            pass

    async def _serve_udp(self, listener: _Listener, nursery: trio.Nursery) -> None:
        unheard = 0
        while True:
            try:
                query, source = await listener.udp.recvfrom(RECEIVE_BYTES)
            except OSError as error:
                reason = os_error_text(error)
                journal.warning("resolver cannot hear", network=listener.network, error=reason)
                await trio.sleep(FAULT_SECONDS)
                continue
            container_id = self.directory.client(listener.network, source[0])
            if container_id is None or not self._client(container_id).may_ask(trio.current_time()):
                unheard += 1
                if unheard % UNHEARD == 0:
                    await trio.sleep(REST_SECONDS)
                continue
            try:
                reply = dns.answer(query, View(self.directory, container_id), tcp=False)
            except ValueError:
                continue
            if reply is None and self._reserve(container_id):
                nursery.start_soon(self._forward_udp, listener, query, container_id, source)
            else:
                reply = reply or dns.refusal(query, dns.SERVFAIL)
                await _send(listener, reply, source)

    async def _forward_udp(
        self, listener: _Listener, query: bytes, container_id: str, source: tuple[str, int]
    ) -> None:
        reply = await self._forward(query, container_id, tcp=False)
        await _send(listener, reply, source)

    async def _serve_tcp(self, listener: _Listener, stream: trio.SocketStream) -> None:
        """Serve one connection, question after question."""
        try:
            async with stream:
                container_id = self.directory.client(
                    listener.network, stream.socket.getpeername()[0]
                )
                if container_id is None:
                    return
                client = self._client(container_id)
                if client.connections >= MOST_CONNECTIONS:
                    return
                client.connections += 1
                try:
                    await self._converse(stream, container_id)
                finally:
                    client.connections -= 1
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError):
            pass  # the client went, says nothing, or not what it should; nobody is left to be told

    async def _converse(self, stream: trio.SocketStream, container_id: str) -> None:
        """Answer until the client closes.

        Raises:
            trio.TooSlowError, trio.BrokenResourceError, ValueError: it is to be closed.
        """
        while True:
            with trio.fail_after(IDLE_SECONDS):
                query = await upstream.receive_message(stream)
            client = self._client(container_id)
            if query is None or not client.may_ask(trio.current_time()):
                return
            reply = dns.answer(query, View(self.directory, container_id), tcp=True)
            if reply is None and self._reserve(container_id):
                reply = await self._forward(query, container_id, tcp=True)
            with trio.fail_after(IDLE_SECONDS):
                await upstream.send_message(stream, reply or dns.refusal(query, dns.SERVFAIL))

    def _client(self, container_id: str) -> _Client:
        client = self._clients.get(container_id)
        if client is None:
            client = self._clients[container_id] = _Client(trio.current_time())
        return client

    def _reserve(self, container_id: str) -> bool:
        """Count a question that is to be forwarded; False when too many wait already."""
        client = self._client(container_id)
        if client.forwarded >= MOST_FORWARDED or self._forwarded >= MOST_FORWARDED_IN_ALL:
            return False
        client.forwarded += 1
        self._forwarded += 1
        return True

    async def _forward(self, query: bytes, container_id: str, *, tcp: bool) -> bytes:
        """Return what others answer to a question that was counted."""
        client = self._client(container_id)
        try:
            servers = self._servers(container_id)
            if not servers:
                return dns.negative(query, tcp=tcp)
            reply = await upstream.ask(query, servers, tcp=tcp)
        finally:
            client.forwarded -= 1
            self._forwarded -= 1
        return reply or dns.refusal(query, dns.SERVFAIL)


async def _send(listener: _Listener, reply: bytes, source: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):  # the container went
        await listener.udp.sendto(reply, source)
