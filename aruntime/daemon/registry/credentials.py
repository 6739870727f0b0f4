"""docker's config.json: who the client is to registries (docs.docker.com, docker login).

The file, and the helper programs it may name, are the client's: they are read, written and run by
the client at its own rights. What is in the file and not ours stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aruntime.daemon.commands.run_request import read_file
from aruntime.daemon.registry.authority import Login
from aruntime.errors import InvalidParameter, RegistryFailed
from aruntime.images.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

if TYPE_CHECKING:
    from aruntime.daemon.session import Session

HUB_KEY = "https://index.docker.io/v1/"
HUB_NAMES = frozenset({DEFAULT_DOMAIN, LEGACY_DOMAIN, "registry-1.docker.io"})
NO_CREDENTIALS = "credentials not found"
"""What a helper says when it has none (docker-credential-helpers, credentials/error.go)."""
TOKEN_USER = "<token>"
"""What helpers give as the name when the secret is an identity token."""

Config = dict[str, Any]


def key_of(domain: str) -> str:
    """Return the name a registry has in config.json."""
    return HUB_KEY if domain in HUB_NAMES else domain


def host_of(key: str) -> str:
    """Return the registry a name in config.json means; older ones are URLs."""
    rest = key.partition("://")[2] or key
    host = rest.partition("/")[0]
    return DEFAULT_DOMAIN if host in HUB_NAMES else host


def config_path(env: Mapping[str, str]) -> str:
    """Return where a user's config.json is; empty if there is no home."""
    directory = env.get("DOCKER_CONFIG") or (f"{env['HOME']}/.docker" if env.get("HOME") else "")
    return f"{directory}/config.json" if directory else ""


def parse_config(text: bytes, path: str) -> Config:
    """Read a config.json.

    Raises:
        InvalidParameter: it is no JSON object.
    """
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise InvalidParameter(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidParameter(f"{path} is not a JSON object")
    for key in ("auths", "credHelpers"):
        if not isinstance(found.get(key), dict | None):
            raise InvalidParameter(f"{path}: {key} is not a JSON object")
    return found


def stored_login(config: Config, domain: str) -> Login | None:
    """Return the login that is in the file itself.

    Raises:
        InvalidParameter: an entry is malformed.
    """
    for key, entry in (config.get("auths") or {}).items():
        if host_of(key) != host_of(domain) or not isinstance(entry, dict):
            continue
        if not entry.get("auth") and not entry.get("identitytoken"):
            continue  # a helper has it
        try:
            pair = base64.b64decode(entry.get("auth") or "", validate=True).decode()
        except (binascii.Error, ValueError):
            raise InvalidParameter(f"config.json has a malformed entry for {key}") from None
        username, _, password = pair.rstrip("\0").partition(":")
        token = str(entry.get("identitytoken") or "")
        return Login(username=username, password=password, identity_token=token)
    return None


def helper_of(config: Config, domain: str) -> str:
    """Return the credential helper for a registry, empty if there is none."""
    for key, name in (config.get("credHelpers") or {}).items():
        if host_of(key) == host_of(domain):
            return str(name)
    return str(config.get("credsStore") or "")


class Credentials:
    """The logins of one client."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.path = config_path(session.env)

    async def find(self, domain: str) -> Login | None:
        """Return the client's login for a registry.

        Raises:
            InvalidParameter: its config.json is broken.
            RegistryFailed: its credential helper fails.
        """
        config = await self._read()
        helper = helper_of(config, domain)
        if not helper:
            return stored_login(config, domain)
        code, output = await self._session.credential(helper, "get", key_of(domain).encode())
        if code:
            if NO_CREDENTIALS in output.decode(errors="replace").lower():
                return stored_login(config, domain)
            raise helper_failed(helper, code, output)
        try:
            found = json.loads(output)
            username, secret = str(found["Username"]), str(found["Secret"])
        except (ValueError, KeyError, TypeError):
            raise RegistryFailed(f"docker-credential-{helper} gave no valid answer") from None
        if username == TOKEN_USER:
            return Login(identity_token=secret)
        return Login(username=username, password=secret)

    async def save(self, domain: str, login: Login) -> str:
        """Keep a login; returns the file it is in unencrypted, empty if a helper has it.

        Raises:
            OSError: the file cannot be written.
            RegistryFailed: the credential helper fails.
        """
        config = await self._read()
        helper, key = helper_of(config, domain), key_of(domain)
        entry: dict[str, str] = {}
        if helper:
            secret = login.identity_token or login.password
            username = TOKEN_USER if login.identity_token else login.username
            given = {"ServerURL": key, "Username": username, "Secret": secret}
            await self._run_helper(helper, "store", json.dumps(given).encode())
        else:
            pair = f"{login.username}:{login.password}"
            entry["auth"] = base64.b64encode(pair.encode()).decode()
            if login.identity_token:
                entry["auth"] = base64.b64encode(f"{login.username}:".encode()).decode()
                entry["identitytoken"] = login.identity_token
        auths = {k: v for k, v in (config.get("auths") or {}).items() if host_of(k) != host_of(key)}
        await self._write({**config, "auths": {**auths, key: entry}})
        return "" if helper else self.path

    async def erase(self, domain: str) -> bool:
        """Forget a login; whether there was one.

        Raises:
            OSError: the file cannot be written.
            RegistryFailed: the credential helper fails.
        """
        config = await self._read()
        helper = helper_of(config, domain)
        auths = dict(config.get("auths") or {})
        gone = [key for key in auths if host_of(key) == host_of(domain)]
        if helper and gone:
            await self._run_helper(helper, "erase", key_of(domain).encode())
        for key in gone:
            del auths[key]
        if gone:
            await self._write({**config, "auths": auths})
        return bool(gone)

    async def _run_helper(self, helper: str, action: str, given: bytes) -> None:
        code, output = await self._session.credential(helper, action, given)
        if code:
            raise helper_failed(helper, code, output)

    async def _read(self) -> Config:
        if not self.path:
            return {}
        try:
            os.close(await self._session.open(self.path, os.O_RDONLY))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return parse_config(await read_file(self._session, self.path), self.path)

    async def _write(self, config: Config) -> None:
        """Replace the file: the old one or the new one is there, whole."""
        if not self.path:
            raise InvalidParameter("neither HOME nor DOCKER_CONFIG says where config.json is to be")
        text = json.dumps(config, indent="\t").encode() + b"\n"
        await self._session.replace_file(self.path, text)


def helper_failed(helper: str, code: int, output: bytes) -> RegistryFailed:
    """Word what a credential helper said."""
    said = " ".join(output.decode(errors="replace").split())[:300]
    return RegistryFailed(f"docker-credential-{helper} failed: {said or f'exit code {code}'}")
