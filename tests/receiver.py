"""A receiver of CloudEvents over HTTP, in a process of its own that can be killed.

It does what a careful receiver does: stores the events of a request durably, then acknowledges.
So a kill between the two makes the sender send again what is stored already, and whoever reads the
store has to know an event by its source and id. Run as ``python -m tests.receiver PORT FILE MODE``.

Modes, for what receivers do to senders:

    plain        acknowledges everything
    forgetful    stores the first request after its start, and ends without an answer
    busy         answers every second request with 503 and a Retry-After
    strict       refuses requests (400) with an event whose subject is ``refused``
    closed       refuses everything (400)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.harness import wait_until

Event = dict[str, Any]


class Receiver:
    """A receiver of a test: its process, port and store."""

    def __init__(self, port: int, store: Path) -> None:
        self.port = port
        self.store = store
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where events are posted."""
        return f"http://127.0.0.1:{self.port}/api/v1/events"

    def start(self, mode: str = "plain") -> None:
        """Start it and wait until it listens."""
        ready = self.store.with_suffix(".ready")
        ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.receiver", str(self.port), str(self.store), mode],
            cwd=Path(__file__).parents[1],
        )
        wait_until(ready.exists, what="the receiver listens")

    def kill(self) -> None:
        """Kill it at once, whatever it is doing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def wait(self) -> None:
        """Wait until it has ended by itself."""
        assert self.process is not None
        self.process.wait(20)
        self.process = None

    def events(self) -> list[Event]:
        """Every event that was stored, in order of arrival; a torn last line does not count."""
        if not self.store.exists():
            return []
        lines = self.store.read_bytes().split(b"\n")[:-1]
        return [event for line in lines for event in json.loads(line)["events"]]

    def requests(self) -> list[dict[str, str]]:
        """Headers of the requests that were stored."""
        if not self.store.exists():
            return []
        lines = self.store.read_bytes().split(b"\n")[:-1]
        return [json.loads(line)["headers"] for line in lines]

    def distinct(self) -> dict[tuple[str, str], Event]:
        """Events by source and id, as a receiver counts them."""
        return {(event["source"], event["id"]): event for event in self.events()}


class Post(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    store: Path
    mode: str
    count = 0

    def do_POST(self) -> None:
        """Store, then acknowledge."""
        body = self.rfile.read(int(self.headers["content-length"]))
        events = json.loads(body)
        type(self).count += 1
        if self.mode == "busy" and self.count % 2:
            self.answer(503, {"Retry-After": "0"})
            return
        if self.mode == "closed" or (
            self.mode == "strict" and any(event["subject"] == "refused" for event in events)
        ):
            self.answer(400, {}, b'{"title": "no such subject"}')
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        with open(self.store, "ab") as file:
            file.write(json.dumps({"headers": headers, "events": events}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if self.mode == "forgetful":
            os._exit(1)
        self.answer(204, {})

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def main(port: int, store: Path, mode: str) -> None:
    """Serve until killed."""
    Post.store, Post.mode = store, mode
    deadline = time.monotonic() + 10
    while True:
        try:
            server = HTTPServer(("127.0.0.1", port), Post)
        except OSError:  # the port of a receiver killed this instant
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    store.with_suffix(".ready").write_text("")
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
