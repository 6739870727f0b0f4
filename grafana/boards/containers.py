"""All containers at a glance, and the way to each one's own page."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards.parts import (
    BAD_ABOVE_ZERO,
    CONTAINER,
    CONTAINER_PAGE,
    RANGE,
    RATE,
    TENANT,
    Column,
    Query,
    board,
    finish,
    graph,
    number,
    row,
    table,
    variables,
)

BY = "instance, id, name, tenant"


def _count(state: str) -> Query:
    return Query(f'sum(aruntime_tenant_containers{{{TENANT},state="{state}"}})')


def _rate(metric: str) -> str:
    return f"rate({metric}{{{CONTAINER}}}{RATE})"


def _grown(metric: str) -> str:
    return f"sum by ({BY}) (increase({metric}{{{CONTAINER}}}{RATE}))"


def _top(expr: str) -> Query:
    return Query(f"topk(10, sum by ({BY}) ({expr}))", "{{name}}")


def _latest(expr: str) -> str:
    return f"max by ({BY}) ({expr})"


NOW = (
    number("Running", "Containers that run.", "none", _count("running")),
    number("Paused", "Containers that are frozen.", "none", _count("paused")),
    number("Exited", "Containers that have ended and were not removed.", "none", _count("exited")),
    number(
        "CPU in use",
        "Cores that the selected containers use, by the change of their counters.",
        "none",
        Query(f"sum({_rate('aruntime_container_cpu_usage_seconds_total')})"),
        decimals=2,
    ),
    number(
        "Memory in use",
        "Working sets of the selected containers together: usage without inactive page cache.",
        "bytes",
        Query(f"sum(aruntime_container_memory_working_set_bytes{{{CONTAINER}}})"),
    ),
    number(
        "OOM kills",
        "Processes killed for want of memory in the range shown.",
        "none",
        Query(f"sum(increase(aruntime_container_oom_kills_total{{{CONTAINER}}}{RANGE}))"),
        colours=BAD_ABOVE_ZERO,
        decimals=0,
    ),
)

GRAPHS = (
    graph(
        "Containers by state",
        "Ended ones that were not removed included.",
        "none",
        Query(f"sum by (state) (aruntime_tenant_containers{{{TENANT}}})", "{{state}}"),
        stacked=True,
    ),
    graph(
        "CPU, the ten that use most",
        "Cores in use, by container.",
        "none",
        _top(_rate("aruntime_container_cpu_usage_seconds_total")),
        stacked=True,
    ),
    graph(
        "Memory, the ten that use most",
        "Working set: usage without inactive page cache, the number that is billed.",
        "bytes",
        _top(f"aruntime_container_memory_working_set_bytes{{{CONTAINER}}}"),
        stacked=True,
    ),
    graph(
        "Memory against its limit",
        "Working set as a part of the limit; containers without a limit are left out.",
        "percentunit",
        Query(
            f"topk(10, sum by ({BY}) (aruntime_container_memory_working_set_bytes{{{CONTAINER}}})"
            f" / sum by ({BY}) (aruntime_container_spec_memory_limit_bytes{{{CONTAINER}}} > 0))",
            "{{name}}",
        ),
        top=1,
    ),
    graph(
        "Throttled",
        "Part of the enforcement periods in which a container was held back by its CPU limit.",
        "percentunit",
        Query(
            f"sum by ({BY}) ({_rate('aruntime_container_cpu_throttled_periods_total')})"
            f" / (sum by ({BY}) ({_rate('aruntime_container_cpu_periods_total')}) > 0)",
            "{{name}}",
        ),
        top=1,
    ),
    graph(
        "OOM kills and restarts",
        "Processes killed for want of memory, and starts by the restart policy.",
        "none",
        Query(
            f"{_grown('aruntime_container_oom_kills_total')} > 0",
            "{{name}} killed",
        ),
        Query(
            f"{_grown('aruntime_container_restarts_total')} > 0",
            "{{name}} restarted",
        ),
    ),
    graph(
        "Tasks",
        "Processes and threads, the ten with the most, and the limits of those that have one.",
        "none",
        _top(f"aruntime_container_pids{{{CONTAINER}}}"),
        Query(f"aruntime_container_spec_pids_limit{{{CONTAINER}}} > 0", "{{name}} limit"),
        limits="limit$",
    ),
    graph(
        "Network received",
        "Bytes on the container's interfaces; host networking is not metered.",
        "Bps",
        _top(_rate("aruntime_container_network_receive_bytes_total")),
    ),
    graph(
        "Network sent",
        "Bytes on the container's interfaces; host networking is not metered.",
        "Bps",
        _top(_rate("aruntime_container_network_transmit_bytes_total")),
    ),
    graph(
        "Network that left the host",
        "Bytes of packets that left the host, other than to its own containers: the egress that "
        "price books sell. Host networking and other engines' containers are not metered.",
        "Bps",
        _top(_rate("aruntime_container_network_egress_bytes_total")),
    ),
    graph(
        "Disk read",
        "Bytes read from disks.",
        "Bps",
        _top(_rate("aruntime_container_blkio_read_bytes_total")),
    ),
    graph(
        "Disk written",
        "Bytes written to disks. On cgroup v1 the kernel's own writeback is not in it; the page of "
        "a container shows what its processes wrote.",
        "Bps",
        _top(_rate("aruntime_container_blkio_write_bytes_total")),
    ),
)

TABLE = table(
    "Containers",
    "One row for each container and state; follow a name to its page. Ended containers stay for "
    "three minutes.",
    {"name": "Name", "tenant": "Tenant", "state": "State", "instance": "Host", "id": "Id"},
    Column(
        "",
        f"max by ({BY}, state) (aruntime_container_state{{{CONTAINER}}} == 1)",
    ),
    Column(
        "Age",
        _latest(f"time() - (aruntime_container_started_timestamp_seconds{{{CONTAINER}}} > 0)"),
        "s",
    ),
    Column("Cores", _latest(_rate("aruntime_container_cpu_usage_seconds_total")), decimals=3),
    Column(
        "Memory", _latest(f"aruntime_container_memory_working_set_bytes{{{CONTAINER}}}"), "bytes"
    ),
    Column("Exit code", _latest(f"aruntime_container_exit_code{{{CONTAINER}}}")),
    Column(
        "Last poll",
        _latest(f"time() - aruntime_container_last_poll_timestamp_seconds{{{CONTAINER}}}"),
        "s",
        decimals=1,
    ),
    link=CONTAINER_PAGE,
)


def build() -> Dashboard:
    """The dashboard."""
    made = board(
        "aruntime-containers",
        "Containers",
        "What runs, what it uses, and what went wrong.",
        variables("host", "tenant", "container"),
        CONTAINER,
    )
    return finish(made, row("Now"), *NOW, row("Over time"), *GRAPHS, row("All"), TABLE)
