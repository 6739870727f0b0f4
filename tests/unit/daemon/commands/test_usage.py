"""What ``usage`` prints: every measure, exactly, in each format."""

from __future__ import annotations

import csv
import io
import json

import pytest

from aruntime.daemon.commands.flags import parse
from aruntime.daemon.commands.usage import (
    COMMANDS,
    FIELDS,
    TABLES,
    TITLES,
    csv_text,
    exact_row,
    rendered,
    wanted_grouping,
    wanted_window,
)
from aruntime.errors import InvalidParameter, UsageError
from aruntime.metering.quantities import MEASURES
from aruntime.metering.record import LedgerRecord
from aruntime.metering.usage import Usage, Window, usage_rows

S = 10**9
WINDOW = Window(0, 3600 * S)
RECORD = LedgerRecord(
    container_id="c" * 64, tenant="acme", name="web", labels={"team": 'a,"b"'}, wall_end=2 * S,
    running_ns=2 * S, cpu_ns=1_234_567_891, mem_bytens2=3 << 30, estimated=("daemon_gap",),
    net={"eth0": (1, 2, 3, 4, 5, 6)},
)  # fmt: skip


def rows(by: str = "container") -> list[Usage]:
    """Return the rows of one record."""
    return usage_rows([RECORD], [], WINDOW, by)


def test_every_measure_has_a_field() -> None:
    """A new one cannot be forgotten; each has a heading."""
    assert sorted(FIELDS.values()) == sorted(MEASURES)
    assert set(exact_row(rows()[0], WINDOW)) <= set(TITLES)


def test_json_and_csv_are_exact() -> None:
    """The same numbers, to the last unit, with whole ids."""
    (line,) = rendered(rows(), WINDOW, "container", "json").splitlines()
    found = json.loads(line)
    assert found["ID"] == "c" * 64
    assert found["CPUUsed"] == "1.234567891"
    assert found["MemoryUsed"] == "1.610612736"
    assert (found["NetworkEgress"], found["Estimated"]) == ("5", "daemon_gap")
    text = rendered(rows("label:team"), WINDOW, "label:team", "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["Label"], row["CPUUsed"], row["ID"]) == ('a,"b"', "1.234567891", "")
    assert csv_text([]).count("\n") == 1


@pytest.mark.parametrize("by", ["container", "tenant", "label:team"])
def test_tables(by: str) -> None:
    """A heading and a row; short ids and human sizes."""
    heading, row = rendered(rows(by), WINDOW, by, "").splitlines()
    assert heading.startswith("TENANT ")
    assert row.startswith("acme ")
    assert "1.235s" in row
    assert "yes" in row
    assert ("cccccccccccc " in row) is (by == "container")
    assert by.partition(":")[0] in TABLES


def test_templates() -> None:
    """Any field; an unknown one is an error that names those there are."""
    assert rendered(rows(), WINDOW, "container", "{{.Name}}={{.CPUUsed}}") == "web=1.234567891\n"
    with pytest.raises(UsageError, match="CPUUsed"):
        rendered(rows(), WINDOW, "container", "{{.Cost}}")


@pytest.mark.parametrize("text", ["", "label", "label:", "image", "container:x"])
def test_what_cannot_be_grouped_by(text: str) -> None:
    """Said with what can."""
    with pytest.raises(InvalidParameter, match="give container, tenant or label:KEY"):
        wanted_grouping(text)


def test_the_window_is_this_month_unless_said() -> None:
    """From its first instant to now; moments as everywhere."""
    (command,) = COMMANDS
    now = 1_795_000_000 * S  # in November 2026
    assert wanted_window(parse(command, []), now).since_ns == 1_793_491_200 * S
    assert wanted_window(parse(command, ["--since", "1h"]), now) == (now - 3600 * S, now)
    with pytest.raises(InvalidParameter, match="later"):
        wanted_window(parse(command, ["--until", "2026-10-01T00:00:00Z"]), now)
