"""Prices in a running daemon: which book is in force, when prices change, what usage costs so far.

The meter is told when a book comes into force and when a price begins or ends, and cuts every
container's records there. Costs are brought up to date in a worker thread every few seconds, while
there is a price book; who scrapes gets the last ones and waits for nothing.

Out of scope: books (:mod:`aruntime.metering.price_store`), sums (:mod:`aruntime.metering.accrual`),
bills (:mod:`aruntime.metering.invoicing`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog
import trio

from aruntime.errors import AruntimeError
from aruntime.metering.accrual import Accrual
from aruntime.metering.export import Budget, View
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.meter import Meter
from aruntime.metering.price_store import DIRECTORY, PriceStore
from aruntime.metering.prices import PriceBook, PriceBookError
from aruntime.metering.prices_parse import MAX_BOOK_BYTES

log = structlog.get_logger()

COSTS = "accrued.json"
LONGEST_WAIT_SECONDS = 60.0
"""Price changes are waited for in pieces, since the wall clock may be set meanwhile; and costs
are never older, but for the slow interval."""
LARGEST_SHARE = 0.02
"""Of a processor that adding up may take: with very many containers it is done less often."""
KEEP_SECONDS = 60.0
"""How often the sums of costs are written down."""


class Pricing:
    """State: the books, the sums, what the meter was told.

    Attributes:
        store: the books.
    """

    def __init__(self, root: Path, meter: Meter) -> None:
        self.store = PriceStore(root)
        self._meter = meter
        self._accrual = Accrual(os.path.join(root, DIRECTORY, COSTS))
        self._loaded = trio.Event()
        self._kept_at = 0.0

    async def open(self) -> None:
        """Read which book is in force, and tell the meter if it does not know.

        Raises:
            Unavailable: a book cannot be read.
        """
        await trio.to_thread.run_sync(self.store.open)
        await self._tell_meter()

    async def load(self, content: bytes, name: str) -> PriceBook:
        """Put a book in force and cut the records of what runs; durable when this returns.

        Raises:
            PriceBookError: it is wrong, or changes what was valid already.
            Unavailable: the disk refuses.
        """
        book = await trio.to_thread.run_sync(self._load, content, name)
        await self._tell_meter()
        self._loaded.set()
        self._loaded = trio.Event()
        return book

    def check(self, content: bytes, name: str) -> PriceBook:
        """Check that a book can be put in force now. Blocks.

        Raises:
            PriceBookError: it is wrong, or changes what was valid already.
        """
        return self.store.check(content, name, now_ns=time.time_ns(), tenants=self._tenants())

    async def load_file(self, path: str) -> None:
        """Put the book of the settings in force; what is wrong is logged, and the old one stays."""
        try:
            content = await trio.to_thread.run_sync(read_book, path)
            book = await self.load(content, path)
        except PriceBookError as error:
            for problem in error.problems:
                log.error("price book not loaded", problem=problem)
        except (AruntimeError, OSError) as error:
            log.error("price book not loaded", path=path, error=str(error))
        else:
            log.info("price book in force", path=path, version=book.version)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch for price changes and add up costs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_changes)
            nursery.start_soon(self._add_up)
            task_status.started()

    def view(self) -> View:
        """Everything exporters show, with costs and budgets. Safe in any thread."""
        book = self.store.book
        if book is None:
            return self._meter.view()
        budgets = [
            Budget(tenant, terms.currency, terms.budget)
            for tenant, terms in sorted(book.tenants.items())
            if terms.budget is not None
        ]
        return self._meter.view()._replace(costs=self._accrual.costs, budgets=budgets)

    def _load(self, content: bytes, name: str) -> PriceBook:
        return self.store.load(content, name, now_ns=time.time_ns(), tenants=self._tenants())

    def _tenants(self) -> frozenset[str]:
        """Those that have used anything yet: what they pay in cannot change."""
        return frozenset(self._meter.view().tenants)

    async def _tell_meter(self) -> None:
        book = self.store.book
        if book is not None and self._meter.books.committed().price_version != book.version:
            await self._meter.change_price(book.version)

    async def _watch_changes(self) -> None:
        """Cut records when a price begins or ends."""
        seen = time.time_ns()
        while True:
            book, now = self.store.book, time.time_ns()
            edges = book.boundaries() if book is not None else ()
            if book is not None and any(seen < edge <= now for edge in edges):
                await self._meter.change_price(book.version)
            seen = now
            wait = min((edge - now for edge in edges if edge > now), default=None)
            seconds = LONGEST_WAIT_SECONDS if wait is None else wait / 1e9
            with trio.move_on_after(min(seconds, LONGEST_WAIT_SECONDS)):
                await self._loaded.wait()

    async def _add_up(self) -> None:
        while True:
            seconds = 0.0
            if self.store.book is not None:
                try:
                    seconds = await trio.to_thread.run_sync(self._refresh, self.store.book)
                except (AruntimeError, OSError) as error:
                    log.warning("costs not brought up to date", error=str(error))
            pause = min(seconds / LARGEST_SHARE, LONGEST_WAIT_SECONDS)
            with trio.move_on_after(max(self._meter.rounds.slow_seconds, pause)):
                await self._loaded.wait()

    def _refresh(self, book: PriceBook) -> float:
        """Returns the processor time that it took, in seconds."""
        begun = time.thread_time()
        committed = self._meter.books.committed()
        with LedgerReader(self._meter.ledger_path) as reader:
            self._accrual.refresh(reader, book, committed.head_seq, committed.open_records)
            if time.monotonic() > self._kept_at + KEEP_SECONDS:
                self._kept_at = time.monotonic()  # first: a full disk is not asked every time
                self._accrual.keep(reader.host()[0])
        return time.thread_time() - begun


def read_book(path: str) -> bytes:
    """Read a price book, no more than one may be long and a byte. Blocks.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(MAX_BOOK_BYTES + 1)
