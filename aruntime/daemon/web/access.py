"""Holds connections and requests against the web configuration, which may change meanwhile.

The file and those it names are looked at for every connection and request, as Prometheus'
exporters do, so that a new certificate or user counts at once. If what is there now cannot be
used, what was there before goes on, and the log says why: a half-written certificate must not
end the metering of a host. Whether there is TLS at all is settled at the start.

A password is compared in a worker thread, one at a time, since bcrypt is slow on purpose; verdicts
are remembered, by a digest, for the passwords of the last hundred.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import ssl
from collections import OrderedDict
from pathlib import Path

import structlog
import trio

from aruntime.daemon.web import tls
from aruntime.daemon.web.config import WebConfig, read
from aruntime.errors import AruntimeError

log = structlog.get_logger()

REMEMBERED = 100
NOBODY = "$2b${}$IFx65JKxWn.dg0Bn8TDomulinZuGK3Q/9ySA6zi17qdSWgQHbYFTq"
"""Compared against, at the cost of the users' hashes, when nobody has the name: the time taken
does not tell who exists."""
Stamp = tuple[tuple[str, int, int, int], ...]


class Access:
    """Who may read, by one web configuration file.

    Args:
        path: the file; None is a server without TLS that everybody may read.

    Raises:
        InvalidParameter: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._config = WebConfig()
        self._context: ssl.SSLContext | None = None
        self._stamp: Stamp = ()
        self._reading = trio.Lock()
        self._comparing = trio.CapacityLimiter(1)
        self._verdicts: OrderedDict[bytes, bool] = OrderedDict()
        self._tokens = 0.0
        self._refilled = 0.0
        if path is not None:
            self._config, self._context, self._stamp = _load(path)
            self._tokens = float(self._config.rate_limit.burst)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What is added to every response."""
        return tuple(self._config.http_server_config.headers.items())

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return self._context is not None

    async def renew(self) -> None:
        """Take over what has changed in the files; to be called before each use."""
        if self._path is None or _stamp(self._path, self._config) == self._stamp:
            return
        async with self._reading:
            stamp = _stamp(self._path, self._config)
            if stamp == self._stamp:
                return
            try:
                config, context, stamp = await trio.to_thread.run_sync(_load, self._path)
            except AruntimeError as error:
                log.error("web configuration not taken over", error=error.message)
                self._stamp = stamp
                return
            self._stamp = stamp
            if (context is None) != (self._context is None):
                log.error("web configuration not taken over: TLS on or off needs a restart")
                return
            if config.rate_limit != self._config.rate_limit:
                self._tokens = float(config.rate_limit.burst)
            self._config, self._context = config, context
            log.info("web configuration taken over", file=str(self._path))

    async def secured(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream] | None:
        """Shake hands over a new connection; None if the client's certificate has no right name.

        Raises:
            trio.BrokenResourceError: they do not agree, or the client's certificate is wrong.
        """
        assert self._context is not None
        secure = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        await secure.do_handshake()
        config = self._config.tls_server_config
        allowed = set(config.client_allowed_sans) if config else set()
        if allowed and not allowed & tls.names(secure.getpeercert()):
            return None
        return secure

    def take_token(self) -> bool:
        """Whether the rate limit allows one more request now."""
        limit = self._config.rate_limit
        if not limit.seconds:
            return True
        now = trio.current_time()
        self._tokens += (now - self._refilled) / limit.seconds
        self._tokens = min(self._tokens, limit.burst)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def allows(self, authorization: str) -> bool:
        """Whether a request with this header (RFC 7617, empty if none) may read.

        Cancelled, it leaves a comparison behind that ends by itself.
        """
        users = self._config.basic_auth_users
        if not users:
            return True
        given = _credentials(authorization)
        if given is None:
            return False
        user, password = given
        hashed = users.get(user) or NOBODY.format(max(one[4:6] for one in users.values()))
        parts = (user.encode(), hashed.encode(), password)
        key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
        verdict = self._verdicts.get(key)
        if verdict is None:
            matches = await trio.to_thread.run_sync(
                _matches, password, hashed.encode(), limiter=self._comparing
            )
            verdict = self._verdicts[key] = matches and user in users
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)
        else:
            self._verdicts.move_to_end(key)
        return verdict


def _load(path: Path) -> tuple[WebConfig, ssl.SSLContext | None, Stamp]:
    """Read everything. The stamp is of before, so that a change meanwhile is seen next time."""
    config = read(path)
    before = _stamp(path, config)
    made = tls.context(config.tls_server_config) if config.tls_server_config else None
    return config, made, before


def _stamp(path: Path, config: WebConfig) -> Stamp:
    """What changes when one of the files does; some microseconds a file."""
    files = config.tls_server_config.files if config.tls_server_config else ()
    found = []
    for name in (str(path), *files):
        try:
            state = os.stat(name)
        except OSError:
            found.append((name, 0, 0, 0))
        else:
            found.append((name, state.st_ino, state.st_mtime_ns, state.st_size))
    return tuple(found)


def _credentials(header: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
        user, colon, password = decoded.partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _matches(password: bytes, hashed: bytes) -> bool:
    import bcrypt  # only who has users pays for it

    # bcrypt looks at 72 bytes; newer libraries refuse more, those that made the hash did not.
    return bcrypt.checkpw(password[:72], hashed)
