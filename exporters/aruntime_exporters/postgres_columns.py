"""The columns of the PostgreSQL exporter's table of records, and a number its views need."""

from __future__ import annotations

COUNTERS = (
    "running_ns", "paused_ns", "cpu_ns", "cpu_alloc_ns", "cpu_request_milli", "cpu_limit_milli",
    "mem_bytens2", "mem_usage_bytens2", "mem_alloc_bytens2", "mem_request", "mem_limit",
    "proc_read", "proc_write",
)  # fmt: skip
"""Columns that are the record's fields."""

SUMS = (
    "blk_read", "blk_write", "blk_reads", "blk_writes",
    "net_receive", "net_transmit", "net_receive_packets", "net_transmit_packets",
)  # fmt: skip
"""Columns that are sums over disks and interfaces."""

EGRESS = ("net_egress", "net_egress_packets")
"""The same; a column since migration 3."""

KEY = ("host_id", "container_id", "incarnation", "seq")

COLUMNS = (
    *KEY, "kind", "tenant", "name", "state", "wall_start", "wall_end", *COUNTERS, *SUMS, *EGRESS,
    "exit_code", "end_reason", "price_version", "corrects", "estimated", "labels", "hash", "record",
)  # fmt: skip

ONE = "1." + "0" * 40
"""Makes a quotient have so many decimals at least: numeric's own are 16 significant digits."""
