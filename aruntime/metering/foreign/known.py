"""What another program wrote down about a container of its own, and reading such files.

Files of other programs are only ever read. They may be missing, half written, of a version nobody
has seen, or made by somebody who wishes us ill; whatever is wrong with one, the container is
metered under the name its path gives, so all of that comes out as "nothing known".
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

TENANT_LABEL = "aruntime.tenant"
MAX_BYTES = 64 << 20
"""A state file that is larger is not read: a docker container's has some kilobytes."""
MAX_LABELS = 256
MAX_TEXT = 4096
"""Longer texts are cut: they would go into every record of the container."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes of a container as its own program knows them; empty where it does not say."""

    name: str = ""
    image: str = ""
    image_digest: str = ""
    labels: dict[str, str] = {}
    created_ns: int = 0
    """Unix time."""


def read_regular(path: str) -> bytes | None:
    """Return the content of a regular file, None if there is none or it is too large.

    Raises:
        OSError: it cannot be read for another reason.
    """
    try:
        # A named pipe in its place must not hold the reader.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            return None
        return file.read(MAX_BYTES)


def read_json(path: str) -> Any:
    """Return what a file of JSON holds, None if it is missing or no JSON (yet)."""
    content = read_regular(path)
    if content is None:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def table(value: Any) -> dict[str, Any]:
    """Return a JSON object, an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """Return a JSON string, an empty one in place of anything else; always valid Unicode."""
    return clean(value[:MAX_TEXT]) if isinstance(value, str) else ""


def clean(value: str) -> str:
    """Replace lone surrogates, which JSON can spell and undecodable paths have: the ledger is
    UTF-8."""
    return value.encode(errors="replace").decode()


def labels(value: Any) -> dict[str, str]:
    """Return the labels of a JSON object; what is no string is left out."""
    rows = ((key, text(each)) for key, each in table(value).items() if isinstance(each, str))
    return {text(key): each for key, each in list(rows)[:MAX_LABELS]}


def without_image_tenant(own: dict[str, str], image: Callable[[], Any]) -> dict[str, str]:
    """Return a container's labels without a tenant that its image brought along.

    Programs copy an image's labels to its containers, but an image cannot say who pays.

    Args:
        own: the labels of the container.
        image: reads the image's configuration, JSON; called only when there is a tenant.
    """
    if TENANT_LABEL not in own:
        return own
    given = labels(table(table(image()).get("config")).get("Labels"))
    if given.get(TENANT_LABEL) != own[TENANT_LABEL]:
        return own
    return {key: value for key, value in own.items() if key != TENANT_LABEL}


# 2026-11-24T05:01:23.006058172Z
def unix_ns(value: Any) -> int:
    """Return a time of RFC 3339 with up to nine digits of a second in Unix nanoseconds, else 0."""
    moment, _, fraction = text(value).removesuffix("Z").partition(".")
    if not fraction.isdecimal() and fraction:
        return 0
    try:
        whole = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    except ValueError:
        return 0
    return max(0, int(whole.timestamp()) * 10**9 + int(fraction[:9].ljust(9, "0")))
