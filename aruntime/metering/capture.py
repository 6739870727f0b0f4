"""Taking a view: durable totals and living containers at one instant, for the exporters.

A tenant's total is what is on disk, plus what its containers have grown by since. Both are looked
at under one lock, so that a container that ends, is committed and is dropped in between is
counted once. Runs in a worker thread; makes no decisions about how numbers are shown.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from aruntime import __version__
from aruntime.cgroups.block import BlkioSource
from aruntime.metering.account import Account, Totals
from aruntime.metering.books import Books
from aruntime.metering.chain import Checkpoint
from aruntime.metering.clock import WallClock, boottime_ns
from aruntime.metering.export import ContainerView, DaemonView, LedgerView, View
from aruntime.metering.health import Health
from aruntime.metering.host import HostMeter, has_pressure, memory_bytes
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.pace import paced
from aruntime.metering.subject import Subject
from aruntime.metering.totals import Durable, TenantTotals, add_growth


class Frame(NamedTuple):
    """What a view shows besides containers and tenants."""

    health: Health
    host: HostMeter | None
    cgroup_mode: str
    block_sources: Sequence[BlkioSource]
    books: Books
    cores: int


class _Instant(NamedTuple):
    durable: Durable
    subjects: list[tuple[Subject, Account]]


def take(file: LedgerFile, subjects: Mapping[str, Subject], frame: Frame) -> View:
    """Take a view now."""
    for subject in paced(list(subjects.values())):
        subject.settle()  # not under the file's lock, for which the event loop may wait
    with file.lock:
        durable = file.durable
        seen = [(subject, subject.account) for subject in list(subjects.values())]
        ledger = _ledger(durable, file.checkpoint)
    instant = _Instant(
        durable,
        [
            (subject, steady(account, _committed(durable, subject)))
            for subject, account in paced(seen)
        ],
    )
    tenants = tenant_totals(instant.durable, instant.subjects)
    return View(
        containers=_containers(instant, frame.books.clock),
        tenants=tenants,
        tenant_containers=dict(
            Counter(
                (subject.about.tenant, account.status)
                for subject, account in instant.subjects
                if not subject.removed
            )
        ),
        daemon=_daemon(frame, sum(tenant.cpu_ns for tenant in tenants.values()), ledger),
    )


def steady(account: Account, committed: Account | None) -> Account:
    """The account with what only the meter keeps as of the last commit.

    The kernel goes on counting when the daemon is killed, so CPU time and I/O may be shown live.
    The memory integral, the split of time, restarts and the process figures (kept from falling) of
    the seconds since the last commit would be lost, and a counter that was shown must never fall.
    """
    before = committed.totals if committed is not None else Totals()
    totals = msgspec.structs.replace(
        account.totals,
        memory_bytens2=before.memory_bytens2,
        running_ns=before.running_ns,
        paused_ns=before.paused_ns,
        pauses=before.pauses,
        restarts=before.restarts,
        process=before.process,
        usage_bytens2=before.usage_bytens2,
        cpu_alloc_ns=before.cpu_alloc_ns,
        memory_alloc_bytens2=before.memory_alloc_bytens2,
    )
    return msgspec.structs.replace(account, totals=totals)


def tenant_totals(
    durable: Durable, subjects: Sequence[tuple[Subject, Account]]
) -> dict[str, TenantTotals]:
    """Durable totals grown by what is in memory only."""
    tenants = dict(durable.tenants)
    growing = {
        record.container_id: (record.tenant, record.account)
        for record in durable.unwritten.values()
    }
    for subject, account in subjects:
        if not subject.removed:
            growing[subject.about.id] = (subject.about.tenant, account)
    for container_id, (tenant, account) in paced(growing.items()):
        tenants[tenant] = add_growth(
            tenants.get(tenant, TenantTotals()), durable.accounts.get(container_id), account
        )
    return tenants


def _committed(durable: Durable, subject: Subject) -> Account | None:
    """The account on disk, or the one the disk refuses; a removed container's is its last."""
    if subject.removed:
        return subject.account
    unwritten = durable.unwritten.get(subject.about.id)
    if unwritten is not None:
        return unwritten.account
    return durable.accounts.get(subject.about.id)


def _containers(instant: _Instant, clock: WallClock) -> list[ContainerView]:
    now = boottime_ns()
    return [
        ContainerView(
            about=subject.about,
            account=account,
            stats=subject.stats if subject.is_live else None,
            fast=subject.fast if subject.is_live else None,
            started_ns=subject.started_ns,
            finished_ns=subject.finished_ns,
            exit_code=subject.exit_code,
            has_pressure=subject.has_pressure,
            polled_ns=clock.at(subject.polled_boot_ns) if subject.polled_boot_ns else 0,
        )
        for subject, account in paced(instant.subjects)
        if subject.drop_at_ns is None or subject.drop_at_ns > now
    ]


def _ledger(durable: Durable, checkpoint: Checkpoint | None) -> LedgerView:
    head = durable.head
    return LedgerView(
        sequence=head.seq,
        checkpoint_ns=checkpoint.time_ns if checkpoint is not None else 0,
        kinds=head.kinds,
        estimated=head.estimated,
    )


def _daemon(frame: Frame, attributed_ns: int, ledger: LedgerView) -> DaemonView:
    health = frame.health
    return DaemonView(
        version=__version__,
        python_version=platform.python_version(),
        kernel=os.uname().release,
        cgroup_mode=frame.cgroup_mode,
        poll_duration=health.poll_duration.state(),
        commit_duration=health.commit_duration.state(),
        last_poll_ns=health.last_poll_ns,
        last_commit_ns=health.last_commit_ns,
        overruns=health.overruns,
        polls_failed=dict(health.polls_failed),
        anomalies=dict(health.anomalies),
        write_errors=health.write_errors,
        pending=frame.books.commits.pending,
        psi_available=has_pressure(),
        block_sources=tuple(frame.block_sources),
        cpu_cores=frame.cores,
        memory_bytes=memory_bytes(),
        cpu=frame.host.read(attributed_ns) if frame.host is not None else None,
        ledger=ledger,
    )
