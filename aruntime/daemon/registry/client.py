"""Requests to one registry: authenticated, tried again, their failures worded.

One :class:`Registry` serves one operation and owns its connections. What is asked for is
:mod:`aruntime.daemon.registry.repository`'s affair.
"""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import httpx
import trio

from aruntime import __version__
from aruntime.daemon.registry import endpoints
from aruntime.daemon.registry.authority import Authority, FindLogin
from aruntime.daemon.registry.endpoints import Endpoint
from aruntime.daemon.registry.policy import CERTS_DIRECTORIES, Policy
from aruntime.errors import (
    AccessDenied,
    AruntimeError,
    InvalidArchive,
    NotFound,
    RegistryFailed,
)
from aruntime.images.members import DOCUMENT_BYTES

ATTEMPTS = 7
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_WANTED_SECONDS = 60.0
"""Of the pauses a registry may ask for."""
CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 60.0
"""How long a registry may say nothing in the middle of something."""
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
MESSAGE_BYTES = 64 << 10
SHOWN_CHARACTERS = 300

Failure = httpx.TransportError


class MissingThere(NotFound):
    """The registry does not have what was asked for."""


class Rejected(RegistryFailed):
    """The registry finds fault with the request itself: asking again is no use."""


class Untrusted(RegistryFailed):
    """The registry's certificate is not vouched for by anybody we know."""


class BrokenOff(RegistryFailed):
    """The connection broke in the middle of an answer."""


class Registry:
    """One registry that has answered.

    Attributes:
        endpoint: where it is.
        client: its connections.
        authority: what it knows of us.
    """

    def __init__(
        self, endpoint: Endpoint, client: httpx.AsyncClient, find_login: FindLogin
    ) -> None:
        self.endpoint = endpoint
        self.client = client
        self.authority = Authority(client, endpoint, find_login)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        attempts: int = ATTEMPTS,
    ) -> httpx.Response:
        """Send a request, again if need be, and return the whole answer.

        Raises:
            AccessDenied, MissingThere, RegistryFailed: as :func:`refusal`.
        """
        async with self.stream(
            method, url, scope=scope, headers=headers, content=content, attempts=attempts
        ) as response:
            await _read(response)
            return response

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        attempts: int = ATTEMPTS,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, again if need be, and yield the answer, whose body is to be read.

        Args:
            method: of HTTP.
            url: a path, or an absolute URL that the registry gave.
            scope: of the token this takes.
            headers: more of them.
            content: the body: bytes, or a function that returns an iterator over it.
            attempts: how often to try.

        Raises:
            AccessDenied, MissingThere, RegistryFailed: as :func:`refusal`.
            BrokenOff: from the block, when the connection breaks.
        """
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            try:
                response = await self._send(method, url, scope, headers, content)
            except Failure as error:
                if last:
                    raise RegistryFailed(unreachable(self.endpoint, error)) from error
                await trio.sleep(pause(attempt))
                continue
            try:
                if response.is_success:
                    try:
                        yield response
                    except Failure as error:
                        raise BrokenOff(unreachable(self.endpoint, error)) from error
                    return
                if response.status_code not in TRANSIENT or last:
                    raise refusal(response, await _said(response), self.endpoint)
                wait = wanted_pause(response, attempt)
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
            await trio.sleep(wait)

    async def fetch(
        self, url: str, scope: str, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, httpx.Response]:
        """Return a document with the answer it came in, again if the connection breaks.

        Raises:
            InvalidArchive: it is too long to be one.
            AccessDenied, MissingThere, RegistryFailed: as :func:`refusal`.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self.stream("GET", url, scope=scope, headers=headers) as response:
                    return await _document(response), response
            except BrokenOff:
                if attempt == ATTEMPTS:
                    raise
            await trio.sleep(pause(attempt))
        raise AssertionError("the last attempt raises")

    async def _send(
        self, method: str, url: str, scope: str, headers: Mapping[str, str] | None, content: Any
    ) -> httpx.Response:
        """Send once, twice if the registry wants to know who asks."""
        ours = self._is_ours(url)
        for again in (False, True):
            shown = self.authority.header(scope) if ours else {}
            request = self.client.build_request(
                method,
                url,
                headers={**(headers or {}), **shown},
                content=content() if callable(content) else content,
            )
            response = await self.client.send(request, stream=True)
            if response.status_code != httpx.codes.UNAUTHORIZED or not ours or again:
                break
            refused = shown.get("Authorization", "")
            try:
                if not await self.authority.answer(response, scope, refused):
                    break
            except BaseException:
                with trio.CancelScope(shield=True):
                    await response.aclose()
                raise
            await response.aclose()
        return response

    def _is_ours(self, url: str) -> bool:
        """Whether a URL is the registry's: tokens are for nobody else."""
        target = httpx.URL(self.endpoint.url).join(url)
        own = httpx.URL(self.endpoint.url)
        return (target.scheme, target.netloc) == (own.scheme, own.netloc)


def pause(attempt: int) -> float:
    """Return how many seconds to wait after a failed attempt: twice as long each time."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * float(1 << attempt - 1))
    return longest * random.uniform(0.75, 1)


def wanted_pause(response: httpx.Response, attempt: int) -> float:
    """Return how long a registry asks to be left alone, within reason."""
    text: str = response.headers.get("retry-after", "")
    if not text.isdecimal():
        return pause(attempt)
    return min(float(text), LONGEST_WANTED_SECONDS)


@contextlib.asynccontextmanager
async def contact(
    candidates: Iterable[Endpoint], policy: Policy, find_login: FindLogin
) -> AsyncIterator[Registry]:
    """Yield the first of some endpoints that answers.

    Raises:
        RegistryFailed: none does; the message has what the last one said.
        Untrusted: one has a certificate that nobody vouches for; those after it are not asked.
    """
    async with contextlib.AsyncExitStack() as stack:
        failures: list[AruntimeError] = []
        for endpoint in candidates:
            connections = await stack.enter_async_context(await opened(endpoint, policy))
            registry = Registry(endpoint, connections, find_login)
            try:
                await check_is_registry(registry)
            except Untrusted:
                raise  # plain HTTP in its place would be trusted even less
            except RegistryFailed as error:
                failures.append(error)
                continue
            break
        else:
            # Of HTTPS and HTTP at one place, a person wants to know what plain HTTP says.
            raise failures[-1]
        yield registry


async def opened(endpoint: Endpoint, policy: Policy) -> httpx.AsyncClient:
    """Return connections to an endpoint; the caller closes them."""
    verify: ssl.SSLContext | bool = False
    if endpoint.url.startswith("https:"):
        verify = await trio.to_thread.run_sync(partial(endpoints.tls_context, endpoint, policy))
    return httpx.AsyncClient(
        base_url=endpoint.url,
        verify=verify,
        follow_redirects=True,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None),
        headers={"User-Agent": f"aruntime/{__version__}", "Accept-Encoding": "identity"},
    )


async def check_is_registry(registry: Registry) -> None:
    """Ask an endpoint whether it speaks the protocol; once, and without a login.

    Raises:
        Untrusted: its certificate is not good.
        RegistryFailed: it does not, or nobody is there.
    """
    endpoint = registry.endpoint
    try:
        response = await registry.client.get("/v2/")
    except Failure as error:
        kind = Untrusted if is_untrusted(error) else RegistryFailed
        raise kind(unreachable(endpoint, error)) from error
    if not response.is_success and response.status_code != httpx.codes.UNAUTHORIZED:
        raise RegistryFailed(
            f"{endpoint.url} is no registry: /v2/ gives status {response.status_code}"
        )


def unreachable(endpoint: Endpoint, error: Exception) -> str:
    """Word a failed connection."""
    reason = next((" ".join(str(one).split()) for one in causes(error) if str(one)), "")
    reason = reason.lower() or type(error).__name__
    advice = ""
    if is_untrusted(error):
        advice = (
            f"; put its authority's certificate into {CERTS_DIRECTORIES[0]}/{endpoint.host}/ca.crt"
        )
    elif "wrong_version_number" in reason or "record_layer_failure" in reason:
        advice = "; if it speaks plain HTTP, name it with --insecure-registry of aruntimed"
    return f"cannot reach registry {endpoint.url}: {reason}{advice}"


def is_untrusted(error: Exception) -> bool:
    """Whether a connection failed because nobody vouches for the certificate."""
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from: what TLS says is far below, what is above is mute."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


async def _said(response: httpx.Response) -> list[tuple[str, str]]:
    """Return code and message of each error a registry reports (distribution-spec, Error Codes)."""
    try:
        await _read(response)
        found = [
            (str(one.get("code", "")), str(one.get("message", "")))
            for one in response.json()["errors"]
        ]
    except (httpx.HTTPError, RegistryFailed, ValueError, KeyError, TypeError, AttributeError):
        return []
    return found


def received(
    response: httpx.Response, size: int | None = None
) -> contextlib.aclosing[AsyncGenerator[bytes, None]]:
    """Return an answer's body in pieces; the block's end ends it, read or not."""
    pieces = cast("AsyncGenerator[bytes, None]", response.aiter_raw(size))
    return contextlib.aclosing(pieces)


async def _document(response: httpx.Response) -> bytes:
    content = bytearray()
    async with received(response) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > DOCUMENT_BYTES:
                raise InvalidArchive(f"a document has more than {DOCUMENT_BYTES} bytes")
    return bytes(content)


async def _read(response: httpx.Response) -> None:
    """Read an answer that must not be long."""
    content = bytearray()
    async with received(response) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > MESSAGE_BYTES:
                raise RegistryFailed(f"{response.url.host} says more than it may")
    response._content = bytes(content)


def refusal(
    response: httpx.Response, said: list[tuple[str, str]], endpoint: Endpoint
) -> AruntimeError:
    """Return the error that an answer other than success means."""
    words = "; ".join(dict.fromkeys(message or code for code, message in said))
    text = " ".join(words.split())[:SHOWN_CHARACTERS]
    status = response.status_code
    place = f"registry {endpoint.host}"
    if status in (401, 403):
        return AccessDenied(f"{place} refuses: {text or 'access denied'}")
    if status == httpx.codes.NOT_FOUND:
        return MissingThere(f"{place} has none: {text or 'not found'}")
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return RegistryFailed(f"{place} is asked too often: {text or 'try again later'}")
    kind = Rejected if response.is_client_error else RegistryFailed
    return kind(f"{place} fails with status {status}" + (f": {text}" if text else ""))
