"""The rows of ``images`` and its filters."""

from __future__ import annotations

from typing import Any

import pytest

from aruntime.daemon.commands.image_rows import (
    TABLE,
    TABLE_DIGESTS,
    TITLES,
    created_at,
    filtered,
    image_rows,
    with_names,
)
from aruntime.daemon.commands.listing import render_rows
from aruntime.errors import UsageError
from aruntime.images.image import Image, ImageConfig

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
DIGEST = f"sha256:{'d' * 64}"


def image(letter: str, *names: str, digests: tuple[str, ...] = (), **more: Any) -> Image:
    """Make an image; its id is 64 times the letter."""
    fields: dict[str, Any] = {"created_ns": NOW - 3 * 86400 * SECOND, "size": 4_261_550, **more}
    labels = fields.pop("labels", {})
    return Image(
        id=f"sha256:{letter * 64}", digest=DIGEST, names=names, digests=digests,
        config=ImageConfig(labels=labels), layers=(), diff_ids=(), **fields,
    )  # fmt: skip


A = image("a", "docker.io/library/busybox:1", "docker.io/library/busybox:latest")
B = image("b", "localhost:5000/me/tool:x", labels={"k": "v"}, created_ns=NOW - 60 * SECOND)
C = image("c", created_ns=0)
PINNED = image("e", digests=(f"docker.io/library/pinned@{DIGEST}",))
ALL = [B, A, PINNED, C]


def table(*images: Image, digests: bool = False, **options: Any) -> list[list[str]]:
    """Render the table and split it into cells."""
    rows = image_rows(
        images, now_ns=NOW, digests=digests, containers={}, **{"full_ids": False, **options}
    )
    text = render_rows(rows, format="", titles=TITLES, table=TABLE_DIGESTS if digests else TABLE)
    return [[cell.strip() for cell in line.split("  ") if cell] for line in text.splitlines()]


def test_the_table_is_dockers() -> None:
    """One row for each name, newest first as given, <none> for what has no name."""
    assert table(B, A, C) == [
        ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"],
        ["localhost:5000/me/tool", "x", "b" * 12, "About a minute ago", "4.26MB"],
        ["busybox", "1", "a" * 12, "3 days ago", "4.26MB"],
        ["busybox", "latest", "a" * 12, "3 days ago", "4.26MB"],
        ["<none>", "<none>", "c" * 12, "N/A", "4.26MB"],
    ]


def test_digests_have_a_column_of_their_own() -> None:
    """A name by digest has no tag."""
    assert table(PINNED, A, digests=True, full_ids=True)[:3] == [
        ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"],
        ["pinned", "<none>", DIGEST, PINNED.id, "3 days ago", "4.26MB"],
        ["busybox", "1", "<none>", A.id, "3 days ago", "4.26MB"],
    ]


def test_templates_and_json_have_dockers_fields() -> None:
    """Whoever reads docker's output reads ours."""
    rows = image_rows([A], now_ns=NOW, digests=False, full_ids=False, containers={A.id: 2})

    text = render_rows(
        rows, format="{{.Repository}}:{{.Tag}} {{.Containers}}", titles=TITLES, table=TABLE
    )

    assert text == "busybox:1 2\nbusybox:latest 2\n"
    assert set(rows[0]) == set(TITLES)
    assert created_at(NOW) == "2023-11-14 22:13:20 +0000 UTC"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"dangling": ["true"]}, [C]),
        ({"dangling": ["false"]}, [B, A, PINNED]),
        ({"label": ["k"]}, [B]),
        ({"label": ["k=v"]}, [B]),
        ({"label": ["k=w"]}, []),
        ({"label": ["k", "x"]}, []),
        ({"before": ["tool"]}, [A, PINNED, C]),
        ({"since": ["busybox"]}, [B]),
        ({"until": ["24h"]}, [A, PINNED, C]),
        ({"until": ["2023-11-14T22:12:00Z"]}, [A, PINNED, C]),
        ({"until": ["1699999990"]}, [B, A, PINNED, C]),
        ({"reference": ["*/me/*"]}, [B]),
        ({"reference": ["pinned"]}, [PINNED]),
        ({"dangling": ["false"], "label": ["k"]}, [B]),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: list[Image]) -> None:
    """Each filter of docker's does what docker's does; all of them must hold."""

    def resolve(text: str) -> Image:
        return {"tool": B, "busybox": A}[text]

    assert filtered(ALL, filters, resolve, NOW) == expected


def test_names_are_narrowed_to_those_that_match() -> None:
    """An argument or reference filter shows only the names that fit; ``*`` stops at a slash."""

    def names(pattern: str) -> tuple[str, ...] | None:
        found = with_names(A, [pattern])
        return found.names if found else None

    assert names("busybox") == A.names
    assert names("busybox:1") == A.names[:1]
    assert names("docker.io/library/busybox:1") == A.names[:1]
    assert names("b*x:lat?st") == A.names[1:]
    assert names("[a-c]usybox:[^1]*") == A.names[1:]
    assert names("*") == A.names
    assert names("*/*/busybox") == A.names
    assert names("library*") is None
    assert with_names(B, ["*"]) is None


@pytest.mark.parametrize(
    "filters",
    [{"nonsense": ["x"]}, {"dangling": ["maybe"]}, {"until": ["then"]}, {"reference": ["[z-a]"]}],
)
def test_wrong_filters_are_refused(filters: dict[str, list[str]]) -> None:
    """An unknown key or a malformed value is an error that says so."""
    with pytest.raises(UsageError):
        filtered(ALL, filters, lambda text: A, NOW)
