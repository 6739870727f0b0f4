"""Every expression of the dashboards and rules, asked of a real Prometheus about real containers.

Twelve containers use every feature that is metered; Prometheus scrapes them each second with the
rules loaded. What is asked must have an answer, with the labels its legend names, and numbers that
can be.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import dashboards
from tests.harness import wait_until
from tests.played import LOAD, Played, newest, playing

pytestmark = pytest.mark.e2e

MAY_BE_EMPTY = {
    "aruntime-tenants: The last day and the same day a week before B": "nothing is a week old",
    "aruntime-health: Errors by controller A": "shows errors only, and there are none",
}
"""What has no answer here, and why."""
TOTALS = {
    "cpu_seconds": "CPUUsed",
    "cpu_allocated_seconds": "CPUMax",
    "memory_byte_seconds": "MemoryUsed",
    "memory_allocated_byte_seconds": "MemoryMax",
    "container_seconds": "Container",
    "paused_seconds": "Paused",
    "blkio_read_bytes": "BlockRead",
    "blkio_write_bytes": "BlockWrite",
    "network_receive_bytes": "NetworkReceive",
    "network_transmit_bytes": "NetworkTransmit",
    "network_egress_bytes": "NetworkEgress",
}
"""Each number of the tenants' page, and the field of usage that it is."""
PAGE = {
    "Core-hours": ("CPUUsed", 3600),
    "GiB-hours": ("MemoryUsed", 3600 << 30),
    "Container-hours": ("Container", 3600),
    "Paused": ("Paused", 1),
    "Read": ("BlockRead", 1),
    "Written": ("BlockWrite", 1),
    "Received": ("NetworkReceive", 1),
    "Sent": ("NetworkTransmit", 1),
    "Left the host": ("NetworkEgress", 1),
}
"""What the page calls a field of usage, and how much of its unit makes one of the page's."""
UP_TO_ONE = re.compile(r"(throttled_periods|pressure|unseen)")


@pytest.fixture(scope="module")
def played(busybox_tar: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Yield a Prometheus that watched twelve containers use everything there is to use."""
    with playing(busybox_tar, tmp_path_factory.mktemp("prometheus")) as found:
        yield found


def numbers(series: list[dict[str, Any]]) -> list[float]:
    """All values of an answer."""
    return [float(value) for one in series for _, value in one["values"]]


@pytest.mark.parametrize("uid", sorted(dashboards.boards()))
def test_every_panel_has_an_answer(played: Played, uid: str) -> None:
    """Each query of each panel is answered, by series with the legend's labels and real numbers."""
    board = dashboards.boards()[uid]
    legends = {
        f"{uid}: {panel['title']} {target['refId']}": target.get("legendFormat", "")
        for panel in dashboards.panels(board)
        for target in panel["targets"]
    }
    variables = {"container": "busy|near"} if uid == "aruntime-container" else {}
    unanswered = []
    for asked in dashboards.panel_queries(board):
        found = played.answer(asked, **variables)
        if not found and variables:  # its page shows one container; not all have everything
            found = played.answer(asked)
        if not found:
            unanswered.append(asked.place)
            continue
        for label in re.findall(r"\{\{(\w+)\}\}", legends[asked.place]):
            assert all(label in one["metric"] for one in found), f"{asked.place}: no {label}"
        values = [value for value in numbers(found) if not math.isnan(value)]
        assert values, f"{asked.place}: not a number"
        assert all(map(math.isfinite, values)), asked.place
        check_range(asked, values)
    assert {place for place in unanswered if place not in MAY_BE_EMPTY} == set()


def check_range(asked: dashboards.Asked, values: list[float]) -> None:
    """Fail for numbers that cannot be: less than nothing, more than all."""
    if "- sum(rate(aruntime_tenant" not in asked.expr:  # idle may be negative: overcommitment
        assert min(values) >= 0, asked.place
    if UP_TO_ONE.search(asked.expr) and " / " in asked.expr:
        assert max(values) <= 1.0001, asked.place


@pytest.mark.parametrize("uid", ["aruntime-containers", "aruntime-container"])
def test_every_annotation_was_there(played: Played, uid: str) -> None:
    """Pauses, resumes, OOM kills and restarts of the load show as annotations."""
    for asked in dashboards.annotation_queries(dashboards.boards()[uid]):
        assert played.answer(asked), asked.place


@pytest.mark.parametrize("uid", sorted(dashboards.boards()))
def test_every_variable_has_values(played: Played, uid: str) -> None:
    """Each variable finds what the load has of its label."""
    wanted = {
        "host": set(),
        "tenant": {"acme", "globex", "initech", "default"},
        "container": set(LOAD),
    }
    for name, selector, label in dashboards.variable_queries(dashboards.boards()[uid]):
        found = {
            one["metric"].get(label) for one in played.answer(dashboards.Asked(name, selector))
        }
        assert found
        assert wanted[name] <= found


def test_every_rule_has_an_answer(played: Played) -> None:
    """Recording rules record; alerts that the load must fire do, others do not."""
    for _, rule in dashboards.rules():
        if "record" in rule:
            assert played.answer(dashboards.Asked(rule["record"], rule["record"])), rule["record"]
    found = played.prometheus.query_range("ALERTS", played.start, played.end)
    firing = {
        one["metric"]["alertname"] for one in found if one["metric"]["alertstate"] == "firing"
    }
    alerts = {one["metric"]["alertname"] for one in found}
    assert {"ContainerOom", "MemoryNearLimit"} <= alerts
    assert not firing & {"AruntimeDown", "MeteringStalled", "LedgerWriteFailing", "CounterAnomaly"}


def test_tenants_page_says_what_usage_says(played: Played) -> None:
    """Once all has ended Prometheus' totals of a tenant are those of usage, to the last digit."""
    daemon = played.daemon
    daemon.run("stop", "-t", "0", *daemon.container_ids())
    ended = time.time()
    wait_until(lambda: newest(played.prometheus) > ended + 1, what="a scrape after the end")
    rows = [
        json.loads(line)
        for line in daemon.out("usage", "--by", "tenant", "--format", "json").splitlines()
    ]
    assert {row["Tenant"] for row in rows} == {"acme", "globex", "initech", "default"}
    left = {row["Tenant"]: float(row["NetworkEgress"]) for row in rows}
    assert left["initech"] > 10_000
    assert sum(left.values()) == left["initech"]  # the others talk to nobody beyond the host
    for row in rows:
        for metric, field in TOTALS.items():
            found = played.prometheus.query(
                f'aruntime_tenant_{metric}_total{{tenant="{row["Tenant"]}"}}'
            )
            shown = float(found[0]["value"][1])
            assert math.isclose(shown, float(row[field]), rel_tol=1e-12), (row["Tenant"], metric)
    check_page(played, rows)


def check_page(played: Played, rows: list[dict[str, str]]) -> None:
    """Fail if the page makes anything else of the totals than usage does.

    The growth that it asks for is left out: since the beginning that is the totals themselves.
    """
    board = dashboards.boards()["aruntime-tenants"]
    (table,) = (panel for panel in board["panels"] if panel["type"] == "table")
    titles = table["transformations"][1]["options"]["renameByName"]
    columns = {titles[f"Value #{one['refId']}"]: one["expr"] for one in table["targets"]}
    assert set(columns) == set(PAGE)
    for title, expr in columns.items():
        field, scale = PAGE[title]
        shown = {one["metric"]["tenant"]: one["value"][1] for one in totals(played, expr)}
        for row in rows:
            wanted = float(row[field]) / scale
            assert math.isclose(float(shown[row["Tenant"]]), wanted, rel_tol=1e-12), title
    numbers = {one["title"]: one for one in dashboards.panels(board) if one["type"] == "stat"}
    for title in PAGE.keys() & numbers.keys():
        field, scale = PAGE[title]
        (found,) = totals(played, numbers[title]["targets"][0]["expr"])
        wanted = sum(float(row[field]) for row in rows) / scale
        assert math.isclose(float(found["value"][1]), wanted, rel_tol=1e-12), title


def totals(played: Played, expr: str) -> list[dict[str, Any]]:
    """What an expression makes of totals instead of their growth."""
    growth = re.compile(r"increase\((\w+\{[^}]*\})\[[^]]*\]\)")
    text, count = growth.subn(r"\1", dashboards.plain(expr))
    assert count == 1, expr
    return played.prometheus.query(text)
