"""Events: the same whenever they are made, exact, and handed over to servers of every temper."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aruntime_exporters.openmeter import (
    OpenMeterExporter,
    OpenMeterOptions,
    event_id,
    events,
    retry_after,
)
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import InvalidParameter
from aruntime.metering.push import NotDelivered, Rejected, make_exporter
from aruntime.metering.quantities import quantities
from tests import certificates
from tests.ledgers import correction, usage

RECORD = msgspec.structs.replace(usage(1), host_id="host-1", seq=17)
OK = b"HTTP/1.1 204 No Content\r\n\r\n"

Reply = Callable[[bytes], bytes]
"""From the body of a request to the raw answer; an empty one hangs up."""


class Server:
    """What a test's server saw."""

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0


@contextmanager
def serving(reply: Reply, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve raw answers on the loopback."""
    seen = Server()

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            seen.connections += 1
            if context is None:
                self.talk(self.rfile, self.request)
                return
            try:
                with (
                    context.wrap_socket(self.request, server_side=True) as wrapped,
                    wrapped.makefile("rb") as file,
                ):
                    self.talk(file, wrapped)
            except ssl.SSLError:
                pass  # a client that does not trust us

        def talk(self, file: BufferedIOBase, connection: socket.socket) -> None:
            while head := self.read_head(file):
                seen.heads.append(head)
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                seen.bodies.append(file.read(length))
                answer = reply(seen.bodies[-1])
                if not answer:
                    return
                connection.sendall(answer)

        def read_head(self, file: BufferedIOBase) -> bytes:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline()
                if not line:
                    return b""
                head += line
            return head

    class Threads(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Threads(("127.0.0.1", 0), Connection) as server:
        seen.port = server.server_address[1]
        # Not trio's: http.server has no event loop.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # noqa: TID251
        thread.start()
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()


def exporter(seen: Server, scheme: str = "http", **options: Any) -> OpenMeterExporter:
    """An exporter to a test's server."""
    url = f"{scheme}://127.0.0.1:{seen.port}/api/v1/events"
    return OpenMeterExporter("x", OpenMeterOptions(url=url, timeout=2.0, **options))


def test_events_are_those_of_the_specification() -> None:
    """Required attributes of CloudEvents 1.0, the mapping of the design, no measure that is 0."""
    made = {event.data["sku"]: event for event in events(RECORD)}
    assert set(made) == {name for name, value in quantities(RECORD).items() if value}
    event = msgspec.to_builtins(made["cpu_used"])
    assert event["specversion"] == "1.0"
    assert event["source"] == "aruntime://host-1"
    assert event["type"] == "aruntime.usage.v1"
    assert event["subject"] == "acme"
    assert event["time"] < event["data"]["period_end"]
    assert event["time"].endswith("19.999999999Z")
    assert event["data"] == {
        "sku": "cpu_used", "quantity": "1.234567891", "unit": "Core-Seconds",
        "container_id": RECORD.container_id, "name": "c1", "estimated": False, "labels": {},
        "period_start": event["data"]["period_start"], "period_end": event["data"]["period_end"],
    }  # fmt: skip
    assert Fraction(made["memory_used"].data["quantity"]) == quantities(RECORD)["memory_used"]


def test_ids_are_hashes_of_the_key() -> None:
    """32 digits that depend on host, container, life, number and measure, and on nothing else."""
    other = msgspec.structs.replace(RECORD, name="renamed", tenant="else", cpu_ns=5)
    assert event_id(other, "cpu_used") == event_id(RECORD, "cpu_used")
    assert event_id(RECORD, "cpu_used") == "3dc04a42b35ab45745f76fb311518bdf"
    changed = [
        msgspec.structs.replace(RECORD, **{field: value})
        for field, value in {
            "host_id": "h", "container_id": "c", "incarnation": "i", "seq": 18,
        }.items()
    ]  # fmt: skip
    ids = {event_id(record, "cpu_used") for record in [RECORD, *changed]}
    ids.add(event_id(RECORD, "memory_used"))
    assert len(ids) == 6
    assert all(len(each) == 32 for each in ids)


@given(st.integers(0, 1 << 90), st.integers(0, 1 << 63), st.integers(0, 1 << 40))
def test_quantities_arrive_exactly(memory: int, cpu: int, bytes_read: int) -> None:
    """What a receiver parses is what the record says, to the last digit."""
    record = msgspec.structs.replace(
        RECORD, mem_bytens2=memory, cpu_ns=cpu, blk={"vda": (bytes_read, 0, 0, 0, 0)}
    )
    parsed = [json.loads(msgspec.json.encode(event)) for event in events(record)]
    shown = {event["data"]["sku"]: Fraction(event["data"]["quantity"]) for event in parsed}
    assert shown == {name: value for name, value in quantities(record).items() if value}


def test_a_batch_is_one_request_over_a_kept_connection() -> None:
    """JSON batch format; the second request needs no new connection."""
    with serving(lambda _body: OK) as seen:
        sender = exporter(seen)
        items = sender.items(RECORD)
        sender.send(items)
        sender.send(items[:1])
        sender.close()
        sender.close()
    assert seen.connections == 1
    assert json.loads(seen.bodies[0]) == [json.loads(item) for item in items]
    assert b"content-type: application/cloudevents-batch+json" in seen.heads[0].lower()


def test_a_connection_closed_meanwhile_is_replaced() -> None:
    """Servers close idle connections: that is no failure."""
    answers = iter([OK, b"", OK])
    with serving(lambda _body: next(answers)) as seen:
        sender = exporter(seen)
        sender.send([b"1"])
        sender.send([b"2"])
        sender.close()
    assert seen.bodies == [b"[1]", b"[2]", b"[2]"]


def answer(status: int, head: str = "", body: bytes = b"") -> bytes:
    """A raw answer."""
    lines = f"HTTP/1.1 {status} X\r\n{head}content-length: {len(body)}\r\n\r\n"
    return lines.encode() + body


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_answers_that_blame_the_events(status: int) -> None:
    """They are given up one by one, with what the server said about them."""
    with serving(lambda _body: answer(status, body=b'{"detail":\n "bad subject"}')) as seen:
        sender = exporter(seen)
        with pytest.raises(Rejected, match="bad subject"):
            sender.send([b"1"])
        sender.close()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (answer(500), "answered 500"),
        (answer(404), "answered 404"),
        (answer(401), "check token-file"),
        (answer(307, "location: http://else/\r\n"), "redirects are not followed"),
        (b"", "without an answer"),
        (b"NONSENSE\r\n\r\n", "illegal"),
    ],
)
def test_answers_that_do_not_acknowledge(raw: bytes, words: str) -> None:
    """Nothing is lost by them: the events are sent again."""
    with serving(lambda _body: raw) as seen:
        sender = exporter(seen)
        with pytest.raises(NotDelivered, match=words):
            sender.send([b"1"])
        sender.close()


def test_a_busy_server_says_when_to_come_again() -> None:
    """Retry-After in seconds or as a date."""
    with serving(lambda _body: answer(429, "retry-after: 7\r\n")) as seen:
        sender = exporter(seen)
        with pytest.raises(NotDelivered) as caught:
            sender.send([b"1"])
        sender.close()
    assert caught.value.retry_after == 7
    assert (
        retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))) > 50
    )
    assert retry_after("soon") == retry_after("") == 0


def test_a_server_that_never_answers_holds_nobody() -> None:
    """The time limit covers the whole exchange, also one that trickles."""

    def slowly(_body: bytes) -> bytes:
        time.sleep(0.3)
        return b""

    with serving(slowly) as seen:
        sender = exporter(seen)
        sender._poster._timeout = 0.1
        begun = time.monotonic()
        with pytest.raises(NotDelivered, match="timed out"):
            sender.send([b"1"])
        assert time.monotonic() - begun < 2
        sender.close()


def test_nobody_listens() -> None:
    """Down is not for ever."""
    with serving(lambda _body: OK) as seen:
        pass
    with pytest.raises(NotDelivered, match="refused"):
        exporter(seen).send([b"1"])


def test_tls_and_a_token(tmp_path: Path) -> None:
    """The server is verified by the authority given; the token goes to it alone."""
    by = certificates.authority(tmp_path / "ca")
    other = certificates.authority(tmp_path / "other")
    signed = certificates.server(tmp_path / "server", by)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    with serving(lambda _body: OK, context) as seen:
        sender = exporter(seen, "https", ca_file=str(by.certificate), token_file=str(token))
        sender.send([b"1"])
        token.write_text("renewed")
        sender.send([b"2"])
        sender.close()
        assert b"authorization: Bearer s3cret" in seen.heads[0]
        assert b"authorization: Bearer renewed" in seen.heads[1]
        stranger = exporter(seen, "https", ca_file=str(other.certificate))
        with pytest.raises(NotDelivered, match="certificate is not trusted"):
            stranger.send([b"3"])
        stranger.close()
    assert len(seen.bodies) == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "'url' is missing"),
        ({"url": "ftp://x/"}, "url must be http"),
        ({"url": "http://user:pw@x/"}, "no user or password"),
        ({"url": "http://x:99999/"}, "url"),
        ({"url": "http://x/ä"}, "ASCII"),
        ({"url": "http://x/", "ca-file": "/x"}, "ca-file needs"),
        ({"url": "https://x/", "ca-file": "/nowhere"}, "cannot read certificates"),
        ({"url": "https://x/", "token-file": "/nowhere"}, "cannot read a secret"),
        ({"url": "https://x/", "timeout": 0}, "timeout"),
    ],
)
def test_wrong_settings_are_refused(table: dict[str, Any], words: str) -> None:
    """When the daemon starts, not at the first delivery."""
    with pytest.raises(InvalidParameter, match=words):
        make_exporter("x", {"type": "openmeter", **table}, "c.toml")


def test_a_token_never_crosses_a_network_in_clear(tmp_path: Path) -> None:
    """Plain HTTP with a token is for the loopback only."""
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    with pytest.raises(InvalidParameter, match="https"):
        OpenMeterExporter("x", OpenMeterOptions(url="http://192.0.2.1/", token_file=str(token)))
    OpenMeterExporter("x", OpenMeterOptions(url="http://127.0.0.1/", token_file=str(token)))


def test_a_correction_is_events_of_its_own() -> None:
    """Of what is more or less, beside those of the record; they say what they correct, and why."""
    record = msgspec.structs.replace(usage(1), seq=5)
    back = correction(record, seq=9, cpu_ns=-1_000_000_000, net_transmit=7)
    found = {event.data["sku"]: event for event in events(back)}
    assert {sku: event.data["quantity"] for sku, event in found.items()} == {
        "cpu_used": "-1", "network_transmit": "7",
    }  # fmt: skip
    event = found["cpu_used"]
    assert (event.data["corrects"], event.data["reason"]) == (5, "a test")
    assert event.time == events(record)[0].time
    assert event.id not in {one.id for one in events(record)}
    assert "corrects" not in events(record)[0].data
