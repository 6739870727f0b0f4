"""Samples, ratios, goals and tables of the benchmarks."""

from __future__ import annotations

import json

import pytest

from tests.bench import engine, goals, tables
from tests.bench.figures import OURS, Results, Series, advantage, percentile


def results_of(measure: str, *, more_is_better: bool = False, **samples: list[float]) -> Results:
    """Results with one measure."""
    results = Results()
    for name, values in samples.items():
        for value in values:
            results.add(measure, name, "ms", value, more_is_better=more_is_better)
    return results


def test_percentile_interpolates() -> None:
    """A percentile between two samples is interpolated; the ends are the extremes."""
    samples = [30.0, 10.0, 20.0]

    assert percentile(samples, 0.0) == 10.0
    assert percentile(samples, 0.1) == pytest.approx(12.0)
    assert percentile(samples, 1.0) == 30.0
    assert percentile([7.0], 0.1) == 7.0


def test_best_decile_knows_its_direction() -> None:
    """The best tenth of times is the low end, of rates the high end."""
    samples = [float(number) for number in range(11)]

    assert Series("m", "e", "ms", samples=samples).best == 1.0
    assert Series("m", "e", "1/s", more_is_better=True, samples=samples).best == 9.0


def test_advantage_is_above_one_where_we_are_better() -> None:
    """Half of the time and twice the rate are both an advantage of two."""
    assert advantage(10, 20, more_is_better=False) == 2
    assert advantage(20, 10, more_is_better=True) == 2
    assert advantage(20, 10, more_is_better=False) == 0.5


def test_goal_compares_medians() -> None:
    """A goal against a peer holds or not by the ratio of the medians."""
    fast = results_of(engine.EXEC, aruntime=[10, 11, 90], docker=[40, 33, 20])
    slow = results_of(engine.EXEC, aruntime=[12], docker=[33])

    [met] = [v for v in goals.judge(fast) if v.goal.measure == engine.EXEC and v.figure]
    [missed] = [v for v in goals.judge(slow) if v.goal.measure == engine.EXEC and v.figure]

    assert (met.figure, met.is_met) == (3.0, True)
    assert missed.is_met is False


def test_goal_without_peer_bounds_our_own_figure() -> None:
    """Memory per container is compared with a number."""
    verdicts = {v.goal.measure: v for v in goals.judge(results_of(engine.MEMORY, aruntime=[21]))}

    assert verdicts[engine.MEMORY].is_met is False
    assert verdicts[engine.LOGS].is_met is None


def test_table_puts_us_first_then_the_best() -> None:
    """Rows are ours and then the peers from best to worst, with how much better we are."""
    results = results_of("m", podman=[30], aruntime=[10], docker=[20])

    [group] = results.by_measure().values()
    rows = tables.rows_of(group)

    assert [row[0] for row in rows] == [OURS, "docker", "podman"]
    assert [row[-1] for row in rows] == ["", "2.00 × (2.00 ×)", "3.00 × (3.00 ×)"]


def test_report_names_who_is_not_in_a_table() -> None:
    """An engine that cannot do a measure is named with its reason."""
    results = results_of("m", aruntime=[10])

    text = tables.report(results, {"runc": {"m": "it has no network"}, "crun": {}}, [])

    assert "Not measured: runc: it has no network." in text
    assert "crun" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0312, "0.031"), (9.876, "9.88"), (45.67, "45.7"), (321.9, "322")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """Figures are shown with the digits that mean something."""
    assert tables.number(value) == text


def test_json_has_all_samples() -> None:
    """The JSON document has the samples, the ratios and the goals."""
    results = results_of(engine.PS, aruntime=[10, 12], docker=[22, 22])

    document = json.loads(tables.as_json(results, {"seed": 1}, {}, goals.judge(results)))

    ours, theirs = document["series"]
    assert ours["samples"] == [10, 12]
    assert theirs["aruntime_better_by_median"] == 2.0
    assert {goal["met"] for goal in document["goals"]} == {True, None}
    assert document["seed"] == 1
