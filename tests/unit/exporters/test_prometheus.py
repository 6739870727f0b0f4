"""The exposition: golden file, agreement with prometheus-client, promtool, both formats."""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from aruntime_exporters.families import CONTAINER_FAMILIES, LEVELS, is_shown
from aruntime_exporters.prometheus import OPENMETRICS, TEXT, PrometheusExporter
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from aruntime.metering.export import ENTRY_POINT_GROUP, View, load_exporters

parse_openmetrics: Callable[[str], Iterable[Metric]] = (
    openmetrics_parser.text_string_to_metric_families
)
generate_text: Callable[[Collector], bytes] = exposition.generate_latest
generate_openmetrics: Callable[[Collector], bytes] = openmetrics.generate_latest

GOLDEN = Path(__file__).with_name("exposition.txt")


def body(exporter: PrometheusExporter, content_type: str = TEXT) -> str:
    """The whole page."""
    return b"".join(exporter.render(content_type)).decode()


def test_golden_file(view: View) -> None:
    """The page of a fixed view is the file, line for line; a change must be meant."""
    assert GOLDEN.read_text() == body(PrometheusExporter(lambda: view))


@pytest.mark.parametrize("level", LEVELS)
def test_pages_equal_prometheus_clients_own(view: View, level: str) -> None:
    """What we render line by line is what generate_latest makes of the collector, to the byte."""
    exporter = PrometheusExporter(lambda: view, level)

    assert generate_text(exporter.registry).decode() == body(exporter)
    assert generate_openmetrics(exporter.registry).decode() == body(exporter, OPENMETRICS)


@given(
    name=st.text(max_size=20),
    cpu_ns=st.integers(0, 1 << 70),
    written=st.integers(0, 1 << 64),
    count=st.integers(0, 3),
)
def test_any_container_is_rendered_as_by_prometheus_client(
    view: View, name: str, cpu_ns: int, written: int, count: int
) -> None:
    """Names of all kinds and numbers of all sizes give the same bytes both ways."""
    container = view.containers[0]
    totals = msgspec.structs.replace(
        container.account.totals, cpu_ns=cpu_ns, block={name: (0, written, 0, 0, 0)}
    )
    named = container._replace(
        about=msgspec.structs.replace(container.about, name=name, tenant=name),
        account=msgspec.structs.replace(container.account, totals=totals),
    )
    exporter = PrometheusExporter(lambda: view._replace(containers=(named,) * count))

    assert generate_text(exporter.registry).decode() == body(exporter)


def test_openmetrics_is_valid(view: View) -> None:
    """The strict parser takes the OpenMetrics page; names and values are those of the text."""
    exporter = PrometheusExporter(lambda: view)
    strict = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(body(exporter, OPENMETRICS))
        for sample in family.samples
    }
    plain = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(body(exporter))
        for sample in family.samples
    }

    assert strict == plain
    assert len(plain) > 190


def test_promtool_finds_nothing(view: View) -> None:
    """Prometheus's own linter has no complaint about any level."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("promtool is missing: apt-get install prometheus")
    for level in LEVELS:
        page = body(PrometheusExporter(lambda: view, level))
        done = subprocess.run(
            [promtool, "check", "metrics"], input=page.encode(), capture_output=True
        )

        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nanoseconds_survive(view: View) -> None:
    """A reader gets the CPU counter back to the nanosecond, the tenant's to the microsecond."""
    values = {
        (sample.name, sample.labels.get("name", sample.labels.get("tenant"))): sample.value
        for family in parse_text(body(PrometheusExporter(lambda: view)))
        for sample in family.samples
    }

    cpu = values["aruntime_container_cpu_usage_seconds_total", "web"]
    tenant_cpu = values["aruntime_tenant_cpu_seconds_total", "acme"]

    assert round(cpu * 1e9) == 12_345_678_901
    assert round(tenant_cpu * 1e9) == 24_691_357_802


def test_ended_containers_keep_counters_only(view: View) -> None:
    """Levels are gone at once; counters, state, exit code and time of death stay."""
    ended = view._replace(containers=(view.containers[1],))
    names = {
        sample.name
        for family in parse_text(body(PrometheusExporter(lambda: ended)))
        for sample in family.samples
        if "id" in sample.labels
    }

    assert names >= {
        "aruntime_container_cpu_usage_seconds_total",
        "aruntime_container_memory_byte_seconds_total",
        "aruntime_container_exit_code",
        "aruntime_container_finished_timestamp_seconds",
        "aruntime_container_state",
        "aruntime_container_info",
    }
    assert not {name for name in names if "spec_" in name or name.endswith("_rss_bytes")}
    assert "aruntime_container_memory_working_set_bytes" not in names
    assert "aruntime_container_pids" not in names


def test_exactly_one_state_is_1(view: View) -> None:
    """The states of a container add up to one."""
    for family in parse_text(body(PrometheusExporter(lambda: view))):
        if family.name == "aruntime_container_state":
            assert len(view.containers) == sum(sample.value for sample in family.samples)
            assert 5 * len(view.containers) == len(family.samples)


def test_networks_appear_only_with_samples(view: View) -> None:
    """Without an interface there is no network family at all, not even its help."""
    bare = view.containers[0]
    totals = msgspec.structs.replace(bare.account.totals, network={})
    account = msgspec.structs.replace(bare.account, totals=totals)
    page = body(
        PrometheusExporter(lambda: view._replace(containers=(bare._replace(account=account),)))
    )

    assert "container_network" in body(PrometheusExporter(lambda: view))
    assert "container_network" not in page


def test_no_pressure_no_series(view: View) -> None:
    """Where the kernel keeps no pressure information its series are absent, not 0."""
    bare = view._replace(containers=(view.containers[0]._replace(has_pressure=False),))

    assert "container_pressure" not in body(PrometheusExporter(lambda: bare))


def test_levels_hold_each_other(view: View) -> None:
    """minimal ⊂ default ⊂ full, and the names are unique."""
    shown = [{f.name for f in CONTAINER_FAMILIES if is_shown(f.level, level)} for level in LEVELS]

    assert shown[0] < shown[1] < shown[2]
    assert len(CONTAINER_FAMILIES) == len({family.full_name for family in CONTAINER_FAMILIES})


def test_no_sample_has_a_timestamp(view: View) -> None:
    """Explicit timestamps would switch Prometheus's staleness off."""
    families = parse_text(body(PrometheusExporter(lambda: view)))

    assert all(sample.timestamp is None for family in families for sample in family.samples)


def test_pieces_are_small(view: View) -> None:
    """A thousand containers come in pieces, so that other threads run in between."""
    many = view._replace(containers=(view.containers[0],) * 1000)
    pieces = list(PrometheusExporter(lambda: many).render(TEXT))
    gc.collect()

    assert max(piece.count(b"\n") for piece in pieces) < 540
    assert len(pieces) > 90


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=junk", TEXT),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", TEXT),
        (
            "application/openmetrics-text;version=1.0.0,"
            "application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),
    ],
)
def test_negotiation(view: View, accept: str, expected: str) -> None:
    """OpenMetrics for those who prefer it (as Prometheus does), text for all others."""
    assert expected == PrometheusExporter(lambda: view).negotiate(accept)


def test_found_by_entry_point(view: View) -> None:
    """The installed package offers the exporter in its group, and the daemon finds it there."""
    exporters = load_exporters(lambda: view)

    assert [exporter.path for exporter in exporters] == ["/metrics"]
    assert isinstance(exporters[0], PrometheusExporter)
    assert ENTRY_POINT_GROUP == "aruntime.exporters"
