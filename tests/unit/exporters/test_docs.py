"""docs/metering.md lists exactly the metrics there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from aruntime_exporters.families import BASE_LABELS, CONTAINER_FAMILIES, PREFIX
from aruntime_exporters.prometheus import summary_families
from prometheus_client.metrics_core import Metric

from aruntime.metering.account import STATUSES
from aruntime.metering.export import View

DOCUMENT = Path(__file__).parents[3] / "docs" / "metering.md"
SUFFIXES = {"counter": "_total", "info": "_info"}


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(words: Iterable[str]) -> str:
    """Words as code, separated by blanks."""
    return " ".join(f"`{word}`" for word in words)


def container_table() -> str:
    """What the document has to say about families of containers."""
    return table(
        ("metric", "type", "labels", "level", "meaning"),
        (
            (code([row.full_name]), row.kind, code(row.labels), row.level, row.help)
            for row in CONTAINER_FAMILIES
        ),
    )


def summary_row(metric: Metric) -> tuple[str, str, str, str]:
    """The row of a family that is not in the containers' table."""
    labels = dict.fromkeys(name for sample in metric.samples for name in sample.labels)
    labels.pop("le", None)
    name = metric.name + SUFFIXES.get(metric.type, "")
    return code([name]), metric.type, code(labels), metric.documentation


def summary_table(view: View) -> str:
    """What the document has to say about all other families."""
    return table(("metric", "type", "labels", "meaning"), map(summary_row, summary_families(view)))


def section(name: str) -> str:
    """The generated part of the document between its two marks."""
    text = DOCUMENT.read_text()
    _, begin, rest = text.partition(f"<!-- {name}: tests/unit/exporters/test_docs.py -->\n")
    part, end, _ = rest.partition(f"<!-- end of {name} -->\n")
    assert begin, f"{DOCUMENT} has lost the mark where {name} begins"
    assert end, f"{DOCUMENT} has lost the mark where {name} ends"
    return part


def test_the_containers_table_is_the_exporters() -> None:
    """Every row of the table of families stands in the document, word for word."""
    assert section("containers") == container_table()


def test_the_other_families_are_the_exporters(view: View) -> None:
    """Tenants, meter and host: names, types, labels and meaning as they are scraped."""
    assert section("others") == summary_table(view)


def test_the_text_names_the_labels_and_states() -> None:
    """The labels of every container's sample and the values of ``state`` are said."""
    text = DOCUMENT.read_text()

    assert code(BASE_LABELS) in text
    assert code(STATUSES) in text
    assert PREFIX in text
