"""The dashboards in Grafana's own code: its types, and how it turns answers into what is shown.

No package registry has a Grafana server. What it publishes to npm is the code of its pages: the
types of a dashboard's JSON, the frames of the Prometheus datasource, transformations, overrides,
units and links. ARUNTIME_TEST_GRAFANA=1 fetches them (some 40 MB, 150 MB unpacked) and asks them
about the committed dashboards and a real Prometheus' answers. What is left out is the drawing.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import dashboards
from tests.conftest import require_program
from tests.played import LOAD, Played, playing

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("ARUNTIME_TEST_GRAFANA"),
        reason="ARUNTIME_TEST_GRAFANA=1: fetches Grafana's code from npm",
    ),
]

SOURCES = Path(__file__).resolve().parents[1] / "grafana"
TSCONFIG = {
    "compilerOptions": {
        "strict": True, "noEmit": True, "skipLibCheck": True, "module": "esnext", "types": [],
        "moduleResolution": "bundler", "target": "es2022", "lib": ["es2022", "dom"],
    },
}  # fmt: skip
VARIABLES = {"datasource": "main", "__url_time_range": "from=1&to=2"}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with Grafana's code, fetched and built."""
    for program in ("npm", "node"):
        require_program(program)
    place = tmp_path_factory.mktemp("grafana") / "code"
    shutil.copytree(SOURCES, place)
    done = subprocess.run(["/bin/sh", "build.sh"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return place


def misspelt(board: dict[str, Any]) -> None:
    """An option that Grafana does not know."""
    first = dashboards.panels(board)[0]
    first["options"]["reduceOption"] = first["options"].pop("reduceOptions")


def unknown_word(board: dict[str, Any]) -> None:
    """A word that is none of an option's."""
    graphs = [one for one in dashboards.panels(board) if one["type"] == "timeseries"]
    graphs[0]["options"]["tooltip"]["mode"] = "many"


def misplaced(board: dict[str, Any]) -> None:
    """A field's unit where panels have their options."""
    first = dashboards.panels(board)[0]
    first["unit"] = first["fieldConfig"]["defaults"].pop("unit")


MUTANTS: tuple[Callable[[dict[str, Any]], None], ...] = (misspelt, unknown_word, misplaced)


def test_grafanas_types_hold(code: Path) -> None:
    """Every key and word of the dashboards is one that Grafana's types have; mistakes are found."""
    boards = dict(dashboards.boards())
    for mutate in MUTANTS:
        boards[mutate.__name__] = copy.deepcopy(boards["aruntime-containers"])
        mutate(boards[mutate.__name__])
    types = (SOURCES / "types.ts").read_text()
    for name, board in boards.items():
        text = f"{types}\nexport const board: Board = {json.dumps(board)}"
        (code / f"{name}.ts").write_text(text)
    files = [f"{name}.ts" for name in boards]
    (code / "tsconfig.json").write_text(json.dumps(TSCONFIG | {"files": files}))
    done = subprocess.run(
        ["node_modules/.bin/tsc", "-p", "."], cwd=code, capture_output=True, text=True
    )
    wrong = set(re.findall(r"^([\w-]+)\.ts\(", done.stdout, re.MULTILINE))
    assert wrong == {mutate.__name__ for mutate in MUTANTS}, done.stdout[:3000]


@pytest.fixture(scope="module")
def played(busybox_tar: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Yield a Prometheus that watched twelve containers."""
    with playing(busybox_tar, tmp_path_factory.mktemp("prometheus")) as found:
        yield found


def shown_by(code: Path, played: Played, board: dict[str, Any]) -> dict[str, Any]:
    """What Grafana's code shows of a dashboard's panels and Prometheus' answers."""
    variables = {"container": "busy"} if board["uid"] == "aruntime-container" else {}
    panels = []
    for panel in dashboards.panels(board):
        answers = {
            target["refId"]: played.answer(dashboards.Asked("", target["expr"]), **variables)
            for target in panel["targets"]
        }
        for target in panel["targets"]:
            if target.get("instant"):  # a series that has ended has no value now
                answers[target["refId"]] = [
                    one
                    for one in answers[target["refId"]]
                    if float(one["values"][-1][0]) >= played.end - 1.5
                ]
        panels.append({"panel": panel, "answers": answers})
    asked = json.dumps({"panels": panels, "variables": VARIABLES})
    done = subprocess.run(
        ["node", "bundle.mjs"], cwd=code, input=asked, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    for made, given in zip(answer["panels"], panels, strict=True):
        made |= given
    return answer


@pytest.mark.parametrize("uid", sorted(dashboards.boards()))
def test_what_grafana_shows(code: Path, played: Played, uid: str) -> None:
    """Units are known, legends are filled in, limits are dashed, tables have the named columns."""
    answer = shown_by(code, played, dashboards.boards()[uid])
    for made in answer["panels"]:
        panel, title = made["panel"], made["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in answer["units"], title
        values = [one for one in made["fields"] if one["type"] != "time"]
        if panel["type"] == "table":
            check_table(made, values, answer["units"])
            continue
        wanted = {
            legend(target.get("legendFormat", ""), one["metric"]) or one["metric"].get("__name__")
            for target in panel["targets"]
            for one in made["answers"][target["refId"]]
        }
        if all(target.get("legendFormat") for target in panel["targets"]):
            assert {one["name"] for one in values} == wanted, title
        assert not any("{{" in one["name"] for one in values), title
        check_overrides(panel, values)


def legend(words: str, labels: dict[str, str]) -> str:
    """A legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda m: labels.get(m[1], ""), words)


def check_overrides(panel: dict[str, Any], values: list[dict[str, Any]]) -> None:
    """Series that an override's pattern names are dashed, and no others."""
    patterns = [one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]]
    for one in values:
        is_limit = any(re.search(pattern.strip("/"), one["name"]) for pattern in patterns)
        dashes = one["config"]["custom"].get("lineStyle", {}).get("fill")
        assert (dashes == "dash") == is_limit, (panel["title"], one["name"])


def check_table(made: dict[str, Any], values: list[dict[str, Any]], units: list[str]) -> None:
    """The columns are the titles, in their order, each with its unit; nothing else is there."""
    titles: dict[str, dict[str, Any]] = {}
    for override in made["panel"]["fieldConfig"]["overrides"]:
        found = titles.setdefault(override["matcher"]["options"], {})
        found |= {each["id"]: each["value"] for each in override["properties"]}
    organized = made["panel"]["transformations"][1]["options"]
    order = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    names = [organized["renameByName"].get(name, name) for name in order]
    wanted = [titles.get(name, {}).get("displayName", name) for name in names]
    assert [one["name"] for one in made["fields"]] == wanted, made["title"]
    rows = {len(one["cells"]) for one in values}
    assert rows != {0}
    assert len(rows) == 1, made["title"]
    for one in values:
        unit = titles.get(one["name"], {}).get("unit")
        if unit is not None:
            assert one["config"]["unit"] == unit, one["name"]
            assert unit in units


def test_rows_lead_to_a_containers_page(code: Path, played: Played) -> None:
    """The link behind a name in the table of containers has that row's host, tenant and name."""
    answer = shown_by(code, played, dashboards.boards()["aruntime-containers"])
    (made,) = (one for one in answer["panels"] if one["type"] == "table")
    columns = {one["name"]: one for one in made["fields"]}
    rows = zip(
        columns["Name"]["cells"], columns["Tenant"]["cells"], columns["Host"]["cells"],
        columns["Name"]["links"], strict=True,
    )  # fmt: skip
    seen = set()
    for name, tenant, host, link in rows:
        seen.add(name)
        assert link == (
            f"/d/aruntime-container?var-datasource=main&var-host={host}&var-tenant={tenant}"
            f"&var-container={name}&from=1&to=2"
        )
    assert set(LOAD) <= seen
    assert len(set(columns["Id"]["cells"])) == len(columns["Id"]["cells"])  # one row for each
    assert set(columns["State"]["cells"]) <= {"running", "paused", "pausing", "exited"}
