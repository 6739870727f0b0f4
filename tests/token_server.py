"""A token server as docker's registry wants one: it knows users, scopes and refresh tokens.

What it signs is checked by the registry itself (docs.docker.com/registry/spec/auth: token, jwt,
oauth), so a client that asks for too little or shows the wrong token is turned away by real code.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.certificates import Signed

SERVICE, ISSUER = "registry of tests", "token server of tests"
CONFIG = """auth:
  token:
    realm: {realm}
    service: {service}
    issuer: {issuer}
    rootcertbundle: {bundle}
"""
PUBLIC = "public/"
"""Repositories that anybody may pull from."""


class TokenServer:
    """Gives tokens to those who are in its tables.

    Attributes:
        users: passwords by name.
        rights: actions by user and repository.
        refresh: users by refresh token.
        asked: the scopes of each request, in order.
        lifetime: seconds a token is good for; the registry allows a minute more.
    """

    def __init__(self, signed: Signed) -> None:
        self.users: dict[str, str] = {}
        self.rights: dict[tuple[str, str], set[str]] = {}
        self.refresh: dict[str, str] = {}
        self.asked: list[list[str]] = []
        self.lifetime = 300
        self._signed = signed
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.serve(self, parse_qs(urlsplit(self.path).query), self._basic())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                fields = parse_qs(body)
                token = fields.get("refresh_token", [""])[0]
                scopes = fields.get("scope", [""])[0].split()
                outer.serve(self, {**fields, "scope": scopes}, outer.refresh.get(token))

            def _basic(self) -> str | None:
                """Return who asks: empty for anybody, None for somebody with a wrong password."""
                text = self.headers.get("Authorization", "").removeprefix("Basic ")
                if not text:
                    return ""
                name, _, password = base64.b64decode(text).decode().partition(":")
                return name if outer.users.get(name) == password else None

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self.http.server_address[1]}/token"

    @property
    def registry_config(self) -> str:
        """What a registry that trusts this server has in its configuration."""
        return CONFIG.format(
            realm=self.realm, service=SERVICE, issuer=ISSUER, bundle=self._signed.certificate
        )

    def serve(
        self, request: BaseHTTPRequestHandler, fields: dict[str, list[str]], user: str | None
    ) -> None:
        """Answer one request."""
        scopes = fields.get("scope", [])
        self.asked.append(scopes)
        status, answer = 200, dict[str, Any]()
        if user is None or fields.get("service") != [SERVICE]:
            status, answer = 401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}
        else:
            token = self._token(user, [self._granted(user, scope) for scope in scopes])
            answer = {"token": token, "access_token": token, "expires_in": self.lifetime}
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _granted(self, user: str, scope: str) -> dict[str, Any]:
        kind, name, actions = scope.split(":")
        allowed = self.rights.get((user, name), set())
        if name.startswith(PUBLIC):
            allowed = allowed | {"pull"}
        return {"type": kind, "name": name, "actions": sorted(allowed & set(actions.split(",")))}

    def _token(self, user: str, access: list[dict[str, Any]]) -> str:
        """Sign a JSON web token (RFC 7519) with ES256."""
        der = base64.b64encode(_pem_to_der(self._signed.certificate)).decode()
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [der]}
        claims = {
            "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + self.lifetime,
            "nbf": now - 10, "iat": now, "jti": secrets.token_hex(8), "access": access,
        }  # fmt: skip
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._signed.key)],
            input=text.encode(), capture_output=True, check=True,
        )  # fmt: skip
        return f"{text}.{_encoded(_raw_signature(done.stdout))}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _pem_to_der(path: Path) -> bytes:
    lines = path.read_text().splitlines()
    return base64.b64decode("".join(line for line in lines if not line.startswith("-")))


def _raw_signature(der: bytes) -> bytes:
    """Turn openssl's signature, an ASN.1 sequence of two numbers, into the 64 bytes of a JWS."""
    first = der[4 : 4 + der[3]]
    second = der[6 + der[3] :]
    return b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (first, second))


@contextlib.contextmanager
def running(signed: Signed) -> Iterator[TokenServer]:
    """Run a token server while the block runs."""
    server = TokenServer(signed)
    # Not trio's: http.server has no event loop.
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))  # noqa: TID251
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
