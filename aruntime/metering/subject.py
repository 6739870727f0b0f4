"""One container under the meter: its cgroup reader, its account, its latest numbers.

A reading and its arithmetic happen together under the subject's lock, so that readings enter the
account in the order the kernel gave them, whichever thread took them. The lock is held for the
microseconds of one reading. All methods that read block; call them in a worker thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.reader import Reader
from aruntime.cgroups.stats import FastStats, Stats
from aruntime.metering.account import Account, Ints, ProcessIo, Reading
from aruntime.metering.clock import boottime_ns
from aruntime.metering.cutting import Cutter, Draft
from aruntime.metering.health import Health
from aruntime.metering.integrals import advance, bridge_gap, close, flag_estimate, transition
from aruntime.metering.intervals import Interval, Terms
from aruntime.metering.readers import Access
from aruntime.metering.reading import GONE, fast_of, from_fast, from_stats, read_tree_io
from aruntime.metering.tally import Tally, is_plain
from aruntime.metering.totals import tenant_share

SLOW_READ_NS = 50_000_000
"""A reading that took longer than this spans a pause of the machine; it is flagged."""


BRIEF_READINGS = 5
"""Complete readings in a row that a cgroup which stands still may be spared: with the default
intervals everything is read once a minute."""


class MeterSubject(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells the meter about a container."""

    id: str
    name: str
    tenant: str = "default"
    image: str = ""
    image_digest: str = ""
    network_mode: str = ""
    restart_policy: str = "no"
    labels: dict[str, str] = {}
    created_ns: int = 0
    """Unix time of create."""
    started_ns: int = 0
    """Unix time of the last start, 0 before the first."""
    cpu_request_milli: int = 0
    resources: dict[str, Any] = {}
    """OCI ``linux.resources``: limits and reservations to be shown beside the usage."""
    cgroup: Cgroup | None = None
    """Where its counters are; None when it has no cgroup at present."""


NetworkRead = Callable[[str], Mapping[str, Ints] | None]
"""Container id to counters per interface (see account.NETWORK_COUNTERS), None without any."""


class Subject:
    """State: the account, the lock that orders readings, and the open reader (owned).

    The reader is opened by the first reading, off the launch path.

    Attributes:
        about: the supervisor's description, replaced as a whole.
        cuts: makes ledger records of the account; used under the lock only.
        stats: the last complete reading, None before the first and after the end.
        fast: the last quick reading, never older than ``stats``.
        finished_ns, exit_code: set by the end; Unix time and code.
    """

    def __init__(
        self,
        about: MeterSubject,
        account: Account,
        access: Access | None,
        *,
        cuts: Cutter,
        health: Health,
        cores: int,
        network: NetworkRead | None = None,
        disks: tuple[str, ...] = (),
    ) -> None:
        self.about = about
        self.cuts = cuts
        self.stats: Stats | None = None
        self.fast: FastStats | None = None
        self.has_pressure = False
        self.polled_boot_ns = 0
        self.slow_due_ns = 0
        self.started_ns = about.started_ns
        self.finished_ns = 0
        self.exit_code: int | None = None
        self.removed = False
        self.drop_at_ns: int | None = None
        """Boot time at which an ended container's series go; None while it lives."""
        self._account = account
        self._tally: Tally | None = None
        """Quick readings that the account has not taken in, None if it has all."""
        self._health = health
        self._cores = cores
        self._network = network
        self._disks = disks
        self._access = access
        self._briefs_left = 0
        self._reader: Reader | None = None
        self._lock = threading.Lock()

    @property
    def is_live(self) -> bool:
        """Whether there is a cgroup to be read and a life to be accounted."""
        return self._access is not None and self._account.status != "exited"

    @property
    def account(self) -> Account:
        """The account with every reading in it; replaced as a whole when it has grown."""
        with self._lock:
            return self._settled()

    def sample(
        self, *, slow: bool, brief: bool = False, clock: Callable[[], int] = boottime_ns
    ) -> bool:
        """Take one reading into the account; False when the cgroup is gone or has ended.

        The first reading of an hour reads everything: the records of the last one end with it.

        Args:
            slow: a complete reading.
            brief: what is known not to have changed since the last one need not be read again.
            clock: boot time.

        Raises:
            OSError: a file cannot be read although the cgroup exists.
            ValueError: a file is not in the kernel's format.
        """
        with self._lock:
            if self._account.status == "exited":
                return False
            start = clock()
            if not slow and not self.cuts.crosses(start):
                return self._sample_fast(start, clock)
            if brief and self._briefs_left and self._sample_still(start, clock):
                return True
            reading = self._read(clock=clock)
            if reading is None:
                return False
            self._take(reading)
            return True

    def settle(self) -> None:
        """Take the quick readings into the account now, so that to ask for it later is cheap."""
        with self._lock:
            self._settled()

    def begin(self) -> None:
        """Open the ledger's interval of an incarnation that begins here."""
        with self._lock:
            self._account = self.cuts.start(self._settled())

    def change(self, status: str, at_ns: int) -> None:
        """Change the status at a boot time; does not read."""
        with self._lock:
            before = self._settled()
            self._briefs_left = 0
            if before.status != "exited":
                self._account = self.cuts.change(before, transition(before, status, at_ns))

    def describe(self, about: MeterSubject, terms: Terms) -> None:
        """Replace the description; what the ledger says of it changes at the last reading."""
        with self._lock:
            self.about = about
            self._briefs_left = 0  # limits may have been written
            if terms != self.cuts.terms:
                account = self._settled()
                self.cuts.terms = terms
                self._account = self.cuts.cut(account)

    def cut(self, end_reason: str = "cut") -> None:
        """End the ledger's interval at the last reading."""
        with self._lock:
            self._account = self.cuts.cut(self._settled(), end_reason=end_reason)

    def end(self, end_reason: str, exit_code: int | None) -> None:
        """End the incarnation in the ledger, where the account stands."""
        with self._lock:
            self.exit_code = exit_code if exit_code is not None else self.exit_code
            self._account = self.cuts.end(self._settled(), end_reason, exit_code)

    def hand_over(self) -> tuple[Account, Interval | None, tuple[Draft, ...]]:
        """The account and the records cut from it so far, which are the caller's from now on."""
        with self._lock:
            return self._settled(), self.cuts.interval, self.cuts.hand_over()

    def adopt(self, status: str, started_ns: int, clock: Callable[[], int] = boottime_ns) -> int:
        """First reading after a daemon's death: bridge the gap; CPU nanoseconds found in it.

        Args:
            status: what the container is now.
            started_ns: boot time at which its program was started.
            clock: boot time.
        """
        with self._lock:
            reading = self._read(clock=clock)
            if reading is None:
                self._count("unknown_cgroup")
                return 0
            account = self._settled()
            known = self.cuts.is_of(account.incarnation)
            before = self.cuts.cut(account) if known else self.cuts.start(account)
            bridged = bridge_gap(before, reading, status, started_ns)
            self._count("gap")
            self._take(reading, since=bridged)
            self._account = self.cuts.bridge(before, self._account)
            return self._account.totals.cpu_ns - before.totals.cpu_ns

    def finish(
        self,
        *,
        process: ProcessIo | None,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        """The final reading: memory held at its last sample, status exited.

        Harmless when repeated: an ended account takes only what the counters grew by.
        """
        with self._lock:
            reading = self._read(clock=clock, process=process)
            if reading is not None:
                self._take(reading, hold=True)
            ended_ns = reading.boot_ns if reading is not None else clock()
            self._account = close(self._settled(), reading, ended_ns)

    def stands_still(self) -> bool:
        """Whether what is billed is as the last complete reading found it; False if unsure."""
        with self._lock:
            return self._reader is not None and self._reader.read_still() is not None

    def give_up(self, clock: Callable[[], int] = boottime_ns) -> None:
        """End without a reading: the counters cannot be read although the cgroup exists."""
        with self._lock:
            ended = close(self._settled(), None, clock())
            self._account = flag_estimate(ended, "unreadable")

    def grown_since_end(self, clock: Callable[[], int] = boottime_ns) -> bool:
        """Last look before the cgroup is removed; takes in any growth, reports billed growth."""
        with self._lock:
            before = self._settled()
            if self._is_spent(before):
                return False
            reading = self._read(clock=clock, tree=False)
            if reading is not None:
                self._take(reading, hold=True)
                self._account = close(self._account, reading, reading.boot_ns)
            return tenant_share(self._account.totals) != tenant_share(before.totals)

    def _is_spent(self, account: Account) -> bool:
        is_spent = self._reader is not None and self._reader.is_spent()
        return is_spent and (self._read_network() or {}) == account.network_raw

    def update_account(self, change: Callable[[Account], Account]) -> None:
        """Replace the account by a pure function of it, in turn with the readings."""
        with self._lock:
            self._account = change(self._settled())

    def release(self) -> None:
        """Close the reader; the subject keeps its account and takes no more readings."""
        with self._lock:
            self._access = None
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _read(
        self,
        *,
        clock: Callable[[], int],
        process: ProcessIo | None = None,
        tree: bool = True,
    ) -> Reading | None:
        """A complete reading stamped with its middle; None when the cgroup is gone."""
        start = clock()
        try:
            reader = self._opened()
            stats = reader.read() if reader is not None else None
            if stats is not None and process is None and tree:
                process = read_tree_io(stats.procs_path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        finally:
            self._let_go()
        if stats is None:
            return None
        self.stats, self.fast, self._briefs_left = stats, fast_of(stats), BRIEF_READINGS
        self.has_pressure = stats.pressure is not None
        return from_stats(
            stats,
            self._middle(start, clock()),
            process=process,
            network=self._read_network(),
            disks=(name for name in self._disks if name not in self._account.block_raw),
        )

    def _sample_fast(self, start: int, clock: Callable[[], int]) -> bool:
        """The billed numbers alone, in few steps: every cycle asks them of every container."""
        try:
            reader = self._reader or self._opened()
            fast = reader.read_fast() if reader is not None else None
        except OSError as error:
            if error.errno in GONE:
                return False
            raise
        finally:
            if self._access is None or not self._access.is_kept:
                self._let_go()
        if fast is None:
            return False
        self._take_fast(fast, self._middle(start, clock()))
        return True

    def _sample_still(self, start: int, clock: Callable[[], int]) -> bool:
        """A complete reading of a cgroup that stands still; False if it does not."""
        fast = self._reader.read_still() if self._reader is not None else None
        if fast is None:
            return False
        self._briefs_left -= 1
        self._take_fast(fast, self._middle(start, clock()), self._read_network())
        return True

    def _take_fast(
        self, fast: FastStats, middle: int, network: Mapping[str, Ints] | None = None
    ) -> None:
        """Add a reading up, or have the account take it at once."""
        self.fast = fast
        tally = self._tally
        if tally is None and is_plain(self._account):
            tally = Tally(self._account, cores=self._cores, request=self.cuts.request)
            self._tally = tally
        until_ns = 0 if network else self.cuts.quiet_until_ns
        if tally is not None and tally.take(middle, fast, until_ns=until_ns):
            self.polled_boot_ns = middle
        else:
            self._take(from_fast(fast, middle, network))

    def _settled(self) -> Account:
        """The account with all quick readings in it."""
        tally = self._tally
        if tally is not None:
            self._tally = None
            self._account = tally.settle()
        return self._account

    def _middle(self, start: int, end: int) -> int:
        if end - start > SLOW_READ_NS:
            self._count("slow_read")
        return (start + end) // 2

    def _read_network(self) -> Mapping[str, Ints] | None:
        """Interface counters; a failure costs this sample of them, not the whole reading."""
        if self._network is None:
            return None
        try:
            return self._network(self.about.id)
        except OSError:
            self._health.polls_failed["network"] += 1
            return None

    def _opened(self) -> Reader | None:
        if self._reader is None and self._access is not None:
            self._reader = self._access.open()
        return self._reader

    def _let_go(self) -> None:
        """Close the reader after a reading where descriptors are short."""
        if self._reader is not None and self._access is not None and not self._access.is_kept:
            self._reader.close()
            self._reader = None

    def _take(self, reading: Reading, *, hold: bool = False, since: Account | None = None) -> None:
        """Advance the account, or a bridged one, whose gap the caller cuts."""
        before = since if since is not None else self._settled()
        after, anomalies = advance(
            before, reading, cores=self._cores, hold=hold, request=self.cuts.request
        )
        cut = since is None
        self._account = self.cuts.take(before, after, reading, anomalies) if cut else after
        self.polled_boot_ns = reading.boot_ns
        for kind in anomalies:
            self._count(kind)

    def _count(self, anomaly: str) -> None:
        self._health.anomalies[anomaly] += 1
