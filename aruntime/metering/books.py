"""The ledger from the meter's side: what is cut, offered and committed, and the clock of it all.

State: the file, its single writer, the wall clock's anchor, the price version in force. Methods
are the event loop's unless they say that they block.

Out of scope: readings (:mod:`aruntime.metering.meter`), checkpoints and retention
(:mod:`aruntime.metering.checkpoints`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
import trio

from aruntime.errors import Unavailable
from aruntime.metering.account import Account
from aruntime.metering.chain import HOUR_NS, Head
from aruntime.metering.clock import WallClock, boot_id, boottime_ns
from aruntime.metering.commit import GroupCommit
from aruntime.metering.cutting import Cutter
from aruntime.metering.health import Health
from aruntime.metering.integrals import UNREAD, flag_estimate
from aruntime.metering.intervals import Interval, Terms, record_of
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord
from aruntime.metering.subject import MeterSubject, Subject
from aruntime.metering.terms import terms_of
from aruntime.metering.totals import Durable, Note, Record

MOST_UNWRITTEN = 10_000
"""Containers whose commits a full disk refuses are kept in memory; more are not started."""

FAILURE_POLICIES = ("run", "refuse")


class Unnumbered(NamedTuple):
    """Usage that has no number in the ledger yet, and where the ledger ends before it."""

    head_seq: int
    """Of the last numbered record."""
    price_version: str
    """Stamped on records now."""
    open_records: list[LedgerRecord]
    """Without a number: what containers used since their last one."""

    def within(self, since_ns: int, until_ns: int, tenant: str | None) -> list[LedgerRecord]:
        """Those that have a part in [since, until), Unix ns, of one tenant or of all."""
        return [
            record
            for record in self.open_records
            if tenant in (None, record.tenant)
            and record.wall_start < until_ns
            and max(record.wall_end, record.wall_start + 1) > since_ns
        ]


class Books:
    """See the module.

    Attributes:
        file, commits: the ledger and its writer.
        clock: boot time to wall time, the same for a whole boot unless the wall was stepped.
        price_version: stamped on records cut from now on.
        blk_source: likewise, which block counters are believed.
    """

    def __init__(self, path: str, health: Health, *, on_failure: str = "run") -> None:
        self.file = LedgerFile(path)
        self.commits = GroupCommit(self.file, health)
        self.clock = WallClock.now()
        self.boot_id = boot_id()
        self.price_version = ""
        self.blk_source = ""
        self._health = health
        self._on_failure = on_failure
        self._wanted = trio.Event()

    def open(self) -> None:
        """Open or make the file, take up clock and price version. Blocks.

        Raises:
            Unavailable: the file cannot be opened, is no ledger, or has a newer schema.
        """
        self.file.open()
        self.price_version = self.file.state.get("price_version", "")
        kept = self.file.state.get("clock", {})
        if kept.get("boot_id") == self.boot_id:
            self.clock = WallClock(wall_ns=kept["offset_ns"], boot_ns=0)
        else:
            self.commits.offer_note(self.clock_note())

    @property
    def head(self) -> Head:
        """The end of the chain on disk."""
        return self.file.durable.head

    def terms(self, about: MeterSubject) -> Terms:
        """What records say of a container from now on."""
        return terms_of(about, blk_source=self.blk_source, price_version=self.price_version)

    def cutter(self, about: MeterSubject, known: Cutter | None) -> Cutter:
        """What cuts a container's records: its former one, or one that goes on from the disk."""
        if known is not None:
            known.terms = self.terms(about)
            return known
        interval = self.file.durable.intervals.get(about.id)
        return Cutter(about.id, self.terms(about), self.clock.at, interval)

    def seconds_to_hour(self) -> float:
        """Until a millisecond after the next full UTC hour."""
        now = self.clock.at(boottime_ns())
        return (HOUR_NS - now % HOUR_NS) / 1e9 + 0.001

    def check_clock(self) -> bool:
        """Whether the wall clock was stepped; notes it, and labels what is cut from now on anew."""
        boot_ns, wall_ns = boottime_ns(), time.time_ns()
        predicted = self.clock.at(boot_ns)
        if not self.clock.check(wall_ns=wall_ns, boot_ns=boot_ns):
            return False
        self._health.anomalies["clock_step"] += 1
        record = LedgerRecord(
            kind="clock_step",
            boot_id=self.boot_id,
            wall_start=predicted,
            wall_end=wall_ns,
            boot_start_ns=boot_ns,
            boot_end_ns=boot_ns,
            anomalies=("clock_step",),
            price_version=self.price_version,
        )
        self.commits.offer_note(self.clock_note(record))
        self.want_commit()
        return True

    def note_price(self) -> None:
        """Offer the record of a price change."""
        boot_ns = boottime_ns()
        record = LedgerRecord(
            kind="price_change",
            boot_id=self.boot_id,
            wall_start=self.clock.at(boot_ns),
            wall_end=self.clock.at(boot_ns),
            boot_start_ns=boot_ns,
            boot_end_ns=boot_ns,
            price_version=self.price_version,
        )
        self.commits.offer_note(Note(record, {"price_version": self.price_version}))

    def require_room(self) -> None:
        """Refuse a new container if the settings say so while the disk refuses commits (R18).

        Raises:
            Unavailable: it must not be started.
        """
        unwritten = len(self.file.durable.unwritten)
        if not unwritten or (self._on_failure == "run" and unwritten < MOST_UNWRITTEN):
            return
        raise Unavailable(
            f"the ledger {self.file.path} cannot be written and {unwritten} containers wait for"
            " it: make room on its disk"
        )

    def record(self, subject: Subject, reason: str) -> Record:
        """The account with the records cut from it, which must be committed now."""
        about = subject.about
        account, interval, drafts = subject.hand_over()
        return Record(
            about.id, about.tenant, account, reason,
            forget=subject.removed, interval=interval, drafts=drafts,
        )  # fmt: skip

    def offer(self, subject: Subject, reason: str) -> None:
        """Hand the account to the disk without waiting; a forgotten one never again.

        Its last record drops it, and a later one would add its whole usage a second time. That
        last one goes with whatever is written next, or after the next poll: it adds nothing to
        what is on disk since the end, and the next daemon would find out by itself.
        """
        if not subject.removed or reason == "remove":
            self._offer(subject, reason)
            if reason != "remove":
                self.want_commit()

    async def commit(self, subject: Subject, reason: str) -> bool:
        """As :meth:`offer`, and wait for the disk; whether it took the account."""
        if subject.removed:
            return False
        self._offer(subject, reason)
        return await self.commits.commit()

    async def commit_after(self, work: Callable[[], object], subject: Subject, reason: str) -> bool:
        """As :meth:`commit`, after work in a worker thread that brings the account up to date.

        False, too, if the work returns False: there was nothing to be done.
        """
        done: list[object] = []

        def work_and_offer() -> None:
            done.append(work())
            if not subject.removed:
                self._offer(subject, reason)

        durable = await self.commits.commit_after(work_and_offer)
        return durable and not subject.removed and done[0] is not False

    def _offer(self, subject: Subject, reason: str) -> None:
        """Take the record and put it into the gathering group; safe in any thread."""
        with self.commits.order:
            self.commits.offer(self.record(subject, reason))

    def want_commit(self) -> None:
        """Have what was offered written soon."""
        self._wanted.set()

    async def commit_offered(self) -> None:
        """Write what was offered, for ever; beside the polls, which a slow disk must not delay."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self.commits.commit()

    def forget_stray(self, container_id: str) -> None:
        """Offer the end of an account that no container claims, at its last commit (R9)."""
        record = self.file.forgetting(container_id)
        interval = self.file.durable.intervals.get(container_id)
        if interval is not None:
            cuts = Cutter(container_id, interval.terms, self.clock.at, interval)
            account = self.end_lost(cuts, interval, record.account)
            record = record._replace(account=account, drafts=cuts.hand_over())
        self.commits.offer(record)

    def end_lost(self, cuts: Cutter, interval: Interval, account: Account) -> Account:
        """End an incarnation that has no final reading, at its last commit.

        Its host went down, or its cgroup went while nobody looked: then what it used since that
        commit is not known, and the record says so.
        """
        if not interval.incarnation.startswith(f"{self.boot_id}:"):
            return cuts.end(account, "host_lost", None)
        if not interval.ended:
            account = flag_estimate(account, UNREAD)
        return cuts.end(account, "exit", None)

    def end_if_open(self, subject: Subject) -> None:
        """Offer the end of a life that the ledger has no final record of."""
        cuts = subject.cuts
        if cuts.is_open and cuts.interval is not None:
            subject.update_account(partial(self.end_lost, cuts, cuts.interval))
            self.offer(subject, "exit")

    def usage_records(
        self,
        subjects: Mapping[str, Subject],
        since_ns: int,
        until_ns: int,
        tenant: str | None,
    ) -> list[LedgerRecord]:
        """Durable records, and what is not cut or not durable yet as records without a number.

        Blocks. All of it at one instant: nothing is doubled, nothing is missing.
        """
        behind = self.open_usage(subjects)
        with LedgerReader(self.file.path) as reader:
            records = [
                record
                for record in reader.records(since_ns=since_ns, until_ns=until_ns, tenant=tenant)
                if record.seq <= behind.head_seq
            ]
        return records + behind.within(since_ns, until_ns, tenant)

    def open_usage(self, subjects: Mapping[str, Subject]) -> Unnumbered:
        """What is not cut or not durable yet, at one instant. Safe in any thread."""
        for subject in list(subjects.values()):
            subject.settle()  # not under the lock, for which the event loop may wait
        with self.file.lock:
            durable = self.file.durable
            seen = [
                (subject, subject.account)
                for subject in list(subjects.values())
                if not subject.removed
            ]
        loose = [draft.record for one in durable.unwritten.values() for draft in one.drafts]
        for subject, account in seen:
            record = self._open_record(durable, subject, account)
            if record is not None:
                loose.append(record)
        return Unnumbered(durable.head.seq, self.price_version, loose)

    def committed(self) -> Unnumbered:
        """What of it is on disk, at one instant. Safe in any thread."""
        durable = self.file.durable
        found = []
        for container_id, interval in durable.intervals.items():
            account = durable.accounts.get(container_id)
            if account is not None and account.totals != interval.totals:
                record = record_of(interval, account, end_reason="")
                found.append(msgspec.structs.replace(record, container_id=container_id))
        return Unnumbered(durable.head.seq, self.price_version, found)

    def _open_record(
        self, durable: Durable, subject: Subject, account: Account
    ) -> LedgerRecord | None:
        """What a container used since its last record that is on disk, or refused by it."""
        container_id = subject.about.id
        unwritten = durable.unwritten.get(container_id)
        begun = durable.intervals.get(container_id)
        if unwritten is not None and unwritten.interval is not None:
            begun = unwritten.interval
        if begun is None:
            begun = subject.cuts.birth
        if begun is None or account.totals == begun.totals:
            return None
        return msgspec.structs.replace(
            record_of(begun, account, end_reason=""),
            container_id=container_id,
            host_id=self.file.host_id,
        )

    def clock_note(self, record: LedgerRecord | None = None) -> Note:
        """What keeps the clock's anchor for the next daemon of this boot."""
        anchor = {"boot_id": self.boot_id, "offset_ns": self.clock.at(0)}
        return Note(record, {"clock": anchor})
