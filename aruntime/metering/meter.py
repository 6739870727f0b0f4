"""The meter as the supervisor calls it: registration, forced readings, the end of a container.

All blocking work runs in worker threads. The order that exactness rests on (R6) is the caller's:
register before the launch, ``final`` while init is a zombie, reap, ``recheck`` before each attempt
to remove the cgroup, then ``unregister``; ``forget`` when the container is removed.

``/metrics`` may be served once :meth:`Meter.settle` was called: before that, counters of
containers that were not taken back yet would seem to fall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec
import trio

from aruntime.cgroups.block import BlkioSource
from aruntime.cgroups.driver import Driver
from aruntime.metering import capture, ending, sampler
from aruntime.metering.account import Account
from aruntime.metering.books import Books
from aruntime.metering.checkpoints import KEEP, Checkpoints
from aruntime.metering.clock import boottime_ns
from aruntime.metering.ending import OOM_KILLS, Final
from aruntime.metering.export import View
from aruntime.metering.health import Health
from aruntime.metering.host import HostMeter, cpu_count
from aruntime.metering.integrals import add_restart, begin
from aruntime.metering.record import LedgerRecord
from aruntime.metering.retention import Retention
from aruntime.metering.roster import Roster
from aruntime.metering.rounds import Rounds
from aruntime.metering.snapshot import Snapshot, snapshot_of
from aruntime.metering.subject import MeterSubject, NetworkRead, Subject

DEFAULT_POLL_SECONDS = 1.0
DEFAULT_SLOW_SECONDS = 10.0
DEFAULT_LINGER_SECONDS = 180.0
"""Ended containers keep their counters for three scrapes of a minute."""


class Meter:
    """Owns ``ledger.db``, the readers of all registered cgroups and their accounts.

    Args:
        path: the file, ``ROOT/ledger.db``.
        driver: opens readers.
        poll_seconds, slow_seconds: periods of the two loops.
        linger_seconds: how long an ended container's counters are exported.
        network: interface counters by container id, None without networks.
        cores: processors, for the bound of R3.
        ledger_key: file of the key that signs checkpoints, made if it is not there; None for none.
        on_ledger_failure, retention: whether containers start on a full disk; how long what stays.

    Attributes:
        health: what the meter counts about itself.
        rounds: the loops; their periods may be changed while they run.
        books, checkpoints: the ledger, and what signs it.
        ledger_path: of the file, for readers.
    """

    subject_type: type[Subject] = Subject
    """What a container is made to under the meter."""

    def __init__(
        self,
        path: str,
        driver: Driver,
        *,
        poll_seconds: float = DEFAULT_POLL_SECONDS,
        slow_seconds: float = DEFAULT_SLOW_SECONDS,
        linger_seconds: float = DEFAULT_LINGER_SECONDS,
        network: NetworkRead | None = None,
        cores: int | None = None,
        ledger_key: Path | None = None,
        on_ledger_failure: str = "run",
        retention: Retention = KEEP,
    ) -> None:
        self.linger_seconds = linger_seconds
        self.health = Health()
        self.settled = False
        self.ledger_path = path
        self._driver = driver
        self._cores = cores if cores is not None else cpu_count()
        self.books = Books(path, self.health, on_failure=on_ledger_failure)
        self._roster = Roster(
            driver,
            self.books,
            self.health,
            kind=self.subject_type,
            cores=self._cores,
            network=network,
        )
        self._subjects = self._roster.subjects
        self.checkpoints = Checkpoints(self.books, ledger_key, retention)
        self.rounds = Rounds(self._roster, self.books, self.health, poll_seconds, slow_seconds)
        self._host: HostMeter | None = None

    @property
    def block_sources(self) -> list[BlkioSource]:
        """Which counters of each disk are believed; the composition root says so at start."""
        return self._roster.block_sources

    @block_sources.setter
    def block_sources(self, sources: list[BlkioSource]) -> None:
        self._roster.block_sources = sources
        self.books.blk_source = ",".join(sorted({row.source for row in sources} - {"none"}))

    async def open(self) -> None:
        """Open or make the file and load the accounts.

        Raises:
            Unavailable: the file cannot be opened, is no ledger, or has a newer schema.
        """
        await trio.to_thread.run_sync(self.books.open)
        attributed = sum(tenant.cpu_ns for tenant in self.books.file.durable.tenants.values())
        self._host = HostMeter(self._driver.hierarchy, attributed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll and commit until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.rounds.run)
            nursery.start_soon(self.books.commit_offered)
            nursery.start_soon(self.checkpoints.run)
            task_status.started()

    async def aclose(self) -> None:
        """Read everything once more, commit, close. Containers are not touched.

        Shielded from cancellation: it ends when the disk has answered.
        """
        with trio.CancelScope(shield=True):
            live = self._roster.live()
            for subject in live:
                subject.slow_due_ns = 0
            await self.rounds.cycle()
            for subject in live:
                subject.cut("daemon_stop")
                self.books.offer(subject, "daemon_stop")
            await self.books.commits.commit()
            await self.checkpoints.make_last()
            for subject in self._subjects.values():
                subject.release()
            await trio.to_thread.run_sync(self.books.file.close)

    async def register(self, subject: MeterSubject, *, restarted: bool = False) -> None:
        """Meter a cgroup that was made this instant; call before anything runs in it.

        Counters are taken to start at zero, so what the launch itself uses is counted. Totals of
        the container's earlier incarnations are carried on. Opens nothing: the first reading does.

        Args:
            subject: with its cgroup.
            restarted: this start is the restart policy's.

        Raises:
            FileNotFoundError: the cgroup does not exist.
            Unavailable: the ledger cannot be written and the settings say to refuse then.
        """
        self.books.require_room()
        cgroup = self._roster.cgroup_name(subject)
        account = begin(self._roster.account_of(subject.id), cgroup, boottime_ns(), is_new=True)
        added = self._roster.add(subject, add_restart(account) if restarted else account)
        added.begin()

    async def resume_registration(self, subject: MeterSubject, status: str) -> None:
        """Meter a container that was taken back after a restart of the daemon.

        The counters' growth since the last commit is exact; memory of the gap is estimated and
        flagged. If the daemon died before the first commit of this incarnation, everything its
        counters show is new. If the cgroup is gone, usage ends with the last commit.

        Args:
            subject: with its cgroup, if there still is one, and ``started_ns``.
            status: what it is now: created, running or paused; for a zombie, running.

        Raises:
            OSError: the cgroup cannot be read.
        """
        try:
            cgroup = self._roster.cgroup_name(subject)
        except FileNotFoundError:
            self.health.anomalies["unknown_cgroup"] += 1
            self.declare(msgspec.structs.replace(subject, cgroup=None), "exited")
            return
        now = boottime_ns()
        clock = self.books.clock
        started = min(now, clock.boot_at(subject.started_ns)) if subject.started_ns else now
        account = begin(self._roster.account_of(subject.id), cgroup, started, is_new=False)
        added = self._roster.add(subject, account)
        if account.status == "exited":
            return
        found_ns = await trio.to_thread.run_sync(added.adopt, status, started)
        added.slow_due_ns = now + self.rounds.phase_ns(len(self._subjects))
        if self._host is not None:
            self._host.exclude(found_ns)
        self.books.offer(added, "start")

    def declare(self, subject: MeterSubject, status: str) -> None:
        """Make a container known that has no cgroup now (status created or exited).

        It counts in the tenant's containers; an exited one has no series of its own. A life of
        it that has no final record in the ledger gets one that ends at the last commit (R9).
        """
        account = self._roster.account_of(subject.id) or Account(time_ns=boottime_ns())
        added = self._roster.add(subject, msgspec.structs.replace(account, status=status))
        if status == "exited":
            added.drop_at_ns = 0
            self.books.end_if_open(added)

    async def settle(self, known: Iterable[str]) -> None:
        """All containers are taken back: drop accounts of the unknown, let exporters read.

        The usage of a dropped account stays in its tenant's totals, up to its last commit.
        """
        accounts = self.books.file.durable.accounts
        for container_id in accounts.keys() - set(known) - self._subjects.keys():
            self.books.forget_stray(container_id)
        await self.books.commits.commit()
        self.settled = True

    def rename(self, container_id: str, name: str) -> None:
        """Show a container under another name from now on."""
        if subject := self._subjects.get(container_id):
            self.update(msgspec.structs.replace(subject.about, name=name))

    def update(self, subject: MeterSubject) -> None:
        """Show changed limits, labels or policies from now on; the ledger cuts if they matter."""
        known = self._subjects.get(subject.id)
        if known is not None:
            known.describe(subject, self.books.terms(subject))
            if known.cuts.drafts:
                self.books.offer(known, "update")

    def state(self, container_id: str, status: str) -> None:
        """Tell a change of status now: paused when frozen, running when the thaw is written."""
        subject = self._subjects.get(container_id)
        if subject is None:
            return
        if status == "running" and subject.account.status == "created":
            subject.started_ns = time.time_ns()
        was_paused = subject.account.status == "paused"
        subject.change(status, boottime_ns())
        if was_paused:
            self.books.offer(subject, "resume")

    async def cut(self, container_id: str, reason: str) -> None:
        """Force a complete reading now and offer it to the disk; does not wait for the disk.

        Args:
            container_id: a registered container; an unknown one is left alone.
            reason: start, pause, resume, update, stats.
        """
        subject = self._subjects.get(container_id)
        if subject is None:
            return
        await trio.to_thread.run_sync(sampler.sample_now, subject, self.health)
        self.books.offer(subject, reason)

    async def exec_final(self, container_id: str, pid: int) -> bool:
        """Add the storage traffic of an exec'd process that is a zombie, durably and only once.

        Call before it is reaped. Returns False when the disk refused (the numbers stay in memory)
        or the container or process is unknown.

        Raises:
            OSError: its /proc/PID/io may not be read.
        """
        subject = self._subjects.get(container_id)
        if subject is None or not pid:
            return False
        count = partial(ending.count_exec, subject, pid)
        return await self.books.commit_after(count, subject, "exec")

    async def final(
        self,
        container_id: str,
        *,
        exit_code: int | None,
        zombie_pid: int = 0,
        stopped: bool = False,
    ) -> Final:
        """The final reading, durable when this returns (or kept, if the disk refuses).

        Call while init is a zombie; waits until it has left its processor, so that the CPU total
        is the kernel's own to the nanosecond. May be called again after a crash: nothing doubles.

        Args:
            container_id: a registered container.
            exit_code: None when it is unknown or the program never ran.
            zombie_pid: init, 0 when it was reaped by somebody else: then the storage traffic of
                the process tree is what the last live reading saw.
            stopped: somebody asked for the end.

        Raises:
            KeyError: the container was never registered.
        """
        subject = self._subjects[container_id]
        linger_ns = round(self.linger_seconds * 1e9)
        conclude = partial(
            ending.conclude, subject, zombie_pid, self.health, linger_ns, exit_code, stopped
        )
        durable = await self.books.commit_after(conclude, subject, "exit")
        account = subject.account
        return Final(container_id, exit_code, account.raw[OOM_KILLS], account.totals, durable)

    async def recheck(
        self, container_id: str, *, unless_grown: Callable[[], object] | None = None
    ) -> bool:
        """Last look before the cgroup is removed; growth since ``final`` is made durable.

        Returns whether there was any: a task may be charged its last microseconds after its
        parent has reaped it. If not, ``unless_grown`` has been called right after the look, in
        the same worker thread: the removal, which must not come before growth is durable.
        """
        subject = self._subjects.get(container_id)
        grown = await trio.to_thread.run_sync(ending.recheck, subject, self.health, unless_grown)
        if subject is None:
            return False
        subject.end("exit", None)
        if grown:
            await self.books.commit(subject, "exit")
        elif subject.cuts.drafts:
            self.books.offer(subject, "exit")
        return grown

    def unregister(self, container_id: str) -> None:
        """The cgroup is gone: close its reader. Totals stay for the next start."""
        subject = self._subjects.get(container_id)
        if subject is not None:
            subject.release()

    def forget(self, container_id: str) -> None:
        """The container is removed: its usage stays with its tenant, its account is dropped.

        Its counters are still exported until they have lingered.
        """
        subject = self._subjects.get(container_id)
        if subject is None or subject.removed:
            return
        subject.release()
        subject.end("exit", None)
        with self.books.file.lock:
            subject.removed = True
            if subject.drop_at_ns is None:
                subject.drop_at_ns = 0
        self.books.offer(subject, "remove")

    def snapshot(self, container_id: str) -> Snapshot | None:
        """Latest numbers of a container, None when it is unknown."""
        subject = self._subjects.get(container_id)
        return snapshot_of(subject) if subject is not None else None

    def view(self) -> View:
        """Everything exporters show, at one instant. Safe in any thread."""
        frame = capture.Frame(
            self.health,
            self._host,
            cgroup_mode=self._driver.hierarchy.mode,
            block_sources=self.block_sources,
            books=self.books,
            cores=self._cores,
        )
        return capture.take(self.books.file, self._subjects, frame)

    async def usage_records(
        self, since_ns: int, until_ns: int, tenant: str | None = None
    ) -> list[LedgerRecord]:
        """Ledger records that have a part in a time window, up to this instant.

        Durable ones, and for what is not cut or not durable yet, records with ``seq`` 0 from a
        fresh reading of every living container. All as of one instant: nothing is doubled.

        Args:
            since_ns, until_ns: Unix times, [since, until).
            tenant: of this one only.

        Raises:
            Unavailable: the ledger cannot be read.
        """
        await trio.to_thread.run_sync(self.rounds.read_all)
        await self.books.commits.commit()
        collect = partial(self.books.usage_records, self._subjects, since_ns, until_ns, tenant)
        return await trio.to_thread.run_sync(collect)

    async def change_price(self, version: str) -> bool:
        """Cut all records now; those that follow are stamped with the version.

        Returns whether the change is on disk; if not, it is with the next commit it takes.
        """
        await trio.to_thread.run_sync(self.rounds.reprice, version)
        self.books.note_price()
        for subject in list(self._subjects.values()):
            if subject.cuts.drafts:
                self.books.offer(subject, "price")
        return await self.books.commits.commit()
