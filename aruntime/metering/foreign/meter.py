"""The meter with what only cgroups of other programs need.

A foreign cgroup is registered when it is found (:meth:`ForeignMeter.take_in`, or
``resume_registration`` if its account or its pattern is older than this daemon), read when its last
process has ended, and ended when its directory is gone. After that its program may start the
container again; when it does not know it any more, ``forget`` it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import msgspec
import trio

from aruntime.metering.account import Account
from aruntime.metering.clock import boottime_ns
from aruntime.metering.foreign.subject import ForeignSubject
from aruntime.metering.integrals import begin
from aruntime.metering.meter import Meter
from aruntime.metering.sampler import controller_of
from aruntime.metering.subject import MeterSubject, Subject


class ForeignMeter(Meter):
    """See the module and :class:`Meter`."""

    subject_type: type[Subject] = ForeignSubject

    async def resume_registration(self, subject: MeterSubject, status: str) -> None:
        """As the meter's own; it began, as far as anybody knows, when its account did."""
        await super().resume_registration(subject, status)
        known = self._foreign(subject.id)
        if known is not None and not known.started_ns and known.is_live:
            known.started_ns = self.books.clock.at(
                int(known.account.incarnation.rpartition(":")[2])
            )

    def knows(self, subject: MeterSubject) -> bool:
        """Whether the ledger has an account of this very cgroup, not only of its container.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        account = self._roster.account_of(subject.id)
        name = self._roster.cgroup_name(subject)
        return account is not None and account.incarnation.startswith(f"{name}:")

    async def take_in(self, subject: MeterSubject, *, is_new: bool) -> None:
        """Meter a foreign cgroup from now on.

        Args:
            subject: with its cgroup.
            is_new: it was made since somebody looked last: its counters began at zero, and all
                they show counts. Else what they show now is the past, and does not.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        name = self._roster.cgroup_name(subject)
        await self._finish_removal(subject.id)
        added = self._add_foreign(subject, name)
        if is_new:
            added.begin()
            await trio.lowlevel.checkpoint()
        elif not await trio.to_thread.run_sync(self._begin_here, added):
            # Gone, or not readable: without a beginning no later reading may count.
            added.begin()
            added.release()
        else:
            # Those found together have their slow readings spread over the interval.
            added.slow_due_ns = boottime_ns() + self.rounds.phase_ns(len(self._subjects))
        self.state(subject.id, "running")

    async def miss(self, subject: MeterSubject) -> None:
        """Have the ledger say that there was a cgroup that nobody could read."""
        known = self._subjects.get(subject.id)
        if known is not None and known.is_live:
            self.health.anomalies["unread_cgroup"] += 1
            return
        await self._finish_removal(subject.id)
        gone = msgspec.structs.replace(subject, cgroup=None)
        self._add_foreign(gone, f"{self.books.boot_id}:0").begin()
        await self.vanish(subject.id, is_read=False)
        self.forget(subject.id)

    async def read_emptied(
        self, container_id: str, zombie_pid: int, is_empty: Callable[[], bool]
    ) -> bool:
        """Read everything when the last process has ended; whether nothing can come any more.

        Args:
            container_id: of a registered one.
            zombie_pid: of the process that ended, 0 if unknown.
            is_empty: whether the cgroup has no process; called in the worker thread.
        """
        subject = self._foreign(container_id)
        if subject is None:
            return False
        try:
            is_last = await trio.to_thread.run_sync(subject.read_emptied, zombie_pid, is_empty)
        except (OSError, ValueError) as error:
            self.health.polls_failed[controller_of(error)] += 1
            return False
        self.books.offer(subject, "poll")
        return is_last

    async def vanish(self, container_id: str, *, is_read: bool) -> None:
        """The cgroup is gone: end it in the ledger, durable when this returns.

        Args:
            container_id: of a registered one; an unknown one is left alone.
            is_read: what :meth:`read_emptied` said last, if no process entered since.
        """
        subject = self._foreign(container_id)
        if subject is None or subject.account.status == "exited":
            return
        await trio.to_thread.run_sync(lambda: subject.vanish(is_read=is_read))
        subject.finished_ns = time.time_ns()
        subject.drop_at_ns = boottime_ns() + round(self.linger_seconds * 1e9)
        subject.end("exit", None)
        await self.books.commit(subject, "exit")
        subject.release()

    def reopen(self, container_id: str) -> None:
        """Open its files anew: it is in more trees than when they were opened."""
        subject = self._foreign(container_id)
        if subject is not None:
            subject.reopen()

    def _add_foreign(self, subject: MeterSubject, name: str) -> ForeignSubject:
        """Add an incarnation of which only a lower bound of the age is known.

        Its memory counts from now on; what bounds its CPU time begins with the first reading.
        """
        account = begin(self._roster.account_of(subject.id), name, boottime_ns(), is_new=True)
        ageless: Account = msgspec.structs.replace(account, cpu_at_ns=0)
        return cast("ForeignSubject", self._roster.add(subject, ageless))

    def _begin_here(self, subject: ForeignSubject) -> bool:
        try:
            return subject.begin_here()
        except (OSError, ValueError) as error:
            self.health.polls_failed[controller_of(error)] += 1
            return False

    async def _finish_removal(self, container_id: str) -> None:
        """A container that comes back after it was forgotten: first the end of its account.

        If the disk refuses that, its account is not gone, and goes on.
        """
        known = self._subjects.get(container_id)
        if known is None or not known.removed:
            return
        if await self.books.commits.commit():
            self._subjects.pop(container_id, None)
        else:
            known.removed = False

    def _foreign(self, container_id: str) -> ForeignSubject | None:
        subject = self._subjects.get(container_id)
        return subject if isinstance(subject, ForeignSubject) else None
