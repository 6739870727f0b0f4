"""Who is metered: a subject per container, made from what the ledger and the supervisor know.

State: the subjects, living and ended ones. Out of scope: reading them
(:mod:`aruntime.metering.sampler`), when they come and go (:mod:`aruntime.metering.meter`).
"""

from __future__ import annotations

import errno

from aruntime.cgroups.block import BlkioSource
from aruntime.cgroups.driver import Driver
from aruntime.metering.account import Account
from aruntime.metering.books import Books
from aruntime.metering.clock import boottime_ns
from aruntime.metering.health import Health
from aruntime.metering.readers import access_to
from aruntime.metering.subject import MeterSubject, NetworkRead, Subject


class Roster:
    """See the module.

    Args:
        driver: opens readers.
        books: the ledger.
        health: counts what is odd.
        kind: of the subjects that are made.
        cores: processors, for the bound of R3.
        network: interface counters by container id, None without networks.

    Attributes:
        subjects: by container id; a removed container's stays until it has lingered.
        block_sources: which counters of each disk are believed.
    """

    def __init__(
        self,
        driver: Driver,
        books: Books,
        health: Health,
        *,
        kind: type[Subject] = Subject,
        cores: int,
        network: NetworkRead | None = None,
    ) -> None:
        self.subjects: dict[str, Subject] = {}
        self.block_sources: list[BlkioSource] = []
        self._driver = driver
        self._books = books
        self._health = health
        self._kind = kind
        self._cores = cores
        self._network = network

    def live(self) -> list[Subject]:
        """Those that have a cgroup to be read and a life to be accounted."""
        return [subject for subject in list(self.subjects.values()) if subject.is_live]

    def account_of(self, container_id: str) -> Account | None:
        """The container's account in memory, or else as committed; None if it is new."""
        known = self.subjects.get(container_id)
        if known is not None:
            return known.account
        return self._books.file.durable.accounts.get(container_id)

    def cgroup_name(self, about: MeterSubject) -> str:
        """Boot id and inode of its cgroup.

        Raises:
            FileNotFoundError: it has none.
        """
        if about.cgroup is None:
            raise FileNotFoundError(errno.ENOENT, "no cgroup", about.name)
        return f"{self._books.boot_id}:{self._driver.inode(about.cgroup)}"

    def add(self, about: MeterSubject, account: Account) -> Subject:
        """Meter a container with this account from now on; a former subject of it is let go.

        A life that the ledger still has open and that the account is not of ends there, with
        the container's last account (R9).
        """
        previous = self.subjects.get(about.id)
        if previous is not None:
            previous.release()
        access = None
        if about.cgroup is not None:
            access = access_to(self._driver, about.cgroup, len(self.subjects))
        before = self.account_of(about.id)
        cuts = self._books.cutter(about, previous.cuts if previous is not None else None)
        stale = cuts.is_open and not cuts.is_of(account.incarnation)
        if stale and cuts.interval is not None and before is not None:
            self._books.end_lost(cuts, cuts.interval, before)
        added = self._kind(
            about,
            account,
            access,
            cuts=cuts,
            health=self._health,
            cores=self._cores,
            network=self._network,
            disks=tuple(row.disk.name for row in self.block_sources if row.source != "none"),
        )
        with self._books.file.lock:
            self.subjects[about.id] = added
        return added

    def drop_lingered(self) -> None:
        """Let go of removed containers whose counters were exported long enough."""
        now = boottime_ns()
        for container_id, subject in list(self.subjects.items()):
            if subject.removed and subject.drop_at_ns is not None and subject.drop_at_ns <= now:
                del self.subjects[container_id]
