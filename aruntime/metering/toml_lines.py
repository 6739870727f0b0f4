"""On which line each key of a TOML document stands.

:mod:`tomllib` says where a document is malformed but not where a value came from, and an error
about a price must name its line. This reads a document that tomllib has already accepted, so it
only has to find the ends of keys and values (TOML 1.0), never to judge them; keys are decoded by
tomllib itself.

Out of scope: values, and documents that are not valid TOML.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

Path = tuple[str | int, ...]
"""Keys from the top; an int counts the tables of an array: ``("price", 0, "sku")``."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+|[ \t]*\.[ \t]*)+""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?!")|' r"'''.*?'''(?!')|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'",
    re.DOTALL,
)
_BARE_VALUE = re.compile(r"[^,\]}\n#]+")


def key_lines(text: str) -> dict[Path, int]:
    """Line numbers, from 1, of every table and key of a valid document.

    A table that is only implied (``a`` by ``[a.b]``) has the line that first implies it.
    """
    reader = _Reader(text)
    reader.document()
    return reader.lines


class _Reader:
    """One left-to-right reading; lives for one call of :func:`key_lines`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}
        """How many tables each array of tables has so far."""

    def document(self) -> None:
        """All statements."""
        table: Path = ()
        self._skip(_BLANK)
        while self.position < len(self.text):
            if self._peek("[["):
                table = self._header("[[", "]]")
            elif self._peek("["):
                table = self._header("[", "]")
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self, opening: str, closing: str) -> Path:
        line = self.line
        self._forward(len(opening))
        self._skip(_SPACE)
        path = self._resolved(self._key())
        self._skip(_SPACE)
        self._forward(len(closing))
        if closing == "]]":
            index = self._lengths.get(path, 0)
            self._lengths[path] = index + 1
            self.lines.setdefault(path, line)
            path = (*path, index)
        self._note(path, line)
        return path

    def _resolved(self, keys: list[str]) -> Path:
        """The path of a header: each array of tables on the way stands for its last table."""
        path: Path = ()
        for place, key in enumerate(keys):
            path = (*path, key)
            if path in self._lengths and place < len(keys) - 1:
                path = (*path, self._lengths[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        line = self.line
        path = (*table, *self._key())
        self._note(path, line)
        self._skip(_SPACE)
        self._forward(1)  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._peek("["):
            self._array(path)
        elif self._peek("{"):
            self._inline_table(path)
        else:
            self._skip(_STRING) or self._skip(_BARE_VALUE)

    def _array(self, path: Path) -> None:
        self._forward(1)
        self._skip(_BLANK)
        index = 0
        while not self._peek("]"):
            self._note((*path, index), self.line)
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            if self._peek(","):
                self._forward(1)
                self._skip(_BLANK)
        self._forward(1)

    def _inline_table(self, path: Path) -> None:
        self._forward(1)
        self._skip(_BLANK)
        while not self._peek("}"):
            self._pair(path)
            self._skip(_BLANK)
            if self._peek(","):
                self._forward(1)
                self._skip(_BLANK)
        self._forward(1)

    def _key(self) -> list[str]:
        start = self.position
        self._skip(_KEY)
        return _parts(self.text[start : self.position])

    def _note(self, path: Path, line: int) -> None:
        """Remember a key and what it implies; the explicit header of a table wins."""
        for length in range(1, len(path)):
            self.lines.setdefault(path[:length], line)
        self.lines[path] = line

    def _peek(self, text: str) -> bool:
        return self.text.startswith(text, self.position)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.position)
        if match is None:
            return False
        self._forward(match.end() - self.position)
        return True

    def _forward(self, length: int) -> None:
        end = self.position + length
        self.line += self.text.count("\n", self.position, end)
        self.position = end


def _parts(key: str) -> list[str]:
    """A dotted key's parts, decoded."""
    inner: Any = tomllib.loads(f"{key} = 0")
    parts = []
    while isinstance(inner, dict):
        ((name, inner),) = inner.items()
        parts.append(name)
    return parts
