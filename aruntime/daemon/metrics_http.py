"""HTTP for scrapers: exporters' pages, ``/healthz`` and ``/readyz``, by h11 on trio.

A page is made in a worker thread, piece by piece; scrapes that come while one is being made share
it. A client has limits in size, time and number, so a slow or hostile one holds neither the event
loop nor memory: bodies are shared, sent in slices, and given up when the client does not take
them. TLS and passwords are those of a web configuration (``web``), if there is one; who has no
right gets 401 whatever was asked for. The default address is the loopback's.

Out of scope: what a page says (the exporters), when it may be read (the meter says so).
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import h11
import structlog
import trio

from aruntime import __version__
from aruntime.daemon.web.access import Access
from aruntime.errors import Unavailable
from aruntime.metering.export import ScrapeExporter
from aruntime.metering.pace import Pace

journal = structlog.get_logger()

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

MAX_CONNECTIONS = 256
"""More are closed at once; a host has a handful of scrapers."""
CROWD = 8
"""With more connections than this a page is served for a while instead of made for each."""
CROWD_SECONDS = 0.5
"""For how long: less than the time between two readings, so a scraper misses nothing."""
MAX_HEADER_BYTES = 16384
HEADER_SECONDS = 10.0
"""From the first byte of a request to the end of its header; for a TLS handshake."""
IDLE_SECONDS = 150.0
"""A kept connection may rest this long; longer than two scrape intervals of a minute."""
SEND_SECONDS = 30.0
"""For a whole response."""
PARTING_SECONDS = 1.0
PARTING_BYTES = 1 << 20
"""How long and how much of what a client still sends is read before its connection is closed."""
READ_BYTES = 8192
SLICE_BYTES = 65536
GZIP_LEVEL = 1
"""13 times smaller for 8 ms of CPU per 5 MB; level 6 takes twice that for a fifth less."""
GZIP_WINDOW_BITS = 31
"""zlib's way to say: a gzip header and trailer around the stream."""

PLAIN = "text/plain; charset=utf-8"


class Response(NamedTuple):
    """Status, headers beside the usual ones, body in pieces."""

    status: int
    body: tuple[bytes, ...]
    content_type: str = PLAIN
    headers: tuple[tuple[str, str], ...] = ()


class _Page:
    """A page that is being made, or was; everyone who wants the same one waits for it."""

    def __init__(self) -> None:
        self.made = trio.Event()
        self.body: tuple[bytes, ...] | None = None
        self.expires = 0.0
        """When nobody gets it any more, by trio's clock."""


class MetricsServer:
    """State: the pages being made and the number of open connections.

    Args:
        exporters: what is served, each at its path.
        is_ready: whether pages can be made already.
        access: who may read; None: everybody.
    """

    def __init__(
        self,
        exporters: Iterable[ScrapeExporter],
        *,
        is_ready: Callable[[], bool],
        access: Access | None = None,
    ) -> None:
        self._exporters = {exporter.path: exporter for exporter in exporters}
        self._is_ready = is_ready
        self._access = access or Access(None)
        self._pages: dict[tuple[str, str, bool], _Page] = {}
        self._connections = 0

    async def serve(
        self,
        address: str,
        address_file: str,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; ``started`` with the bound address.

        Args:
            address: ``HOST:PORT``; port 0 takes a free one, an empty host all interfaces.
            address_file: the bound address is written there (RUN_DIR/metrics.addr) and removed
                at the end.

        Raises:
            Unavailable: the address cannot be bound.
        """
        host, _, port = address.rpartition(":")
        try:
            listeners = await trio.open_tcp_listeners(int(port), host=host.strip("[]") or None)
        except OSError as error:
            raise Unavailable(
                f"cannot serve metrics on {address}: {error.strerror or error};"
                " choose another --metrics-address or 'none'"
            ) from error
        bound = _shown_address(listeners[0].socket.getsockname())
        async with contextlib.AsyncExitStack() as undo:
            for listener in listeners:
                undo.push_async_callback(listener.aclose)
            _write_address(address_file, bound)
            undo.callback(_remove, address_file)
            task_status.started(bound)
            await trio.serve_listeners(self._converse, listeners)

    def _may_serve_again(self, page: _Page) -> bool:
        """Whether a crowd may have a page that was made just now."""
        return self._connections > CROWD and trio.current_time() < page.expires

    async def _converse(self, stream: trio.SocketStream) -> None:
        """One connection, request after request."""
        self._connections += 1
        try:
            async with stream:
                if self._connections <= MAX_CONNECTIONS:
                    await self._access.renew()
                    if self._access.is_secure:
                        await self._securely(stream)
                    else:
                        await self._requests(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client went or does not take its answer; nobody is left to be told
        finally:
            self._connections -= 1
            if self._connections <= CROWD:
                self._pages = {
                    key: one for key, one in self._pages.items() if not one.made.is_set()
                }

    async def _securely(self, stream: trio.SocketStream) -> None:
        with trio.fail_after(HEADER_SECONDS):
            secure = await self._access.secured(stream)
        if secure is not None:
            async with secure:
                await self._requests(secure)

    async def _requests(self, stream: Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        while True:
            try:
                request = await _next_request(stream, connection)
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint or 400
                await _send(stream, connection, Response(status, (f"{error}\n".encode(),)), "GET")
                await _part(stream)
                return
            if request is None:
                return
            await self._access.renew()
            response = await self._respond(request)
            response = response._replace(headers=response.headers + self._access.headers)
            await _send(stream, connection, response, request.method.decode("ascii"))
            if connection.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                await _part(stream)  # Connection: close, or a body nobody asked for
                return
            connection.start_next_cycle()

    async def _respond(self, request: h11.Request) -> Response:
        if not self._access.take_token():
            return Response(429, (b"too many requests\n",))
        if not await self._access.allows(_header(request, b"authorization")):
            return Response(
                401, (b"unauthorized\n",), headers=(("www-authenticate", 'Basic charset="UTF-8"'),)
            )
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        exporter = self._exporters.get(path)
        if exporter is None and path not in ("/healthz", "/readyz"):
            return Response(404, (b"not found\n",))
        if request.method not in (b"GET", b"HEAD"):
            return Response(405, (b"method not allowed\n",), headers=(("allow", "GET, HEAD"),))
        if path == "/healthz":
            return Response(200, (b"ok\n",))
        if not self._is_ready():
            return Response(503, (b"containers are still being taken back\n",))
        if exporter is None:
            return Response(200, (b"ready\n",))
        return await self._page(exporter, request)

    async def _page(self, exporter: ScrapeExporter, request: h11.Request) -> Response:
        content_type = exporter.negotiate(_header(request, b"accept"))
        packed = _accepts_gzip(_header(request, b"accept-encoding"))
        key = (exporter.path, content_type, packed)
        page = self._pages.get(key)
        if page is None or (page.made.is_set() and not self._may_serve_again(page)):
            page = self._pages[key] = _Page()
            try:
                # Shielded: others may be waiting for this page although its first reader left.
                with trio.CancelScope(shield=True):
                    page.body = await trio.to_thread.run_sync(_make, exporter, content_type, packed)
                page.expires = trio.current_time() + CROWD_SECONDS
            except Exception:
                journal.exception("page cannot be made", path=exporter.path)
            finally:
                page.made.set()
                if not self._may_serve_again(page):
                    self._pages.pop(key, None)
        await page.made.wait()
        if page.body is None:
            return Response(500, (b"the page cannot be made; see the daemon's log\n",))
        encoding = (("content-encoding", "gzip"),) if packed else ()
        vary = (("vary", "accept, accept-encoding"),)
        return Response(200, page.body, content_type, encoding + vary)


def _make(exporter: ScrapeExporter, content_type: str, packed: bool) -> tuple[bytes, ...]:
    """Render a page, with rests in which other threads get the interpreter lock."""
    pieces, pace = [], Pace()
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS) if packed else None
    for piece in exporter.render(content_type):
        pieces.append(packer.compress(piece) if packer is not None else piece)
        pace.rest()
    if packer is not None:
        pieces.append(packer.flush())
    return tuple(piece for piece in pieces if piece)


async def _next_request(stream: Stream, connection: h11.Connection) -> h11.Request | None:
    """The next request with its end, None when the client has gone or is too slow to begin."""
    request: h11.Request | None = None
    patience = trio.current_time() + IDLE_SECONDS
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.ConnectionClosed):
            return None
        elif event is h11.NEED_DATA:
            with trio.move_on_at(patience):
                received = await stream.receive_some(READ_BYTES)
                if connection.trailing_data[0] == b"":
                    patience = min(patience, trio.current_time() + HEADER_SECONDS)
                connection.receive_data(bytes(received))
                continue
            return None
        else:
            # A body is not wanted; it is not read either, and the connection ends after the
            # answer. Without one the end of the message is already here.
            return request


async def _send(
    stream: Stream, connection: h11.Connection, response: Response, method: str
) -> None:
    """Send a response; the body in slices, so that other tasks run between them.

    Raises:
        trio.TooSlowError: the client does not take it in time.
    """
    length = sum(map(len, response.body))
    head = h11.Response(
        status_code=response.status,
        headers=[
            ("server", f"aruntime/{__version__}"),
            ("content-type", response.content_type),
            ("content-length", str(length)),
            *response.headers,
        ],
    )
    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    with trio.fail_after(SEND_SECONDS):
        await stream.send_all(connection.send(head) or b"")
        if method != "HEAD":
            await _send_body(stream, connection, response.body)
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


async def _part(stream: Stream) -> None:
    """End our side and throw away what still comes, for a moment.

    Closing with unread bytes would make the kernel reset the connection, and the client might
    lose the answer that tells it what was wrong. TLS has no half-closed connections.
    """
    if isinstance(stream, trio.SocketStream):
        await stream.send_eof()
    left = PARTING_BYTES
    with trio.move_on_after(PARTING_SECONDS):
        while left > 0 and (received := await stream.receive_some(READ_BYTES)):
            left -= len(received)


async def _send_body(stream: Stream, connection: h11.Connection, body: tuple[bytes, ...]) -> None:
    """Pieces go out joined up to a slice: few system calls, never the whole body copied."""
    gathered: list[bytes] = []
    size = 0
    for piece in body:
        gathered.append(piece)
        size += len(piece)
        if size >= SLICE_BYTES:
            await stream.send_all(connection.send(h11.Data(b"".join(gathered))) or b"")
            gathered, size = [], 0
    if gathered:
        await stream.send_all(connection.send(h11.Data(b"".join(gathered))) or b"")


def _header(request: h11.Request, name: bytes) -> str:
    """A header's value; several are one list (RFC 9110 §5.3)."""
    values = [value.decode("latin-1") for key, value in request.headers if key == name]
    return ",".join(values)


def _accepts_gzip(header: str) -> bool:
    for item in header.split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _shown_address(name: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _write_address(path: str, address: str) -> None:
    """Write the file by rename: whoever waits for it never reads half a line."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(address + "\n")
    os.replace(temporary, path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
