"""A proxy before a real registry that sees every request and can spoil some.

It keeps what it saw, so a test can count downloads and read the headers Range; and it breaks off,
holds up, alters or refuses what a test tells it to, as bad networks and busy registries do.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

PIECE_BYTES = 64 << 10
HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})


class Seen(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    range: str
    status: int
    """Of what was answered."""
    authorization: str


class Fault:
    """What is done to requests that fit, as often as it says.

    Args:
        part: of the path of the requests.
        method: of the requests.
        times: how many are spoiled; the others are not.
        status: answer this instead of asking the registry.
        headers: go with the status.
        cut: break off after so many bytes of the answer's body.
        cut_request: break off after so many bytes of the request's body.
        alter: changes pieces of the answer's body.
        gate: wait for it before the body goes on after ``cut`` bytes, instead of breaking off.
        whole: answer from the beginning, whatever Range asks for.
    """

    def __init__(
        self,
        part: str,
        *,
        method: str = "GET",
        times: int = 1,
        status: int = 0,
        headers: dict[str, str] | None = None,
        cut: int = -1,
        cut_request: int = -1,
        alter: Callable[[bytes], bytes] | None = None,
        gate: threading.Event | None = None,
        whole: bool = False,
    ) -> None:
        self.part = part
        self.method = method
        self.times = times
        self.status = status
        self.headers = headers or {}
        self.cut = cut
        self.cut_request = cut_request
        self.alter = alter
        self.gate = gate
        self.whole = whole
        self.reached = threading.Event()
        """Set when a request has come as far as the fault."""

    def fits(self, method: str, path: str) -> bool:
        """Whether a request is to be spoiled."""
        return self.times > 0 and method == self.method and self.part in path


class Proxy:
    """The proxy; its requests are in ``seen``, its faults are those in ``faults``."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                # The registry may be down, the client may hang up: both are what is tested.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    outer.serve(self)
                    return
                self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_address[1]}"

    def spoil(self, part: str, **how: object) -> Fault:
        """Add a fault."""
        fault = Fault(part, **how)  # type: ignore[arg-type]  # fields by name
        self.faults.append(fault)
        return fault

    def requests(self, method: str, part: str) -> list[Seen]:
        """Return the requests whose path has a part."""
        return [one for one in self.seen if one.method == method and part in one.path]

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Pass one request on, or spoil it."""
        fault = self._fault_for(request.command, request.path)
        asked = request.headers.get("Range", "")
        length = int(request.headers.get("Content-Length") or 0)
        if fault is not None and fault.status:
            _take(request, length)
            self._note(request, asked, fault.status)
            _answer(request, fault)
            fault.reached.set()
            return
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(
                request.command, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if fault is not None and fault.whole and name.lower() == "range":
                    continue
                if name.lower() not in HOP or name.lower() == "content-length":
                    connection.putheader(name, value)
            connection.endheaders()
            _pass_request(request, connection, length, fault)
            answer = connection.getresponse()
            self._note(request, asked, answer.status)
            _pass_answer(request, answer, fault)

    def _fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.fits(method, path):
                    fault.times -= 1
                    return fault
        return None

    def _note(self, request: BaseHTTPRequestHandler, asked: str, status: int) -> None:
        with self._lock:
            shown = request.headers.get("Authorization", "")
            self.seen.append(Seen(request.command, request.path, asked, status, shown))


def _take(request: BaseHTTPRequestHandler, length: int) -> None:
    """Read a request's body to nowhere."""
    while length:
        length -= len(request.rfile.read(min(PIECE_BYTES, length)))


def _answer(request: BaseHTTPRequestHandler, fault: Fault) -> None:
    request.send_response(fault.status)
    for name, value in fault.headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", "0")
    request.end_headers()


def _pass_request(
    request: BaseHTTPRequestHandler,
    connection: http.client.HTTPConnection,
    length: int,
    fault: Fault | None,
) -> None:
    passed = 0
    while passed < length:
        piece = request.rfile.read(min(PIECE_BYTES, length - passed))
        if not piece:
            raise ConnectionResetError
        connection.send(piece)
        passed += len(piece)
        if fault is not None and 0 <= fault.cut_request <= passed:
            fault.reached.set()
            raise ConnectionResetError


def _pass_answer(
    request: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, fault: Fault | None
) -> None:
    request.send_response_only(answer.status)
    for name, value in answer.getheaders():
        if name.lower() != "transfer-encoding":
            request.send_header(name, value)
    chunked = answer.getheader("Content-Length") is None and answer.status != 204
    if chunked:
        request.send_header("Connection", "close")
        request.close_connection = True
    request.end_headers()
    if request.command == "HEAD":
        return
    passed = 0
    while piece := answer.read(PIECE_BYTES):
        if fault is not None:
            piece = _spoiled(request, piece, passed, fault)
        request.wfile.write(piece)
        passed += len(piece)
    if not chunked and answer.length:  # the registry has died in the middle
        raise ConnectionResetError


def _spoiled(request: BaseHTTPRequestHandler, piece: bytes, passed: int, fault: Fault) -> bytes:
    """Do to a piece of an answer what the fault says."""
    if fault.alter is not None:
        piece = fault.alter(piece)
    if fault.cut < 0 or passed + len(piece) <= fault.cut:
        return piece
    keep = max(0, fault.cut - passed)
    request.wfile.write(piece[:keep])
    request.wfile.flush()
    fault.reached.set()
    if fault.gate is None:
        raise ConnectionResetError
    fault.gate.wait(60)
    fault.cut = -1
    return piece[keep:]


@contextlib.contextmanager
def running(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before a registry while the block runs."""
    proxy = Proxy(upstream)
    # Not trio's: http.server has no event loop.
    thread = threading.Thread(target=proxy.http.serve_forever, args=(0.02,))  # noqa: TID251
    thread.start()
    try:
        yield proxy
    finally:
        for fault in proxy.faults:
            if fault.gate is not None:
                fault.gate.set()
        proxy.http.shutdown()
        thread.join()
        proxy.http.server_close()
