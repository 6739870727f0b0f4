"""A report as one HTML page that opens without a network.

plotly draws; it is imported when a page is made, which the process of
:mod:`aruntime.daemon.bill_process` does: it and its five megabytes of script would stay in the
daemon's memory. The page forbids itself every connection. Pure.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from aruntime.metering.report import GIB, SCALES, Cost, Plot, Report, Row, Scale

NS = 10**9
COLOURS = (
    "#3b6ea8", "#e08b3e", "#4f9d69", "#b5494f", "#7d6bb0", "#8c6d4f", "#c678a6", "#7a7a7a",
    "#a9a23f", "#46a3ad",
)  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
STYLE = """
:root { color-scheme: light; --line: #d9dde3; --dim: #5c6570; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 24px;
       color: #1c2127; background: #fff; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 19px; margin: 34px 0 8px; }
p.sub { color: var(--dim); margin: 0 0 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: var(--dim); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 12px; }
.plot { height: 320px; min-width: 0;
        border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line);
         white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } .text { text-align: left; }
footer { color: var(--dim); margin-top: 34px; font-size: 13px; overflow-wrap: anywhere; }
@media print { .plot { break-inside: avoid; } }
"""


def page(report: Report) -> str:
    """Return the whole page."""
    from plotly.offline import get_plotlyjs

    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(report.title)}</title><style>{STYLE}</style>",
        f"<script>{get_plotlyjs()}</script></head><body>",
        f"<h1>{html.escape(report.title)}</h1>",
        f"<p class='sub'>{html.escape(subtitle(report))}</p>",
        cards(report),
        "<h2>Over time</h2><div class='plots'>",
        *(_plot(figure(report, plot)) for plot in report.plots),
        *(_plot(cost_figure(report.costs, one)) for one in currencies(report)),
        "</div>",
        costs_table(report),
        tenants_table(report),
        containers_table(report),
        footer(report),
        # Plots take their size when they are drawn, some before the page has found its own.
        "<script>window.dispatchEvent(new Event('resize'))</script></body></html>\n",
    ]
    return "".join(parts)


def subtitle(report: Report) -> str:
    """Period and host in words."""
    return f"{moment(report.since_ns)} to {moment(report.until_ns)} UTC, host {report.host}"


def moment(unix_ns: int) -> str:
    """``2026-11-26 12:00``, with seconds where they are not zero."""
    found = datetime.fromtimestamp(unix_ns // NS, UTC)
    return found.strftime("%Y-%m-%d %H:%M:%S" if found.second else "%Y-%m-%d %H:%M")


def shown(number: str, divisor: int = 1, decimals: int = 3) -> str:
    """A decimal number for people, with separators."""
    return f"{Decimal(number) / divisor:,.{decimals}f}"


def cards(report: Report) -> str:
    """The sums above everything."""
    found = [(f"{one.payable} {one.currency}", f"{one.tenant} owes") for one in report.payables]
    for scale in SCALES:
        total = sum((Decimal(row.numbers[scale.measure]) for row in report.tenants), Decimal(0))
        found.append((f"{shown(str(total), scale.divisor)}", f"{scale.title}, {scale.unit}"))
    paused = sum((Decimal(row.numbers["paused"]) for row in report.tenants), Decimal(0))
    found.append((shown(str(paused), 3600), "Paused, hours"))
    inside = "".join(
        f"<div class='card'><b>{html.escape(number)}</b><span>{html.escape(words)}</span></div>"
        for number, words in found
    )
    return f"<div class='cards'>{inside}</div>"


def figure(report: Report, plot: Plot) -> dict[str, Any]:
    """One measure over time, tenants upon each other, as plotly wants it."""
    starts = [moment(start) for start in report.starts_ns]
    per = "a day" if report.step_ns > 3600 * NS else "an hour"
    bars = [
        {
            "type": "bar",
            "name": series.tenant,
            "x": starts,
            "y": series.values,
            "marker": {"color": COLOURS[place % len(COLOURS)]},
            "hovertemplate": f"%{{y:.4f}} {plot.scale.unit}<extra>%{{fullData.name}}</extra>",
        }
        for place, series in enumerate(plot.series)
    ]
    return _figure(bars, f"{plot.scale.title}, {plot.scale.unit} {per}")


def currencies(report: Report) -> list[str]:
    """Currencies that something is owed in."""
    return sorted({one.currency for one in report.costs})


def cost_figure(costs: Sequence[Cost], currency: str) -> dict[str, Any]:
    """Cost by tenant, SKUs upon each other."""
    inside = [one for one in costs if one.currency == currency]
    tenants = sorted({one.tenant for one in inside})
    bars = [
        {
            "type": "bar",
            "name": sku,
            "x": tenants,
            "y": [
                float(sum(Decimal(c.cost) for c in inside if (c.tenant, c.sku) == (tenant, sku)))
                for tenant in tenants
            ],
            "marker": {"color": COLOURS[place % len(COLOURS)]},
            "hovertemplate": f"%{{y:.6f}} {currency}<extra>%{{fullData.name}}</extra>",
        }
        for place, sku in enumerate(sorted({one.sku for one in inside}))
    ]
    return _figure(bars, f"Cost by tenant and SKU, {currency}", axis="category")


def _figure(bars: list[dict[str, Any]], title: str, axis: str = "date") -> dict[str, Any]:
    layout = {
        "title": {"text": title, "x": 0.02, "font": {"size": 15}},
        "barmode": "stack",
        "bargap": 0.08,
        "margin": {"l": 56, "r": 16, "t": 44, "b": 40},
        "legend": {"orientation": "h", "y": -0.14},
        "showlegend": True,
        "hovermode": "x unified",
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "xaxis": {"type": axis, "gridcolor": "#eef0f3"},
        "yaxis": {"rangemode": "tozero", "gridcolor": "#eef0f3"},
        "font": {"family": "system-ui, sans-serif", "color": "#1c2127"},
    }
    return {"data": bars, "layout": layout}


def _plot(drawn: dict[str, Any]) -> str:
    from plotly.io import to_html

    inside = to_html(
        drawn,
        config={"displaylogo": False, "responsive": True},
        include_plotlyjs=False,
        full_html=False,
        validate=False,
    )
    return f"<div class='plot'>{inside}</div>"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first columns are text and whose others are numbers."""

    def cells(kind: str, words: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=text' if place < texts else ''}>{html.escape(word)}</{kind}>"
            for place, word in enumerate(words)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div class='wide'><table><thead><tr>{cells('th', titles)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def costs_table(report: Report) -> str:
    """What is owed, by SKU, exactly."""
    if not report.costs:
        words = "Nothing is owed." if report.book_version else "No prices are in force."
        return f"<h2>Cost</h2><p class='sub'>{words}</p>"
    note = " (provisional: the month is not over)" if report.is_provisional else ""
    titles = ("Tenant", "SKU", "Quantity", "Unit", "Cost", "Currency")
    rows = ((c.tenant, c.sku, c.quantity, c.unit, c.cost, c.currency) for c in report.costs)
    return f"<h2>Cost{note}</h2>{table(titles, rows, 2)}"


def _numbers(row: Row) -> list[str]:
    numbers = row.numbers
    return [
        shown(numbers["container"], 3600),
        shown(numbers["paused"], 3600),
        numbers["cpu_used"],
        *(shown(numbers[one.measure], one.divisor, 6) for one in SCALES[1:]),
        shown(numbers["block_read"], GIB, 6),
        ", ".join(row.estimated) or "no",
    ]


def _number_titles() -> list[str]:
    def titled(scale: Scale) -> str:
        return f"{scale.title}, {scale.unit}"

    return [
        "Hours",
        "Paused, hours",
        "CPU, core-seconds",
        *map(titled, SCALES[1:]),
        "Read from disks, GiB",
        "Estimated",
    ]


def tenants_table(report: Report) -> str:
    """Usage by tenant."""
    rows = ([row.tenant, str(row.containers), *_numbers(row)] for row in report.tenants)
    return f"<h2>Tenants</h2>{table(['Tenant', 'Containers', *_number_titles()], rows, 1)}"


def containers_table(report: Report) -> str:
    """Usage by container."""
    rows = (
        [row.name, row.tenant, row.container_id[:12], *_numbers(row)] for row in report.containers
    )
    more = (
        f"<p class='sub'>{report.left_out} more used less CPU and are in their tenants' rows.</p>"
        if report.left_out
        else ""
    )
    titles = ["Name", "Tenant", "Id", *_number_titles()]
    return f"<h2>Containers</h2>{table(titles, rows, 3)}{more}"


def footer(report: Report) -> str:
    """What vouches for the numbers."""
    words = (
        f"Made {moment(report.made_ns)} UTC by aruntime from ledger record {report.head_seq}, "
        f"hash {report.head_hash}."
    )
    if report.book_version:
        words += f" Price book {report.book_version}."
    return f"<footer>{html.escape(words)}</footer>"
