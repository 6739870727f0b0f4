"""The grammar of image names."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aruntime.errors import InvalidReference
from aruntime.images import reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("typed", "normalised", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("me/tool", "docker.io/me/tool:latest", "me/tool:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/me/x:1", "docker.io/me/x:1", "me/x:1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/a/b_c__d-e.f", "localhost:5000/a/b_c__d-e.f:latest", None),
        ("[::1]:5000/a", "[::1]:5000/a:latest", None),
        ("Registry/a", "Registry/a:latest", None),
        ("quay.io/a/b:T-1_x.y", "quay.io/a/b:T-1_x.y", None),
        (f"a@sha256:{HEX}", f"docker.io/library/a@sha256:{HEX}", f"a@sha256:{HEX}"),
        (f"a:1@sha256:{HEX}", f"docker.io/library/a:1@sha256:{HEX}", f"a:1@sha256:{HEX}"),
    ],
)
def test_forms_of_a_name(typed: str, normalised: str, familiar: str | None) -> None:
    """A name has one normalised and one familiar form, as docker's reference library says."""
    found = reference.parse(typed)

    assert str(found) == normalised
    assert found.familiar == (familiar or normalised)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a b", "UPPER", "me/Tool", "a//b", "/a", "a/", "a:", "a:-x", ":tag", "a@", "@x",
        f"a:{'t' * 129}", "a@sha256:123", "a@md5:" + "0" * 32, "a\n", "a:x\n", "../../etc",
        "a/../b", "-a/b", "a..b", "a_-b", HEX, f"a@sha256:{HEX.upper()}", "a" * 256, "ä", "a:x:y",
        "-a.b/c",
    ],
)  # fmt: skip
def test_malformed_names_are_refused(text: str) -> None:
    """What the grammar does not allow is an error of one line."""
    with pytest.raises(InvalidReference) as caught:
        reference.parse(text)

    assert "\n" not in caught.value.message


def test_an_upper_case_name_is_told_what_is_wrong() -> None:
    """The commonest mistake has a message of its own."""
    with pytest.raises(InvalidReference, match="'BusyBox' must be lowercase"):
        reference.parse("BusyBox:1")


COMPONENT = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
DOMAIN = st.sampled_from(["", "localhost/", "localhost:5000/", "example.org/", "a.b:1/", "[::1]/"])
TAG = st.from_regex(r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?", fullmatch=True)


@given(DOMAIN, st.lists(COMPONENT, min_size=1, max_size=3), TAG)
def test_both_forms_mean_the_same(domain: str, components: list[str], tag: str) -> None:
    """Parsing either form of a name again gives the same name."""
    text = f"{domain}{'/'.join(components)}{tag}"
    assume(len(text) < 200 and not reference.is_identifier("/".join(components)))
    assume(domain or len(components) == 1 or "." not in components[0])  # else it is a registry

    found = reference.parse(text)

    assert reference.parse(str(found)) == found
    assert reference.parse(found.familiar) == found


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    """No text leads to anything else, and what is accepted is plain ASCII without surprises."""
    try:
        found = reference.parse(text)
    except InvalidReference:
        return

    assert str(found).isascii()
    assert ".." not in found.path
    assert str(found).isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abc", True), (f"sha256:{HEX}", True), ("", False), ("sha256:", False), ("xyz", False)],
)
def test_beginnings_of_ids(text: str, expected: bool) -> None:
    """Hexadecimal digits, with or without the algorithm, can be an id."""
    assert reference.is_id_prefix(text) is expected
