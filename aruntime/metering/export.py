"""What exporters see, and how they are found.

An exporter is a class named by an entry point of the group ``aruntime.exporters``. Its attribute
``kind`` says how it is used: ``scrape`` is called with a :class:`Source` and satisfies
:class:`ScrapeExporter`, ``push`` is :class:`aruntime.metering.push.PushExporter`, ``file`` writes
a document when a command asks for it. This package never imports one: the exporters that ship with
it come in by the same door as any other.

A view is taken at one instant, so that a tenant's total and its containers' fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from aruntime.cgroups.block import BlkioSource
from aruntime.cgroups.stats import FastStats, MemoryStats, PidsStats, Stats
from aruntime.errors import InvalidParameter, Unavailable
from aruntime.metering.account import Account
from aruntime.metering.accrual import Costs
from aruntime.metering.health import HistogramState
from aruntime.metering.host import HostCpu
from aruntime.metering.subject import MeterSubject
from aruntime.metering.totals import TenantTotals

__all__ = [
    "ENTRY_POINT_GROUP",
    "Budget",
    "ContainerView",
    "DaemonView",
    "ExportState",
    "FastStats",
    "LedgerView",
    "MemoryStats",
    "PidsStats",
    "ScrapeExporter",
    "Source",
    "Stats",
    "View",
    "exporter_class",
    "load_exporters",
]

ENTRY_POINT_GROUP = "aruntime.exporters"


class ContainerView(NamedTuple):
    """One container; times are Unix nanoseconds."""

    about: MeterSubject
    account: Account
    """Counters the kernel keeps are as of the last reading. What only the meter keeps (memory
    integral, time, pauses, process I/O) is as of the last commit, so no crash makes it fall."""
    stats: Stats | None
    """Levels of the last complete reading; None before it and from the end on."""
    fast: FastStats | None
    """Levels of the last reading of any kind."""
    started_ns: int
    finished_ns: int
    exit_code: int | None
    has_pressure: bool
    """Its cgroup has pressure stall information."""
    polled_ns: int


class LedgerView(NamedTuple):
    """The ledger on disk."""

    sequence: int = 0
    """Number of the last record."""
    checkpoint_ns: int = 0
    """Unix time of the last checkpoint, 0 before the first."""
    kinds: Mapping[str, int] = MappingProxyType({})
    """Records by kind."""
    estimated: Mapping[str, int] = MappingProxyType({})
    """Records by reason for which a part of them is an estimate."""


class DaemonView(NamedTuple):
    """The meter and its host."""

    version: str
    python_version: str
    kernel: str
    cgroup_mode: str
    poll_duration: HistogramState
    commit_duration: HistogramState
    last_poll_ns: int
    last_commit_ns: int
    overruns: int
    polls_failed: dict[str, int]
    anomalies: dict[str, int]
    write_errors: int
    pending: int
    psi_available: bool
    block_sources: Sequence[BlkioSource]
    cpu_cores: int
    memory_bytes: int
    cpu: HostCpu | None
    ledger: LedgerView = LedgerView()


class ExportState(NamedTuple):
    """How far a push exporter has come."""

    name: str
    """Of its configuration table."""
    type: str
    """Name of its entry point."""
    target: str
    """Where it delivers to, without secrets."""
    sequence: int = 0
    """Last record of the ledger that was acknowledged."""
    pending: int = 0
    """Records after it, when the ledger was last looked at."""
    last_success_ns: int = 0
    """Unix time when last everything asked for was delivered, 0 before the first time."""
    delivered: int = 0
    """Items that were acknowledged since the daemon started."""
    failures: int = 0
    """Attempts that failed."""
    rejected: int = 0
    """Items the receiver would not take."""
    error: str = ""
    """Why the last attempt failed, empty if it did not."""


class Budget(NamedTuple):
    """What a tenant means to spend in a month; for display and alerts."""

    tenant: str
    currency: str
    amount: Decimal


class View(NamedTuple):
    """Everything there is to export, at one instant."""

    containers: Sequence[ContainerView]
    """Living ones, and ended ones for as long as their counters linger."""
    tenants: dict[str, TenantTotals]
    tenant_containers: dict[tuple[str, str], int]
    """Containers by tenant and status, ended ones that were not removed included."""
    daemon: DaemonView
    exports: Sequence[ExportState] = ()
    """Push exporters that are configured."""
    costs: Costs = MappingProxyType({})
    """Exact list cost so far, by tenant, SKU and currency; empty without a price book."""
    budgets: Sequence[Budget] = ()


Source = Callable[[], View]
"""Takes a view; safe in any thread."""


class ScrapeExporter(Protocol):
    """An exporter that is read over HTTP; its class has ``kind = "scrape"``, or no kind.

    Attributes:
        path: of the URL, such as ``/metrics``.
    """

    path: str

    def negotiate(self, accept: str) -> str:
        """The content type to answer a request with this Accept header."""

    def render(self, content_type: str) -> Iterator[bytes]:
        """The body in pieces, each made in about a millisecond; called in a worker thread."""


def load_exporters(source: Source) -> list[ScrapeExporter]:
    """Make every installed exporter of the kind ``scrape``.

    Raises:
        Exception: whatever a broken plug-in raises, with its name as a note.
    """
    exporters = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            found = entry.load()
            if _kind(found) == "scrape":
                exporters.append(found(source))
        except Exception as error:
            error.add_note(f"while loading exporter {entry.name} ({entry.value})")
            raise
    return exporters


def exporter_class(kind: str, name: str) -> Any:
    """Find the installed exporter of this kind and name; it is not called.

    Raises:
        InvalidParameter: there is none; the message lists those there are.
        Unavailable: it cannot be imported.
    """
    found: dict[str, Any] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            found[entry.name] = entry.load()
        except ImportError as error:
            if entry.name == name:
                raise Unavailable(
                    f"exporter '{name}' cannot be loaded: {error}; install what it needs"
                ) from error
    if name in found and _kind(found[name]) == kind:
        return found[name]
    names = sorted(other for other, made in found.items() if _kind(made) == kind)
    raise InvalidParameter(
        f"there is no {kind} exporter '{name}'; installed are {', '.join(names) or 'none'}"
    )


def _kind(exporter: Any) -> str:
    return str(getattr(exporter, "kind", "scrape"))
