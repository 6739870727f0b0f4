"""A registry in memory that does what the specification says and Debian's does not.

It takes an upload up again where it broke (distribution-spec v1.1, "Resuming a chunked upload"),
can ask for large chunks (OCI-Chunk-Min-Length), refuse chunks, or know no mounts. Blobs are checked
against their digests. One upload at a time is broken by :attr:`SpecRegistry.cuts`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PIECE_BYTES = 64 << 10
UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/(\w*)")
THING = re.compile(r"/v2/(.+)/(blobs|manifests)/([^/]+)")


class SpecRegistry:
    """The registry.

    Attributes:
        blobs, manifests: content by digest, and by repository and name.
        uploads: what has come of each upload under way.
        starts: the first byte of each chunk, in the order they came.
        cuts: connections are broken after so many bytes of a chunk each, then no more.
        chunk_min: smallest chunk that is taken, 0: any.
        takes_chunks: whether a second chunk is taken.
        knows_mounts: whether a request to mount is understood.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.starts: list[int] = []
        self.cuts: list[int] = []
        self.chunk_min = 0
        self.takes_chunks = True
        self.knows_mounts = True
        outer = self

        class Handler(_Handler):
            registry = outer

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    registry: SpecRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, into: bytearray, cut: int = -1) -> bool:
        """Receive a body; whether all of it came."""
        left = int(self.headers.get("Content-Length") or 0)
        received = 0
        while left:
            piece = self.rfile.read(min(PIECE_BYTES, left))
            if not piece:
                return False
            into += piece
            left, received = left - len(piece), received + len(piece)
            if 0 <= cut <= received:
                self.close_connection = True
                return False
        return True

    def do_GET(self) -> None:
        """Serve ``/v2/`` and the state of uploads."""
        upload = UPLOAD.match(self.path)
        if self.path == "/v2/":
            self._answer(200)
        elif upload and upload[2] in self.registry.uploads:
            size = len(self.registry.uploads[upload[2]])
            self._answer(204, Location=self.path, Range=f"0-{max(0, size - 1)}")
        else:
            self._answer(404)

    def do_HEAD(self) -> None:
        """Say whether a blob is there."""
        thing = THING.match(self.path)
        self._answer(200 if thing and thing[3] in self.registry.blobs else 404)

    def do_POST(self) -> None:
        """Begin an upload."""
        found = UPLOAD.match(urlsplit(self.path).path)
        assert found is not None
        if urlsplit(self.path).query and not self.registry.knows_mounts:
            self._answer(405)
            return
        name = secrets.token_hex(8)
        self.registry.uploads[name] = bytearray()
        more = {"OCI_Chunk_Min_Length": str(self.registry.chunk_min)}
        self._answer(
            202,
            Location=f"/v2/{found[1]}/blobs/uploads/{name}",
            **(more if self.registry.chunk_min else {}),
        )

    def do_PATCH(self) -> None:
        """Take a chunk, if it begins where the last one ended."""
        found = UPLOAD.match(self.path)
        assert found is not None
        content = self.registry.uploads[found[2]]
        first, _, last = self.headers["Content-Range"].partition("-")
        self.registry.starts.append(int(first))
        refused = int(first) and not self.registry.takes_chunks
        if int(first) != len(content) or refused:
            self._body(bytearray())
            self._answer(416)
            return
        cut = self.registry.cuts.pop(0) if self.registry.cuts else -1
        if self._body(content, cut):
            self._answer(202, Location=self.path, Range=f"0-{last}")

    def do_PUT(self) -> None:
        """Take a manifest, or the end of an upload."""
        parts = urlsplit(self.path)
        found, thing = UPLOAD.match(parts.path), THING.match(parts.path)
        if found is None:
            assert thing is not None
            content = bytearray()
            if self._body(content):
                self.registry.manifests[thing[1], thing[3]] = bytes(content)
                self._answer(201, Location=self.path)
            return
        blob = self.registry.uploads[found[2]]
        if not self._body(blob):
            return
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        if parse_qs(parts.query)["digest"] != [digest]:
            self._answer(400)
            return
        self.registry.blobs[digest] = bytes(blob)
        del self.registry.uploads[found[2]]
        self._answer(201, Location=self.path)


@contextlib.contextmanager
def running() -> Iterator[SpecRegistry]:
    """Run a registry while the block runs."""
    registry = SpecRegistry()
    # Not trio's: http.server has no event loop.
    thread = threading.Thread(target=registry.http.serve_forever, args=(0.02,))  # noqa: TID251
    thread.start()
    try:
        yield registry
    finally:
        registry.http.shutdown()
        thread.join()
        registry.http.server_close()
