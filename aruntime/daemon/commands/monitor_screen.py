"""The screen of ``aruntime monitor``: rows of numbers become text for a terminal. Pure.

rich draws; it is imported when the first screen is asked for, so that a daemon nobody watches does
not carry it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from aruntime.daemon.commands.monitor_keys import View
from aruntime.daemon.commands.values import escape_controls, format_bytes, format_size

if TYPE_CHECKING:
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

HEAD_LINES = 4
"""Summary, its rule, the titles, their rule."""
FOOT_LINES = 2
BAR_COLUMNS = 12
COLUMN_GAP = 3
STATE_STYLES = {"running": "green", "paused": "yellow", "pausing": "yellow", "exited": "dim"}
HELP = (
    "↑↓ select   p pause/resume   / filter   sort: c CPU  m memory  d disk  n network  o cost"
    "  a name  t tenant  r reverse   q quit"
)


class Row(NamedTuple):
    """One container at one moment."""

    id: str
    name: str
    tenant: str
    image: str
    status: str
    cpu_cores: float = 0.0
    cpu_limit_cores: float = 0.0
    """0: no limit."""
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    """0: no limit."""
    received_rate: float = 0.0
    """Bytes a second, as the following."""
    sent_rate: float = 0.0
    egress_rate: float = 0.0
    """What of it left the host."""
    read_rate: float = 0.0
    written_rate: float = 0.0
    pids: int = 0
    cost_rate: float = 0.0
    """List cost an hour, for sorting and showing; money is computed elsewhere."""
    currency: str = ""


class Summary(NamedTuple):
    """The line above the list."""

    host: str
    clock: str
    cores: int
    memory_bytes: int


def chosen(rows: Iterable[Row], view: View) -> list[Row]:
    """The rows that a view shows, in its order."""
    wanted = view.filter.casefold()
    kept = [
        row
        for row in rows
        if any(wanted in text.casefold() for text in (row.name, row.tenant, row.image, row.status))
    ]
    keys = {
        "cpu": lambda row: -row.cpu_cores,
        "memory": lambda row: -row.memory_bytes,
        "disk": lambda row: -(row.read_rate + row.written_rate),
        "network": lambda row: -(row.received_rate + row.sent_rate),
        "cost": lambda row: -row.cost_rate,
        "name": lambda row: row.name,
        "tenant": lambda row: row.tenant,
    }
    by_name = sorted(kept, key=lambda row: (row.name, row.id))
    return sorted(by_name, key=keys[view.sort], reverse=view.reverse)


def page_lines(lines: int) -> int:
    """Rows of the list that fit a screen."""
    return max(1, lines - HEAD_LINES - FOOT_LINES)


def window(rows: list[Row], view: View, lines: int) -> tuple[list[Row], str]:
    """The rows of the page that the selected one is on, and the selected one's id."""
    ids = [row.id for row in rows]
    place = ids.index(view.selected) if view.selected in ids else 0
    size = page_lines(lines)
    first = place // size * size
    return rows[first : first + size], ids[place] if ids else ""


def render(
    rows: list[Row], view: View, summary: Summary, columns: int, lines: int, *, colour: bool
) -> str:
    """Draw a screen: exactly ``lines`` lines, none longer than ``columns``.

    Args:
        rows: all that there are, chosen ones in order.
        view: what is selected and sorted by.
        summary: of the host.
        columns, lines: of the terminal.
        colour: whether to use colours.
    """
    from rich.console import Console

    shown, selected = window(rows, view, lines)
    output = io.StringIO()
    console = Console(
        file=output,
        width=columns,
        height=lines,
        force_terminal=True,
        no_color=not colour,
        color_system="256",
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(_heading(rows, summary), overflow="crop", no_wrap=True)
    console.print(_table(shown, selected, columns), overflow="crop", no_wrap=True)
    drawn = output.getvalue().splitlines()[: lines - FOOT_LINES]
    drawn += [""] * (lines - FOOT_LINES - len(drawn))
    output.seek(0)
    output.truncate()
    console.print(_status(view, len(rows)), overflow="crop", no_wrap=True)
    console.print(HELP, style="dim", overflow="crop", no_wrap=True)
    return "\r\n".join([*drawn, *output.getvalue().splitlines()[:FOOT_LINES]])


def _heading(rows: list[Row], summary: Summary) -> Text:
    from rich.text import Text

    cores = sum(row.cpu_cores for row in rows)
    memory = sum(row.memory_bytes for row in rows)
    running = sum(row.status == "running" for row in rows)
    paused = sum(row.status == "paused" for row in rows)
    parts: list[str | tuple[str, str | Style]] = [
        (f"{summary.host}  ", "bold"),
        f"{running} running, {paused} paused   CPU {cores:.2f}/{summary.cores}   ",
        f"memory {format_bytes(memory)}/{format_bytes(summary.memory_bytes)}",
    ]
    costs: dict[str, float] = {}
    for row in rows:
        if row.currency:
            costs[row.currency] = costs.get(row.currency, 0.0) + row.cost_rate
    parts += [f"   {amount:.4f} {currency}/h" for currency, amount in sorted(costs.items())]
    return Text.assemble(*parts, (f"   {summary.clock}", "dim"))


class _Column(NamedTuple):
    """A column, the room it needs, and how early it goes when there is too little."""

    title: str
    width: int
    rank: int
    cell: Callable[[Row], str | Text]
    justify: Literal["left", "right"] = "right"


def _columns(rows: list[Row], columns: int) -> list[_Column]:
    """The columns that fit, the dearest kept."""
    has_costs = any(row.currency for row in rows)
    every = [one for one in _ALL_COLUMNS if has_costs or one.title != "COST/H"]
    kept: list[_Column] = []
    for one in sorted(every, key=lambda one: one.rank):
        columns -= one.width + COLUMN_GAP
        if kept and columns < 0:
            break
        kept.append(one)
    return [one for one in every if one in kept]


def _table(rows: list[Row], selected: str, columns: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    shown = _columns(rows, columns)
    for one in shown:
        grows = {"NAME": 3, "TENANT": 2}.get(one.title)
        table.add_column(
            one.title, justify=one.justify, no_wrap=True, min_width=one.width, ratio=grows
        )
    for row in rows:
        table.add_row(
            *(one.cell(row) for one in shown), style="reverse" if row.id == selected else ""
        )
    return table


def _plain(text: str, style: str = "") -> Text:
    """Text that is not looked through for markup, and speaks to no terminal."""
    from rich.text import Text

    return Text(escape_controls(text), style=style)


def _state(row: Row) -> Text:
    return _plain(row.status, STATE_STYLES.get(row.status, ""))


def _cpu(row: Row) -> str:
    return f"{row.cpu_cores:.2f}" + (f"/{row.cpu_limit_cores:g}" if row.cpu_limit_cores else "")


def _limit(row: Row) -> Text:
    if not row.memory_limit_bytes:
        return _plain("no limit", "dim")
    return bar(row.memory_bytes / row.memory_limit_bytes)


def _cost(row: Row) -> str:
    return f"{row.cost_rate:.4f} {row.currency}" if row.currency else ""


def _rate(value: float) -> str:
    return f"{format_size(value)}/s"


_ALL_COLUMNS = (
    _Column("NAME", 12, 0, lambda row: _plain(row.name), "left"),
    _Column("TENANT", 8, 5, lambda row: _plain(row.tenant), "left"),
    _Column(
        "STATE", 7, 3, lambda row: _plain(row.status, STATE_STYLES.get(row.status, "")), "left"
    ),
    _Column("CPU", 8, 1, _cpu),
    _Column("MEMORY", 9, 2, lambda row: format_bytes(row.memory_bytes)),
    _Column("OF LIMIT", BAR_COLUMNS + 5, 4, _limit, "left"),
    _Column("NET IN", 9, 8, lambda row: _rate(row.received_rate)),
    _Column("NET OUT", 9, 9, lambda row: _rate(row.sent_rate)),
    _Column("EGRESS", 9, 12, lambda row: _rate(row.egress_rate)),
    _Column("READ", 9, 10, lambda row: _rate(row.read_rate)),
    _Column("WRITE", 9, 11, lambda row: _rate(row.written_rate)),
    _Column("PIDS", 4, 7, lambda row: str(row.pids)),
    _Column("COST/H", 10, 6, _cost),
)


def bar(part: float) -> Text:
    """A bar of a limit: green, yellow from 70 %, red from 90 %."""
    from rich.text import Text

    full = min(max(part, 0.0), 1.0)
    filled = round(full * BAR_COLUMNS)
    style = "red" if full >= 0.9 else "yellow" if full >= 0.7 else "green"
    return Text.assemble(
        ("█" * filled, style), ("░" * (BAR_COLUMNS - filled), "dim"), f" {full * 100:3.0f}%"
    )


def _status(view: View, count: int) -> Text:
    from rich.text import Text

    if view.is_typing:
        return Text(f"filter: {view.filter}█")
    words = f"{count} containers, by {view.sort}" + (", reversed" if view.reverse else "")
    if view.filter:
        words += f", with '{view.filter}' (esc: all)"
    return Text.assemble(words, (f"   {view.message}", "bold"))
