"""monitor: a live full-screen view of what containers use, with keys to pause and resume them."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

import trio

from aruntime.cgroups.resources import DEFAULT_PERIOD_US
from aruntime.daemon import freezing
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.monitor_keys import QUIT, SORTS, TOGGLE, View, decode, press
from aruntime.daemon.commands.monitor_screen import (
    Row,
    Summary,
    chosen,
    page_lines,
    render,
    window,
)
from aruntime.daemon.commands.observe import block_bytes, network_bytes
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, InvalidParameter, UsageError, os_error_text
from aruntime.metering.host import cpu_count, memory_bytes
from aruntime.metering.hourly import HourlyCost, Span, hourly_costs
from aruntime.metering.snapshot import Snapshot
from aruntime.metering.totals import egress_bytes

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

ENTER_SCREEN = "\033[?1049h\033[?25l"
LEAVE_SCREEN = "\033[?25h\033[?1049l"
HOME = "\033[H"
CLEAR_LINE_ENDS = "\033[K"
SLOWEST_SECONDS = 60.0
DEFAULT_LINES, DEFAULT_COLUMNS = 24, 80


class Monitor:
    """One screen: what it shows now and what was read before, for rates."""

    def __init__(self, session: Session, daemon: Daemon, view: View) -> None:
        self._session = session
        self._daemon = daemon
        self._earlier: dict[str, Snapshot] = {}
        self._later: dict[str, Snapshot] = {}
        self._costs: dict[str, HourlyCost] = {}
        self._view = view
        self._done = trio.Event()

    async def run(self, interval: float) -> None:
        """Show and obey until a key ends it; the terminal is as before then."""
        session = self._session
        await session.raw_mode(True)
        await session.out(ENTER_SCREEN)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._refresh, interval)
                nursery.start_soon(self._obey)
                nursery.start_soon(self._resize)
                await self._done.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(1, shield=True):
                await session.out(LEAVE_SCREEN)
                await session.raw_mode(False)

    async def _refresh(self, interval: float) -> None:
        while True:
            await self._read()
            await self._draw()
            await trio.sleep(interval)

    async def _obey(self) -> None:
        async for chunk in await self._session.stdin():
            for key in decode(chunk):
                rows = chosen(self._rows(), self._view)
                self._view, action = press(
                    self._view, key, [row.id for row in rows], page_lines(self._lines)
                )
                if action == QUIT:
                    self._done.set()
                    return
                if action == TOGGLE and rows:
                    await self._toggle(window(rows, self._view, self._lines)[1])
            await self._draw()
        self._done.set()

    async def _resize(self) -> None:
        async for _ in self._session.resizes:
            await self._draw()

    async def _toggle(self, container_id: str) -> None:
        """Pause a running container, resume a paused one; what goes wrong is shown."""
        try:
            container = self._daemon.supervisor.find(container_id)
            if container.state.status.value == "paused":
                await freezing.resume(self._daemon.parts, container)
                said = f"{container.config.name} resumed"
            else:
                await freezing.pause(self._daemon.parts, container)
                said = f"{container.config.name} paused"
        except AruntimeError as error:
            said = error.message
        except OSError as error:
            said = os_error_text(error)
        self._view = View(
            sort=self._view.sort, reverse=self._view.reverse, filter=self._view.filter,
            selected=container_id, message=said,
        )  # fmt: skip

    async def _read(self) -> None:
        """Take a reading of every running container that the screen shows; keep the last ones."""
        supervisor = self._daemon.supervisor
        page, _ = window(chosen(self._rows(), self._view), self._view, self._lines)
        for row in page:
            if row.status == "running":
                await self._daemon.meter.cut(row.id, "stats")
        meter = self._daemon.meter
        found = {one.id: meter.snapshot(one.id) for one in supervisor}
        for key, snapshot in found.items():
            last = self._later.get(key)
            if snapshot is not None and (last is None or last.boot_ns != snapshot.boot_ns):
                if last is not None:
                    self._earlier[key] = last
                self._later[key] = snapshot
        for gone in self._later.keys() - found.keys():
            del self._later[gone]
            self._earlier.pop(gone, None)
        await self._price()

    async def _price(self) -> None:
        """Bring costs an hour up to date, while there is a price book."""
        book = self._daemon.pricing.store.book
        if book is None:
            return
        spans = [
            Span(self._daemon.parts.meter_subject(one), before.totals, now.totals, seconds)
            for one in self._daemon.supervisor
            if (now := self._later.get(one.id)) and (before := self._earlier.get(one.id))
            if (seconds := (now.boot_ns - before.boot_ns) / 1e9) > 0
        ]
        self._costs = await trio.to_thread.run_sync(hourly_costs, book, spans, time.time_ns())

    def _rows(self) -> list[Row]:
        return [
            with_cost(
                row_of(one, self._later.get(one.id), self._earlier.get(one.id)),
                self._costs.get(one.id),
            )
            for one in self._daemon.supervisor
        ]

    async def _draw(self) -> None:
        session = self._session
        lines, columns = self._lines, session.cols or DEFAULT_COLUMNS
        summary = Summary(
            host=platform.node(),
            clock=time.strftime("%H:%M:%S UTC", time.gmtime()),
            cores=cpu_count(),
            memory_bytes=memory_bytes(),
        )
        colour = "NO_COLOR" not in session.env
        rows = chosen(self._rows(), self._view)
        text = render(rows, self._view, summary, columns, lines, colour=colour)
        await session.out(HOME + text.replace("\r\n", f"{CLEAR_LINE_ENDS}\r\n") + CLEAR_LINE_ENDS)

    @property
    def _lines(self) -> int:
        return self._session.rows or DEFAULT_LINES


def cpu_limit_cores(resources: dict[str, Any]) -> float:
    """Return the CPU limit of an OCI configuration's ``linux.resources``, 0 for none."""
    cpu = resources.get("cpu", {})
    quota, period = cpu.get("quota", 0), cpu.get("period", 0) or DEFAULT_PERIOD_US
    return quota / period if quota > 0 else 0.0


def row_of(container: Container, now: Snapshot | None, before: Snapshot | None) -> Row:
    """Return a container's row from its last two readings; rates are zero without two."""
    config = container.config
    row = Row(
        id=container.id,
        name=config.name,
        tenant=config.tenant,
        image=config.image,
        status=container.state.status.value,
        cpu_limit_cores=cpu_limit_cores(config.resources),
    )
    if now is None:
        return row
    row = row._replace(
        memory_bytes=now.memory_working_set_bytes,
        memory_limit_bytes=now.memory_limit_bytes,
        pids=now.pids,
    )
    if before is None or now.boot_ns <= before.boot_ns or now.status in ("exited", "paused"):
        return row
    seconds = (now.boot_ns - before.boot_ns) / 1e9
    changes = [
        (after - earlier) / seconds
        for after, earlier in zip(
            (*network_bytes(now), egress_bytes(now.totals), *block_bytes(now)),
            (*network_bytes(before), egress_bytes(before.totals), *block_bytes(before)),
            strict=True,
        )
    ]
    received, sent, left, read, written = changes
    return row._replace(
        cpu_cores=(now.totals.cpu_ns - before.totals.cpu_ns) / 1e9 / seconds,
        received_rate=received, sent_rate=sent, egress_rate=left,
        read_rate=read, written_rate=written,
    )  # fmt: skip


def with_cost(row: Row, cost: HourlyCost | None) -> Row:
    """Return a row with what it costs an hour; what has ended costs nothing."""
    if cost is None:
        return row
    is_over = row.status not in ("running", "paused")
    return row._replace(cost_rate=0.0 if is_over else cost.amount, currency=cost.currency)


async def run_monitor(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show a live full-screen view until q is pressed."""
    if not (session.stdin_tty and session.stdout_tty):
        raise UsageError(
            f"monitor needs a terminal; '{PROGRAM} stats --no-stream' prints the numbers once"
        )
    try:
        interval = float(parsed.string("interval"))
    except ValueError:
        interval = 0.0
    if not 0.1 <= interval <= SLOWEST_SECONDS:
        raise InvalidParameter(
            f"--interval must be from 0.1 to {SLOWEST_SECONDS:g} seconds,"
            f" not {parsed.string('interval')}"
        )
    view = View(sort=parsed.string("sort"), filter=parsed.string("filter"))
    await Monitor(session, daemon, view).run(interval)
    return 0


COMMANDS = [
    Command(
        "monitor", "Watch what containers use on the whole screen", run_monitor, "",
        (
            Flag("filter", "f", "string", "", "TEXT", "Text in name, tenant, image or state"),
            Flag("interval", "i", "string", "1", "SECONDS", "Time between two readings"),
            Flag(
                "sort", "s", "choice", "cpu", "WHAT", "Order: " + ", ".join(SORTS.values()),
                choices=tuple(SORTS.values()),
            ),
        ),
        maximum=0,
    ),
]  # fmt: skip
