"""The rows of ``images``: one for each name of each image, filters, fields as docker's.

Pure: images and the time of day in, rows out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from aruntime.daemon.commands import values
from aruntime.daemon.commands.listing import Row
from aruntime.daemon.disk_use import Shares
from aruntime.errors import UsageError
from aruntime.images import reference
from aruntime.images.image import Image

NONE = "<none>"
TABLE = r"{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
TABLE_DIGESTS = r"{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
TITLES = {
    "Containers": "CONTAINERS",
    "CreatedAt": "CREATED AT",
    "CreatedSince": "CREATED",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "SharedSize": "SHARED SIZE",
    "Size": "SIZE",
    "Tag": "TAG",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "VIRTUAL SIZE",
}
NANOSECONDS = 1_000_000_000

Predicate = Callable[[Image], bool]


def image_rows(
    images: Iterable[Image],
    *,
    now_ns: int,
    digests: bool,
    full_ids: bool,
    containers: Mapping[str, int],
    shares: Mapping[str, Shares] | None = None,
) -> list[Row]:
    """Return the rows of images, in the given order.

    Args:
        images: the images.
        now_ns: Unix time, for ages.
        digests: whether a row for each digest is wanted.
        full_ids: ids with all their digits.
        containers: how many containers each image id has.
        shares: what each image id shares with others.
    """
    return [
        _row(image, repository, tag, digest, now_ns, full_ids, containers, shares or {})
        for image in images
        for repository, tag, digest in _names(image, digests)
    ]


def _names(image: Image, digests: bool) -> list[tuple[str, str, str]]:
    """Return (repository, tag, digest) of each row an image has."""
    tags: dict[str, list[str]] = {}
    pinned: dict[str, list[str]] = {}
    for name in image.names:
        found = reference.parse(name)
        tags.setdefault(found.familiar_name, []).append(found.tag)
    for name in image.digests:
        found = reference.parse(name)
        pinned.setdefault(found.familiar_name, []).append(found.digest)
    rows: list[tuple[str, str, str]] = []
    for repository in dict.fromkeys([*tags, *pinned]):
        shown = pinned.get(repository, []) if digests or repository not in tags else []
        rows += [
            (repository, tag, digest)
            for digest in shown or [NONE]
            for tag in tags.get(repository, [NONE])
        ]
    return rows or [(NONE, NONE, NONE)]


def _row(
    image: Image,
    repository: str,
    tag: str,
    digest: str,
    now_ns: int,
    full_ids: bool,
    containers: Mapping[str, int],
    shares: Mapping[str, Shares],
) -> Row:
    size = values.format_size(image.size)
    share = shares.get(image.id)
    return {
        "Containers": str(containers.get(image.id, 0)),
        "CreatedAt": created_at(image.created_ns),
        "CreatedSince": created_since(image.created_ns, now_ns),
        "Digest": digest,
        "ID": image.id if full_ids else reference.short_id(image.id),
        "Repository": repository,
        "SharedSize": values.format_size(share.shared) if share else "N/A",
        "Size": size,
        "Tag": tag,
        "UniqueSize": values.format_size(share.unique) if share else "N/A",
        "VirtualSize": size,
    }


def created_at(time_ns: int) -> str:
    """Write a time as docker's tables do."""
    if not time_ns:
        return "N/A"
    return datetime.fromtimestamp(time_ns // NANOSECONDS, UTC).strftime(
        "%Y-%m-%d %H:%M:%S +0000 UTC"
    )


def created_since(time_ns: int, now_ns: int) -> str:
    """Write an age in words."""
    if not time_ns:
        return "N/A"
    return f"{values.format_age(max(0, now_ns - time_ns) / NANOSECONDS)} ago"


def filtered(
    images: Sequence[Image],
    filters: Mapping[str, Sequence[str]],
    resolve: Callable[[str], Image],
    now_ns: int,
) -> list[Image]:
    """Keep the images that ``--filter`` lets through; values of one key are alternatives.

    Args:
        images: all of them.
        filters: values by key.
        resolve: finds the image that ``before`` and ``since`` name.
        now_ns: Unix time, for ``until``.

    Raises:
        UsageError: an unknown key or a malformed value.
        ImageNotFound: ``before`` or ``since`` name none.
    """
    kept = list(images)
    for key, texts in filters.items():
        if key == "reference":
            kept = [found for image in kept if (found := with_names(image, texts)) is not None]
            continue
        if key not in _FILTERS:
            known = ", ".join(sorted([*_FILTERS, "reference"]))
            raise UsageError(f"invalid filter '{key}': there are {known}")
        tests = [_FILTERS[key](text, resolve, now_ns) for text in texts]
        combine = all if key == "label" else any
        kept = [image for image in kept if combine(test(image) for test in tests)]
    return kept


def with_names(image: Image, patterns: Sequence[str]) -> Image | None:
    """Return the image with only the names that match a pattern; None if none does."""
    tests = [_glob(pattern) for pattern in patterns]

    def matches(name: str) -> bool:
        found = reference.parse(name)
        forms = (found.familiar, found.familiar_name, str(found), found.name)
        return any(test.fullmatch(form) for test in tests for form in forms)

    names = tuple(name for name in image.names if matches(name))
    digests = tuple(name for name in image.digests if matches(name))
    if not names and not digests:
        return None
    return msgspec.structs.replace(image, names=names, digests=digests)


def _glob(pattern: str) -> re.Pattern[str]:
    """Compile a shell pattern as Go's path.Match reads it: ``*`` stops at a slash."""
    text = ""
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            text += "[^/]*"
        elif letter == "?":
            text += "[^/]"
        elif letter == "[" and (end := pattern.find("]", position)) > position:
            inside = pattern[position:end].replace("\\", "\\\\")
            text += f"[{inside}]"
            position = end + 1
        elif letter == "\\" and position < len(pattern):
            text += re.escape(pattern[position])
            position += 1
        else:
            text += re.escape(letter)
    try:
        return re.compile(text)
    except re.error:
        raise UsageError(f"invalid filter 'reference={pattern}': malformed pattern") from None


def _dangling(text: str, _resolve: Callable[[str], Image], _now_ns: int) -> Predicate:
    try:
        wanted = values.parse_bool(text)
    except ValueError:
        raise UsageError(f"invalid filter 'dangling={text}': must be true or false") from None
    return lambda image: bool(image.names or image.digests) is not wanted


def _label(text: str, _resolve: Callable[[str], Image], _now_ns: int) -> Predicate:
    key, equals, value = text.partition("=")
    if equals:
        return lambda image: image.config.labels.get(key) == value
    return lambda image: key in image.config.labels


def _before(text: str, resolve: Callable[[str], Image], _now_ns: int) -> Predicate:
    limit = resolve(text).created_ns
    return lambda image: image.created_ns < limit


def _since(text: str, resolve: Callable[[str], Image], _now_ns: int) -> Predicate:
    limit = resolve(text).created_ns
    return lambda image: image.created_ns > limit


def _until(text: str, _resolve: Callable[[str], Image], now_ns: int) -> Predicate:
    try:
        limit = values.parse_moment(text, now_ns)
    except ValueError:
        raise UsageError(
            f"invalid filter 'until={text}': must be a time, a Unix time or an age such as 24h"
        ) from None
    return lambda image: image.created_ns < limit


_FILTERS: dict[str, Callable[[str, Callable[[str], Image], int], Predicate]] = {
    "before": _before,
    "dangling": _dangling,
    "label": _label,
    "since": _since,
    "until": _until,
}
