"""What a registry asks for: WWW-Authenticate headers, taken apart (RFC 9110, section 11.6.1).

Pure. Answering a challenge is :mod:`aruntime.daemon.registry.authority`'s affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_WORD = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s*=\s*({_QUOTED}|[^\s,]*))?")


class Challenge(NamedTuple):
    """One way to authenticate that a server offers."""

    scheme: str
    """In lower case: ``basic``, ``bearer`` …"""
    parameters: dict[str, str]
    """By name in lower case: ``realm``, ``service``, ``scope`` …"""


def parse(headers: Iterable[str]) -> list[Challenge]:
    """Take WWW-Authenticate headers apart; what cannot be read is left out."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while (word := _WORD.match(header, position)) is not None and word.end() > position:
            position = word.end()
            name, value = word[1].lower(), word[2]
            if value is None:
                found.append(Challenge(name, {}))
            elif found:
                found[-1].parameters[name] = _unquoted(value)
    return found


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
