"""The committed dashboards and rules: whole, in order, and asking only for what is exported."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards.__main__ import files
from tests import dashboards
from tests.conftest import require_program

ROOT = dashboards.ROOT
BOARDS = dashboards.boards()
WIDTH = 24


@pytest.fixture(params=sorted(BOARDS))
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return each committed dashboard in turn."""
    return BOARDS[request.param]


def test_committed_is_generated() -> None:
    """The JSON in the repository is what the code makes; else: python -m grafana.boards."""
    assert {path: path.read_text() for path in files()} == files()
    assert {path.name for path in dashboards.DASHBOARDS.iterdir()} == {p.name for p in files()}
    assert len(BOARDS) == 5


def test_round_trip(board: dict[str, Any]) -> None:
    """The SDK reads the JSON back without losing a key: none is misplaced or misspelt."""
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))

    assert again == board


def test_structure(board: dict[str, Any]) -> None:
    """Panels have ids, titles, descriptions, units and queries of their own, and do not overlap."""
    ids = [panel["id"] for panel in board["panels"]]
    assert ids == sorted(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        squares = {
            (place.get("x", 0) + x, place.get("y", 0) + y)
            for x in range(place["w"])
            for y in range(place["h"])
        }
        assert all(0 <= x < WIDTH for x, _ in squares), panel["title"]
        assert not squares & taken, panel["title"]
        taken |= squares
    titles = [panel["title"] for panel in dashboards.panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in dashboards.panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs, panel["title"]
        assert len(set(refs)) == len(refs)


def test_only_the_chosen_datasource_is_asked(board: dict[str, Any]) -> None:
    """No datasource is named but that of the variable."""
    found = set(re.findall(r'"uid": "([^"]*)"', json.dumps(board)))
    assert found == {"${datasource}", board["uid"]}


def test_variables(board: dict[str, Any]) -> None:
    """Every variable is used, every one that is used is there."""
    defined = {one["name"] for one in board["templating"]["list"]}
    asked = [one.expr for one in dashboards.panel_queries(board)]
    asked += [selector for _, selector, _ in dashboards.variable_queries(board)]
    used = {
        name
        for text in asked
        for name in re.findall(r"\$\{?(\w+)", text)
        if not name.startswith("__")
    }
    assert used | {"datasource"} == defined


def test_expressions_ask_for_what_is_exported(board: dict[str, Any]) -> None:
    """Every expression parses; every metric and label in it is in docs/metering.md's tables."""
    known = dashboards.exported() | dashboards.recorded()
    asked = [*dashboards.panel_queries(board), *dashboards.annotation_queries(board)]
    variables = dashboards.variable_queries(board)
    asked += [dashboards.Asked(name, selector) for name, selector, _ in variables]
    for one in asked:
        check(one.place, dashboards.plain(one.expr), known)


@pytest.mark.parametrize(
    "rule",
    [rule for _, rule in dashboards.rules()],
    ids=lambda rule: rule.get("alert") or rule["record"],
)
def test_rules_ask_for_what_is_exported(rule: dict[str, Any]) -> None:
    """Nor do the rules ask for anything else."""
    known = dashboards.exported() | dashboards.recorded()
    check(rule.get("alert") or rule["record"], rule["expr"], known)


def test_rates_of_what_is_committed_are_taken_over_minutes(board: dict[str, Any]) -> None:
    """What docs/metering.md marks as of the last commit moves every ten seconds only."""
    rows = dashboards.METRICS_PAGE.read_text().splitlines()
    marked = "|".join(
        line.split("`")[1] for line in rows if re.match(r"\| `.*as of the last commit", line)
    )
    assert marked.count("|") > 8
    rate = re.compile(rf"rate\(({marked})\b[^)]*__rate_interval")
    for panel in dashboards.panels(board):
        for target in panel["targets"]:
            is_slow = rate.search(target["expr"]) is not None
            assert (target.get("interval") == "30s") == is_slow, panel["title"]


def check(place: str, expr: str, known: dict[str, frozenset[str]]) -> None:
    """Fail if an expression names a metric or label that nobody exports."""
    names: set[str] = set()
    for selector in dashboards.selectors(expr):
        assert selector.name in known, f"{place}: {selector.name} is not exported"
        names |= known[selector.name]
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= known[selector.name], f"{place}: {selector.name} has no {labels}"
    assert names, place
    assert dashboards.grouping_labels(expr) <= names | {"le"}, place


def test_links_between_pages(board: dict[str, Any]) -> None:
    """Links lead to dashboards that are there, with variables that those have."""
    for uid, query in re.findall(r"/d/([\w-]+)\?([^\"\\]*)", json.dumps(board)):
        target = BOARDS[uid]
        defined = {one["name"] for one in target["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= defined
    assert board["links"][0]["tags"] == ["aruntime"]
    assert "aruntime" in board["tags"]


def test_containers_lead_to_their_pages() -> None:
    """The table of all containers links each to its own page."""
    assert "/d/aruntime-container?" in json.dumps(BOARDS["aruntime-containers"])


def test_rules_are_rules() -> None:
    """promtool has no complaint about configuration and rules."""
    for words in (
        ["check", "config", str(ROOT / "deploy/prometheus/prometheus.yml")],
        ["check", "rules", *map(str, sorted(dashboards.RULES.glob("*.yml")))],
    ):
        checked = subprocess.run(
            [require_program("promtool"), *words], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_when_they_must_and_only_then() -> None:
    """promtool test rules passes, and no alert and no recording rule is left out of it."""
    path = ROOT / "tests/rules/alerts.yml"
    checked = subprocess.run(
        [require_program("promtool"), "test", "rules", str(path)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    cases = yaml.safe_load(path.read_text())["tests"]
    tried = [one for case in cases for one in case["promql_expr_test"]]
    shown = "".join(sample["labels"] for one in tried for sample in one["exp_samples"])
    for _, rule in dashboards.rules():
        name = f'alertname="{rule["alert"]}"' if "alert" in rule else rule["record"]
        assert name in shown + "".join(one["expr"] for one in tried), f"{name} is not tried"


def test_every_alert_has_its_runbook() -> None:
    """Each alert has a severity and a section in docs/runbooks.md, and each section an alert."""
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    alerts = [rule for _, rule in dashboards.rules() if "alert" in rule]
    assert sorted(sections) == sorted(rule["alert"] for rule in alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]


def test_provisioning_files() -> None:
    """Grafana's provisioning files are YAML of version 1, and name what they must."""
    provisioning = ROOT / "grafana" / "provisioning"
    providers = yaml.safe_load((provisioning / "dashboards/aruntime.yml").read_text())
    sources = yaml.safe_load((provisioning / "datasources/aruntime.yml").read_text())
    assert providers["apiVersion"] == sources["apiVersion"] == 1
    assert providers["providers"][0]["type"] == "file"
    assert sources["datasources"][0]["type"] == "prometheus"


def test_alertmanager_example() -> None:
    """amtool takes the example."""
    checked = subprocess.run(
        [
            require_program("amtool"),
            "check-config",
            str(ROOT / "deploy/alertmanager/alertmanager.yml"),
        ],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
