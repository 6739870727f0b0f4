"""The push exporters of this daemon: one task each, its blocking work in a thread of its own.

Made, with all their settings checked, before anything else is started; begun once the ledger is
open; ended after the ledger's last commit, so that what a stopping daemon has just cut is still
sent, within :data:`FLUSH_SECONDS`. A thread that still waits for its receiver then is abandoned
with the process: what it sent and nobody acknowledged comes again with the next daemon.

An exporter never delays containers: it reads the ledger through a connection of its own, and its
thread is not one of those that others wait for.

Out of scope: batches, cursors, retries (:mod:`aruntime.metering.courier`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import structlog
import trio

from aruntime.daemon.settings import Settings
from aruntime.metering.courier import Courier, Step, is_foreseen, worded
from aruntime.metering.export import ExportState
from aruntime.metering.push import make_exporter

log = structlog.get_logger()

FLUSH_SECONDS = 5.0
"""How long a stopping daemon lets exporters finish."""
DIRECTORY = "exports"
"""In ROOT: cursors and rejected items."""


def make_couriers(settings: Settings) -> list[Courier]:
    """Make every exporter of the configuration file.

    Raises:
        InvalidParameter, Unavailable: a table is wrong, or something it needs is missing.
    """
    couriers = []
    for name, table in settings.exports.items():
        exporter, options = make_exporter(name, table, str(settings.config))
        couriers.append(
            Courier(
                name, exporter, options,
                ledger=str(settings.root / "ledger.db"), directory=str(settings.root / DIRECTORY),
            )
        )  # fmt: skip
    return couriers


class Exports:
    """State: the couriers, whether they may begin, whether they must end."""

    def __init__(self, couriers: list[Courier]) -> None:
        self._couriers = couriers
        self._begun = trio.Event()
        self._ending = trio.Event()

    def states(self) -> tuple[ExportState, ...]:
        """How far each has come. Safe in any thread."""
        return tuple(courier.state for courier in self._couriers)

    def begin(self) -> None:
        """The ledger is open: read it from now on."""
        self._begun.set()

    async def run(self) -> None:
        """Export until :meth:`end`, then what is left; cancelled, give up at once."""
        async with trio.open_nursery() as nursery:
            for courier in self._couriers:
                nursery.start_soon(self._export, courier)

    def end(self) -> None:
        """Send what is left and finish."""
        self._ending.set()

    async def _export(self, courier: Courier) -> None:
        await self._begun.wait()
        state = courier.state
        log.info("exporting", exporter=state.name, type=state.type, target=state.target)
        limiter = trio.CapacityLimiter(1)
        while True:
            is_last = self._ending.is_set()
            failing = bool(courier.state.error)
            step = await trio.to_thread.run_sync(
                courier.step, abandon_on_cancel=True, limiter=limiter
            )
            tell(courier.name, step, failing)
            if is_last and (step.wait_seconds or step.error is not None):
                break
            if step.wait_seconds:
                with trio.move_on_after(step.wait_seconds):
                    await self._ending.wait()
        await trio.to_thread.run_sync(courier.close, abandon_on_cancel=True, limiter=limiter)


def tell(name: str, step: Step, failing: bool) -> None:
    """Log what an administrator wants to know of a step; nothing if all is as before."""
    for note in step.notes:
        log.warning("export", exporter=name, note=note)
    for reason in step.rejected:
        log.error("item given up, see ROOT/exports", exporter=name, reason=reason)
    if step.error is not None:
        log.warning(
            "not exported", exporter=name, reason=worded(step.error),
            retry_seconds=round(step.wait_seconds, 1),
            exc_info=None if is_foreseen(step.error) else step.error,
        )  # fmt: skip
    elif failing:
        log.info("exported again", exporter=name, records=step.records)


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Exports]:
    """Hold the exporters while the block runs; flush them, within a bound, when it ends.

    Raises:
        InvalidParameter, Unavailable: as :func:`make_couriers`.
    """
    exports = Exports(await trio.to_thread.run_sync(make_couriers, settings))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exports.run)
        yield exports
        exports.end()
        nursery.cancel_scope.deadline = trio.current_time() + FLUSH_SECONDS
