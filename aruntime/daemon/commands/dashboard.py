"""``dashboard``: a month's usage and cost as one HTML page that opens without a network."""

from __future__ import annotations

import platform
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import trio

from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.bill import wanted_period
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.session import Session
from aruntime.errors import Unavailable, UsageError
from aruntime.metering.invoicing import make_bill
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.report import Report, make_report
from aruntime.metering.usage import Window

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

PAGE_MODULE = "aruntime.daemon.report_page"


async def run_dashboard(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Make the page of a month; the file is opened when there is one."""
    path = parsed.string("output")
    if not path and session.stdout_tty:
        raise UsageError("dashboard writes a page of five megabytes: give it a file with -o")
    now_ns = time.time_ns()
    period = wanted_period(parsed, now_ns)
    tenant = parsed.string("tenant") or None
    window = Window(period.start_ns, period.end_ns)
    records = await daemon.meter.usage_records(window.since_ns, window.until_ns, tenant)
    book = daemon.pricing.store.book

    def make() -> Report:
        with LedgerReader(daemon.meter.ledger_path) as reader:
            rollups = list(
                reader.rollups(since_ns=window.since_ns, until_ns=window.until_ns, tenant=tenant)
            )
            bill = None
            if book is not None and not rollups:  # what is rolled up is shown but cannot be billed
                bill = make_bill(reader, records, book, period, now_ns=now_ns)
            return make_report(
                records, rollups, window, bill,
                title=f"Usage of {period}" + (f" by {tenant}" if tenant else ""),
                host=platform.node(), head=reader.head(), now_ns=now_ns,
            )  # fmt: skip

    report = await trio.to_thread.run_sync(make)
    content = await drawn(report)
    async with outputs.opened(session, path) as write:
        await write(content)
    return 0


async def drawn(report: Report) -> bytes:
    """Have a process of its own draw a report.

    Raises:
        Unavailable: it cannot.
    """
    done = await trio.run_process(
        [sys.executable, "-P", "-m", PAGE_MODULE],
        stdin=msgspec.json.encode(report),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unavailable(f"cannot draw the page: {said[-1] if said else 'it was killed'}")
    return done.stdout


COMMANDS = [
    Command(
        "dashboard", "Make an HTML page of a month's usage and cost", run_dashboard, "",
        (
            Flag("output", "o", "string", None, "string", "Write to a file, instead of STDOUT"),
            Flag("period", "", "string", None, "MONTH", "Such as 2026-11 (default this month)"),
            Flag("tenant", "", "string", None, "string", "Of this tenant only"),
        ),
        maximum=0, section="management",
        description="One file with tables and plots that opens without a network. Its numbers are\n"
        "those of 'usage' and 'bill'.",
    ),
]  # fmt: skip
