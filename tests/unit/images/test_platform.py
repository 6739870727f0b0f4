"""Platforms: of this host, as typed, as indexes have them."""

from __future__ import annotations

import pytest

from aruntime.errors import InvalidParameter
from aruntime.images.platform import Platform, host, parse, rank


def test_the_host_has_go_names() -> None:
    """The architecture is what Go calls it."""
    assert host().os == "linux"
    assert host().architecture not in ("x86_64", "aarch64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/arm/v7", Platform("linux", "arm", "v7")),
        ("Linux/aarch64", Platform("linux", "arm64")),
        ("linux", host()),
    ],
)
def test_as_typed(text: str, expected: Platform) -> None:
    """Case and the kernel's names do not matter."""
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["windows/amd64", "a/b/c/d", "linux//", "", "amd64"])
def test_malformed_platforms(text: str) -> None:
    """Only Linux runs here."""
    with pytest.raises(InvalidParameter):
        parse(text)


def test_the_best_of_several_fits() -> None:
    """Another architecture never fits; the same variant beats an older one."""
    wanted = Platform("linux", "arm", "v7")

    def ranked(**found: str) -> int:
        return rank({"os": "linux", "architecture": "arm", **found}, wanted)

    assert ranked(variant="v7") > ranked() > ranked(variant="v6") > 0
    assert ranked(variant="v8") == 0
    assert ranked(architecture="arm64") == 0
    assert ranked(os="windows") == 0
