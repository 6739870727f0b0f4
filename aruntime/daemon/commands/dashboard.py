"""``dashboard``: a month's usage and cost as one HTML page that opens without a network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aruntime.daemon.bill_process import PAGE
from aruntime.daemon.billing import request_of
from aruntime.daemon.commands.bill import wanted_period, write_bill
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.session import Session
from aruntime.errors import UsageError

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon


async def run_dashboard(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Have the page of a month made and write it; the file is opened when there is one."""
    path = parsed.string("output")
    if not path and session.stdout_tty:
        raise UsageError("dashboard writes a page of five megabytes: give it a file with -o")
    now_ns = time.time_ns()
    period, tenant = wanted_period(parsed, now_ns), parsed.string("tenant") or None
    book = daemon.pricing.store.book
    request = await request_of(daemon.meter, daemon.pricing, period, tenant, book, PAGE, now_ns)
    await write_bill(session, path, request)
    return 0


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
