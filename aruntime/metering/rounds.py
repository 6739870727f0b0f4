"""The polling loop: when all living containers are read, and what is offered to the ledger then.

State: the two periods. Out of scope: a single cycle of readings (:mod:`aruntime.metering.sampler`).
"""

from __future__ import annotations

import trio

from aruntime.metering import sampler
from aruntime.metering.books import Books, Unnumbered
from aruntime.metering.health import Health
from aruntime.metering.roster import Roster
from aruntime.metering.subject import Subject


class Rounds:
    """See the module.

    Attributes:
        poll_seconds, slow_seconds: periods of the two loops; may be changed while running.
    """

    def __init__(
        self, roster: Roster, books: Books, health: Health, poll_seconds: float, slow_seconds: float
    ) -> None:
        self.poll_seconds = poll_seconds
        self.slow_seconds = slow_seconds
        self._roster = roster
        self._books = books
        self._health = health

    def phase_ns(self, number: int) -> int:
        """When, after now, the n-th container taken back has its first slow reading.

        So that those taken back together are spread over the interval.
        """
        cycles = max(1, round(self.slow_seconds / self.poll_seconds))
        return round(number % cycles * self.poll_seconds * 1e9)

    def tick(self, subjects: list[Subject]) -> list[Subject]:
        """One cycle of readings; the subjects that have something to commit. Blocks."""
        return sampler.cycle(subjects, round(self.slow_seconds * 1e9), self._health)

    def read_all(self) -> None:
        """Read everything of every living container, out of turn. Blocks."""
        for subject in self._roster.live():
            sampler.sample_now(subject, self._health)

    def reprice(self, version: str) -> None:
        """Cut all records at a fresh reading; those that follow have the price version. Blocks."""
        self._books.price_version = version  # whoever is registered after this begins with it
        for subject in list(self._roster.subjects.values()):
            sampler.sample_now(subject, self._health)
            terms = self._books.terms(subject.about)
            if terms == subject.cuts.terms:
                subject.cut()  # another price of the same version begins
            else:
                subject.describe(subject.about, terms)

    async def up_to_now(self) -> Unnumbered:
        """Read everything of every living container; what the ledger has no numbers for yet."""
        await trio.to_thread.run_sync(self.read_all)
        await self._books.commits.commit()
        return await trio.to_thread.run_sync(self._books.open_usage, self._roster.subjects)

    async def cycle(self) -> None:
        """Read all that live and offer what was read; everything if the wall clock stepped."""
        live = self._roster.live()
        complete = await trio.to_thread.run_sync(self.tick, live)
        if self._books.check_clock():
            await trio.to_thread.run_sync(_cut_all, live)
            complete = live
        for subject in complete:
            if self._roster.subjects.get(subject.about.id) is subject:
                self._books.offer(subject, "poll")
        if self._books.commits.pending:
            self._books.want_commit()

    async def run(self) -> None:
        """Poll for ever, on an absolute schedule; a late cycle is counted, not made up.

        One more cycle comes right after each full hour, whose readings end the hour's records.
        """
        due = trio.current_time() + self.poll_seconds
        while True:
            late = trio.current_time() - due
            if late > 0:
                self._health.overruns += 1
                due += self.poll_seconds * int(late / self.poll_seconds)
            hour = trio.current_time() + self._books.seconds_to_hour()
            await trio.sleep_until(min(due, hour))
            if due <= hour:
                due += self.poll_seconds
            self._roster.drop_lingered()
            await self.cycle()


def _cut_all(subjects: list[Subject]) -> None:
    for subject in subjects:
        subject.cut()
