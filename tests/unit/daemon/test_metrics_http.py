"""HTTP for scrapers: answers, limits, sharing, and clients that are slow or rude."""

from __future__ import annotations

import gzip
import http.client
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from aruntime.daemon import metrics_http
from aruntime.daemon.metrics_http import MetricsServer
from aruntime.errors import Unavailable

PAGE = b"".join(b"line %d\n" % number for number in range(20_000))


class Exporter:
    """Serves a page in pieces; counts how often it is made, and can be held."""

    path = "/metrics"

    def __init__(self) -> None:
        self.made = 0
        self.page = PAGE
        self.go_on = threading.Event()
        self.go_on.set()
        self.broken = False

    def negotiate(self, accept: str) -> str:
        """What was asked for, or text."""
        return accept if accept.startswith("application/") else "text/plain"

    def render(self, content_type: str) -> Iterator[bytes]:
        """The page."""
        self.made += 1
        if self.broken:
            raise RuntimeError("broken on purpose")
        self.go_on.wait(10)
        for start in range(0, len(self.page), 65_536):
            yield self.page[start : start + 65_536]


@asynccontextmanager
async def serving(
    exporter: Exporter, directory: Path, *, ready: bool = True
) -> AsyncIterator[tuple[str, int]]:
    """A server on a free port of the loopback."""
    server = MetricsServer([exporter], is_ready=lambda: ready)
    file = directory / "metrics.addr"
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "127.0.0.1:0", str(file))
        assert file.read_text() == f"{address}\n"
        host, _, port = address.rpartition(":")
        yield host, int(port)
        nursery.cancel_scope.cancel()
    assert not file.exists()


async def ask(
    address: tuple[str, int], target: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request by the standard library's client, in a thread."""

    def request() -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(*address, timeout=10)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, headers=names)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    return await trio.to_thread.run_sync(request)


async def raw(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes, return all that comes until the server closes."""
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(request)
        received = b""
        with trio.fail_after(10):
            async for piece in stream:
                received += piece
        return received


async def test_page(tmp_path: Path) -> None:
    """GET returns the page, its length and its type; the query does not matter."""
    async with serving(Exporter(), tmp_path) as address:
        response, body = await ask(address, "/metrics?x=1", accept="application/openmetrics-text")

        assert (response.status, body) == (200, PAGE)
        assert response.headers["content-type"] == "application/openmetrics-text"
        assert response.headers["content-length"] == str(len(PAGE))
        assert response.headers["content-encoding"] is None


@pytest.mark.parametrize("coding", ["gzip", "deflate, gzip;q=1.0, *;q=0.5", "*"])
async def test_gzip(tmp_path: Path, coding: str) -> None:
    """A client that takes gzip gets it."""
    async with serving(Exporter(), tmp_path) as address:
        response, body = await ask(address, "/metrics", accept_encoding=coding)

        assert response.headers["content-encoding"] == "gzip"
        assert gzip.decompress(body) == PAGE
        assert len(body) < len(PAGE) / 3


@pytest.mark.parametrize("coding", ["identity", "gzip;q=0", "br"])
async def test_no_gzip(tmp_path: Path, coding: str) -> None:
    """A client that does not take gzip does not get it."""
    async with serving(Exporter(), tmp_path) as address:
        _, body = await ask(address, "/metrics", accept_encoding=coding)

        assert body == PAGE


async def test_head(tmp_path: Path) -> None:
    """HEAD has the headers of GET and no body."""
    async with serving(Exporter(), tmp_path) as address:
        response, body = await ask(address, "/metrics", "HEAD")

        assert (200, b"", str(len(PAGE))) == (
            response.status,
            body,
            response.headers["content-length"],
        )


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [("/", "GET", 404), ("/metricsx", "GET", 404), ("/metrics", "POST", 405), ("/x", "PUT", 404)],
)
async def test_refusals(tmp_path: Path, target: str, method: str, status: int) -> None:
    """Unknown paths are 404; what is known only answers GET and HEAD."""
    async with serving(Exporter(), tmp_path) as address:
        response, _ = await ask(address, target, method)

        assert response.status == status
        assert (response.headers["allow"] == "GET, HEAD") == (status == 405)


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
async def test_readiness(tmp_path: Path, ready: bool, status: int) -> None:
    """Before the containers are taken back /metrics and /readyz say 503; /healthz is fine."""
    async with serving(Exporter(), tmp_path, ready=ready) as address:
        statuses = [(await ask(address, path))[0].status for path in ("/readyz", "/metrics")]

        assert statuses == [status, status]
        assert (await ask(address, "/healthz"))[0].status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 2\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nhost: x\r\nfill: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
)
async def test_broken_requests(tmp_path: Path, request_bytes: bytes) -> None:
    """What is not HTTP, or too long, is answered with 4xx and the connection closed."""
    exporter = Exporter()
    async with serving(exporter, tmp_path) as address:
        answer = await raw(address, request_bytes)

        assert answer.startswith(b"HTTP/1.1 4")
        assert exporter.made == 0
        assert (await ask(address, "/healthz"))[0].status == 200


async def test_body_is_not_read(tmp_path: Path) -> None:
    """A request with a body is answered and its connection closed, whatever follows."""
    async with serving(Exporter(), tmp_path) as address:
        answer = await raw(
            address, b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc"
        )

        assert answer.startswith(b"HTTP/1.1 200")


async def test_connection_is_kept(tmp_path: Path) -> None:
    """Several requests go over one connection; Connection: close ends it."""
    async with serving(Exporter(), tmp_path) as address:
        one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        answer = await raw(address, one + one + last)

        assert answer.count(b"HTTP/1.1 200") == 3


async def test_scrapes_share_a_page(tmp_path: Path) -> None:
    """Ten scrapes at once make the page once, also if the first client leaves."""
    exporter = Exporter()
    exporter.go_on.clear()
    bodies: list[bytes] = []

    async def scrape() -> None:
        bodies.append((await ask(address, "/metrics"))[1])

    async with serving(exporter, tmp_path) as address, trio.open_nursery() as nursery:
        leaver = await trio.open_tcp_stream(*address)
        await leaver.send_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        with trio.fail_after(5):
            while not exporter.made:
                await trio.sleep(0.002)
        await leaver.aclose()
        for _ in range(10):
            nursery.start_soon(scrape)
        with trio.fail_after(5):
            while connections(exporter, address) < 10:
                await trio.sleep(0.002)
        exporter.go_on.set()

    assert bodies == [PAGE] * 10
    assert exporter.made == 1


async def test_a_crowd_shares_a_page_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many clients connected a page is made once for the time it may serve, not for each."""
    monkeypatch.setattr(metrics_http, "CROWD", 4)  # three that go slowly are none
    monkeypatch.setattr(metrics_http, "CROWD_SECONDS", 60.0)
    exporter = Exporter()
    async with serving(exporter, tmp_path) as address:
        for _ in range(3):
            assert (await ask(address, "/metrics"))[1] == PAGE
        assert exporter.made == 3

        crowd = [await trio.open_tcp_stream(*address) for _ in range(5)]
        for stream in crowd:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await stream.receive_some(4096)
        for _ in range(5):
            assert (await ask(address, "/metrics"))[1] == PAGE
        assert exporter.made == 4

        monkeypatch.setattr(metrics_http, "CROWD_SECONDS", 0.0)
        exporter.page = b"new"
        for stream in crowd:
            await stream.aclose()
        with trio.fail_after(5):
            while (await ask(address, "/metrics"))[1] != b"new":
                await trio.sleep(0.01)  # the server has not seen the ends yet


def connections(exporter: Exporter, address: tuple[str, int]) -> int:
    """Established connections to the server whose requests it has read (proc(5), net/tcp)."""
    port = f":{address[1]:04X}"
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    served = [line for line in lines if line[1].endswith(port) and line[3] == "01"]
    return sum(line[4].endswith(":00000000") for line in served)


async def test_broken_exporter(tmp_path: Path) -> None:
    """An exporter that fails gives 500 and the next scrape a new chance."""
    exporter = Exporter()
    exporter.broken = True
    async with serving(exporter, tmp_path) as address:
        broken, _ = await ask(address, "/metrics")
        exporter.broken = False
        mended, body = await ask(address, "/metrics")

        assert (broken.status, mended.status, body) == (500, 200, PAGE)


async def test_slow_sender_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request header does not keep a connection."""
    monkeypatch.setattr(metrics_http, "HEADER_SECONDS", 0.05)
    async with serving(Exporter(), tmp_path) as address:
        assert await raw(address, b"GET /metrics HTTP/1.1\r\nhost") == b""


async def test_idle_connection_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a connection that says nothing stay for ever."""
    monkeypatch.setattr(metrics_http, "IDLE_SECONDS", 0.05)
    async with serving(Exporter(), tmp_path) as address:
        assert await raw(address, b"") == b""


async def test_slow_reader_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not take its page is dropped, and others are served meanwhile."""
    monkeypatch.setattr(metrics_http, "SEND_SECONDS", 0.2)
    exporter = Exporter()
    exporter.page = b"x" * (32 << 20)
    async with serving(exporter, tmp_path) as address:
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")

            assert (await ask(address, "/healthz"))[0].status == 200

            received = 0
            with trio.fail_after(10):
                await trio.sleep(0.5)  # the slowness that is tested, not a synchronisation
                try:
                    async for piece in stream:
                        received += len(piece)
                except trio.BrokenResourceError:
                    pass

        assert received < len(exporter.page)


async def test_number_of_connections_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit a connection is closed at once; room comes back when one ends."""
    monkeypatch.setattr(metrics_http, "MAX_CONNECTIONS", 2)
    one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    async with serving(Exporter(), tmp_path) as address:
        first = await trio.open_tcp_stream(*address)
        second = await trio.open_tcp_stream(*address)
        for stream in (first, second):
            await stream.send_all(one)
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
        third = await trio.open_tcp_stream(*address)
        with trio.fail_after(5):
            assert await third.receive_some(4096) == b""
        for stream in (first, second, third):
            await stream.aclose()
        with trio.fail_after(5):
            while True:
                try:
                    assert (await ask(address, "/healthz"))[0].status == 200
                    break
                except (http.client.HTTPException, OSError):
                    await trio.sleep(0.01)  # the server has not seen the ends yet


async def test_address_in_use(tmp_path: Path) -> None:
    """A taken port is one line of advice."""
    async with serving(Exporter(), tmp_path) as (host, port):
        server = MetricsServer([], is_ready=lambda: True)

        with pytest.raises(Unavailable, match="choose another --metrics-address"):
            await server.serve(f"{host}:{port}", str(tmp_path / "other.addr"))


async def test_ipv6(tmp_path: Path) -> None:
    """A bracketed IPv6 address is bound and written with its brackets."""
    server = MetricsServer([Exporter()], is_ready=lambda: True)
    async with trio.open_nursery() as nursery:
        try:
            address = await nursery.start(server.serve, "[::1]:0", str(tmp_path / "addr"))
        except* Unavailable:
            pytest.skip("no IPv6 on this host: ip link set lo up")
        assert address.startswith("[::1]:")
        nursery.cancel_scope.cancel()
