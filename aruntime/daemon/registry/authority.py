"""Answers to a registry's challenges: basic authentication, bearer tokens, none.

A token is asked for at the place the challenge names (distribution-spec's token authentication,
docs.docker.com/registry/spec/auth) and kept for as long as one operation lasts. Whose name and
password it is asked with is the caller's affair: they are the client's, not the daemon's.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import trio

from aruntime.daemon.registry import challenge
from aruntime.daemon.registry.challenge import Challenge
from aruntime.daemon.registry.endpoints import Endpoint
from aruntime.errors import AccessDenied, RegistryFailed

CLIENT_ID = "aruntime"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who somebody is to a registry."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    """What a registry gave instead of a password (OAuth2 refresh token)."""

    def basic(self) -> str:
        """Return the value of a header Authorization."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


FindLogin = Callable[[str], Awaitable[Login | None]]
"""Finds the client's login for a registry, by ``HOST[:PORT]``; asked at most once."""


class Authority:
    """What to say in the header Authorization to one registry."""

    def __init__(
        self, client: httpx.AsyncClient, endpoint: Endpoint, find_login: FindLogin
    ) -> None:
        self._client = client
        self._url = endpoint.url
        self._host = endpoint.host
        self._find_login = find_login
        self._login: Login | None = None
        self._login_known = False
        self._lock = trio.Lock()
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> dict[str, str]:
        """Return the header for a scope as far as it is known, else none."""
        found = self._headers.get(scope) or self._headers.get("")
        return {"Authorization": found} if found else {}

    async def answer(self, response: httpx.Response, scope: str, refused: str) -> bool:
        """Get what a registry that said 401 wants.

        Args:
            response: with the challenge.
            scope: what is to be done, ``repository:NAME:pull`` for instance; may be empty.
            refused: the header that was not good enough, or empty.

        Returns:
            Whether it is worth trying again.

        Raises:
            AccessDenied: the login is wrong.
            RegistryFailed: the token cannot be had.
        """
        async with self._lock:
            if self.header(scope).get("Authorization", "") != refused:
                return True  # another request has got it meanwhile
            offered = challenge.parse(response.headers.get_list("www-authenticate"))
            for one in offered:
                if one.scheme == "bearer" and one.parameters.get("realm"):
                    return await self._take_token(one, scope, refused)
            if any(one.scheme == "basic" for one in offered):
                login = await self._known_login()
                if login is None or not login.username:
                    return False
                self._headers[""] = login.basic()
                return self._headers[""] != refused
            return False

    async def _known_login(self) -> Login | None:
        if not self._login_known:
            self._login = await self._find_login(self._host)
            self._login_known = True
        return self._login

    async def _take_token(self, asked: Challenge, scope: str, refused: str) -> bool:
        token = await self._fetch_token(asked, scope)
        self._headers[scope] = f"Bearer {token}"
        return self._headers[scope] != refused

    async def _fetch_token(self, asked: Challenge, scope: str) -> str:
        realm = asked.parameters["realm"]
        if self._url.startswith("https:") and not realm.startswith("https:"):
            raise RegistryFailed(f"the registry sends its clients' passwords to {realm} in clear")
        login = await self._known_login()
        fields: dict[str, Any] = {
            "service": asked.parameters.get("service", ""),
            "scope": merged(f"{scope} {asked.parameters.get('scope', '')}"),
        }
        if login is not None and login.identity_token:
            response = await self._post(realm, login, fields)
        else:
            response = await self._get(realm, login, fields)
        return _token_of(response, realm)

    async def _get(self, realm: str, login: Login | None, fields: dict[str, Any]) -> httpx.Response:
        headers = {}
        if login is not None and login.username:
            headers["Authorization"] = login.basic()
            fields = {**fields, "account": login.username}
        url = httpx.URL(realm).copy_merge_params(fields)
        return await self._client.get(url, headers=headers)

    async def _post(self, realm: str, login: Login, fields: dict[str, Any]) -> httpx.Response:
        form = {
            **fields,
            "scope": " ".join(fields["scope"]),
            "grant_type": "refresh_token",
            "client_id": CLIENT_ID,
            "refresh_token": login.identity_token,
        }
        return await self._client.post(realm, data=form)


def merged(scopes: str) -> list[str]:
    """Return scopes that were joined by blanks, each resource once with all of its actions."""
    actions: dict[str, dict[str, None]] = {}
    for scope in scopes.split():
        resource, _, wanted = scope.rpartition(":")
        actions.setdefault(resource, {}).update(dict.fromkeys(wanted.split(",")))
    return [f"{resource}:{','.join(wanted)}" for resource, wanted in actions.items()]


def _token_of(response: httpx.Response, realm: str) -> str:
    if response.status_code in (401, 403):
        raise AccessDenied(f"{realm} refuses the user name or password; see 'aruntime login'")
    try:
        found = response.json() if response.is_success else {}
        token = found.get("token") or found.get("access_token")
    except (ValueError, AttributeError):
        token = None
    # Anything else could carry a second header into our requests.
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryFailed(f"{realm} gave no token but status {response.status_code}")
    return token
