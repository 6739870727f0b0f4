"""Names of images: docker's reference grammar, as text and as a record.

A name is written in two forms. Users type the familiar one (``busybox``, ``me/tool:1``,
``localhost:5000/x``); the store keeps the normalised one (``docker.io/library/busybox:latest``).
The grammar is that of github.com/distribution/reference. Pure; which image a reference or an id
stands for is :mod:`aruntime.images.store`'s affair. Standard library only: the unpacking child
reads names too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aruntime.errors import InvalidReference

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL_REPOSITORY = "library"
DEFAULT_TAG = "latest"
NAME_BYTES = 255
"""Longest repository name, domain included (distribution/reference: NameTotalLengthMax)."""

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128}")
_SHA256 = re.compile(r"sha256:[a-f0-9]{64}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_ID_PREFIX = re.compile(r"(?:sha256:)?[a-f0-9]{1,64}")


class Reference(NamedTuple):
    """One image name, normalised. At least one of tag and digest is set by :func:`parse`."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path, without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as users type it: without the default domain and ``library/``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        return self.path.removeprefix(f"{OFFICIAL_REPOSITORY}/")

    @property
    def suffix(self) -> str:
        """``:tag``, ``@digest`` or both."""
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """The whole reference as users type it."""
        return self.familiar_name + self.suffix

    def __str__(self) -> str:
        return self.name + self.suffix


def parse(text: str) -> Reference:
    """Read a reference as typed; the tag is ``latest`` when neither tag nor digest is given.

    Raises:
        InvalidReference: the grammar does not allow it.
    """
    if _IDENTIFIER.fullmatch(text):
        raise InvalidReference(
            f"invalid repository name {text}: 64 hexadecimal digits are an image id"
        )
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidReference(f"invalid reference format: {text!r} has no valid digest after '@'")
    domain, remainder = _split_domain(rest)
    path, colon, tag = remainder.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReference(f"invalid reference format: {text!r} has no valid tag after ':'")
    _check_name(text, domain, path)
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"{OFFICIAL_REPOSITORY}/{path}"
    if len(domain) + 1 + len(path) > NAME_BYTES:
        raise InvalidReference(
            f"invalid reference format: the repository name is longer than {NAME_BYTES} characters"
        )
    return Reference(domain, path, tag or ("" if digest else DEFAULT_TAG), digest)


def _check_name(text: str, domain: str, path: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise InvalidReference(f"invalid reference format: {text!r} has no valid registry name")
    if _PATH.fullmatch(path):
        return
    if _PATH.fullmatch(path.lower()):
        raise InvalidReference(
            f"invalid reference format: repository name {path!r} must be lowercase"
        )
    raise InvalidReference(f"invalid reference format: {text!r} is not an image name")


def _split_domain(text: str) -> tuple[str, str]:
    """Tell a registry from the first component of a path, by docker's rule."""
    first, slash, rest = text.partition("/")
    is_path = "." not in first and ":" not in first and first != "localhost"
    if not slash or (is_path and first == first.lower()):
        return DEFAULT_DOMAIN, text
    return (DEFAULT_DOMAIN if first == LEGACY_DOMAIN else first), rest


def parse_normalised(text: str) -> Reference:
    """Read back what ``str(Reference)`` wrote.

    Raises:
        InvalidReference: it is not in that form.
    """
    found = parse(text)
    if str(found) != text:
        raise InvalidReference(f"invalid reference format: {text!r} is not normalised")
    return found


def is_domain(text: str) -> bool:
    """Whether the text can be a registry: a host name or address, maybe with a port."""
    return _DOMAIN.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Whether the text is ``sha256:`` and 64 lower-case hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def is_id_prefix(text: str) -> bool:
    """Whether the text can be an image id or the beginning of one."""
    return _ID_PREFIX.fullmatch(text) is not None


def short_id(image_id: str) -> str:
    """Return the first twelve digits of an id, as tables show it."""
    return image_id.removeprefix("sha256:")[:12]


def is_identifier(text: str) -> bool:
    """Whether the text is 64 lower-case hexadecimal digits: a whole id, never a name."""
    return _IDENTIFIER.fullmatch(text) is not None
