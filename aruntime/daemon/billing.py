"""Bills that are kept for ever: made by the process that makes bills, sealed and stored here.

Beside those that somebody issues, the bill of every month is kept before retention deletes records
of it: it can then still be shown, and issued, as it was. Without a price book nothing can be billed
and records go without one.

Out of scope: commands (:mod:`aruntime.daemon.commands.bill`), making bills
(:mod:`aruntime.daemon.bill_process`).
"""

from __future__ import annotations

import sys
import time
from functools import partial

import msgspec
import structlog
import trio

from aruntime.daemon.bill_process import DOCUMENT, MODULE, Request
from aruntime.daemon.pricing import Pricing
from aruntime.errors import AruntimeError, Unavailable
from aruntime.metering.archive import KEPT, Seal, decode_prepared
from aruntime.metering.bill import Period, parse_period, period_of
from aruntime.metering.issuing import store
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.meter import Meter
from aruntime.metering.prices import PriceBook

log = structlog.get_logger()

COMMAND = [sys.executable, "-P", "-m", MODULE]


async def request_of(
    meter: Meter,
    pricing: Pricing,
    period: Period,
    tenant: str | None,
    book: PriceBook | None,
    chosen: str,
    now_ns: int,
) -> Request:
    """Ask for a month, with what is not in the ledger yet, as of now."""
    behind = await meter.rounds.up_to_now()
    text = b""
    if book is not None:
        text = await trio.to_thread.run_sync(pricing.store.text, book.version)
    return Request(
        ledger=meter.ledger_path,
        head_seq=behind.head_seq,
        open_records=behind.within(period.start_ns, period.end_ns, tenant),
        book=text.decode(),
        book_name=book.name if book is not None else "",
        period=str(period),
        tenant=tenant,
        format=chosen,
        now_ns=now_ns,
    )


def failure(code: int, said: bytes) -> str:
    """Why the process failed, in its own last words."""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the bill was not made: exit code {code}"


async def keep_bill(meter: Meter, request: Request, *, kind: str, author: str = "") -> Seal:
    """Have a bill made, and store it for ever; durable when this returns.

    Args:
        meter: whose ledger it is of.
        request: for a document.
        kind: ``issued`` or ``kept``.
        author: who issues it.

    Raises:
        Conflict: usage of the month came meanwhile.
        Unavailable: it cannot be made, the key not be read, or the disk refuses.
    """
    done = await trio.run_process(
        COMMAND, stdin=msgspec.json.encode(request), capture_stdout=True, capture_stderr=True,
        check=False, start_new_session=True,  # with no more weight than anybody (priority.py)
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(failure(done.returncode, done.stderr))
    signer = await trio.to_thread.run_sync(meter.checkpoints.signer)
    return await meter.books.commits.exclusively(
        partial(
            store, meter.books.file, decode_prepared(done.stdout),
            kind=kind, author=author, signer=signer, now_ns=time.time_ns(),
        )
    )  # fmt: skip


class BillKeeper:
    """Keeps the bills of months whose records retention is about to delete."""

    def __init__(self, meter: Meter, pricing: Pricing) -> None:
        self._meter = meter
        self._pricing = pricing

    async def keep(self, before_ns: int) -> int:
        """Keep the bills of all months that have records which ended before an instant.

        Returns:
            The instant, or the beginning of the first month without a bill for ever: what ended
            later must stay. Why a bill could not be kept is in the log.

        Raises:
            Unavailable: the ledger cannot be read.
        """
        book = self._pricing.store.book
        if book is None:
            return before_ns
        months = await trio.to_thread.run_sync(unkept, self._meter.ledger_path, before_ns)
        for period in months:
            reason = "the month goes on"
            now_ns = time.time_ns()
            if period.end_ns <= now_ns:
                reason = await self._keep(period, book, now_ns)
            if reason:
                log.warning("records are kept for a bill", month=str(period), reason=reason)
                return period.start_ns
            log.info("bill kept", month=str(period))
        return before_ns

    async def _keep(self, period: Period, book: PriceBook, now_ns: int) -> str:
        """Why the bill of a month that is over was not kept; empty if it was."""
        try:
            request = await request_of(
                self._meter, self._pricing, period, None, book, DOCUMENT, now_ns
            )
            if request.open_records:
                return "usage of it is not in the ledger yet"
            await keep_bill(self._meter, request, kind=KEPT)
        except AruntimeError as error:
            return error.message
        return ""


def unkept(path: str, before_ns: int) -> list[Period]:
    """Months that have records which ended before an instant, and no bill for ever. Blocks.

    Not those of which some were deleted already, when bills were not kept: they have none.

    Raises:
        Unavailable: the ledger cannot be read.
    """
    with LedgerReader(path) as reader:
        oldest_ns = reader.oldest_usage_ns(before_ns)
        if oldest_ns is None:
            return []
        stored = {parse_period(seal.period) for seal in reader.seals()}
        found, period = [], period_of(oldest_ns)
        while period.start_ns < before_ns:
            gone = next(reader.rollups(since_ns=period.start_ns, until_ns=period.end_ns), None)
            if period not in stored and gone is None:
                found.append(period)
            period = period.next
    return found
