"""Everything about one container."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards.parts import (
    BAD_ABOVE_ZERO,
    CONTAINER,
    RANGE,
    RATE,
    Query,
    board,
    finish,
    graph,
    number,
    row,
    timeline,
    variables,
)


def _rate(metric: str) -> str:
    return f"sum(rate({metric}{{{CONTAINER}}}{RATE}))"


def _level(metric: str) -> str:
    return f"sum({metric}{{{CONTAINER}}})"


def _grown(metric: str) -> Query:
    return Query(f"sum(increase({metric}{{{CONTAINER}}}{RANGE}))")


NOW = (
    number(
        "CPU time",
        "CPU time used in the range shown.",
        "s",
        _grown("aruntime_container_cpu_usage_seconds_total"),
        decimals=3,
    ),
    number(
        "Ran",
        "Time alive and not paused in the range shown.",
        "s",
        _grown("aruntime_container_running_seconds_total"),
    ),
    number(
        "Paused",
        "Time frozen in the range shown.",
        "s",
        _grown("aruntime_container_paused_seconds_total"),
    ),
    number(
        "OOM kills",
        "Processes killed for want of memory in the range shown.",
        "none",
        _grown("aruntime_container_oom_kills_total"),
        colours=BAD_ABOVE_ZERO,
        decimals=0,
    ),
    number(
        "Restarts",
        "Starts by the restart policy in the range shown.",
        "none",
        _grown("aruntime_container_restarts_total"),
        decimals=0,
    ),
    number(
        "Exit code",
        "Of its end; empty while it lives.",
        "none",
        Query(f"max(aruntime_container_exit_code{{{CONTAINER}}})"),
        decimals=0,
    ).no_value("–"),
)

STATE = timeline(
    "State",
    "Which state it was in; exactly one at a time. Annotations mark pauses and resumes.",
    Query(f"max by (state) (aruntime_container_state{{{CONTAINER}}})", "{{state}}"),
)

CPU = (
    graph(
        "CPU",
        "Cores in use. The parts in user and system mode are scaled from clock ticks; the total "
        "is exact. The dashed line is the limit, if there is one.",
        "none",
        Query(_rate("aruntime_container_cpu_usage_seconds_total"), "total"),
        Query(_rate("aruntime_container_cpu_user_seconds_total"), "user"),
        Query(_rate("aruntime_container_cpu_system_seconds_total"), "system"),
        Query(f"{_level('aruntime_container_spec_cpu_limit_cores')} > 0", "limit"),
        limits="limit",
    ),
    graph(
        "Held back by the CPU limit",
        "Time that runnable tasks waited for the next enforcement period, in seconds a second.",
        "s",
        Query(_rate("aruntime_container_cpu_throttled_seconds_total"), "throttled"),
    ),
    graph(
        "Request and usage",
        "What is set aside for the container and what of it is used; both in cores.",
        "none",
        Query(_rate("aruntime_container_cpu_usage_seconds_total"), "used"),
        Query(f"{_level('aruntime_container_spec_cpu_request_cores')}", "requested"),
        limits="requested",
    ),
    graph(
        "Pressure",
        "Part of the time in which at least one task waited (waiting) or all did (stalled). "
        "Nothing is shown where the kernel keeps no pressure stall information.",
        "percentunit",
        Query(_rate("aruntime_container_pressure_cpu_waiting_seconds_total"), "CPU waiting"),
        Query(_rate("aruntime_container_pressure_memory_waiting_seconds_total"), "memory waiting"),
        Query(_rate("aruntime_container_pressure_memory_stalled_seconds_total"), "memory stalled"),
        Query(_rate("aruntime_container_pressure_io_waiting_seconds_total"), "I/O waiting"),
        Query(_rate("aruntime_container_pressure_io_stalled_seconds_total"), "I/O stalled"),
    ),
)

MEMORY = (
    graph(
        "Memory",
        "Usage with page cache and kernel memory; the working set, which is billed; anonymous "
        "memory; page cache; the peak since the start; dashed, the limit.",
        "bytes",
        Query(_level("aruntime_container_memory_usage_bytes"), "usage"),
        Query(_level("aruntime_container_memory_working_set_bytes"), "working set"),
        Query(_level("aruntime_container_memory_rss_bytes"), "anonymous"),
        Query(_level("aruntime_container_memory_cache_bytes"), "page cache"),
        Query(_level("aruntime_container_memory_peak_bytes"), "peak"),
        Query(f"{_level('aruntime_container_spec_memory_limit_bytes')} > 0", "limit"),
        limits="limit",
    ),
    graph(
        "Kinds of memory",
        "Shared memory and tmpfs, pages not yet on disk, kernel memory, swap.",
        "bytes",
        Query(_level("aruntime_container_memory_shmem_bytes"), "shared and tmpfs"),
        Query(_level("aruntime_container_memory_dirty_bytes"), "dirty"),
        Query(_level("aruntime_container_memory_kernel_bytes"), "kernel"),
        Query(_level("aruntime_container_memory_swap_bytes"), "swap"),
    ),
    graph(
        "Page faults",
        "Major ones waited for the disk.",
        "cps",
        Query(
            f"sum by (kind) (rate(aruntime_container_page_faults_total{{{CONTAINER}}}{RATE}))",
            "{{kind}}",
        ),
    ),
    graph(
        "At the memory limit",
        "How often usage hit the limit, and processes killed for it.",
        "cps",
        Query(_rate("aruntime_container_memory_limit_hits_total"), "limit hits"),
        Query(_rate("aruntime_container_oom_kills_total"), "OOM kills"),
    ),
)

STORAGE = (
    graph(
        "Disks",
        "Bytes by disk. On cgroup v1 the kernel's own writeback is not in it.",
        "Bps",
        Query(
            "sum by (device) "
            f"(rate(aruntime_container_blkio_read_bytes_total{{{CONTAINER}}}{RATE}))",
            "read {{device}}",
        ),
        Query(
            "sum by (device) "
            f"(rate(aruntime_container_blkio_write_bytes_total{{{CONTAINER}}}{RATE}))",
            "written {{device}}",
        ),
    ),
    graph(
        "Writes of its processes",
        "What the processes wrote, buffered writes included, beside what reached the disks in "
        "their name; the difference is the kernel's writeback.",
        "Bps",
        Query(_rate("aruntime_container_process_write_bytes_total"), "by processes"),
        Query(_rate("aruntime_container_blkio_write_bytes_total"), "by disks"),
    ),
    graph(
        "Disk requests",
        "Requests a second.",
        "iops",
        Query(_rate("aruntime_container_blkio_reads_total"), "reads"),
        Query(_rate("aruntime_container_blkio_writes_total"), "writes"),
    ),
)

NETWORK = (
    graph(
        "Network",
        "Bytes by interface; nothing for containers on the host's network.",
        "Bps",
        Query(
            "sum by (interface) "
            f"(rate(aruntime_container_network_receive_bytes_total{{{CONTAINER}}}{RATE}))",
            "received {{interface}}",
        ),
        Query(
            "sum by (interface) "
            f"(rate(aruntime_container_network_transmit_bytes_total{{{CONTAINER}}}{RATE}))",
            "sent {{interface}}",
        ),
    ),
    graph(
        "Network that left the host",
        "Bytes of packets that left the host, other than to its own containers, by interface, "
        "beside all that was sent. Frames' headers are in what was sent and not in what left.",
        "Bps",
        Query(
            "sum by (interface) "
            f"(rate(aruntime_container_network_egress_bytes_total{{{CONTAINER}}}{RATE}))",
            "left the host {{interface}}",
        ),
        Query(_rate("aruntime_container_network_transmit_bytes_total"), "all sent"),
        limits="^all",
    ),
    graph(
        "Packets",
        "Packets and losses; merged ones count once.",
        "pps",
        Query(_rate("aruntime_container_network_receive_packets_total"), "received"),
        Query(_rate("aruntime_container_network_transmit_packets_total"), "sent"),
        Query(_rate("aruntime_container_network_receive_drops_total"), "lost on the way in"),
        Query(_rate("aruntime_container_network_transmit_drops_total"), "lost on the way out"),
    ),
    graph(
        "Tasks",
        "Processes and threads; dashed, their limit.",
        "none",
        Query(_level("aruntime_container_pids"), "tasks"),
        Query(f"{_level('aruntime_container_spec_pids_limit')} > 0", "limit"),
        Query(_rate("aruntime_container_pids_limit_hits_total"), "failed forks a second"),
        limits="limit",
    ),
)


def build() -> Dashboard:
    """The dashboard."""
    made = board(
        "aruntime-container",
        "One container",
        "What one container does and uses.",
        variables("host", "tenant", "container", one_container=True),
        CONTAINER,
    )
    return finish(
        made,
        *NOW,
        STATE,
        row("CPU"),
        *CPU,
        row("Memory"),
        *MEMORY,
        row("Storage"),
        *STORAGE,
        row("Network and tasks"),
        *NETWORK,
    )
