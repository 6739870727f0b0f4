"""What is committed: tenant totals, a container's account with its ledger records. Pure.

One transaction holds the new account of a container (baseline and totals), the records cut from
it *and* the growth of its tenant's totals, so after ``kill -9`` at any instruction a difference
is either there, with the baseline it grew from, or it is computed again from the old baseline.
Accounts are absolute, and records are numbered per container: writing one twice changes nothing.

Out of scope: the file (:mod:`aruntime.metering.ledger_file`), who writes when
(:mod:`aruntime.metering.commit`).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from aruntime.metering.account import NETWORK_COUNTERS, Account, Ints, Totals
from aruntime.metering.chain import Head
from aruntime.metering.cutting import Draft
from aruntime.metering.intervals import Interval, can_merge, have_one_price, merge
from aruntime.metering.record import LedgerRecord

KEPT_DRAFTS = 16
"""Ledger records of one container that wait for a full disk before neighbours are merged."""


class Note(NamedTuple):
    """A ledger record of the host itself, and what it changes."""

    record: LedgerRecord | None
    """None: only the state changes."""
    state: dict[str, object] = {}  # noqa: RUF012 - never changed
    """Values of the table ``state`` that change with it."""


class TenantTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Usage of all containers of a tenant, ended and removed ones included."""

    container_ns: int = 0
    """Time containers were alive, running or paused."""
    paused_ns: int = 0
    cpu_ns: int = 0
    memory_bytens2: int = 0
    block_read_bytes: int = 0
    block_write_bytes: int = 0
    network_receive_bytes: int = 0
    network_transmit_bytes: int = 0
    cpu_allocated_ns: int = 0
    """Sum over readings of max(request, usage)."""
    memory_allocated_bytens2: int = 0
    network_egress_bytes: int = 0
    """Of what was sent, that which left the host."""
    containers: int = 0
    """Containers that were ever committed."""


class Record(NamedTuple):
    """The state of one container at a cut, to be made durable."""

    container_id: str
    tenant: str
    account: Account
    reason: str
    """Why it was cut: poll, start, pause, resume, update, exec, exit, remove, daemon_stop."""
    forget: bool = False
    """The container was removed: keep its usage with the tenant, drop its account."""
    interval: Interval | None = None
    """Where its next ledger record begins; None leaves what is on disk."""
    drafts: tuple[Draft, ...] = ()
    """Ledger records that go to the disk with the account they were cut from."""


def joined(first: Record | None, second: Record) -> Record:
    """One of two commits of a container that wait for the disk: the account of the later one.

    The records of both; when they become many, neighbours are made one (R18).
    """
    if first is None:
        return second
    return second._replace(
        interval=second.interval if second.interval is not None else first.interval,
        drafts=shrunk((*first.drafts, *second.drafts)),
    )


def shrunk(drafts: tuple[Draft, ...]) -> tuple[Draft, ...]:
    """Drafts, the oldest made one when they are too many: sums stay, resolution is lost.

    Never call it with drafts of which some may be on disk already: the numbers of those that are
    merged vanish.
    """
    for limit, may_merge in ((KEPT_DRAFTS, can_merge), (4 * KEPT_DRAFTS, have_one_price)):
        excess = len(drafts) - limit
        kept: list[Draft] = []
        for draft in drafts:
            if excess > 0 and kept and may_merge(kept[-1].record, draft.record):
                kept[-1] = Draft(draft.nth, merge(kept[-1].record, draft.record))
                excess -= 1
            else:
                kept.append(draft)
        drafts = tuple(kept)
    return drafts


class Durable(NamedTuple):
    """What is on disk, and what the disk still refuses. Never changed, only replaced."""

    tenants: dict[str, TenantTotals]
    accounts: dict[str, Account]
    unwritten: dict[str, Record]
    intervals: dict[str, Interval] = {}  # noqa: RUF012 - never changed
    head: Head = Head(hash="")
    notes: tuple[Note, ...] = ()
    """Those the disk still refuses."""


def tenant_share(totals: Totals) -> Ints:
    """A container's part of each field of :class:`TenantTotals` but the last, in order."""
    return (
        totals.running_ns + totals.paused_ns,
        totals.paused_ns,
        totals.cpu_ns,
        totals.memory_bytens2,
        sum(row[0] for row in totals.block.values()),
        sum(row[1] for row in totals.block.values()),
        sum(row[0] for row in totals.network.values()),
        sum(row[1] for row in totals.network.values()),
        totals.cpu_alloc_ns,
        totals.memory_alloc_bytens2,
        egress_bytes(totals),
    )


_EGRESS = NETWORK_COUNTERS.index("egress_bytes")


def egress_bytes(totals: Totals) -> int:
    """Bytes that left the host; rows that were stored before egress was counted have none."""
    return sum(row[_EGRESS] for row in totals.network.values() if len(row) > _EGRESS)


_NOTHING = (0,) * 11


def add_growth(tenant: TenantTotals, before: Account | None, after: Account) -> TenantTotals:
    """Tenant totals with the growth of one container between two of its accounts."""
    base = tenant_share(before.totals) if before is not None else _NOTHING
    share = tenant_share(after.totals)
    grown = (
        total + new - old
        for total, new, old in zip(msgspec.structs.astuple(tenant), share, base, strict=False)
    )
    fields = dict(zip(TenantTotals.__struct_fields__, grown, strict=False))
    return TenantTotals(**fields, containers=tenant.containers + (before is None))


def apply(
    record: Record,
    tenants: dict[str, TenantTotals],
    accounts: dict[str, Account],
    sequences: dict[str, int],
) -> None:
    """Change what the file holds into what it will hold after a record."""
    before = accounts.get(record.container_id)
    tenants[record.tenant] = add_growth(
        tenants.get(record.tenant, TenantTotals()), before, record.account
    )
    sequences[record.container_id] = sequences.get(record.container_id, 0) + 1
    accounts[record.container_id] = record.account
    if record.forget:
        del accounts[record.container_id], sequences[record.container_id]
