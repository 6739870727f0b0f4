"""Where a metric's values come from: functions from a container's view to numbers.

Integers become floats only here, by one correctly rounded division (``ns / 10**9``), so that
fifteen digits survive. A function yields nothing where its source does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from aruntime.metering.account import BLOCK_COUNTERS, COUNTERS, NETWORK_COUNTERS, STATUSES
from aruntime.metering.export import ContainerView, FastStats, MemoryStats, PidsStats

NS = 1_000_000_000
US = 1_000_000

Value = int | float
Extra = tuple[str, ...]
"""Values of a family's extra labels."""

Values = Callable[[ContainerView], Iterable[tuple[Extra, Value]]]


class One:
    """Values of a family with a single sample and no extra labels: most are such.

    Attributes:
        value: the sample's, None where there is none.
    """

    def __init__(self, value: Callable[[ContainerView], Value | None]) -> None:
        self.value = value

    def __call__(self, container: ContainerView) -> Iterator[tuple[Extra, Value]]:
        """As any :data:`Values`; who has many containers to show calls ``value``."""
        number = self.value(container)
        if number is not None:
            yield (), number


def one(value: Callable[[ContainerView], Value | None]) -> One:
    """A single sample without extra labels."""
    return One(value)


def total(path: str, divisor: int = 1) -> Values:
    """A field of the account's totals, for every container that ever had a cgroup."""
    field = attrgetter(f"account.totals.{path}")

    def value(container: ContainerView) -> Value | None:
        if not container.account.incarnation:
            return None
        return _scaled(field(container), divisor)

    return one(value)


def counter(name: str, divisor: int = 1) -> Values:
    """A kernel counter of the account's totals."""
    place = COUNTERS.index(name)

    def value(container: ContainerView) -> Value | None:
        if not container.account.incarnation:
            return None
        return _scaled(container.account.totals.counters[place], divisor)

    return one(value)


def pressure(name: str) -> One:
    """A pressure counter; absent where the kernel keeps none."""
    place = COUNTERS.index(name)

    def value(container: ContainerView) -> Value | None:
        if not container.has_pressure or not container.account.incarnation:
            return None
        return container.account.totals.counters[place] / US

    return one(value)


def _scaled(number: int, divisor: int) -> Value:
    return number if divisor == 1 else number / divisor


def block(name: str) -> Values:
    """A counter per block device."""
    place = BLOCK_COUNTERS.index(name)

    def values(container: ContainerView) -> Iterator[tuple[Extra, Value]]:
        for device, row in sorted(container.account.totals.block.items()):
            yield (device,), row[place]

    return values


def network(name: str) -> Values:
    """A counter per interface."""
    place = NETWORK_COUNTERS.index(name)

    def values(container: ContainerView) -> Iterator[tuple[Extra, Value]]:
        for interface, row in sorted(container.account.totals.network.items()):
            # Rows of a container that ended before a counter was kept are shorter.
            yield (interface,), row[place] if len(row) > place else 0

    return values


def page_faults(container: ContainerView) -> Iterator[tuple[Extra, Value]]:
    """minor = all - major."""
    counters = container.account.totals.counters
    if container.account.incarnation:
        major = counters[COUNTERS.index("major_page_faults")]
        yield ("minor",), max(0, counters[COUNTERS.index("page_faults")] - major)
        yield ("major",), major


def fast(value: Callable[[FastStats], int]) -> Values:
    """A level of the last reading of any kind."""
    return one(lambda c: value(c.fast) if c.fast is not None else None)


def memory(value: Callable[[MemoryStats], int]) -> Values:
    """A memory level of the last complete reading."""

    def of(container: ContainerView) -> Value | None:
        stats = container.stats
        return value(stats.memory) if stats is not None and stats.memory is not None else None

    return one(of)


def pids(value: Callable[[PidsStats], int]) -> Values:
    """A level of the pids controller."""

    def of(container: ContainerView) -> Value | None:
        stats = container.stats
        return value(stats.pids) if stats is not None and stats.pids is not None else None

    return one(of)


def state(container: ContainerView) -> Iterator[tuple[Extra, Value]]:
    """One sample per status, 1 for the one the container is in."""
    for status in STATUSES:
        yield (status,), int(container.account.status == status)


def cpu_limit(container: ContainerView) -> Value | None:
    """Quota over period in cores, 0 without a quota; nothing once it has ended."""
    cpu = container.about.resources.get("cpu") or {}
    quota = cpu.get("quota") or 0
    if container.account.status == "exited":
        return None
    return quota / (cpu.get("period") or 100_000) if quota > 0 else 0


def while_alive(value: Callable[[ContainerView], Value]) -> Values:
    """A number of the configuration, until the container has ended."""
    return one(lambda c: None if c.account.status == "exited" else value(c))


def memory_request(container: ContainerView) -> Value:
    """The reservation in bytes, 0 if there is none."""
    memory = container.about.resources.get("memory") or {}
    return max(0, memory.get("reservation") or 0)
