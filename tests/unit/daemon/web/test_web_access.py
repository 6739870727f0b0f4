"""TLS, users, limits of the metrics server, by real handshakes and htpasswd's own hashes."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from aruntime.daemon import metrics_http
from aruntime.daemon.metrics_http import MetricsServer
from aruntime.daemon.web import access
from aruntime.daemon.web.access import Access
from aruntime.errors import InvalidParameter
from tests.conftest import require_program

PAGE = b"aruntime_up 1\n"
PLACES = ("/metrics", "/healthz", "/readyz", "/", "/nothing")


class Exporter:
    """One short page."""

    path = "/metrics"

    def negotiate(self, accept: str) -> str:
        """Text, whatever was asked for."""
        return "text/plain"

    def render(self, content_type: str) -> Iterator[bytes]:
        """The page."""
        yield PAGE


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


def issue(authority: trustme.CA, directory: Path, name: str = "127.0.0.1") -> None:
    """Write server.crt, server.key and ca.crt."""
    pair = authority.issue_cert(name)
    (directory / "server.crt").write_bytes(pair.cert_chain_pems[0].bytes())
    (directory / "server.key").write_bytes(pair.private_key_pem.bytes())
    authority.cert_pem.write_to_path(directory / "ca.crt")


TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


@asynccontextmanager
async def serving(directory: Path, text: str) -> AsyncIterator[tuple[str, int]]:
    """A server with this web configuration; yields where it listens."""
    path = directory / "web.yml"
    path.write_text(text)
    server = MetricsServer([Exporter()], is_ready=lambda: True, access=Access(path))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "127.0.0.1:0", str(directory / "addr"))
        host, _, port = address.rpartition(":")
        yield host, int(port)
        nursery.cancel_scope.cancel()


def trusting(authority: trustme.CA, client: str = "", *, tls13: bool = True) -> ssl.SSLContext:
    """A client's context, with a certificate of that name."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client:
        authority.issue_cert(client).configure_cert(context)
    if not tls13:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


async def ask(
    address: tuple[str, int],
    target: str = "/metrics",
    login: str = "",
    context: ssl.SSLContext | None = None,
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request by the standard library's client, in a thread."""

    def request() -> tuple[http.client.HTTPResponse, bytes]:
        connection = (
            http.client.HTTPSConnection(*address, timeout=10, context=context)
            if context
            else http.client.HTTPConnection(*address, timeout=10)
        )
        try:
            headers = {"authorization": "Basic " + b64encode(login.encode()).decode()}
            connection.request("GET", target, headers=headers if login else {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    return await trio.to_thread.run_sync(request)


def user(name: str, password: str, cost: int = 5) -> str:
    """A line of basic_auth_users, hashed by htpasswd."""
    command = [require_program("htpasswd"), "-nbBC", str(cost), name, password]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    name, _, hashed = line.partition(":")
    return f"  {name}: {hashed}\n"


async def test_no_password_no_answer(tmp_path: Path) -> None:
    """Without the right password every place answers 401, and the answer says nothing else."""
    async with serving(tmp_path, "basic_auth_users:\n" + user("alice", "wonder:land")) as address:
        for place in PLACES:
            for login in ("", "alice:", "alice:wonderland", "bob:wonder:land", ":", "alice"):
                response, body = await ask(address, place, login)
                assert (response.status, body) == (401, b"unauthorized\n"), (place, login)
                assert response.headers["www-authenticate"].startswith("Basic")

        response, body = await ask(address, "/metrics", "alice:wonder:land")
        assert (response.status, body) == (200, PAGE)
        assert (await ask(address, "/nothing", "alice:wonder:land"))[0].status == 404


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!!", "Basic YWxpY2U", "Bearer YWxpY2U6eA==", "Basic /w==", "x" * 999],
)
async def test_broken_authorization(tmp_path: Path, header: str) -> None:
    """What is no user and password is no right to read."""
    async with serving(tmp_path, "basic_auth_users:\n" + user("alice", "x")) as address:
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            lines = f"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: {header}\r\n\r\n"
            await stream.send_all(lines.encode())
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 401")


async def test_password_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bcrypt is slow on purpose: a verdict is remembered, right or wrong, until users change."""
    compared: list[bytes] = []
    real = access._matches

    def counted(password: bytes, hashed: bytes) -> bool:
        compared.append(password)
        return real(password, hashed)

    monkeypatch.setattr(access, "_matches", counted)
    text = "basic_auth_users:\n" + user("alice", "right")
    async with serving(tmp_path, text) as address:
        for _ in range(3):
            assert (await ask(address, login="alice:right"))[0].status == 200
            assert (await ask(address, login="alice:wrong"))[0].status == 401
        assert compared == [b"right", b"wrong"]

        (tmp_path / "web.yml").write_text("basic_auth_users:\n" + user("alice", "newer"))
        assert (await ask(address, login="alice:right"))[0].status == 401
        assert (await ask(address, login="alice:newer"))[0].status == 200


async def test_verdicts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries many passwords fills no memory."""
    monkeypatch.setattr(access, "REMEMBERED", 3)
    path = tmp_path / "web.yml"
    path.write_text("basic_auth_users:\n" + user("alice", "right", 4))
    one = Access(path)
    for number in range(9):
        header = "Basic " + b64encode(b"alice:%d" % number).decode()
        assert not await one.allows(header)
    assert len(one._verdicts) == 3


async def test_loop_runs_while_a_password_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are served while a comparison takes its time."""
    go_on = threading.Event()
    real = access._matches

    def slow(password: bytes, hashed: bytes) -> bool:
        if password == b"slow":
            go_on.wait(10)
        return real(password, hashed)

    monkeypatch.setattr(access, "_matches", slow)
    text = "basic_auth_users:\n" + user("alice", "right")
    statuses: list[int] = []

    async def try_slow() -> None:
        statuses.append((await ask(address, login="alice:slow"))[0].status)

    async with serving(tmp_path, text) as address:
        assert (await ask(address, login="alice:right"))[0].status == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_slow)
            for _ in range(5):
                assert (await ask(address, login="alice:right"))[0].status == 200
            assert statuses == []
            go_on.set()
        assert statuses == [401]


@pytest.mark.parametrize("tls13", [True, False])
async def test_tls(tmp_path: Path, authority: trustme.CA, tls13: bool) -> None:
    """The page comes over TLS 1.2 and 1.3, with the headers that were asked for."""
    issue(authority, tmp_path)
    more = "http_server_config:\n  headers:\n    X-Content-Type-Options: nosniff\n"
    async with serving(tmp_path, TLS + more) as address:
        response, body = await ask(address, context=trusting(authority, tls13=tls13))
        assert (response.status, body) == (200, PAGE)
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_plain_http_gets_nothing_from_tls(tmp_path: Path, authority: trustme.CA) -> None:
    """A client that does not speak TLS is not answered in clear, and the server lives on."""
    issue(authority, tmp_path)
    async with serving(tmp_path, TLS) as address:
        with pytest.raises((http.client.HTTPException, OSError)):
            await ask(address)
        assert (await ask(address, context=trusting(authority)))[0].status == 200


async def test_silent_handshake_is_given_up(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a connection and says nothing does not keep it."""
    monkeypatch.setattr(metrics_http, "HEADER_SECONDS", 0.05)
    issue(authority, tmp_path)
    async with serving(tmp_path, TLS) as address, await trio.open_tcp_stream(*address) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some(100) == b""


async def test_minimum_version(tmp_path: Path, authority: trustme.CA) -> None:
    """A client below the minimum is refused."""
    issue(authority, tmp_path)
    async with serving(tmp_path, TLS + "  min_version: TLS13\n") as address:
        with pytest.raises(ssl.SSLError):
            await ask(address, context=trusting(authority, tls13=False))


async def test_client_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    """With RequireAndVerifyClientCert only the authority's own clients are answered."""
    issue(authority, tmp_path)
    text = TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
    other = trustme.CA()
    stranger = trusting(authority)
    other.issue_cert("scraper.example").configure_cert(stranger)
    async with serving(tmp_path, text) as address:
        for context in (trusting(authority), stranger):
            with pytest.raises(OSError):
                await ask(address, context=context)
        response, body = await ask(address, context=trusting(authority, "scraper.example"))
        assert (response.status, body) == (200, PAGE)


async def test_client_name(tmp_path: Path, authority: trustme.CA) -> None:
    """client_allowed_sans admits exact names of any kind, of verified certificates only."""
    issue(authority, tmp_path)
    text = (
        TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
        "  client_allowed_sans: [scraper.example, 192.0.2.7, me@example.org]\n"
    )
    async with serving(tmp_path, text) as address:
        for name in ("scraper.example", "192.0.2.7", "me@example.org"):
            assert (await ask(address, context=trusting(authority, name)))[0].status == 200
        for name in ("scraper.example.org", "192.0.2.8"):
            with pytest.raises((OSError, http.client.HTTPException)):
                await ask(address, context=trusting(authority, name))


async def test_certificate_is_renewed(tmp_path: Path, authority: trustme.CA) -> None:
    """A new certificate counts at once; half of one leaves the last good one in service."""
    issue(authority, tmp_path)
    newer = trustme.CA()
    async with serving(tmp_path, TLS) as address:
        assert (await ask(address, context=trusting(authority)))[0].status == 200

        good = (tmp_path / "server.key").read_bytes()
        (tmp_path / "server.key").write_bytes(good[: len(good) // 2])
        assert (await ask(address, context=trusting(authority)))[0].status == 200

        issue(newer, tmp_path)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(address, context=trusting(authority))
        assert (await ask(address, context=trusting(newer)))[0].status == 200

        (tmp_path / "web.yml").write_text("")  # TLS cannot be switched off by emptying a file
        assert (await ask(address, context=trusting(newer)))[0].status == 200


async def test_inline_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    """Certificate, key and authority may stand in the file itself."""
    pair = authority.issue_cert("127.0.0.1")

    def block(name: str, pem: bytes) -> str:
        return f"  {name}: |\n" + "".join(f"    {line}\n" for line in pem.decode().splitlines())

    text = (
        "tls_server_config:\n"
        + block("cert", pair.cert_chain_pems[0].bytes())
        + block("key", pair.private_key_pem.bytes())
        + block("client_ca", authority.cert_pem.bytes())
        + "  client_auth_type: RequireAndVerifyClientCert\n"
    )
    async with serving(tmp_path, text) as address:
        context = trusting(authority, "scraper.example")
        assert (await ask(address, context=context))[0].status == 200


@pytest.mark.parametrize("broken", ["missing", "garbage", "locked", "foreign"])
def test_unusable_certificates(tmp_path: Path, authority: trustme.CA, broken: str) -> None:
    """What cannot be used keeps the daemon from starting, with one line and never a question."""
    issue(authority, tmp_path)
    key = tmp_path / "server.key"
    if broken == "missing":
        key.unlink()
    elif broken == "garbage":
        key.write_text("no key")
    elif broken == "foreign":
        key.write_bytes(authority.issue_cert("other").private_key_pem.bytes())
    else:
        locked = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:x"]
        key.write_bytes(subprocess.run(locked, capture_output=True, check=True).stdout)
    path = tmp_path / "web.yml"
    path.write_text(TLS)

    with pytest.raises(InvalidParameter) as raised:
        Access(path)

    assert "tls_server_config: " in raised.value.message
    assert "\n" not in raised.value.message


async def test_rate_limit(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A burst passes, the next waits for its token."""
    path = tmp_path / "web.yml"
    path.write_text("rate_limit:\n  interval: 10s\n  burst: 2\n")
    one = Access(path)
    assert [one.take_token() for _ in range(4)] == [True, True, False, False]
    await trio.sleep(10.1)
    assert [one.take_token() for _ in range(2)] == [True, False]
    await trio.sleep(1000)
    assert [one.take_token() for _ in range(4)] == [True, True, False, False]


async def test_rate_limit_answers_429(tmp_path: Path) -> None:
    """Beyond the limit the answer is 429 for everyone, before any password is compared."""
    text = "rate_limit:\n  interval: 1h\n  burst: 1\nbasic_auth_users:\n" + user("alice", "x")
    async with serving(tmp_path, text) as address:
        statuses = [(await ask(address, login="alice:x"))[0].status for _ in range(3)]
        assert statuses == [200, 429, 429]
