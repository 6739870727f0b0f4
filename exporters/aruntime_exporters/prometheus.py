"""The Prometheus exporter: a custom collector over the meter's view, and its two text formats.

:class:`ViewCollector` is an ordinary prometheus-client collector, in a registry of its own, never
the global one. Families are built anew for each scrape, so a container that is gone leaves no
series behind, and no sample carries a timestamp (either would defeat Prometheus's staleness).

For containers' families, where a host has tens of thousands of samples, :meth:`render` writes the
lines itself from the same table, four times faster than ``generate_latest`` and byte for byte the
same (a test compares them); everything is made in pieces of about a millisecond, between which
other threads run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aruntime.metering.export import ContainerView, Source, View
from aruntime.metering.pace import paced
from aruntime_exporters import summaries
from aruntime_exporters.families import (
    BASE_LABELS,
    CONTAINER_FAMILIES,
    PREFIX,
    ContainerFamily,
    is_shown,
)
from aruntime_exporters.values import One

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

CHUNK_SAMPLES = 512
"""Samples per piece of the body: about a millisecond of work."""

ID_DIGITS = 12
"""Digits of a container id in labels, as docker shows them."""

_EOF = b"# EOF\n"

_BASE_TEMPLATE = ",".join(f'{name}="%s"' for name in BASE_LABELS)
"""Sorted already, as the lines have them."""

_show: Callable[[float], str] = functools.lru_cache(maxsize=4096)(floatToGoString)
"""A number as both formats have it. Most of the numbers on a page are there many times."""
_text: Callable[[Collector], bytes] = exposition.generate_latest
_openmetrics: Callable[[Collector], bytes] = openmetrics.generate_latest


def base_labels(container: ContainerView) -> tuple[str, str, str]:
    """Values of :data:`BASE_LABELS`."""
    about = container.about
    return about.id[:ID_DIGITS], about.name, about.tenant


def info_family(containers: Iterable[ContainerView], cgroup_mode: str) -> Metric:
    """``container_info``: the static attributes, to join with."""
    family = InfoMetricFamily(
        PREFIX + "container",
        "Attributes of a container, always 1; join on id.",
        labels=BASE_LABELS,
    )
    for container in containers:
        family.add_metric(base_labels(container), _attributes(container, cgroup_mode))
    return family


def _attributes(container: ContainerView, cgroup_mode: str) -> dict[str, str]:
    about = container.about
    return {
        "image": about.image,
        "image_digest": about.image_digest,
        "network_mode": about.network_mode,
        "cgroup_mode": cgroup_mode,
        "restart_policy": about.restart_policy,
    }


def container_family(family: ContainerFamily, containers: Iterable[ContainerView]) -> Metric:
    """One row of the table as a prometheus-client family."""
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(PREFIX + family.name, family.help, labels=(*BASE_LABELS, *family.labels))
    for container in containers:
        base = base_labels(container)
        for extra, value in family.values(container):
            metric.add_metric((*base, *extra), value)
    return metric


class ViewCollector(Collector):
    """A prometheus-client collector of everything the meter shows, at one instant per scrape.

    Args:
        source: takes the view.
        level: ``minimal``, ``default`` or ``full``.
    """

    def __init__(self, source: Source, level: str = "default") -> None:
        self._source = source
        self.families = tuple(row for row in CONTAINER_FAMILIES if is_shown(row.level, level))

    def collect(self) -> Iterator[Metric]:
        """The families; those without a sample are left out."""
        view = self._source()
        for row in self.families:
            metric = container_family(row, view.containers)
            if metric.samples:
                yield metric
        yield from summary_families(view)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names depend on what there is, and registering must not read."""
        return ()


def summary_families(view: View) -> Iterator[Metric]:
    """All families that are not rows of the containers' table."""
    yield info_family(view.containers, view.daemon.cgroup_mode)
    yield from _small_families(view)


def _small_families(view: View) -> Iterator[Metric]:
    """Those that have no sample per container."""
    yield from summaries.tenant_families(view)
    yield from summaries.cost_families(view)
    yield from summaries.daemon_families(view.daemon)
    yield from summaries.ledger_families(view.daemon)
    yield from summaries.export_families(view.exports)
    yield from summaries.host_families(view.daemon)


class PrometheusExporter:
    """Serves :data:`path`; satisfies :class:`aruntime.metering.export.ScrapeExporter`."""

    kind = "scrape"
    path = "/metrics"

    def __init__(self, source: Source, level: str = "default") -> None:
        self._source = source
        self.collector = ViewCollector(source, level)
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self.collector)

    def negotiate(self, accept: str) -> str:
        """OpenMetrics if the client prefers it to text, else the text format 0.0.4."""
        preference = _preferences(accept)
        if preference.openmetrics > 0 and preference.openmetrics >= preference.text:
            return OPENMETRICS
        return TEXT

    def render(self, content_type: str) -> Iterator[bytes]:
        """The body in pieces; takes one view. For a worker thread."""
        view = self._source()
        bases = [_escaped(base_labels(container)) for container in paced(view.containers)]
        labels = [_BASE_TEMPLATE % base for base in bases]
        for row in self.collector.families:
            if isinstance(row.values, One):
                yield from _render_singles(row, row.values, view.containers, labels, content_type)
            else:
                yield from _render_rows(row, view.containers, bases, content_type)
        yield from _render_info(view.containers, view.daemon.cgroup_mode, content_type)
        for metric in _small_families(view):
            yield _render_metric(metric, content_type)
        if content_type == OPENMETRICS:
            yield _EOF


class _Preferences(NamedTuple):
    openmetrics: float
    text: float


def _preferences(accept: str) -> _Preferences:
    """Quality of the two formats in an Accept header (RFC 9110 §12.5.1)."""
    openmetrics_quality, text_quality = 0.0, 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        values = dict(part.split("=", 1) for part in parameters if "=" in part)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        version = values.get("version", "1.0.0")
        if media.lower() == "application/openmetrics-text" and version == "1.0.0":
            openmetrics_quality = max(openmetrics_quality, quality)
        elif media.lower() in ("text/plain", "text/*", "*/*"):
            text_quality = max(text_quality, quality)
    return _Preferences(openmetrics_quality, text_quality)


class _OneFamily(Collector):
    """Enough of a registry for ``generate_latest`` to write one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _render_metric(metric: Metric, content_type: str) -> bytes:
    if content_type == OPENMETRICS:
        return _openmetrics(_OneFamily(metric)).removesuffix(_EOF)
    return _text(_OneFamily(metric))


def _render_singles(
    row: ContainerFamily,
    values: One,
    containers: Sequence[ContainerView],
    labels: Sequence[str],
    content_type: str,
) -> Iterator[bytes]:
    """As :func:`_render_rows`, of a family with one sample per container."""
    name, value = row.full_name, values.value
    header = True
    for start in range(0, len(containers), CHUNK_SAMPLES):
        end = start + CHUNK_SAMPLES
        lines = [
            f"{name}{{{own}}} {_show(number)}\n"
            for container, own in zip(containers[start:end], labels[start:end], strict=True)
            if (number := value(container)) is not None
        ]
        if lines:
            yield _header(row, content_type, header) + "".join(lines).encode()
            header = False


def _render_rows(
    row: ContainerFamily,
    containers: Sequence[ContainerView],
    bases: Sequence[tuple[str, ...]],
    content_type: str,
) -> Iterator[bytes]:
    """Header and samples of one family; nothing if it has no sample."""
    template, pick = _line_template(row)
    lines: list[str] = []
    header = True
    for container, base in zip(containers, bases, strict=True):
        lines += [
            template % pick((*base, *_escaped_again(extra), _show(value)))
            for extra, value in row.values(container)
        ]
        if len(lines) >= CHUNK_SAMPLES:
            yield _header(row, content_type, header) + "".join(lines).encode()
            lines, header = [], False
    if lines:
        yield _header(row, content_type, header) + "".join(lines).encode()


def _header(row: ContainerFamily, content_type: str, wanted: bool) -> bytes:
    return _render_metric(container_family(row, ()), content_type) if wanted else b""


def _render_info(
    containers: Sequence[ContainerView], cgroup_mode: str, content_type: str
) -> Iterator[bytes]:
    """Header and samples of :func:`info_family`, the header in any case."""
    yield _render_metric(info_family((), cgroup_mode), content_type)
    for start in range(0, len(containers), CHUNK_SAMPLES):
        lines = []
        for container in containers[start : start + CHUNK_SAMPLES]:
            labels = dict(zip(BASE_LABELS, base_labels(container), strict=True))
            labels |= _attributes(container, cgroup_mode)
            names = sorted(labels)
            values = _escaped(labels[name] for name in names)
            shown = ",".join(map('{}="{}"'.format, names, values))
            lines.append(f"{PREFIX}container_info{{{shown}}} 1.0\n")
        yield "".join(lines).encode()


def _line_template(row: ContainerFamily) -> tuple[str, itemgetter[Any]]:
    """A %-template of one sample line, and what puts labels and value into its order."""
    names = (*BASE_LABELS, *row.labels)
    order = sorted(range(len(names)), key=names.__getitem__)
    labels = ",".join(f'{names[place]}="%s"' for place in order)
    return f"{row.full_name}{{{labels}}} %s\n", itemgetter(*order, len(names))


def _escaped(values: Iterable[str]) -> tuple[str, ...]:
    """Label values as both text formats escape them."""
    return tuple(
        value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in values
    )


_escaped_again: Callable[[tuple[str, ...]], tuple[str, ...]] = functools.lru_cache(1024)(_escaped)
"""Of values that many samples have: devices, states."""
