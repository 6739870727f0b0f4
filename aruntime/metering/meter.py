"""The meter as the supervisor calls it: registration, forced readings, the end of a container.

All blocking work runs in worker threads. The order that exactness rests on (R6) is the caller's:
register before the launch, ``final`` while init is a zombie, reap, ``recheck`` before each attempt
to remove the cgroup, then ``unregister``; ``forget`` when the container is removed.

``/metrics`` may be served once :meth:`Meter.settle` was called: before that, counters of
containers that were not taken back yet would seem to fall.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable

import msgspec
import trio

from aruntime.cgroups.block import BlkioSource
from aruntime.cgroups.driver import Driver
from aruntime.metering import capture, ending, sampler
from aruntime.metering.account import Account
from aruntime.metering.clock import WallClock, boot_id, boottime_ns
from aruntime.metering.commit import GroupCommit
from aruntime.metering.ending import OOM_KILLS, Final
from aruntime.metering.export import View
from aruntime.metering.health import Health
from aruntime.metering.host import HostMeter, cpu_count
from aruntime.metering.integrals import add_restart, begin
from aruntime.metering.readers import access_to
from aruntime.metering.snapshot import Snapshot, snapshot_of
from aruntime.metering.subject import MeterSubject, NetworkRead, Subject
from aruntime.metering.totals import Record, TotalsFile

DEFAULT_POLL_SECONDS = 1.0
DEFAULT_SLOW_SECONDS = 10.0
DEFAULT_LINGER_SECONDS = 180.0
"""Ended containers keep their counters for three scrapes of a minute."""


class Meter:
    """Owns ``ledger.db``, the readers of all registered cgroups and their accounts.

    Args:
        path: the file, ``ROOT/ledger.db``.
        driver: opens readers.
        poll_seconds, slow_seconds: periods of the two loops; may be changed while running.
        linger_seconds: how long an ended container's counters are exported.
        network: interface counters by container id, None without networks.
        cores: processors, for the bound of R3.
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
    ) -> None:
        self.poll_seconds = poll_seconds
        self.slow_seconds = slow_seconds
        self.linger_seconds = linger_seconds
        self.network = network
        self.health = Health()
        self.block_sources: list[BlkioSource] = []
        """Set by the composition root after activating the block counters."""
        self.settled = False
        self._driver = driver
        self._cores = cores if cores is not None else cpu_count()
        self._file = TotalsFile(path)
        self._commits = GroupCommit(self._file, self.health)
        self._commit_wanted = trio.Event()
        self._subjects: dict[str, Subject] = {}
        self._clock = WallClock.now()
        self._boot_id = boot_id()
        self._host: HostMeter | None = None

    async def open(self) -> None:
        """Open or make the file and load the accounts.

        Raises:
            Unavailable: the file cannot be opened, is no ledger, or has a newer schema.
        """
        await trio.to_thread.run_sync(self._file.open)
        attributed = sum(tenant.cpu_ns for tenant in self._file.durable.tenants.values())
        self._host = HostMeter(self._driver.hierarchy, attributed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll and commit until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            nursery.start_soon(self._commit_offered)
            task_status.started()

    async def aclose(self) -> None:
        """Read everything once more, commit, close. Containers are not touched.

        Shielded from cancellation: it ends when the disk has answered.
        """
        with trio.CancelScope(shield=True):
            live = [subject for subject in self._subjects.values() if subject.is_live]
            for subject in live:
                subject.slow_due_ns = 0
            await trio.to_thread.run_sync(self._tick, live)
            await self._commits.commit(*(self._record(subject, "daemon_stop") for subject in live))
            for subject in self._subjects.values():
                subject.release()
            await trio.to_thread.run_sync(self._file.close)

    async def register(self, subject: MeterSubject, *, restarted: bool = False) -> None:
        """Meter a cgroup that was made this instant; call before anything runs in it.

        Counters are taken to start at zero, so what the launch itself uses is counted. Totals of
        the container's earlier incarnations are carried on. Opens nothing: the first reading does.

        Args:
            subject: with its cgroup.
            restarted: this start is the restart policy's.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        cgroup = self._name_of_cgroup(subject)
        account = begin(self._account_of(subject.id), cgroup, boottime_ns(), is_new=True)
        self._add(subject, add_restart(account) if restarted else account)
        await trio.lowlevel.checkpoint()

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
            cgroup = self._name_of_cgroup(subject)
        except FileNotFoundError:
            self.health.anomalies["unknown_cgroup"] += 1
            self.declare(msgspec.structs.replace(subject, cgroup=None), "exited")
            return
        now = boottime_ns()
        started = min(now, self._clock.boot_at(subject.started_ns)) if subject.started_ns else now
        account = begin(self._account_of(subject.id), cgroup, started, is_new=False)
        added = self._add(subject, account)
        if account.status == "exited":
            return
        found_ns = await trio.to_thread.run_sync(added.adopt, status, started)
        # Containers taken back together have their slow readings spread over the interval.
        phase = len(self._subjects) % max(1, round(self.slow_seconds / self.poll_seconds))
        added.slow_due_ns = now + round(phase * self.poll_seconds * 1e9)
        if self._host is not None:
            self._host.exclude(found_ns)
        self._offer(added, "start")

    def declare(self, subject: MeterSubject, status: str) -> None:
        """Make a container known that has no cgroup now (status created or exited).

        It counts in the tenant's containers; an exited one has no series of its own.
        """
        account = self._account_of(subject.id) or Account(time_ns=boottime_ns())
        added = self._add(subject, msgspec.structs.replace(account, status=status))
        if status == "exited":
            added.drop_at_ns = 0

    async def settle(self, known: Iterable[str]) -> None:
        """All containers are taken back: drop accounts of the unknown, let exporters read.

        The usage of a dropped account stays in its tenant's totals, up to its last commit.
        """
        stray = self._file.durable.accounts.keys() - set(known) - self._subjects.keys()
        for container_id in stray:
            self._commits.offer(self._file.forgetting(container_id))
        await self._commits.commit()
        self.settled = True

    def rename(self, container_id: str, name: str) -> None:
        """Show a container under another name from now on."""
        if subject := self._subjects.get(container_id):
            subject.about = msgspec.structs.replace(subject.about, name=name)

    def update(self, subject: MeterSubject) -> None:
        """Show changed limits, labels or policies from now on."""
        if subject.id in self._subjects:
            self._subjects[subject.id].about = subject

    def state(self, container_id: str, status: str) -> None:
        """Tell a change of status now: paused when frozen, running when the thaw is written."""
        subject = self._subjects.get(container_id)
        if subject is None:
            return
        if status == "running" and subject.account.status == "created":
            subject.started_ns = time.time_ns()
        subject.change(status, boottime_ns())

    async def cut(self, container_id: str, reason: str) -> None:
        """Force a complete reading now and offer it to the disk; does not wait for the disk.

        Args:
            container_id: a registered container; an unknown one is left alone.
            reason: start, pause, resume, update.
        """
        subject = self._subjects.get(container_id)
        if subject is None:
            return
        await trio.to_thread.run_sync(sampler.sample_now, subject, self.health)
        self._offer(subject, reason)

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
        if not await trio.to_thread.run_sync(ending.count_exec, subject, pid):
            return False
        return await self._commit(subject, "exec")

    async def final(
        self, container_id: str, *, exit_code: int | None, zombie_pid: int = 0
    ) -> Final:
        """The final reading, durable when this returns (or kept, if the disk refuses).

        Call while init is a zombie; waits until it has left its processor, so that the CPU total
        is the kernel's own to the nanosecond. May be called again after a crash: nothing doubles.

        Args:
            container_id: a registered container.
            exit_code: None when it is unknown or the program never ran.
            zombie_pid: init, 0 when it was reaped by somebody else: then the storage traffic of
                the process tree is what the last live reading saw.

        Raises:
            KeyError: the container was never registered.
        """
        subject = self._subjects[container_id]
        await trio.to_thread.run_sync(ending.finish, subject, zombie_pid, self.health)
        subject.exit_code = exit_code
        subject.finished_ns = time.time_ns()
        subject.drop_at_ns = boottime_ns() + round(self.linger_seconds * 1e9)
        durable = await self._commit(subject, "exit")
        account = subject.account
        return Final(container_id, exit_code, account.raw[OOM_KILLS], account.totals, durable)

    async def recheck(self, container_id: str) -> bool:
        """Last look before the cgroup is removed; growth since ``final`` is made durable.

        Returns whether there was any: a task may be charged its last microseconds after its
        parent has reaped it.
        """
        subject = self._subjects.get(container_id)
        if subject is None:
            return False
        grown = await trio.to_thread.run_sync(ending.recheck, subject, self.health)
        if grown:
            await self._commit(subject, "exit")
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
        with self._file.lock:
            subject.removed = True
            if subject.drop_at_ns is None:
                subject.drop_at_ns = 0
        self._offer(subject, "remove")

    def snapshot(self, container_id: str) -> Snapshot | None:
        """Latest numbers of a container, None when it is unknown."""
        subject = self._subjects.get(container_id)
        return snapshot_of(subject) if subject is not None else None

    def view(self) -> View:
        """Everything exporters show, at one instant. Safe in any thread."""
        frame = capture.Frame(
            health=self.health,
            host=self._host,
            cgroup_mode=self._driver.hierarchy.mode,
            block_sources=self.block_sources,
            pending=self._commits.pending,
            cores=self._cores,
            clock=self._clock,
        )
        return capture.take(self._file, self._subjects, frame)

    def _account_of(self, container_id: str) -> Account | None:
        known = self._subjects.get(container_id)
        if known is not None:
            return known.account
        return self._file.durable.accounts.get(container_id)

    def _name_of_cgroup(self, subject: MeterSubject) -> str:
        if subject.cgroup is None:
            raise FileNotFoundError(errno.ENOENT, "no cgroup", subject.name)
        return f"{self._boot_id}:{self._driver.inode(subject.cgroup)}"

    def _add(self, about: MeterSubject, account: Account) -> Subject:
        previous = self._subjects.get(about.id)
        if previous is not None:
            previous.release()
        access = None
        if about.cgroup is not None:
            access = access_to(self._driver, about.cgroup, len(self._subjects))
        added = self.subject_type(
            about,
            account,
            access,
            health=self.health,
            cores=self._cores,
            network=self.network,
            disks=tuple(row.disk.name for row in self.block_sources if row.source != "none"),
        )
        with self._file.lock:
            self._subjects[about.id] = added
        return added

    def _record(self, subject: Subject, reason: str) -> Record:
        about = subject.about
        return Record(about.id, about.tenant, subject.account, reason, forget=subject.removed)

    def _offer(self, subject: Subject, reason: str) -> None:
        """Hand the account to the disk without waiting; a forgotten one never again.

        Its last record drops it, and a later one would add its whole usage a second time.
        """
        if not subject.removed or reason == "remove":
            self._commits.offer(self._record(subject, reason))
            self._commit_wanted.set()

    async def _commit(self, subject: Subject, reason: str) -> bool:
        """As :meth:`_offer`, and wait for the disk; whether it took the account."""
        if subject.removed:
            return False
        return await self._commits.commit(self._record(subject, reason))

    def _tick(self, subjects: list[Subject]) -> list[Subject]:
        slow_interval_ns = round(self.slow_seconds * 1e9)
        return sampler.cycle(subjects, slow_interval_ns, self.health, self._clock)

    async def _poll(self) -> None:
        """The polling loop, on an absolute schedule; a late cycle is counted, not made up."""
        due = trio.current_time()
        while True:
            due += self.poll_seconds
            late = trio.current_time() - due
            if late > 0:
                self.health.overruns += 1
                due += self.poll_seconds * int(late / self.poll_seconds)
            await trio.sleep_until(due)
            self._drop_lingered()
            live = [subject for subject in self._subjects.values() if subject.is_live]
            for subject in await trio.to_thread.run_sync(self._tick, live):
                if self._subjects.get(subject.about.id) is subject:
                    self._offer(subject, "poll")

    async def _commit_offered(self) -> None:
        """Write what was offered; beside the polling loop, which a slow disk must not delay."""
        while True:
            await self._commit_wanted.wait()
            self._commit_wanted = trio.Event()
            await self._commits.commit()

    def _drop_lingered(self) -> None:
        now = boottime_ns()
        for container_id, subject in list(self._subjects.items()):
            if subject.removed and subject.drop_at_ns is not None and subject.drop_at_ns <= now:
                del self._subjects[container_id]
