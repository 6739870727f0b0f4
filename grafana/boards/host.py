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


def _aside(metric: str, capacity: str) -> str:
    """What is set aside of hosts, as the sum of each one's part."""
    by_host = f"sum by (instance) (rate({metric}{{{HOST}}}{RATE}))"
    return f"(sum({by_host} / {_by_host(capacity)}) or vector(0))"


HOSTS = f"count({_by_host('aruntime_host_cpu_cores')})"
ASIDE = (
    f"({_aside('aruntime_tenant_cpu_allocated_seconds_total', 'aruntime_host_cpu_cores')} + "
    f"{_aside('aruntime_tenant_memory_allocated_byte_seconds_total', 'aruntime_host_memory_bytes')}"
    ") / 2"
)
COSTS = "The cost of a host is the box above; CPU and memory are half of it each."
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

MONEY = (
    number(
        "Hosts cost an hour",
        f"The selected hosts together. {COSTS}",
        "none",
        Query(f"$host_cost * {HOSTS}"),
        width=8,
        decimals=2,
    ),
    number(
        "Idle cost an hour",
        f"The part of it that is not set aside, so that nobody pays for it. {COSTS} Negative where "
        "more was sold than there is.",
        "none",
        Query(f"$host_cost * ({HOSTS} - {ASIDE})"),
        width=8,
        decimals=2,
    ),
    number(
        "Idle",
        "What is not set aside as a part of the hosts; CPU and memory count half each.",
        "percentunit",
        Query(f"1 - {ASIDE} / {HOSTS}"),
        width=8,
    ),
    graph(
        "Cost of the hosts an hour",
        f"What is set aside and what idles. {COSTS}",
        "none",
        Query(f"$host_cost * {ASIDE}", "set aside"),
        Query(f"$host_cost * ({HOSTS} - {ASIDE})", "idle"),
        width=24,
        stacked=True,
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
        variables("host", "host_cost"),
        "",
    )
    return finish(made, *NOW, row("Idle cost"), *MONEY, row("Over time"), *GRAPHS)
