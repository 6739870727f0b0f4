"""What can be billed of a ledger record: measures, their exact quantities, units and their sizes.

Everything that shows or prices usage (rating, the usage view, exporters) takes its numbers from
here, so that they agree to the last unit. A quantity is an int where a whole number says it, else
a :class:`~fractions.Fraction`; :func:`decimal_text` writes it out exactly. Unit names have the form
of FOCUS 1.2 (UnitFormat): ``Core-Seconds``, ``GiB-Hours``, ``GiB``, ``Requests``.

*Allocated* is what was set aside: the request, or where there is none the limit (as Kubernetes
fills a missing request), times the time it was set aside for: of cores while running, of memory
while paused too. Without either nothing was set aside. *Max* is the greater of request and usage,
taken per reading by the meter; it knows requests only.

Out of scope: money (:mod:`aruntime.metering.rating`), which measures a provider sells
(:mod:`aruntime.metering.prices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

from aruntime.metering.record import LedgerRecord

NS = 1_000_000_000
MILLI = 1000

Quantity = int | Fraction


class Unit(NamedTuple):
    """A unit of prices and quantities."""

    dimension: str
    """core-time, byte-time, bytes, time, requests or packets; only like can be converted."""
    size: int
    """How many of the dimension's base unit it holds: core·s, byte·s, bytes, s, events."""


_TIMES = {"Seconds": 1, "Minutes": 60, "Hours": 3600, "Days": 86400}
_SIZES = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50,
}  # fmt: skip


def _units() -> dict[str, Unit]:
    units = {name: Unit("bytes", size) for name, size in _SIZES.items()}
    units |= {"Requests": Unit("requests", 1), "Packets": Unit("packets", 1)}
    for time, seconds in _TIMES.items():
        units[time] = Unit("time", seconds)
        units |= {f"{core}-{time}": Unit("core-time", seconds) for core in ("Core", "vCPU")}
        for name, size in _SIZES.items():
            units[f"{name}-{time}"] = Unit("byte-time", size * seconds)
    return units


UNITS = _units()
"""Every unit a price may have. There are no months: they are not all as long."""


class Measure(NamedTuple):
    """One measure: what it is, its unit, and where it comes from."""

    unit: str
    """A name of :data:`UNITS` of size 1: the dimension's base unit."""
    divisor: int
    """The unit holds so many of what ``count`` counts."""
    count: Callable[[LedgerRecord], int]
    """The integer of the record, in the meter's own base units."""
    text: str


def span_ns(record: LedgerRecord) -> int:
    """The time a record covers, running and paused (CLOCK_BOOTTIME)."""
    return record.running_ns + record.paused_ns


def cpu_allocation_milli(record: LedgerRecord) -> int:
    """Thousandths of a core set aside: the request, else the limit, else nothing."""
    return record.cpu_request_milli or record.cpu_limit_milli


def memory_allocation_bytes(record: LedgerRecord) -> int:
    """Bytes of memory set aside: the request, else the limit, else nothing."""
    return record.mem_request or record.mem_limit


def _block(place: int) -> Callable[[LedgerRecord], int]:
    return lambda record: sum(row[place] for row in record.blk.values())


def _network(place: int) -> Callable[[LedgerRecord], int]:
    return lambda record: sum(row[place] for row in record.net.values() if len(row) > place)


MEASURES: dict[str, Measure] = {
    "cpu_used": Measure("Core-Seconds", NS, lambda r: r.cpu_ns, "CPU time used"),
    "cpu_allocated": Measure(
        "Core-Seconds", MILLI * NS, lambda r: cpu_allocation_milli(r) * r.running_ns,
        "cores set aside, over running time",
    ),
    "cpu_max": Measure(
        "Core-Seconds", NS, lambda r: r.cpu_alloc_ns,
        "the greater of request and use, over running time",
    ),
    "memory_used": Measure(
        "B-Seconds", 2 * NS, lambda r: r.mem_bytens2, "integral of the working set"
    ),
    "memory_allocated": Measure(
        "B-Seconds", NS, lambda r: memory_allocation_bytes(r) * span_ns(r),
        "memory set aside, over time",
    ),
    "memory_max": Measure(
        "B-Seconds", 2 * NS, lambda r: r.mem_alloc_bytens2,
        "the greater of request and use, over time",
    ),
    "memory_charged": Measure(
        "B-Seconds", 2 * NS, lambda r: r.mem_usage_bytens2,
        "integral of all charged memory, page cache included",
    ),
    "block_read": Measure("B", 1, _block(0), "bytes read from disks"),
    "block_write": Measure("B", 1, _block(1), "bytes written to disks"),
    "block_reads": Measure("Requests", 1, _block(2), "read requests to disks"),
    "block_writes": Measure("Requests", 1, _block(3), "write requests to disks"),
    "process_read": Measure("B", 1, lambda r: r.proc_read, "storage reads of the processes"),
    "process_write": Measure(
        "B", 1, lambda r: r.proc_write, "storage writes of the processes, buffered ones included"
    ),
    "network_receive": Measure("B", 1, _network(0), "bytes received"),
    "network_transmit": Measure("B", 1, _network(1), "bytes sent"),
    "network_receive_packets": Measure("Packets", 1, _network(2), "packets received"),
    "network_transmit_packets": Measure("Packets", 1, _network(3), "packets sent"),
    "running": Measure("Seconds", NS, lambda r: r.running_ns, "time alive and not paused"),
    "paused": Measure("Seconds", NS, lambda r: r.paused_ns, "time frozen"),
    "container": Measure("Seconds", NS, span_ns, "time alive, running or paused"),
    "network_egress": Measure("B", 1, _network(4), "bytes sent that left the host"),
    "network_egress_packets": Measure("Packets", 1, _network(5), "packets sent that left the host"),
}  # fmt: skip
"""By name. Order and names are part of exports: append only."""


COUNTED = {
    "cpu_used": "cpu_ns",
    "cpu_max": "cpu_alloc_ns",
    "memory_used": "mem_bytens2",
    "memory_max": "mem_alloc_bytens2",
    "memory_charged": "mem_usage_bytens2",
    "block_read": "blk_read",
    "block_write": "blk_write",
    "block_reads": "blk_reads",
    "block_writes": "blk_writes",
    "process_read": "proc_read",
    "process_write": "proc_write",
    "network_receive": "net_receive",
    "network_transmit": "net_transmit",
    "network_receive_packets": "net_receive_packets",
    "network_transmit_packets": "net_transmit_packets",
    "running": "running_ns",
    "paused": "paused_ns",
    "network_egress": "net_egress",
    "network_egress_packets": "net_egress_packets",
}
"""The sum (:func:`aruntime.metering.chain.sums_of`) behind a measure. What was allocated has none:
it follows from the time and the terms of a record."""


def counts(record: LedgerRecord) -> dict[str, int]:
    """The integers behind every measure of a record; sums of them are exact and cheap."""
    return {name: measure.count(record) for name, measure in MEASURES.items()}


def quantity(name: str, count: int) -> Quantity:
    """A (sum of) :func:`counts` of one measure in the measure's unit."""
    value = Fraction(count, MEASURES[name].divisor)
    return value.numerator if value.denominator == 1 else value


def quantities(record: LedgerRecord) -> dict[str, Quantity]:
    """Every measure of a record, exactly, in the unit of :data:`MEASURES`."""
    return {name: quantity(name, count) for name, count in counts(record).items()}


def total_quantities(records: Iterable[LedgerRecord]) -> dict[str, Quantity]:
    """Sums of every measure over records."""
    sums = dict.fromkeys(MEASURES, 0)
    for record in records:
        for name, count in counts(record).items():
            sums[name] += count
    return {name: quantity(name, count) for name, count in sums.items()}


def convert(value: Quantity, unit: str, to: str) -> Fraction:
    """A quantity in another unit of the same dimension.

    Raises:
        ValueError: the units do not measure the same.
    """
    source, target = UNITS[unit], UNITS[to]
    if source.dimension != target.dimension:
        raise ValueError(f"{unit} and {to} do not measure the same")
    return Fraction(value) * source.size / target.size


def decimal_text(value: Quantity) -> str:
    """A quantity written out exactly, without exponent: ``12.5``.

    Raises:
        ValueError: it has no finite decimal form (a quantity of a record always has one).
    """
    exact = Fraction(value)
    rest, places, fives = exact.denominator, 0, 0
    while rest % 2 == 0:
        rest, places = rest // 2, places + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        raise ValueError(f"{exact} has no finite decimal form")
    digits = max(places, fives)
    scaled = exact.numerator * int(10**digits) // exact.denominator
    sign, text = "-" * (scaled < 0), str(abs(scaled)).rjust(digits + 1, "0")
    return sign + (f"{text[:-digits]}.{text[-digits:]}" if digits else text)
