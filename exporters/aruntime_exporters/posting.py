"""HTTP/1.1 POST over a kept connection, for exporters: blocking, with one time limit for all of it.

h11 speaks the protocol, this module owns the socket. The limit covers connecting, the handshake,
sending and the whole answer, so a receiver that trickles bytes holds nobody longer. Redirects and
proxies are not followed: a receiver of bills is addressed by its own name.

Out of scope: what the bodies mean, what a status means, retries.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

from aruntime.errors import InvalidParameter

READ_BYTES = 65536
SEND_BYTES = 65536
MAX_BODY_BYTES = 65536
"""An answer's body is read so far; what is longer ends the connection."""


class Address(NamedTuple):
    """A parsed URL."""

    url: str
    host: str
    port: int
    target: str
    """Path and query."""
    is_encrypted: bool

    @property
    def authority(self) -> str:
        """The ``Host`` header (RFC 9112 §3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_encrypted else 80) else f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the bytes stay on this host."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Reply(NamedTuple):
    """An answer; header names are lower case, the body may be cut."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


def parse_url(url: str) -> Address:
    """Take a URL apart.

    Raises:
        InvalidParameter: it is none of http or https, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidParameter(f"url: {error}, in {url!r}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidParameter(f"url must be http://HOST/… or https://HOST/…, not {url!r}")
    if parts.username is not None or parts.password is not None:
        raise InvalidParameter("url must hold no user or password; use token-file")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (host + target).isascii() or not (host + target).isprintable() or " " in target:
        raise InvalidParameter(f"url must be of ASCII characters, others encoded, not {url!r}")
    is_encrypted = parts.scheme == "https"
    return Address(url, host, port or (443 if is_encrypted else 80), target, is_encrypted)


def tls_context(ca_file: str) -> ssl.SSLContext:
    """How servers are verified: by the system's authorities, or by one file's alone.

    Raises:
        InvalidParameter: the file cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # SSLError is one
        raise InvalidParameter(
            f"ca-file: cannot read certificates from {ca_file}: {error.strerror or error}"
        ) from error


class Poster:
    """Owns a connection to one receiver, opened when it is needed.

    Args:
        address: the receiver.
        context: for TLS; not used without.
        timeout: seconds for one exchange, all steps together.
    """

    def __init__(self, address: Address, *, context: ssl.SSLContext | None, timeout: float) -> None:
        self._address = address
        self._context = context
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._protocol = h11.Connection(h11.CLIENT)

    def post(self, body: bytes, headers: dict[str, str]) -> Reply:
        """Send one request and read its answer.

        A kept connection that the receiver has closed meanwhile is replaced once: whoever posts
        must be ready for a body to arrive twice.

        Raises:
            OSError: connecting, TLS, sending or receiving failed, or took too long (TimeoutError).
            h11.RemoteProtocolError: the answer is not HTTP.
        """
        deadline = time.monotonic() + self._timeout
        if self._socket is not None:
            try:
                return self._exchange(self._socket, body, headers, deadline)
            except TimeoutError:
                raise
            except (OSError, h11.RemoteProtocolError):
                pass  # closed while it rested, most likely; a new connection will tell
        return self._exchange(self._connect(deadline), body, headers, deadline)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, deadline: float) -> socket.socket:
        address = self._address
        plain = socket.create_connection((address.host, address.port), timeout=_left(deadline))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None and address.is_encrypted:
                plain.settimeout(_left(deadline))
                plain = self._context.wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise
        self._socket = plain
        self._protocol = h11.Connection(h11.CLIENT)
        return plain

    def _exchange(
        self, connected: socket.socket, body: bytes, headers: dict[str, str], deadline: float
    ) -> Reply:
        """One request and its answer; the connection is closed unless it can carry another."""
        is_kept = False
        try:
            try:
                self._request(connected, body, headers, deadline)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have answered before it stopped reading: too large, for instance
            reply = self._response(connected, deadline)
            protocol = self._protocol
            is_kept = protocol.our_state is protocol.their_state is h11.DONE
            if is_kept:
                protocol.start_next_cycle()
            return reply
        finally:
            if not is_kept:
                self.close()

    def _request(
        self, connected: socket.socket, body: bytes, headers: dict[str, str], deadline: float
    ) -> None:
        address = self._address
        head = h11.Request(
            method="POST",
            target=address.target,
            headers=[
                ("host", address.authority),
                ("content-length", str(len(body))),
                *headers.items(),
            ],
        )
        _send(connected, self._protocol.send(head) or b"", deadline)
        _send(connected, self._protocol.send(h11.Data(body)) or b"", deadline)
        self._protocol.send(h11.EndOfMessage())

    def _response(self, connected: socket.socket, deadline: float) -> Reply:
        head: h11.Response | None = None
        body = b""
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                connected.settimeout(_left(deadline))
                received = connected.recv(READ_BYTES)
                if not received and head is None:
                    raise ConnectionResetError("the connection was closed without an answer")
                self._protocol.receive_data(received)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            if head is not None and (
                isinstance(event, h11.EndOfMessage | h11.ConnectionClosed)
                or len(body) >= MAX_BODY_BYTES
            ):
                fields = {k.decode("ascii"): v.decode("latin-1") for k, v in head.headers}
                reason = head.reason.decode("latin-1")
                return Reply(head.status_code, reason, fields, body[:MAX_BODY_BYTES])


def _send(connected: socket.socket, pieces: bytes, deadline: float) -> None:
    """Send all, in slices, so that the time limit holds for the whole."""
    view = memoryview(pieces)
    while view:
        connected.settimeout(_left(deadline))
        view = view[connected.send(view[:SEND_BYTES]) :]


def _left(deadline: float) -> float:
    """Seconds left.

    Raises:
        TimeoutError: none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
