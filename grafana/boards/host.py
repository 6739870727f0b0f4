"""What a host has, what is set aside, what is used, and what idles."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards.parts import (
    HOST,
    RATE,
    Query,
    board,
    finish,
    graph,
    number,
    row,
    steps,
    variables,
)


def _sum(metric: str) -> str:
    return f"sum({metric}{{{HOST}}})"


def _by_host(metric: str) -> str:
    return f"sum by (instance) ({metric}{{{HOST}}})"


CORES = _sum("aruntime_host_cpu_cores")
MEMORY = _sum("aruntime_host_memory_bytes")
CPU_ASIDE = f"sum(rate(aruntime_tenant_cpu_allocated_seconds_total{{{HOST}}}{RATE}))"
MEMORY_ASIDE = f"sum(rate(aruntime_tenant_memory_allocated_byte_seconds_total{{{HOST}}}{RATE}))"
OVERCOMMIT = steps((None, "green"), (1, "orange"), (1.5, "red"))


def _mode(mode: str) -> str:
    return f'sum(rate(aruntime_host_cpu_seconds_total{{{HOST},mode="{mode}"}}{RATE}))'


NOW = (
    number("Cores", "Processors of the selected hosts.", "none", Query(CORES)),
    number("Memory", "Physical memory of the selected hosts.", "bytes", Query(MEMORY)),
    number(
        "CPU asked for",
        "CPU requests as a part of the cores; above 1 the hosts are overcommitted.",
        "percentunit",
        Query(f"{_sum('aruntime_container_spec_cpu_request_cores')} / {CORES}"),
        colours=OVERCOMMIT,
    ),
    number(
        "Memory asked for",
        "Memory requests as a part of the memory; above 1 the hosts are overcommitted.",
        "percentunit",
        Query(f"{_sum('aruntime_container_spec_memory_request_bytes')} / {MEMORY}"),
        colours=OVERCOMMIT,
    ),
    number(
        "Idle cores",
        "Cores that nobody paid for: those there are less those set aside (the greater of request "
        "and usage). Negative where more was sold than there is.",
        "none",
        Query(f"{CORES} - {CPU_ASIDE}"),
        decimals=2,
    ),
    number(
        "Idle memory",
        "Memory that nobody paid for: what there is less what is set aside (the greater of request "
        "and usage). Negative where more was sold than there is.",
        "bytes",
        Query(f"{MEMORY} - {MEMORY_ASIDE}"),
    ),
)

GRAPHS = (
    graph(
        "CPU: there, set aside, used",
        "Cores. Used by containers is exact; unattributed is everything else on the host: the "
        "kernel, other programs, the daemon itself.",
        "none",
        Query(_mode("attributed"), "containers"),
        Query(_mode("unattributed"), "unattributed"),
        Query(CPU_ASIDE, "limit: set aside"),
        Query(CORES, "limit: there is"),
        stacked=True,
        limits="^limit",
    ),
    graph(
        "Memory: there, set aside, used",
        "Bytes; used is the working sets of the containers.",
        "bytes",
        Query(_sum("aruntime_container_memory_working_set_bytes"), "containers"),
        Query(MEMORY_ASIDE, "limit: set aside"),
        Query(MEMORY, "limit: there is"),
        stacked=True,
        limits="^limit",
    ),
    graph(
        "CPU by host",
        "Part of each host's cores that containers use.",
        "percentunit",
        Query(
            "sum by (instance) (rate(aruntime_host_cpu_seconds_total"
            f'{{{HOST},mode="attributed"}}{RATE})) / {_by_host("aruntime_host_cpu_cores")}',
            "{{instance}}",
        ),
        top=1,
    ),
    graph(
        "Unattributed CPU by host",
        "Cores used by what is no container: the share that no tenant pays for.",
        "none",
        Query(
            "sum by (instance) (rate(aruntime_host_cpu_seconds_total"
            f'{{{HOST},mode="unattributed"}}{RATE}))',
            "{{instance}}",
        ),
    ),
    graph(
        "Pressure of the containers",
        "Part of the time in which tasks of a container waited, the greatest of each host.",
        "percentunit",
        Query(
            "max by (instance) "
            f"(rate(aruntime_container_pressure_cpu_waiting_seconds_total{{{HOST}}}{RATE}))",
            "{{instance}} CPU",
        ),
        Query(
            "max by (instance) "
            f"(rate(aruntime_container_pressure_memory_waiting_seconds_total{{{HOST}}}{RATE}))",
            "{{instance}} memory",
        ),
        Query(
            "max by (instance) "
            f"(rate(aruntime_container_pressure_io_waiting_seconds_total{{{HOST}}}{RATE}))",
            "{{instance}} I/O",
        ),
    ),
    graph(
        "Containers by host",
        "Running and paused.",
        "none",
        Query(
            f'sum by (instance) (aruntime_tenant_containers{{{HOST},state=~"running|paused"}})',
            "{{instance}}",
        ),
        stacked=True,
    ),
)


def build() -> Dashboard:
    """The dashboard."""
    made = board(
        "aruntime-host",
        "Hosts and idle cost",
        "Capacity, what is set aside, what is used, what idles.",
        variables("host"),
        "",
    )
    return finish(made, *NOW, row("Over time"), *GRAPHS)
