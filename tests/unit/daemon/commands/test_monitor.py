"""aruntime monitor: keys, the view they change, and the screen that is drawn of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.daemon.commands.monitor import cpu_limit_cores
from aruntime.daemon.commands.monitor_keys import QUIT, SORTS, TOGGLE, View, decode, press
from aruntime.daemon.commands.monitor_screen import (
    Row,
    Summary,
    chosen,
    page_lines,
    render,
    window,
)

SUMMARY = Summary("node", "12:00:00 UTC", 2, 16 << 30)
ROWS = [
    Row(
        f"id{number:02}",
        f"name{number:02}",
        ("acme", "globex", "initech")[number % 3],
        "busybox",
        "paused" if number % 5 == 4 else "running",
        cpu_cores=number / 10,
        cpu_limit_cores=2.0 if number % 2 else 0.0,
        memory_bytes=(30 - number) << 20,
        memory_limit_bytes=(32 << 20) if number % 2 else 0,
        sent_rate=float(number % 7),
        read_rate=float(number % 11),
        cost_rate=float(number % 13),
    )
    for number in range(30)
]
IDS = [row.id for row in ROWS]
MEASURES: dict[str, Callable[[Row], Any]] = {
    "cpu": lambda row: -row.cpu_cores,
    "memory": lambda row: -row.memory_bytes,
    "disk": lambda row: -row.read_rate,
    "network": lambda row: -row.sent_rate,
    "cost": lambda row: -row.cost_rate,
    "name": lambda row: row.name,
    "tenant": lambda row: row.tenant,
}


def plain(text: str) -> list[str]:
    """The lines of a screen without their colours."""
    return re.sub(r"\033\[[0-9;]*m", "", text).split("\r\n")


@pytest.mark.parametrize(
    ("chunk", "keys"),
    [
        (b"q", ["q"]),
        (b"jjk", ["j", "j", "k"]),
        (b"\033[A\033OB", ["up", "down"]),
        (b"\033[5~\033[6~\033[H\033[F", ["page-up", "page-down", "home", "end"]),
        (b"\033", ["escape"]),
        (b"\033q", ["escape", "q"]),
        (b"\033[200~x", ["x"]),
        (b"\r\n\x7f\x08", ["enter", "enter", "backspace", "backspace"]),
        (b"\x03", [QUIT]),
        ("ä€".encode(), ["ä", "€"]),
        (b"\xff\xfe", []),
        (b"\x00\x01", []),
        (b"\033[", []),
    ],
)
def test_keys(chunk: bytes, keys: list[str]) -> None:
    """What terminals send becomes keys; the rest is nothing."""
    assert decode(chunk) == keys


@given(st.binary(max_size=40))
def test_any_bytes_are_taken(chunk: bytes) -> None:
    """No input can break the decoder or the view."""
    view = View()
    for key in decode(chunk):
        view, _ = press(view, key, IDS, 10)
    assert len(view.filter) <= 64
    assert render(chosen(ROWS, view), view, SUMMARY, 80, 24, colour=True)


def test_moving() -> None:
    """The selection moves by lines, pages and to the ends, and stays in the list."""
    view = View()
    for key, selected in [
        ("up", "id00"), ("down", "id01"), ("j", "id02"), ("k", "id01"), ("page-down", "id11"),
        ("end", "id29"), ("down", "id29"), ("page-up", "id19"), ("home", "id00"),
    ]:  # fmt: skip
        view, action = press(view, key, IDS, 10)
        assert (view.selected, action) == (selected, "")
    assert press(View(), "down", [], 10) == (View(), "")


def test_filter_is_typed() -> None:
    """After / keys are the filter's; enter keeps it, escape takes it away."""
    view = View()
    for key in "/qp":
        view, action = press(view, key, IDS, 10)
        assert action == ""
    assert (view.filter, view.is_typing) == ("qp", True)
    view, _ = press(view, "backspace", IDS, 10)
    view, _ = press(view, "enter", IDS, 10)
    assert (view.filter, view.is_typing) == ("q", False)
    assert press(view, "escape", IDS, 10)[0].filter == ""
    assert press(view, "q", IDS, 10)[1] == QUIT
    assert press(View(is_typing=True), QUIT, IDS, 10)[1] == QUIT


@pytest.mark.parametrize("key", ["p", " "])
def test_pause_key(key: str) -> None:
    """p and the space bar ask for a pause or resume."""
    assert press(View(), key, IDS, 10)[1] == TOGGLE


@pytest.mark.parametrize(("key", "sort"), SORTS.items())
def test_sort_keys(key: str, sort: str) -> None:
    """Each key sorts: the most first, names in their order; r turns the list round."""
    view, _ = press(View(sort="name" if sort == "cpu" else "cpu", reverse=True), key, IDS, 10)
    assert (view.sort, view.reverse) == (sort, False)
    measure = MEASURES[sort]
    values = [measure(row) for row in chosen(ROWS, view)]
    assert values == sorted(values)
    view, _ = press(view, "r", IDS, 10)
    assert [measure(row) for row in chosen(ROWS, view)] == sorted(values, reverse=True)


def test_filter_finds() -> None:
    """A filter finds names, tenants, images and states, in any case."""
    assert {row.tenant for row in chosen(ROWS, View(filter="GLOB"))} == {"globex"}
    assert {row.status for row in chosen(ROWS, View(filter="paus"))} == {"paused"}
    assert len(chosen(ROWS, View(filter="busyb"))) == len(ROWS)
    assert [row.name for row in chosen(ROWS, View(filter="name07"))] == ["name07"]


@given(st.integers(20, 250), st.integers(8, 60), st.sampled_from(IDS), st.booleans(), st.booleans())
def test_screen_fits(columns: int, lines: int, selected: str, colour: bool, costs: bool) -> None:
    """Whatever the terminal's size: as many lines as it has, none too long, the selected shown."""
    rows = [row._replace(currency="EUR") if costs else row for row in ROWS]
    view = View(selected=selected, filter="name", message="something was said")
    shown = chosen(rows, view)

    text = render(shown, view, SUMMARY, columns, lines, colour=colour)

    drawn = plain(text)
    assert len(drawn) == lines
    assert max(map(len, drawn)) <= columns
    page, found = window(shown, view, lines)
    assert found == selected
    assert len(page) <= page_lines(lines)
    assert any(row.id == selected for row in page)
    assert ("\033[3" in text) <= colour


def test_numbers_on_the_screen() -> None:
    """A wide screen has every number; the heading adds up."""
    row = ROWS[1]._replace(
        received_rate=2e6, sent_rate=1.5e3, egress_rate=700.0, read_rate=3e9, pids=17,
        cost_rate=0.25, currency="EUR", cpu_cores=0.5,
    )  # fmt: skip
    lines = plain(render([row], View(), SUMMARY, 200, 10, colour=False))
    assert "1 running, 0 paused" in lines[0]
    assert "CPU 0.50/2" in lines[0]
    assert "0.2500 EUR/h" in lines[0]
    shown = lines[3].split()
    for word in ["name01", "globex", "running", "0.50/2", "29MiB", "91%", "2MB/s", "1.5kB/s",
                 "700B/s", "3GB/s", "17", "0.2500"]:  # fmt: skip
        assert word in shown, (word, lines[3])


def test_hostile_names() -> None:
    """Names with markup or escapes are shown as they are and colour nothing."""
    row = ROWS[1]._replace(name="[red]x[/red]", tenant="\033[31mt")
    text = render([row], View(selected="other"), SUMMARY, 200, 10, colour=True)
    assert "[red]x" in text
    assert "\033[31mt" not in text


@pytest.mark.parametrize(
    ("resources", "cores"),
    [
        ({}, 0.0),
        ({"cpu": {"quota": -1, "period": 100000}}, 0.0),
        ({"cpu": {"quota": 150000, "period": 100000}}, 1.5),
        ({"cpu": {"quota": 50000}}, 0.5),
    ],
)
def test_cpu_limit(resources: dict[str, dict[str, int]], cores: float) -> None:
    """The limit is quota by period, whose default the kernel has."""
    assert cpu_limit_cores(resources) == cores
