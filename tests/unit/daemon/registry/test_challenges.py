"""What registries ask for, taken apart, and the scopes that are asked for in turn."""

from __future__ import annotations

import pytest

from aruntime.daemon.registry.authority import Login, merged
from aruntime.daemon.registry.challenge import Challenge, parse


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull"'],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.example/token",
                        "service": "r",
                        "scope": "repository:a/b:pull",
                    },
                )
            ],
        ),
        (['Basic realm="a \\"quoted\\" word, with a comma"'], [
            Challenge("basic", {"realm": 'a "quoted" word, with a comma'})
        ]),
        (['Negotiate, Basic realm=plain'], [
            Challenge("negotiate", {}), Challenge("basic", {"realm": "plain"})
        ]),
        (["Basic realm=1", "Bearer realm=2"], [
            Challenge("basic", {"realm": "1"}), Challenge("bearer", {"realm": "2"})
        ]),
        ([""], []),
        (["=,;"], []),
    ],
)  # fmt: skip
def test_challenges(headers: list[str], expected: list[Challenge]) -> None:
    """Quoted or not, several in a header or several headers; nonsense is nothing."""
    assert parse(headers) == expected


def test_scopes_are_merged_by_resource() -> None:
    """One resource once, with all its actions, in the order they came."""
    scopes = "repository:a/b:pull,push repository:c:pull repository:a/b:pull  repository:c:delete"

    assert merged(scopes) == ["repository:a/b:pull,push", "repository:c:pull,delete"]
    assert merged("") == []


def test_basic_authentication_is_of_utf_8() -> None:
    """A password may have colons and letters of all kinds (RFC 7617)."""
    assert Login(username="ann", password="a:ß").basic() == "Basic YW5uOmE6w58="
