"""What ledger records say of a container beside its usage, from what the supervisor says of it."""

from __future__ import annotations

from aruntime.metering.intervals import Terms
from aruntime.metering.subject import MeterSubject

DEFAULT_PERIOD_US = 100_000
"""Of cpu.cfs_period_us and cpu.max."""


def terms_of(about: MeterSubject, *, blk_source: str = "", price_version: str = "") -> Terms:
    """What ledger records say of a container.

    A request that was not made is the limit, as in Kubernetes: who limits a container to two
    cores sets two aside.
    """
    cpu = about.resources.get("cpu") or {}
    memory = about.resources.get("memory") or {}
    quota, period = cpu.get("quota") or 0, cpu.get("period") or DEFAULT_PERIOD_US
    cpu_limit = quota * 1000 // period if quota > 0 else 0
    mem_limit = max(0, memory.get("limit") or 0)
    return Terms(
        tenant=about.tenant,
        name=about.name,
        image_digest=about.image_digest,
        labels=about.labels,
        cpu_request_milli=about.cpu_request_milli or cpu_limit,
        cpu_limit_milli=cpu_limit,
        mem_request=max(0, memory.get("reservation") or 0) or mem_limit,
        mem_limit=mem_limit,
        blk_source=blk_source,
        price_version=price_version,
    )
