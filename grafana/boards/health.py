"""Whether the meter itself can be believed: late polls, errors, anomalies, the ledger."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards.parts import (
    BAD_ABOVE_ZERO,
    HOST,
    RANGE,
    RATE,
    Column,
    Query,
    board,
    finish,
    graph,
    number,
    row,
    steps,
    table,
    variables,
)


def _quantile(quantile: float, metric: str) -> str:
    return (
        f"histogram_quantile({quantile}, sum by (instance, le)"
        f" (rate({metric}_bucket{{{HOST}}}{RATE})))"
    )


def _grown(metric: str) -> Query:
    return Query(f"sum(increase({metric}{{{HOST}}}{RANGE}))")


def _age(metric: str) -> Query:
    return Query(f"max(time() - ({metric}{{{HOST}}} > 0))")


NOW = (
    number(
        "Last poll",
        "Age of the numbers of the host that is furthest behind.",
        "s",
        _age("aruntime_poll_last_success_timestamp_seconds"),
        colours=steps((None, "green"), (10, "orange"), (60, "red")),
        decimals=1,
    ),
    number(
        "Last commit",
        "Age of the last commit to the ledger of the host that is furthest behind.",
        "s",
        _age("aruntime_ledger_last_commit_timestamp_seconds"),
        colours=steps((None, "green"), (30, "orange"), (120, "red")),
        decimals=1,
    ),
    number(
        "Last checkpoint",
        "Age of the last signed checkpoint of the ledger.",
        "s",
        _age("aruntime_ledger_last_checkpoint_timestamp_seconds"),
        colours=steps((None, "green"), (7200, "red")),
        decimals=0,
    ),
    number(
        "Late polls",
        "Cycles in the range shown that took longer than the interval.",
        "none",
        _grown("aruntime_poll_overruns_total"),
        colours=BAD_ABOVE_ZERO,
        decimals=0,
    ),
    number(
        "Write errors",
        "Commits in the range shown that the disk refused; nothing is lost while the daemon lives.",
        "none",
        _grown("aruntime_ledger_write_errors_total"),
        colours=BAD_ABOVE_ZERO,
        decimals=0,
    ),
    number(
        "Not durable",
        "Containers whose last record is not on disk yet.",
        "none",
        Query(f"sum(aruntime_ledger_pending_records{{{HOST}}})"),
    ),
)

GRAPHS = (
    graph(
        "Poll",
        "Duration of a cycle over all counters, median and 99th percentile; dashed, the time "
        "between two cycles.",
        "s",
        Query(_quantile(0.5, "aruntime_poll_duration_seconds"), "{{instance}} median"),
        Query(_quantile(0.99, "aruntime_poll_duration_seconds"), "{{instance}} 99 %"),
        Query(
            f"1 / sum by (instance) (rate(aruntime_poll_duration_seconds_count{{{HOST}}}{RATE}))",
            "{{instance}} interval",
        ),
        limits="interval$",
    ),
    graph(
        "Commit",
        "Duration of a commit to the ledger with fsync, median and 99th percentile.",
        "s",
        Query(_quantile(0.5, "aruntime_ledger_commit_duration_seconds"), "{{instance}} median"),
        Query(_quantile(0.99, "aruntime_ledger_commit_duration_seconds"), "{{instance}} 99 %"),
    ),
    graph(
        "Errors by controller",
        "Counters that could not be read, each second.",
        "cps",
        Query(
            f"sum by (instance, controller) (rate(aruntime_poll_errors_total{{{HOST}}}{RATE})) > 0",
            "{{instance}} {{controller}}",
        ),
    ),
    graph(
        "Anomalies by kind",
        "Readings that were not taken at their word, in the range of each point.",
        "none",
        Query(
            f"sum by (instance, kind) (increase(aruntime_meter_anomalies_total{{{HOST}}}{RATE}))",
            "{{instance}} {{kind}}",
        ),
    ),
    graph(
        "Records",
        "Records written to the ledger, each second, by kind.",
        "cps",
        Query(f"sum by (kind) (rate(aruntime_ledger_records_total{{{HOST}}}{RATE}))", "{{kind}}"),
    ),
    graph(
        "Sequence",
        "Number of the ledger's last record; it only grows.",
        "none",
        Query(f"aruntime_ledger_sequence{{{HOST}}}", "{{instance}}"),
    ),
    graph(
        "Prometheus against the ledger",
        "Part of the ledger's CPU time of the last hour that Prometheus did not see in containers' "
        "series: short containers that lived between two scrapes. The bill has them all.",
        "percentunit",
        Query(
            "clamp_min(1 - sum by (instance) "
            f"(increase(aruntime_container_cpu_usage_seconds_total{{{HOST}}}[1h]))"
            " / (sum by (instance) "
            f"(increase(aruntime_tenant_cpu_seconds_total{{{HOST}}}[1h])) > 0), 0)",
            "{{instance}}",
        ),
        top=1,
    ),
    graph(
        "Estimated records",
        "Records with an estimate in them, by reason, in the range of each point.",
        "none",
        Query(
            f"sum by (reason) (increase(aruntime_ledger_estimated_records_total{{{HOST}}}{RATE}))",
            "{{reason}}",
        ),
    ),
)

DISKS = table(
    "Where block I/O is counted",
    "The counter file that is believed for each disk; with `none` its I/O is not metered.",
    {"instance": "Host", "device": "Disk", "scheduler": "Scheduler", "source": "Source"},
    Column(
        "believed",
        f"max by (instance, device, scheduler, source) (aruntime_blkio_source_info{{{HOST}}})",
    ),
)


def build() -> Dashboard:
    """The dashboard."""
    made = board(
        "aruntime-health",
        "Metering health",
        "Whether the numbers of all other pages can be believed.",
        variables("host"),
        "",
    )
    return finish(made, *NOW, row("The meter and its ledger"), *GRAPHS, DISKS)
