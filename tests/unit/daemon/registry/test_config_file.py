"""docker's config.json: whose login it has, and what is wrong with it."""

from __future__ import annotations

import base64

import pytest

from aruntime.daemon.registry.authority import Login
from aruntime.daemon.registry.credentials import (
    HUB_KEY,
    config_path,
    helper_of,
    key_of,
    parse_config,
    stored_login,
)
from aruntime.errors import InvalidParameter

PATH = "/home/ann/.docker/config.json"


def entry(text: str, **more: str) -> dict[str, str]:
    """Return an entry of auths."""
    return {"auth": base64.b64encode(text.encode()).decode(), **more}


def test_where_it_is() -> None:
    """DOCKER_CONFIG before HOME; without either there is none."""
    assert config_path({"HOME": "/home/ann"}) == PATH
    assert config_path({"HOME": "/home/ann", "DOCKER_CONFIG": "/etc/d"}) == "/etc/d/config.json"
    assert config_path({}) == ""


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", HUB_KEY, "registry-1.docker.io"])
def test_docker_hub_has_many_names(key: str) -> None:
    """All lead to the one entry that docker writes."""
    config = {"auths": {key: entry("ann:secret")}}

    assert stored_login(config, "docker.io") == Login(username="ann", password="secret")
    assert stored_login(config, "registry-1.docker.io") is not None
    assert stored_login(config, "registry.example") is None
    assert key_of("docker.io") == HUB_KEY


def test_entries_of_all_kinds() -> None:
    """URLs of old, colons in passwords, identity tokens, those a helper has."""
    config = {
        "auths": {
            "https://old.example/v1/": entry("ann:a:b"),
            "token.example": entry("ann:", identitytoken="t0ken"),
            "kept.example": {},
        }
    }

    assert stored_login(config, "old.example") == Login(username="ann", password="a:b")
    assert stored_login(config, "token.example") == Login(username="ann", identity_token="t0ken")
    assert stored_login(config, "kept.example") is None
    with pytest.raises(InvalidParameter, match=r"malformed entry for bad.example"):
        stored_login({"auths": {"bad.example": {"auth": "%"}}}, "bad.example")


def test_the_helper_of_one_registry_comes_before_the_store() -> None:
    """credHelpers is by registry, credsStore for all others."""
    config = {"credsStore": "box", "credHelpers": {"own.example": "safe"}}

    assert helper_of(config, "own.example") == "safe"
    assert helper_of(config, "registry.example") == "box"
    assert helper_of({}, "registry.example") == ""


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"auths": []}', b'{"credHelpers": "box"}', b"\xff"]
)
def test_what_is_no_configuration(text: bytes) -> None:
    """Said with the path of the file."""
    with pytest.raises(InvalidParameter, match=PATH):
        parse_config(text, PATH)
    assert parse_config(b" ", PATH) == {}
