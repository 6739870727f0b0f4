"""Panels, variables and annotations as all dashboards have them.

Every panel says what it shows in which unit, asks ``$datasource``, and narrows its queries by the
variables of its dashboard: ``host`` (Prometheus' instance), ``tenant``, ``container``.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.builders import statetimeline as timelines
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HOST = 'instance=~"$host"'
TENANT = f'{HOST},tenant=~"$tenant"'
CONTAINER = f'{TENANT},name=~"$container"'
RATE = "[$__rate_interval]"
RANGE = "[$__range]"

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
CONTAINER_PAGE = (
    "/d/aruntime-container?var-datasource=${datasource}&var-host=${__data.fields.instance}"
    "&var-tenant=${__data.fields.tenant}&var-container=${__data.fields.name}"
    "&${__url_time_range}"
)


class Query(NamedTuple):
    """An expression and how its series are called; ``{{label}}`` stands for a label's value."""

    expr: str
    legend: str = ""


Shaped = TypeVar(
    "Shaped", timeseries.Panel, stat.Panel, bargauge.Panel, tables.Panel, timelines.Panel
)


def _shape(panel: Shaped, title: str, meaning: str, unit: str, width: int, height: int) -> Shaped:
    shaped = panel.title(title).description(meaning).datasource(SOURCE)
    return shaped.unit(unit).span(width).height(height)


COMMITTED = re.compile(
    r"rate\(aruntime_\w*(byte_seconds|allocated_\w+|container_seconds|running_seconds|paused_seconds"
    r"|pauses|process_\w+_bytes|tenant_cost)_total\b[^)]*__rate_interval"
)
"""Rates of what is shown as of the last commit, which is ten seconds ago at most."""
COMMITTED_STEP = "30s"
"""Grafana takes rates over four steps at least: two minutes, in which ten seconds are not seen."""


def _ref(number: int) -> str:
    return chr(ord("A") + number)


def _asked(number: int, one: Query) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(_ref(number)).expr(one.expr).legend_format(one.legend)
    made = made.datasource(SOURCE)
    return made.interval(COMMITTED_STEP) if COMMITTED.search(one.expr) else made


def _range_queries(queries: tuple[Query, ...]) -> list[Builder[Dataquery]]:
    return [_asked(number, one).range() for number, one in enumerate(queries)]


def _instant_queries(
    queries: tuple[Query, ...], shape: PromQueryFormat
) -> list[Builder[Dataquery]]:
    return [_asked(number, one).instant().format(shape) for number, one in enumerate(queries)]


def graph(
    title: str,
    meaning: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    stacked: bool = False,
    limits: str = "",
    top: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title, meaning: of the panel.
        unit: Grafana's name of it.
        queries: expressions.
        width: of 24.
        stacked: areas upon each other instead of lines.
        limits: a pattern of names; series called so are drawn as dashed lines, unstacked.
        top: end of the axis.
    """
    made = _shape(timeseries.Panel(), title, meaning, unit, width, 8)
    made = (
        made.targets(_range_queries(queries))
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(options.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(options.TooltipDisplayMode.MULTI)
            .sort(options.SortOrder.DESCENDING)
        )
    )
    if top is not None:
        made = made.max(top)
    if stacked:
        made = made.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    if limits:
        dashed = {"fill": "dash", "dash": [10, 6]}
        made = made.override_by_regexp(
            f"/{limits}/",
            [
                models.DynamicConfigValue("custom.lineStyle", dashed),
                models.DynamicConfigValue("custom.fillOpacity", 0),
                models.DynamicConfigValue("custom.stacking", {"mode": "none", "group": "B"}),
            ],
        )
    return made


def steps(*levels: tuple[float | None, str]) -> Builder[models.ThresholdsConfig]:
    """Colours from each value on; the first has none."""
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in levels])
    )


PLAIN = steps((None, "text"))
BAD_ABOVE_ZERO = steps((None, "green"), (1, "red"))


def number(
    title: str,
    meaning: str,
    unit: str,
    *queries: Query,
    width: int = 4,
    colours: Builder[models.ThresholdsConfig] = PLAIN,
    decimals: int | None = None,
) -> stat.Panel:
    """One number, or one for each series, as of the end of the range."""
    made = _shape(stat.Panel(), title, meaning, unit, width, 4)
    made = (
        made.targets(_instant_queries(queries, PromQueryFormat.TIME_SERIES))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(colours)
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.NONE)
        .no_value("0")
    )
    return made if decimals is None else made.decimals(decimals)


def bars(title: str, meaning: str, unit: str, *queries: Query, width: int = 12) -> bargauge.Panel:
    """A bar for each series, as of the end of the range."""
    return (
        _shape(bargauge.Panel(), title, meaning, unit, width, 8)
        .targets(_instant_queries(queries, PromQueryFormat.TIME_SERIES))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .thresholds(PLAIN)
        .min(0)
    )


class Column(NamedTuple):
    """A column of a table, filled by one query; its series are told apart by the table's labels."""

    title: str
    """Empty for a column that is not shown: its query makes rows."""
    expr: str
    unit: str = "none"
    decimals: int | None = None


def table(
    title: str, meaning: str, labels: dict[str, str], *columns: Column, link: str = ""
) -> tables.Panel:
    """A row for each series, a column for each query.

    Args:
        title, meaning: of the panel.
        labels: label to title, in the order of the columns; queries have no others.
        columns: behind them.
        link: where the first label's cells lead to.
    """
    queries = tuple(Query(one.expr) for one in columns)
    # Grafana tells the values of several queries apart; those of a single one are just that.
    values = [f"Value #{_ref(number)}" for number in range(len(columns))]
    names = {
        value: one.title
        for value, one in zip(values if values[1:] else ["Value"], columns, strict=True)
    }
    hidden = [value for value, shown in names.items() if not shown]
    names = {value: shown for value, shown in names.items() if shown}
    order = [*labels, *names]
    made = _shape(tables.Panel(), title, meaning, "none", WIDTH, 10)
    made = made.targets(_instant_queries(queries, PromQueryFormat.TABLE)).transformations(
        [
            models.DataTransformerConfig(id_val="merge", options={}),
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(["Time", *hidden], True),
                    "indexByName": {name: place for place, name in enumerate(order)},
                    "renameByName": {**labels, **names} if not link else names,
                },
            ),
        ]
    )
    if link:  # the link needs the labels' own names
        for label, shown in labels.items():
            made = made.override_by_name(label, [models.DynamicConfigValue("displayName", shown)])
        places = [{"title": "Open the container's page", "url": link}]
        made = made.override_by_name("name", [models.DynamicConfigValue("links", places)])
    for one in filter(lambda one: one.title, columns):
        properties = [models.DynamicConfigValue("unit", one.unit)]
        if one.decimals is not None:
            properties.append(models.DynamicConfigValue("decimals", one.decimals))
        made = made.override_by_name(one.title, properties)
    return made


def timeline(title: str, meaning: str, *queries: Query) -> timelines.Panel:
    """When which state held: a row for each series, filled where it is 1."""
    shown = {
        "0": models.ValueMappingResult(text="", color="transparent", index=0),
        "1": models.ValueMappingResult(text="yes", color="blue", index=1),
    }
    return (
        _shape(timelines.Panel(), title, meaning, "none", WIDTH, 7)
        .targets(_range_queries(queries))
        .mappings([models.ValueMap(options=shown)])
        .show_value(options.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(False)
            .calcs([])
        )
    )


ALL = models.VariableOption(text="All", value="$__all", selected=True)


def _choice(
    name: str, label: str, meaning: str, query: str, *, several: bool
) -> Builder[models.VariableModel]:
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(meaning)
        .datasource(SOURCE)
        .query({"query": query, "refId": f"Variable-{name}", "qryType": 1})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    return made.all_value(".*").current(ALL) if several else made


def _label_values(metric: str, selector: str, label: str) -> str:
    return f"label_values({metric}{{{selector}}}, {label})"


HOSTS = _label_values("aruntime_build_info", "", "instance")
TENANTS = _label_values("aruntime_tenant_cpu_seconds_total", HOST, "tenant")
CONTAINERS = _label_values("aruntime_container_state", TENANT, "name")


def variables(*names: str, one_container: bool = False) -> list[Builder[models.VariableModel]]:
    """The variables of these names, the datasource first."""
    known = {
        "host": _choice("host", "Host", "Prometheus' instance", HOSTS, several=True),
        "tenant": _choice("tenant", "Tenant", "Who pays", TENANTS, several=True),
        "container": _choice(
            "container", "Container", "Its name", CONTAINERS, several=not one_container
        ),
        "host_cost": dashboard.TextBoxVariable("host_cost")
        .label("Cost of a host an hour")
        .description("What one host costs its owner in an hour, in the currency of choice")
        .default_value("1")
        .current(models.VariableOption(text="1", value="1", selected=True)),
    }
    source = (
        dashboard.DatasourceVariable("datasource")
        .label("Prometheus")
        .description("Where the metrics are kept")
        .type("prometheus")
        .current(models.VariableOption(text="default", value="default", selected=True))
    )
    return [source, *(known[name] for name in names)]


class Mark(NamedTuple):
    """Something that happens at a moment: where the expression is above zero."""

    name: str
    expr: str
    colour: str


def marks(selector: str) -> list[Mark]:
    """Pauses, resumes, kills for want of memory and restarts of the selected containers."""
    state = f"aruntime_container_state{{{selector},"
    return [
        Mark(
            "Paused",
            f'{state}state="paused"}} == 1 unless on (instance, id)'
            f' ({state}state="paused"}} offset $__interval == 1)',
            "orange",
        ),
        Mark(
            "Resumed",
            f'{state}state="running"}} == 1 and on (instance, id)'
            f' ({state}state="paused"}} offset $__interval == 1)',
            "green",
        ),
        Mark(
            "OOM kills",
            f"increase(aruntime_container_oom_kills_total{{{selector}}}[$__interval]) > 0",
            "red",
        ),
        Mark(
            "Restarts",
            f"increase(aruntime_container_restarts_total{{{selector}}}[$__interval]) > 0",
            "purple",
        ),
    ]


def board(
    uid: str,
    title: str,
    meaning: str,
    chosen: list[Builder[models.VariableModel]],
    selector: str,
    *,
    since: str = "now-1h",
    until: str = "now",
) -> dashboard.Dashboard:
    """An empty dashboard with variables, annotations and links to the others."""
    made = (
        dashboard.Dashboard(f"aruntime / {title}")
        .uid(uid)
        .description(meaning)
        .tags(["aruntime"])
        .timezone("utc")
        .time(since, until)
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .editable()
        .variables(chosen)
        .link(
            dashboard.DashboardLink("aruntime")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["aruntime"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    return made.annotations([_annotation(mark) for mark in marks(selector)]) if selector else made


def _annotation(mark: Mark) -> Builder[models.AnnotationQuery]:
    return (
        dashboard.AnnotationQuery()
        .name(mark.name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(mark.colour)
        .expr(mark.expr)
    )


def row(title: str) -> dashboard.Row:
    """A heading."""
    return dashboard.Row(title)


def finish(
    made: dashboard.Dashboard, *panels: Builder[models.Panel] | dashboard.Row
) -> models.Dashboard:
    """Put the panels in, left to right and line by line, and number them."""
    for panel in panels:
        made = made.with_row(panel) if isinstance(panel, dashboard.Row) else made.with_panel(panel)
    built = made.build()
    for place, shown in enumerate(built.panels or [], start=1):
        shown.id_val = place
    return built
