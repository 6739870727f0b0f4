"""What tenants' usage costs so far, at list prices: a sum that only grows, for display.

Sums are exact fractions, so it does not matter how a run was cut into records: what an open
interval costs is never more than what its records will, and the sum never falls. It holds what is
durable: numbered records, and of living containers what was committed since their last one, so a
crash makes nothing fall either. Corrections are left to bills: what gives money back would fall.

The part of numbered records is carried on from refresh to refresh and kept in a file, or else
every start of the daemon would rate the whole ledger. The file is a cache: one that does not fit
the ledger is not used, and a lost one is made again from the records that are still there.

Out of scope: when to refresh (:mod:`aruntime.daemon.pricing`), free tiers (they make a cost less
than the list's, in an order that only a whole month shows; bills have them).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

import msgspec

from aruntime.metering.charges import State, charges
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices import PriceBook
from aruntime.metering.record import LedgerRecord

CostKey = tuple[str, str, str]
"""Tenant, SKU and currency."""

Costs = Mapping[CostKey, Fraction]

BATCH = 100
"""Records that are ordered by time together."""
PIECE = 30
"""Charges that take about a millisecond; after them whoever waits for the interpreter gets it."""
REST_SECONDS = 0.0002


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file."""

    host_id: str
    seq: int
    """Of the last record that is in the sums."""
    hash: str
    """That record's."""
    running: list[tuple[str, str, int]]
    """Container, incarnation and running time of runs that have not ended."""
    costs: list[tuple[str, str, str, str]]
    """Tenant, SKU, currency, and the sum as a fraction."""


class Accrual:
    """Sums of one ledger. One thread at a time refreshes; ``costs`` may be read in any.

    Args:
        path: of the file that keeps the sums.

    Attributes:
        costs: as of the last refresh, replaced as a whole; empty before the first.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.costs: Costs = {}
        self._seq = 0
        self._hash = ""
        self._state = State()
        self._closed: dict[CostKey, Fraction] = {}
        self._is_loaded = False
        self._kept_seq = 0

    def refresh(
        self,
        reader: LedgerReader,
        book: PriceBook,
        head_seq: int,
        open_records: Iterable[LedgerRecord],
    ) -> None:
        """Bring the sums up to date. Blocks.

        Args:
            reader: of the ledger.
            book: the prices; a later book has the same for what was rated by an earlier one.
            head_seq: number of the last record to take in.
            open_records: what was committed after it, as of the same instant.

        Raises:
            Unavailable: the ledger cannot be read.
        """
        if not self._is_loaded:
            self._load(reader)
        records = itertools.takewhile(
            lambda record: record.seq <= head_seq, reader.records(after_seq=self._seq)
        )
        for batch in batches(record for record in records if not record.corrects):
            _add(self._closed, batch, book, self._state)
            self._seq, self._hash = batch[-1].seq, batch[-1].hash
        sums = dict(self._closed)
        open_state = State(self._state.running_ns)
        _add(sums, list(open_records), book, open_state)
        shown = self.costs
        self.costs = {key: max(cost, shown.get(key, cost)) for key, cost in sums.items()}

    def keep(self, host_id: str) -> None:
        """Write the file if there is news. Not durably: a lost one is made again. Blocks.

        Raises:
            OSError: the disk refused.
        """
        if self._seq == self._kept_seq:
            return
        running = self._state.running_ns.items()
        kept = Kept(
            host_id=host_id,
            seq=self._seq,
            hash=self._hash,
            running=[(*run, ns) for run, ns in running],
            costs=[(*key, str(cost)) for key, cost in self._closed.items()],
        )
        temporary = f"{self.path}.tmp"
        with open(temporary, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(kept))
        os.rename(temporary, self.path)
        self._kept_seq = self._seq

    def _load(self, reader: LedgerReader) -> None:
        """Go on from the file if it is of this ledger."""
        self._is_loaded = True
        with contextlib.suppress(OSError, ValueError, ArithmeticError):
            with open(self.path, "rb") as file:
                kept = msgspec.json.decode(file.read(), type=Kept)
            sums = {(tenant, sku, unit): Fraction(cost) for tenant, sku, unit, cost in kept.costs}
            if kept.host_id == reader.host()[0] and _is_in(reader, kept.seq, kept.hash):
                self._seq, self._hash, self._kept_seq = kept.seq, kept.hash, kept.seq
                self._state = State({(one, life): ns for one, life, ns in kept.running})
                self._closed = sums


def _is_in(reader: LedgerReader, seq: int, digest: str) -> bool:
    """Whether the ledger has this record, or had it before records up to it were deleted."""
    for record in reader.records(after_seq=seq - 1, limit=1):
        if record.seq == seq:
            return record.hash == digest
    return any(one.seq >= seq for one in reader.checkpoints() if one.reason == "pruned") or (
        reader.head() == (seq, digest)
    )


def _add(
    sums: dict[CostKey, Fraction],
    records: list[LedgerRecord],
    book: PriceBook,
    state: State,
) -> None:
    """Add what records cost at list prices."""
    found = charges(records, book, state)
    for number, charge in enumerate(found, 1):
        if not number % PIECE:
            time.sleep(REST_SECONDS)
        quantity = charge.paid + charge.free
        if quantity:
            key = charge.record.tenant, charge.price.sku, charge.price.currency
            sums[key] = sums.get(key, Fraction(0)) + quantity * Fraction(charge.price.unit_price)


def batches(records: Iterable[LedgerRecord]) -> Iterator[list[LedgerRecord]]:
    """Records in lists of :data:`BATCH`."""
    source = iter(records)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch
