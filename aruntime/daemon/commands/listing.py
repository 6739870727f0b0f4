"""What ``--format`` makes of rows and objects: tables, JSON, templates.

``""`` and ``table`` give a command's own table, ``table {{.ID}}\\t{{.Names}}`` another one with
headings, ``json`` one JSON object a line, anything else is a template applied to each row.
Objects (inspect) come as one JSON array unless a template is given. Pure: rows in, text out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aruntime.daemon.commands.template import Template, parse
from aruntime.daemon.commands.template_values import render

_MINIMUM_WIDTH = 10
_PADDING = 3
_ESCAPES_OUTSIDE_ACTIONS = re.compile(r"\{\{.*?\}\}|\\[tn]", re.DOTALL)

Row = Mapping[str, Any]
"""One line of a listing: field names as docker's (``ID``, ``Names``) to values."""


def line_template(text: str) -> Template:
    """Parse the format of one row; ``json`` stands for ``{{json .}}``.

    ``\\t`` and ``\\n`` outside of actions become the characters, as docker has it.

    Raises:
        UsageError: naming the position.
    """
    if text == "json":
        return parse("{{json .}}")

    def one(match: re.Match[str]) -> str:
        return {r"\t": "\t", r"\n": "\n"}.get(match[0], match[0])

    return parse(_ESCAPES_OUTSIDE_ACTIONS.sub(one, text))


def render_rows(
    rows: Iterable[Row],
    *,
    format: str,  # noqa: A002 (named as the flag)
    titles: Mapping[str, str],
    table: str,
) -> str:
    """Write rows as ``--format`` asks.

    Args:
        rows: the rows; callables among the values are methods (``.Label "key"``).
        format: the value of the flag.
        titles: headings by field name, every field of a row.
        table: the command's own columns, ``{{.ID}}\\t{{.Names}}`` without the word table.

    Raises:
        UsageError: a template that cannot be parsed or names an unknown field.
    """
    word, _, columns = format.strip().partition(" ")
    if word in {"", "table"}:
        return align([render_heading(columns or table, titles), *_lines(rows, columns or table)])
    return "".join(f"{line}\n" for line in _lines(rows, format))


def render_heading(columns: str, titles: Mapping[str, str]) -> str:
    """Write the heading of a table, its cells still separated by tabs."""
    return render(line_template(columns.strip()), None, header=titles)


def _lines(rows: Iterable[Row], text: str) -> list[str]:
    template = line_template(text.strip())
    return [render(template, row) for row in rows]


def render_objects(objects: Sequence[Any], format: str) -> str:  # noqa: A002 (named as the flag)
    """Write inspected objects: a JSON array, indented unless ``json`` is asked, or templates.

    Raises:
        UsageError: a template that cannot be parsed or names an unknown field.
    """
    if not format:
        return json.dumps(objects, indent=4, ensure_ascii=False) + "\n"
    if format == "json":
        return json.dumps(objects, separators=(",", ":"), ensure_ascii=False) + "\n"
    template = parse(format)
    return "".join(f"{render(template, item)}\n" for item in objects)


def align(lines: Sequence[str]) -> str:
    """Turn tabs into columns, as docker's tables have them: 3 blanks apart, 10 wide at least."""
    rows = [row.split("\t") for line in lines for row in line.split("\n")]
    widths: dict[int, int] = {}
    for row in rows:
        for column, cell in enumerate(row[:-1]):
            widths[column] = max(widths.get(column, _MINIMUM_WIDTH), len(cell) + _PADDING)
    out = []
    for row in rows:
        cells = [f"{cell:{widths[column]}}" for column, cell in enumerate(row[:-1])]
        out.append("".join(cells) + row[-1] + "\n")
    return "".join(out)
