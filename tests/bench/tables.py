"""A run as tables for people (Markdown) and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tests.bench.figures import OURS, Results, Series, advantages
from tests.bench.goals import Verdict

HEADS = ("engine", "median", "best decile", "unit", "samples", "aruntime is better by")


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    return f"{value:.{digits}f}"


def rows_of(group: Sequence[Series]) -> list[list[str]]:
    """Rows of one measure's table; the ratios are of medians and, in brackets, best deciles."""
    ours = next((series for series in group if series.engine == OURS), None)
    rows = []
    for series in group:
        ratio = ""
        if ours is not None and series is not ours:
            median, best = advantages(ours, series)
            ratio = f"{number(median)} × ({number(best)} ×)"
        figures = [number(series.median), number(series.best)]
        rows.append([series.engine, *figures, series.unit, str(len(series.samples)), ratio])
    return rows


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw a Markdown table that is also aligned as plain text."""
    rows = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def report(results: Results, lacks: dict[str, dict[str, str]], verdicts: list[Verdict]) -> str:
    """All tables: one for each measure, with those who are not in it named, and the goals."""
    parts = []
    for measure, group in results.by_measure().items():
        part = f"### {measure}\n\n{table(HEADS, rows_of(group))}"
        absent = [f"{name}: {why[measure]}" for name, why in lacks.items() if measure in why]
        if absent:
            part += f"\n\nNot measured: {'; '.join(absent)}."
        parts.append(part)
    parts.append("### Goals\n\n" + table(("goal", "measured", "met"), map(goal_row, verdicts)))
    return "\n\n".join(parts)


def goal_row(verdict: Verdict) -> list[str]:
    """Row of the goals' table."""
    goal = verdict.goal
    if verdict.figure is None:
        return [goal.text, "not measured", "?"]
    measured = number(verdict.figure) + (" ×" if goal.peer else f" {goal.unit}")
    return [goal.text, measured, "yes" if verdict.is_met else "NO"]


def as_json(
    results: Results,
    about: dict[str, object],
    lacks: dict[str, dict[str, str]],
    verdicts: list[Verdict],
) -> str:
    """Everything, samples included."""
    series = []
    for each in results:
        ours = results.get(each.measure, OURS)
        ratio = None if ours is None or ours is each else advantages(ours, each)
        series.append(
            {
                "measure": each.measure,
                "engine": each.engine,
                "unit": each.unit,
                "more_is_better": each.more_is_better,
                "median": each.median,
                "best_decile": each.best,
                "aruntime_better_by_median": ratio and ratio[0],
                "aruntime_better_by_best_decile": ratio and ratio[1],
                "samples": each.samples,
            }
        )
    goals = [
        {"goal": v.goal.text, "limit": v.goal.limit, "measured": v.figure, "met": v.is_met}
        for v in verdicts
    ]
    document = about | {"series": series, "goals": goals, "not_measured": lacks}
    return json.dumps(document, indent=2, ensure_ascii=False)
