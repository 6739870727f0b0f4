"""The lines of keys, in documents that tomllib reads and whose lines are known."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.toml_lines import Path, key_lines

DOCUMENT = '''# a comment with = and [brackets]
title = "a # in a string"
"quoted key" = 'it''s' # two
[table]
text = """
[not.a.table]
key = "none"
"""
list = [ # comment with ]
  1, [2, 3],
  { inner = "}", other = [
    4 ] },
]
dotted . "key" = 2026-01-01T00:00:00Z

[[price]]
sku = \'\'\'x
]\'\'\'
[[price]]
[price.deep]
  value = 1
[[price.deep.rows]]
a = 1
[[price.deep.rows]]
a = """"quoted""""
'''.replace("'it''s'", "'its'")


def test_every_construct_has_its_line() -> None:
    """Comments, strings of four kinds, nested arrays, dotted keys and tables in arrays."""
    lines = key_lines(DOCUMENT)

    assert lines["title",] == 2
    assert lines["quoted key",] == 3
    assert lines["table",] == 4
    assert lines["table", "text"] == 5
    assert lines["table", "list"] == 9
    assert lines["table", "list", 1, 1] == 10
    assert lines["table", "list", 2, "inner"] == 11
    assert lines["table", "list", 2, "other", 0] == 12
    assert lines["table", "dotted", "key"] == 14
    assert lines["price", 0] == 16
    assert lines["price", 0, "sku"] == 17
    assert lines["price", 1] == 19
    assert lines["price", 1, "deep", "value"] == 21
    assert lines["price", 1, "deep", "rows", 0, "a"] == 23
    assert lines["price", 1, "deep", "rows", 1, "a"] == 25
    assert leaves(tomllib.loads(DOCUMENT)) <= lines.keys()


def leaves(value: Any, path: Path = ()) -> set[Path]:
    """Paths of everything in a document that is no table and no array."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        return {path}
    return {leaf for key, child in children for leaf in leaves(child, (*path, key))}


TEXTS = st.text(alphabet="ab#=[]{}\"'\\,. \t\né", max_size=12)


def quoted(text: str) -> str:
    """A basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.replace("\t", "\\t")


@st.composite
def values(draw: st.DrawFn, depth: int = 0) -> str:
    """A value as TOML writes it, sometimes over several lines."""
    kind = draw(st.sampled_from("bmlLad" if depth < 2 else "bmlLd"))
    text = draw(TEXTS)
    if kind == "b":
        return quoted(text)
    if kind == "m":
        return '"""' + text.replace("\\", "\\\\").replace('"', '\\"') + '"""'
    if kind == "l":
        return "'" + text.replace("'", "").replace("\n", "") + "'"
    if kind == "L":
        return "'''" + text.replace("'", "") + "'''"
    if kind == "a":
        inner = draw(st.lists(values(depth + 1), max_size=3))
        gap = draw(st.sampled_from(["", " ", "\n", " # ] comment\n"]))
        return "[" + gap + "".join(f"{value}{gap},{gap}" for value in inner) + "]"
    return draw(st.sampled_from(["1", "-2.5e3", "true", "1979-05-27T07:32:00Z", "07:32:00"]))


@given(st.lists(st.tuples(st.sampled_from("kktac"), values(), TEXTS, st.booleans()), max_size=12))
def test_lines_of_any_document(statements: list[tuple[str, str, str, bool]]) -> None:
    """Whatever stands between, a key has the line on which it was written."""
    text, arrays = "", 0
    table: Path = ()
    expected: dict[Path, int] = {}
    for number, (kind, value, word, is_blank) in enumerate(statements):
        line = text.count("\n") + 1
        name = f"{word}{number}"
        if kind == "k":
            expected[*table, name] = line
            text += f"{quoted(name)}  = {value}"
        elif kind == "t":
            table = (name,)
            expected[table] = line
            text += f"[ {quoted(name)} ]"
        elif kind == "a":
            table = ("rows", arrays)
            expected[table] = line
            arrays += 1
            text += "[[rows]]"
        text += " # [[comment]] = 1\n" + "\n" * is_blank

    found = key_lines(text)
    assert {path: found[path] for path in expected} == expected
    assert leaves(tomllib.loads(text)) <= found.keys()


@pytest.mark.parametrize("text", ["", "# nothing", "\n\n", "a = 1", "a = 1 # no end of line"])
def test_ends_of_documents(text: str) -> None:
    """The last line needs no end."""
    assert key_lines(text) == ({("a",): 1} if "a = 1" in text else {})
