"""The table of metrics: one row per family, with its type, help, labels, level and values.

Everything that shows these metrics (the collector, the fast renderer, dashboards' tests) reads
this table. A row names the kernel file its numbers come from.

Out of scope: formats and HTTP (:mod:`aruntime_exporters.prometheus`).
"""

from __future__ import annotations

from typing import NamedTuple

from aruntime_exporters.values import (
    NS,
    Values,
    block,
    counter,
    cpu_limit,
    fast,
    memory,
    memory_request,
    network,
    one,
    page_faults,
    pids,
    pressure,
    state,
    total,
    while_alive,
)

PREFIX = "aruntime_"

LEVELS = ("minimal", "default", "full")
"""Each level holds the rows of the ones before it."""

BASE_LABELS = ("id", "name", "tenant")


class ContainerFamily(NamedTuple):
    """A family with samples per container."""

    name: str
    """Without the prefix, and without ``_total`` for a counter."""
    kind: str
    """counter or gauge."""
    help: str
    values: Values
    """Pairs of extra label values and a number; nothing when it does not apply."""
    labels: tuple[str, ...] = ()
    """Extra labels beside :data:`BASE_LABELS`."""
    level: str = "default"

    @property
    def full_name(self) -> str:
        """The name of its samples."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


def is_shown(level: str, wanted: str) -> bool:
    """Whether a row of ``level`` belongs to the wanted level."""
    return LEVELS.index(level) <= LEVELS.index(wanted)


def _family(
    name: str,
    kind: str,
    text: str,
    values: Values,
    labels: tuple[str, ...] = (),
    level: str = "default",
) -> ContainerFamily:
    return ContainerFamily("container_" + name, kind, text, values, labels, level)


CONTAINER_FAMILIES: tuple[ContainerFamily, ...] = (
    _family(
        "state", "gauge", "1 for the state the container is in (runtime, cgroup.events), else 0.",
        state, ("state",), "minimal",
    ),
    _family(
        "created_timestamp_seconds", "gauge", "Unix time of create.",
        one(lambda c: c.about.created_ns / NS),
    ),
    _family(
        "started_timestamp_seconds", "gauge", "Unix time of the last start, 0 before the first.",
        one(lambda c: c.started_ns / NS), level="minimal",
    ),
    _family(
        "finished_timestamp_seconds", "gauge", "Unix time of the exit; absent while alive.",
        one(lambda c: c.finished_ns / NS if c.finished_ns else None),
    ),
    _family(
        "exit_code", "gauge", "Exit code, 128 + signal number if killed; absent while alive.",
        one(lambda c: c.exit_code), level="minimal",
    ),
    _family(
        "restarts", "counter", "Restarts by the restart policy, as of the last commit.",
        total("restarts"),
    ),
    _family(
        "running_seconds", "counter",
        "Time alive and not paused, as of the last commit (CLOCK_BOOTTIME).",
        total("running_ns", NS), level="minimal",
    ),
    _family(
        "paused_seconds", "counter", "Time from frozen to thaw, as of the last commit.",
        total("paused_ns", NS), level="minimal",
    ),
    _family("pauses", "counter", "Pause operations, as of the last commit.", total("pauses")),
    _family(
        "cpu_usage_seconds", "counter",
        "CPU time, user and system (cpuacct.usage; v2 cpu.stat usage_usec).",
        total("cpu_ns", NS), level="minimal",
    ),
    _family(
        "cpu_user_seconds", "counter",
        "User part of the CPU time, scaled from ticks (cpuacct.stat; v2 cpu.stat user_usec).",
        counter("cpu_user_ns", NS),
    ),
    _family(
        "cpu_system_seconds", "counter",
        "System part of the CPU time, scaled from ticks (cpuacct.stat; v2 cpu.stat system_usec).",
        counter("cpu_system_ns", NS),
    ),
    _family(
        "cpu_periods", "counter", "Enforcement periods of the CPU limit (cpu.stat nr_periods).",
        counter("cpu_periods"),
    ),
    _family(
        "cpu_throttled_periods", "counter",
        "Enforcement periods in which the container was throttled (cpu.stat nr_throttled).",
        counter("cpu_throttled_periods"),
    ),
    _family(
        "cpu_throttled_seconds", "counter",
        "Time throttled by the CPU limit (cpu.stat throttled_time; v2 throttled_usec).",
        counter("cpu_throttled_ns", NS),
    ),
    _family(
        "spec_cpu_limit_cores", "gauge",
        "CPU limit (cpu.cfs_quota_us / cpu.cfs_period_us; v2 cpu.max), 0 if unlimited.",
        one(cpu_limit),
    ),
    _family(
        "spec_cpu_request_cores", "gauge", "CPU request of the configuration, 0 if none.",
        while_alive(lambda c: c.about.cpu_request_milli / 1000),
    ),
    _family(
        "memory_usage_bytes", "gauge",
        "Charged memory with page cache and kernel memory (memory.usage_in_bytes; memory.current).",
        fast(lambda m: m.memory_usage_bytes),
    ),
    _family(
        "memory_working_set_bytes", "gauge",
        "Usage without inactive page cache (memory.stat total_inactive_file; v2 inactive_file).",
        fast(lambda m: m.working_set_bytes), level="minimal",
    ),
    _family(
        "memory_rss_bytes", "gauge", "Anonymous memory (memory.stat total_rss; v2 anon).",
        memory(lambda m: m.rss_bytes),
    ),
    _family(
        "memory_cache_bytes", "gauge",
        "Page cache including tmpfs (memory.stat total_cache; v2 file).",
        memory(lambda m: m.cache_bytes),
    ),
    _family(
        "memory_shmem_bytes", "gauge",
        "tmpfs and shared memory (memory.stat total_shmem; v2 shmem).",
        memory(lambda m: m.shmem_bytes),
    ),
    _family(
        "memory_mapped_file_bytes", "gauge",
        "Mapped page cache (memory.stat total_mapped_file; v2 file_mapped).",
        memory(lambda m: m.mapped_file_bytes), level="full",
    ),
    _family(
        "memory_dirty_bytes", "gauge",
        "Page cache not yet on disk (memory.stat total_dirty; v2 file_dirty).",
        memory(lambda m: m.dirty_bytes),
    ),
    _family(
        "memory_writeback_bytes", "gauge",
        "Page cache on its way to disk (memory.stat total_writeback; v2 file_writeback).",
        memory(lambda m: m.writeback_bytes), level="full",
    ),
    _family(
        "memory_kernel_bytes", "gauge",
        "Kernel memory (memory.kmem.usage_in_bytes; v2 memory.stat kernel).",
        memory(lambda m: m.kernel_bytes),
    ),
    _family(
        "memory_swap_bytes", "gauge", "Swapped out (memory.stat total_swap; memory.swap.current).",
        memory(lambda m: m.swap_bytes),
    ),
    _family(
        "memory_peak_bytes", "gauge",
        "High-water mark of usage since the start (memory.max_usage_in_bytes; memory.peak).",
        memory(lambda m: m.peak_bytes),
    ),
    _family(
        "memory_byte_seconds", "counter",
        "Integral of the working set over boot time, as of the last commit to the ledger.",
        total("memory_bytens2", 2 * NS), level="minimal",
    ),
    _family(
        "memory_limit_hits", "counter",
        "Usage hit the limit (memory.failcnt, memory.memsw.failcnt; v2 memory.events max).",
        counter("memory_limit_hits"),
    ),
    _family(
        "oom_kills", "counter",
        "Processes killed for want of memory (memory.oom_control; v2 memory.events oom_kill).",
        counter("oom_kills"), level="minimal",
    ),
    _family(
        "page_faults", "counter", "Page faults (memory.stat total_pgfault, total_pgmajfault).",
        page_faults, ("kind",),
    ),
    _family(
        "spec_memory_limit_bytes", "gauge",
        "Memory limit (memory.limit_in_bytes; memory.max), 0 if unlimited.",
        memory(lambda m: m.limit_bytes),
    ),
    _family(
        "spec_memory_request_bytes", "gauge",
        "Memory reservation of the configuration (memory.soft_limit_in_bytes), 0 if none.",
        while_alive(memory_request),
    ),
    _family(
        "blkio_read_bytes", "counter",
        "Bytes read from a disk (blkio.throttle.io_service_bytes_recursive; v2 io.stat rbytes).",
        block("read_bytes"), ("device",), "minimal",
    ),
    _family(
        "blkio_write_bytes", "counter",
        "Bytes written to a disk, on v1 without the kernel's own writeback (as reads; wbytes).",
        block("write_bytes"), ("device",), "minimal",
    ),
    _family(
        "blkio_reads", "counter",
        "Read requests (blkio.throttle.io_serviced_recursive; v2 io.stat rios).",
        block("reads"), ("device",),
    ),
    _family(
        "blkio_writes", "counter",
        "Write requests (blkio.throttle.io_serviced_recursive; v2 io.stat wios).",
        block("writes"), ("device",),
    ),
    _family(
        "blkio_discard_bytes", "counter",
        "Bytes discarded (blkio.throttle.io_service_bytes_recursive; v2 io.stat dbytes).",
        block("discard_bytes"), ("device",), "full",
    ),
    _family(
        "process_read_bytes", "counter",
        "Storage reads of the process tree (/proc/PID/io read_bytes), as of the last commit.",
        total("process_read_bytes"),
    ),
    _family(
        "process_write_bytes", "counter",
        "Storage writes of the process tree, buffered ones included (/proc/PID/io write_bytes"
        " - cancelled_write_bytes), as of the last commit.",
        total("process_written_bytes"),
    ),
    _family(
        "network_receive_bytes", "counter", "Bytes received (IFLA_STATS64 of the host's end).",
        network("receive_bytes"), ("interface",), "minimal",
    ),
    _family(
        "network_transmit_bytes", "counter", "Bytes sent (IFLA_STATS64 of the host's end).",
        network("transmit_bytes"), ("interface",), "minimal",
    ),
    _family(
        "network_receive_packets", "counter", "Packets received, merged ones counted once.",
        network("receive_packets"), ("interface",),
    ),
    _family(
        "network_transmit_packets", "counter", "Packets sent, merged ones counted once.",
        network("transmit_packets"), ("interface",),
    ),
    _family(
        "network_receive_drops", "counter", "Packets lost on the way in.",
        network("receive_drops"), ("interface",),
    ),
    _family(
        "network_transmit_drops", "counter", "Packets lost on the way out.",
        network("transmit_drops"), ("interface",),
    ),
    _family(
        "network_egress_bytes", "counter",
        "Bytes of packets that left the host, other than to its own containers (nftables).",
        network("egress_bytes"), ("interface",), "minimal",
    ),
    _family(
        "network_egress_packets", "counter",
        "Packets that left the host, merged ones counted once (nftables).",
        network("egress_packets"), ("interface",),
    ),
    _family(
        "pids", "gauge", "Tasks, threads counted singly (pids.current).",
        pids(lambda p: p.current),
    ),
    _family(
        "spec_pids_limit", "gauge", "Limit of tasks (pids.max), 0 if unlimited.",
        pids(lambda p: p.limit),
    ),
    _family(
        "pids_limit_hits", "counter", "Forks that failed at the limit (pids.events max).",
        counter("pids_limit_hits"),
    ),
    _family(
        "pressure_cpu_waiting_seconds", "counter",
        "Time in which a task waited for a processor (cpu.pressure some).",
        pressure("cpu_waiting_us"),
    ),
    _family(
        "pressure_memory_waiting_seconds", "counter",
        "Time in which a task waited for memory (memory.pressure some).",
        pressure("memory_waiting_us"),
    ),
    _family(
        "pressure_memory_stalled_seconds", "counter",
        "Time in which all tasks waited for memory (memory.pressure full).",
        pressure("memory_stalled_us"),
    ),
    _family(
        "pressure_io_waiting_seconds", "counter",
        "Time in which a task waited for I/O (io.pressure some).",
        pressure("io_waiting_us"),
    ),
    _family(
        "pressure_io_stalled_seconds", "counter",
        "Time in which all tasks waited for I/O (io.pressure full).",
        pressure("io_stalled_us"),
    ),
    _family(
        "last_poll_timestamp_seconds", "gauge", "Unix time of the numbers' last reading.",
        one(lambda c: c.polled_ns / NS if c.polled_ns else None),
    ),
)  # fmt: skip
"""All but ``container_info``, whose labels are its content."""
