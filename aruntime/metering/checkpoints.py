"""When the ledger is signed: each hour, at the end of a month, on demand, at an orderly stop.

A checkpoint covers all records that are on disk then. Without its key the ledger gets none: one
without a signature would say nothing, and :mod:`aruntime.metering.verifying` would find it wanting
for ever. What cannot be made is logged, tried again at the next hour, and shows in
``ledger_last_checkpoint_timestamp_seconds``.

State: the signer, once it was needed. Out of scope: what a checkpoint says
(:mod:`aruntime.metering.chain`), keys (:mod:`aruntime.metering.signing`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog
import trio

from aruntime.errors import AruntimeError, Unavailable, os_error_text
from aruntime.metering.books import Books
from aruntime.metering.chain import Checkpoint, Signs, Unsigned, next_checkpoint
from aruntime.metering.clock import boottime_ns
from aruntime.metering.retention import DAY_NS, Retention, prune
from aruntime.metering.schema import insert_checkpoint

log = structlog.get_logger()

KEEP = Retention()
AFTER_HOUR_SECONDS = 2.0
"""So that the records that the hour ended are committed."""
CANNOT_SIGN = "cannot sign the ledger with {path}: {reason}; give another --ledger-key, or 'none'"


class Checkpoints:
    """Makes the checkpoints of a ledger.

    Args:
        books: the ledger.
        key: file of the private key, made when it is first needed; None: nothing is signed.
        keep: how long records and roll-ups are kept.
    """

    def __init__(self, books: Books, key: Path | None, keep: Retention = KEEP) -> None:
        self._books = books
        self._key = key
        self._keep = keep
        self._signer: Signs | None = None
        self.keep_bills: Callable[[int], Awaitable[int]] | None = None
        """Keeps the bills of months with records that ended before an instant (Unix ns), and says
        before which instant records may go; None: all may."""

    async def run(self) -> None:
        """Make one after each full hour, for ever; the key is made or read at once."""
        try:
            await trio.to_thread.run_sync(self.signer)
        except AruntimeError as error:
            log.error("the ledger is not signed", reason=error.message)
        while True:
            await trio.sleep(self._books.seconds_to_hour() + AFTER_HOUR_SECONDS)
            begun = time.gmtime(self._books.clock.at(boottime_ns()) // 10**9)
            is_month = (begun.tm_mday, begun.tm_hour) == (1, 0)
            await self.make_or_log("period" if is_month else "hour")
            await self.prune_or_log()

    async def make(self, reason: str) -> Checkpoint:
        """Commit what waits, then sign where the chain stands; durable when this returns.

        Args:
            reason: one of chain.REASONS.

        Raises:
            Unavailable: the key cannot be read or made, or the disk refuses.
        """
        await self._books.commits.commit()
        signer = await trio.to_thread.run_sync(self.signer)
        return await self._books.commits.exclusively(partial(self._write, reason, signer))

    async def make_or_log(self, reason: str) -> None:
        """As :meth:`make`; a failure is logged."""
        try:
            await self.make(reason)
        except AruntimeError as error:
            log.error("no checkpoint of the ledger", reason=error.message)

    async def prune(self) -> int:
        """Let go of what is too old; how many records and roll-ups that was.

        Raises:
            Unavailable: the key cannot be read or made, the chain was changed, or the disk refuses.
        """
        signer = await trio.to_thread.run_sync(self.signer)
        now_ns = self._books.clock.at(boottime_ns())
        before_ns = now_ns - self._keep.record_days * DAY_NS
        if self.keep_bills is not None:
            before_ns = min(before_ns, await self.keep_bills(before_ns))
        done = 0
        while some := await self._books.commits.exclusively(
            partial(prune, self._books.file, signer, self._keep, now_ns, before_ns=before_ns)
        ):
            done += some
        return done

    async def prune_or_log(self) -> None:
        """As :meth:`prune`; a failure is logged, and so is what was done."""
        try:
            done = await self.prune()
        except AruntimeError as error:
            log.error("the ledger is not pruned", reason=error.message)
        else:
            if done:
                log.info("ledger pruned", records=done)

    async def make_last(self) -> None:
        """At an orderly stop: one more if anything is new and the key is at hand."""
        done = self._books.file.checkpoint
        is_new = self._books.file.durable.head.seq > (done.seq if done is not None else 0)
        if is_new and self._signer is not None:
            await self.make_or_log("stop")

    def signer(self) -> Signs:
        """The key, made if there is none. Blocks, the first time for a tenth of a second.

        Raises:
            Unavailable: it cannot be read or made.
        """
        if self._signer is None:
            self._signer = _load(self._key) if self._key is not None else Unsigned()
        return self._signer

    def _write(self, reason: str, signer: Signs) -> Checkpoint:
        file = self._books.file
        head = file.durable.head
        made = next_checkpoint(
            file.checkpoint,
            host=(file.host_id, file.created_ns),
            reason=reason,
            at=(head.seq, head.hash, head.sums),
            signer=signer,
        )
        try:
            with file.transaction() as connection:
                insert_checkpoint(connection, made)
        except sqlite3.Error as error:
            raise Unavailable(f"cannot write to the ledger {file.path}: {error}") from error
        file.checkpoint = made
        return made


def _load(key: Path) -> Signs:
    # Its import takes a tenth of a second, which no start of a daemon shall wait for.
    from aruntime.metering import signing

    try:
        return signing.load_or_make(key)
    except OSError as error:
        raise Unavailable(CANNOT_SIGN.format(path=key, reason=os_error_text(error))) from error
    except AruntimeError as error:
        raise Unavailable(CANNOT_SIGN.format(path=key, reason=error.message)) from error
