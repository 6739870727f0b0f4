"""Pictures for the documentation: the HTML report, and dashboards drawn from Prometheus' answers.

    .venv/bin/python -m tests.screenshots [DIRECTORY]    (default docs/images; needs chromium, root)

There is no Grafana here: the panels of the committed dashboards are laid out as their JSON says,
and drawn by plotly's script from what a real Prometheus answers about a real load, in headless
Chromium.
"""

from __future__ import annotations

import html
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from tests import dashboards
from tests.conftest import require_program
from tests.harness import busybox_archive
from tests.played import Played, playing

DEFAULT = dashboards.ROOT / "docs" / "images"
ROW_PIXELS = 38
WIDTH = 1400
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=8000",
)  # fmt: skip
STYLE = """
body { margin: 0; background: #f4f5f7; font: 13px system-ui, sans-serif; color: #1c2127; }
h1 { font-size: 20px; margin: 14px 16px 4px; }
.board { position: relative; margin: 8px; }
.panel { position: absolute; background: #fff; border: 1px solid #d9dde3; border-radius: 4px;
         box-sizing: border-box; overflow: hidden; }
.panel > b { display: block; padding: 5px 9px 0; font-size: 12px; }
.row { position: absolute; font-weight: 600; font-size: 15px; padding: 8px 4px; }
.stat { font-size: 25px; text-align: center; padding-top: 8%; color: #2f6d46; }
table { border-collapse: collapse; width: 100%; font-size: 11px; }
td { border-bottom: 1px solid #e4e7eb; padding: 2px 7px; white-space: nowrap; }
"""
SUFFIXES = {"bytes": "B", "Bps": "B/s", "s": " s", "iops": "/s", "cps": "/s", "pps": "/s"}


def is_now(played: Played, series: dict[str, Any]) -> bool:
    """Whether a series has a value at the end of the range: what an instant query would give."""
    return float(series["values"][-1][0]) >= played.end - 1.5


def human(value: float, unit: str) -> str:
    """A number in a panel's unit, for people."""
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit in ("bytes", "Bps"):
        for prefix in ("", "k", "M", "G"):
            if abs(value) < 1000 or prefix == "G":
                return f"{value:.3g} {prefix}{SUFFIXES[unit]}"
            value /= 1000
    return f"{value:.4g}{SUFFIXES.get(unit, '')}"


def named(series: dict[str, Any], legend: str) -> str:
    """A series' name by its legend."""
    text = legend
    for label, value in series["metric"].items():
        text = text.replace("{{" + label + "}}", value)
    return text or series["metric"].get("__name__", "")


def drawn_panel(played: Played, board: dict[str, Any], panel: dict[str, Any], number: int) -> str:
    """One panel at its place."""
    place = panel["gridPos"]
    column = (WIDTH - 16) / 24
    style = (
        f"left:{place.get('x', 0) * column:.0f}px;top:{place.get('y', 0) * ROW_PIXELS}px;"
        f"width:{place['w'] * column - 6:.0f}px;height:{place['h'] * ROW_PIXELS - 6}px"
    )
    if panel["type"] == "row":
        return f"<div class=row style='{style}'>{html.escape(panel['title'])}</div>"
    variables = {"container": "busy"} if board["uid"] == "aruntime-container" else {}
    answers = [
        (target, played.answer(dashboards.Asked("", target["expr"]), **variables))
        for target in panel["targets"]
    ]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    kind = panel["type"]
    if kind in ("stat", "table"):
        answers = [
            (target, [one for one in series if is_now(played, one)]) for target, series in answers
        ]
        inside = stat(answers, unit) if kind == "stat" else table(answers, panel)
    else:
        inside = plot(answers, kind, unit, place, number)
    title = html.escape(panel["title"])
    return f"<div class=panel style='{style}'><b>{title}</b>{inside}</div>"


Answers = list[tuple[dict[str, Any], list[dict[str, Any]]]]


def stat(answers: Answers, unit: str) -> str:
    """The last values as numbers."""
    shown = [
        f"{named(one, target.get('legendFormat', ''))} {human(float(one['values'][-1][1]), unit)}"
        for target, series in answers
        for one in series[:3]
    ]
    text = "<br>".join(html.escape(line.strip()) for line in shown) or "–"
    return f"<div class=stat>{text}</div>"


def headings(panel: dict[str, Any]) -> dict[str, str]:
    """The titles of a table's columns by their names, in their order."""
    organized = panel["transformations"][1]["options"]
    names = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    shown = {
        override["matcher"]["options"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "displayName"
    }
    return {name: organized["renameByName"].get(name, shown.get(name, name)) for name in names}


def table(answers: Answers, panel: dict[str, Any]) -> str:
    """A row for each series, a column for each label and each query, in the numbers' units."""
    titles = headings(panel)
    units = {
        override["matcher"]["options"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "unit"
    }
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for target, series in answers:
        name = f"Value #{target['refId']}" if len(answers) > 1 else "Value"
        for one in series:
            labels = {key: text for key, text in one["metric"].items() if key != "state"}
            cells = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
            cells |= {key: text for key, text in one["metric"].items() if key == "state"}
            if name in titles:
                cells[name] = human(float(one["values"][-1][1]), units.get(titles[name], ""))
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(cells.get(name, ''))}</td>" for name in titles)
        for _, cells in sorted(rows.items(), key=lambda row: [row[1].get(n, "") for n in titles])
    ]
    head = "".join(f"<td><b>{html.escape(title)}</b></td>" for title in titles.values())
    return f"<table><tr>{head}{''.join(lines[:13])}</table>"


def plot(answers: Answers, kind: str, unit: str, place: dict[str, int], number: int) -> str:
    """Lines, areas or bars, by plotly."""
    data: list[dict[str, Any]] = []
    for target, series in answers:
        for one in series[:12]:
            name = named(one, target.get("legendFormat", ""))
            times = [datetime.fromtimestamp(at, UTC).isoformat() for at, _ in one["values"]]
            values = [float(value) for _, value in one["values"]]
            if kind == "bargauge":
                data.append({"type": "bar", "orientation": "h", "y": [name], "x": values[-1:]})
            else:
                shape = "hv" if kind == "state-timeline" else "linear"
                data.append({
                    "type": "scatter", "mode": "lines", "name": name, "x": times, "y": values,
                    "line": {"width": 1.4, "shape": shape},
                })  # fmt: skip
    layout = {
        "margin": {"l": 62 if kind != "bargauge" else 150, "r": 8, "t": 6, "b": 26},
        "font": {"size": 10},
        "showlegend": kind != "bargauge",
        "legend": {"orientation": "h", "y": -0.16},
        "yaxis": {"rangemode": "tozero", "tickformat": ".1%" if unit == "percentunit" else "~s"}
        if kind != "bargauge"
        else {},
    }
    height = place["h"] * ROW_PIXELS - 34
    drawing = json.dumps([data, layout]).replace("<", "\\u003c")
    return (
        f"<div id=p{number} style='height:{height}px'></div><script>(([d, l]) =>"
        f"Plotly.newPlot('p{number}', d, l, {{staticPlot: true}}))({drawing})</script>"
    )


def board_page(played: Played, board: dict[str, Any]) -> tuple[str, int]:
    """A dashboard as a page, and its height in pixels."""
    places = [panel["gridPos"] for panel in board["panels"]]
    height = max(place.get("y", 0) + place["h"] for place in places) * ROW_PIXELS
    panels = "".join(
        drawn_panel(played, board, panel, number) for number, panel in enumerate(board["panels"])
    )
    page = (
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script><h1>{html.escape(board['title'])}</h1>"
        f"<div class=board style='height:{height}px'>{panels}</div>"
    )
    return page, height + 70


def shoot(page: Path, picture: Path, height: int) -> None:
    """Have Chromium open a page without a network and take a picture of it."""
    with tempfile.TemporaryDirectory(prefix="aruntime-chromium-") as profile:
        subprocess.run(
            [
                require_program("chromium"), *CHROMIUM, f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{height}", f"--screenshot={picture}", page.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main(directory: Path) -> int:
    """Take all pictures; returns the exit code."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aruntime-pictures-") as place:
        archive = busybox_archive(require_program("busybox"))
        with playing(archive, Path(place)) as played:
            for uid, board in dashboards.boards().items():
                text, height = board_page(played, board)
                page = Path(place) / f"{uid}.html"
                page.write_text(text)
                shoot(page, directory / f"{uid.removeprefix('aruntime-')}.png", height)
            report = Path(place) / "report.html"
            played.daemon.run("dashboard", "-o", str(report))
            shoot(report, directory / "report.png", 1900)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else DEFAULT))
