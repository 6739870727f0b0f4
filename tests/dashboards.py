"""What the committed dashboards and rules ask Prometheus, read from the files users install."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = ROOT / "grafana" / "dashboards"
RULES = ROOT / "deploy" / "prometheus" / "rules"
METRICS_PAGE = ROOT / "docs" / "metering.md"
SCRAPER_LABELS = frozenset({"instance", "job"})
SCRAPER_METRICS = {"up": SCRAPER_LABELS}
RECORDED_LABELS = frozenset(
    {"tenant", "currency", "id", "name", "alertname", "severity", *SCRAPER_LABELS}
)


class Asked(NamedTuple):
    """An expression and where it stands."""

    place: str
    """Dashboard and panel, annotation or variable; file and rule."""
    expr: str
    instant: bool = False


def load(path: Path) -> dict[str, Any]:
    """A dashboard."""
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def boards() -> dict[str, dict[str, Any]]:
    """Every committed dashboard by its uid."""
    return {path.stem: load(path) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something, without headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def panel_queries(board: dict[str, Any]) -> Iterator[Asked]:
    """What a dashboard's panels ask."""
    for panel in panels(board):
        for target in panel["targets"]:
            place = f"{board['uid']}: {panel['title']} {target['refId']}"
            yield Asked(place, target["expr"], bool(target.get("instant")))


def annotation_queries(board: dict[str, Any]) -> Iterator[Asked]:
    """What its annotations ask."""
    for one in board.get("annotations", {}).get("list", []):
        yield Asked(f"{board['uid']}: {one['name']}", one["expr"])


def variable_queries(board: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, selector and label of each variable that takes the values of a label."""
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"]["query"])
            assert found is not None, one["query"]
            yield one["name"], found[1], found[2]


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rule with its file's name."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


def plain(expr: str, *, interval: str = "15s", window: str = "1h", **variables: str) -> str:
    """An expression with Grafana's variables replaced; unknown ones stay and do not parse."""
    values = {"__rate_interval": interval, "__interval": interval, "__range": window}
    values |= {"host": ".*", "tenant": ".*", "container": ".*", "host_cost": "2.5"} | variables
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: values.get(m[1] or m[2], m[0]), expr)


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """Every series selector of an expression.

    Raises:
        ValueError: it does not parse.
    """
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def grouping_labels(expr: str) -> set[str]:
    """Labels that an expression groups or matches by."""
    return {
        label
        for words in re.findall(r"(?:by|without|on|group_left|ignoring) \(([\w, ]*)\)", expr)
        for label in words.replace(",", " ").split()
    }


def exported() -> dict[str, frozenset[str]]:
    """Labels of every sample that docs/metering.md's tables list; they equal the exporter's."""
    found: dict[str, frozenset[str]] = dict(SCRAPER_METRICS)
    base: frozenset[str] = frozenset()
    for line in METRICS_PAGE.read_text().splitlines():
        if line.startswith("<!-- containers:"):
            base = frozenset({"id", "name", "tenant"})
        elif line.startswith("<!-- end of"):
            base = frozenset()
        row = re.match(r"\| `(aruntime_\w+)` \| (\w+) \| ([^|]*)\|", line)
        if row is None:
            continue
        name, kind = row[1], row[2]
        labels = base | SCRAPER_LABELS | frozenset(re.findall(r"`(\w+)`", row[3]))
        if kind == "histogram":
            found |= {f"{name}_count": labels, f"{name}_sum": labels}
            found[f"{name}_bucket"] = labels | {"le"}
        else:
            found[name] = labels
    return found


def recorded() -> dict[str, frozenset[str]]:
    """What recording rules add, with labels they may have."""
    return {rule["record"]: RECORDED_LABELS for _, rule in rules() if "record" in rule}
