"""One line of the ledger: what a container used between two cuts, exact and chained.

A record is never changed once it is written. Every quantity is an int in base units (nanoseconds,
bytes, events, twice the byte-nanoseconds of memory) and a *difference*: the sum over a container's
records is what its kernel counters showed. Wall times label; durations are CLOCK_BOOTTIME's.

The chain: ``hash`` is SHA-256 over the 32 bytes of the hash before and the record's canonical
JSON, which is sorted, has no spaces and leaves ``hash`` out. The first record follows
:func:`genesis`.

Out of scope: making records (:mod:`aruntime.metering.intervals`), keeping them
(:mod:`aruntime.metering.totals`), checking a chain (:mod:`aruntime.metering.chain`).
"""

from __future__ import annotations

import hashlib

import msgspec

VERSION = 1

KINDS = (
    "start",
    "usage",
    "final",
    "correction",
    "clock_step",
    "gap",
    "checkpoint",
    "price_change",
)
"""Of a record. ``gap``: usage found after a time without a daemon. ``clock_step`` and
``price_change`` are the host's: their ``container_id`` and ``tenant`` are empty, their quantities
zero. ``checkpoint`` is never written: checkpoints have a table of their own."""

WRITTEN_KINDS = tuple(kind for kind in KINDS if kind != "checkpoint")

ESTIMATES = ("daemon_gap", "split", "unreadable", "removed_unread", "merged", "migrated")
"""Why a part of a record is an estimate: memory of a time without a daemon; no reading near a full
hour; counters that could not be read, or not before their cgroup was removed; neighbours made one
while the disk was full; usage from before there were records."""

END_REASONS = ("", "exit", "oom", "stop", "cut", "daemon_stop", "host_lost")

Ints = tuple[int, ...]


class LedgerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of one container in one interval; see the module's text."""

    v: int = VERSION
    seq: int = 0
    """Place in the chain of this host, from 1 without gaps; 0: not durable yet."""
    kind: str = "usage"
    host_id: str = ""
    boot_id: str = ""
    container_id: str = ""
    incarnation: str = ""
    """One life of the container's cgroup: boot id, inode, boot time in ns of its beginning."""
    cgroup_ino: int = 0
    name: str = ""
    image_digest: str = ""
    tenant: str = ""
    labels: dict[str, str] = {}
    """As of the interval: later changes never rewrite it (R14)."""
    state: str = "running"
    """``running`` or ``paused`` at the beginning of the interval."""
    wall_start: int = 0
    """Unix time in ns; ``wall_end - wall_start == boot_end_ns - boot_start_ns`` but in a
    ``clock_step``, where they are the predicted and the actual time of one instant, and in a
    ``correction``, where they say when it counts: with the record it amends, or now."""
    wall_end: int = 0
    boot_start_ns: int = 0
    boot_end_ns: int = 0
    running_ns: int = 0
    paused_ns: int = 0
    cpu_ns: int = 0
    cpu_user_ns: int = 0
    """Scaled from ticks: informative, as ``cpu_system_ns``."""
    cpu_system_ns: int = 0
    mem_bytens2: int = 0
    """Twice the integral of the working set, in byte-nanoseconds."""
    mem_usage_bytens2: int = 0
    """The same of the whole usage, page cache included."""
    mem_peak: int = 0
    """Highest usage seen in the interval, bytes."""
    cpu_request_milli: int = 0
    """Thousandths of a core; 0: none."""
    cpu_limit_milli: int = 0
    mem_request: int = 0
    """Bytes; 0: none."""
    mem_limit: int = 0
    cpu_alloc_ns: int = 0
    """Sum over the readings of max(request x running time, CPU time used)."""
    mem_alloc_bytens2: int = 0
    """Sum over the readings of max(2 x request x time, twice the integral of the working set)."""
    blk: dict[str, Ints] = {}
    """Per disk: bytes read, bytes written, reads, writes, bytes discarded."""
    blk_source: str = ""
    """Which counters were believed: ``throttle``, ``bfq``, ``io_stat``, several joined by a
    comma, or empty without disks."""
    proc_read: int = 0
    """Storage reads of the process tree (/proc/PID/io), bytes."""
    proc_write: int = 0
    """Storage writes of the process tree, buffered ones included, *without* what was cancelled
    (truncated before it was written back), and kept from falling: the number to bill."""
    proc_cancelled: int = 0
    """Informative; not to be subtracted from ``proc_write``."""
    net: dict[str, Ints] = {}
    """Per interface: bytes received, bytes sent, packets received, packets sent, bytes and packets
    of those sent that left the host. The last two are missing where they were not counted yet."""
    pids_peak: int = 0
    oom_kills: int = 0
    exit_code: int | None = None
    """Of a ``final`` record; None: unknown, or not ended."""
    end_reason: str = ""
    """Why the interval ended (:data:`END_REASONS`); empty while it goes on."""
    samples: int = 0
    max_gap_ns: int = 0
    """Longest time between two readings that the interval holds."""
    estimated: tuple[str, ...] = ()
    """Why a part is an estimate; empty when everything is the kernel's count."""
    anomalies: tuple[str, ...] = ()
    price_version: str = ""
    corrects: int = 0
    """The ``seq`` that a ``correction`` amends; 0: none."""
    reason: str = ""
    """Of a ``correction``: why, in its author's words."""
    author: str = ""
    """Of a ``correction``: the user who made it, by the kernel's word."""
    made_ns: int = 0
    """Of a ``correction``: Unix time at which it was made."""
    amended: dict[str, int] = {}
    """Of a ``correction``: what it found, earlier corrections included, so that it can be priced
    when the record it amends is gone: the sums of :func:`aruntime.metering.chain.sums_of`,
    ``wall_start`` and ``wall_end``, and ``run_ns``, the running time of the whole run if that had
    ended and is rounded up."""
    prev: str = ""
    """Hash of the record before, 64 hex digits."""
    hash: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the record for ever (R5)."""
        return self.container_id, self.incarnation, self.seq


OF_CORRECTIONS = ("reason", "author", "made_ns", "amended")
"""Fields of corrections; in other records' JSON they are left out, as before there were any."""

_HASHED = tuple(
    name for name in LedgerRecord.__struct_fields__ if name not in ("hash", *OF_CORRECTIONS)
)


def canonical(record: LedgerRecord) -> bytes:
    """The bytes that are hashed: JSON, keys sorted, no spaces, UTF-8, without ``hash``."""
    fields = {name: getattr(record, name) for name in _HASHED}
    fields |= {name: value for name in OF_CORRECTIONS if (value := getattr(record, name))}
    return msgspec.json.encode(fields, order="sorted")


def decode(text: bytes | str, digest: str = "") -> LedgerRecord:
    """A record from its JSON, canonical or with ``hash``.

    Args:
        text: one JSON object.
        digest: ``hash`` if the text has none.

    Raises:
        ValueError: the text is no record of this version.
    """
    record = msgspec.json.decode(text, type=LedgerRecord)
    if record.v != VERSION:
        raise ValueError(f"record of version {record.v}, this aruntime knows {VERSION}")
    return msgspec.structs.replace(record, hash=digest) if digest else record


def chain_hash(previous: str, text: bytes) -> str:
    """Hash of a record's canonical bytes that follows ``previous`` (R16)."""
    return hashlib.sha256(bytes.fromhex(previous) + text).hexdigest()


def genesis(host_id: str, created_ns: int) -> str:
    """The hash that the first record of a host follows."""
    return hashlib.sha256(f"{host_id}:{created_ns}".encode()).hexdigest()
