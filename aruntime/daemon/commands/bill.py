"""``bill``: what tenants owe for a month."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import trio

from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.bill_rows import bill_json, bill_table
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.price import find_book
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter
from aruntime.metering.bill import FILE_KIND, Bill, FileExporter, Period, parse_period, period_of
from aruntime.metering.export import exporter_class
from aruntime.metering.invoicing import make_bill
from aruntime.metering.ledger_reader import LedgerReader

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

PARQUET = "focus-parquet"
FORMATS = ("table", "json", "focus-csv", PARQUET)


def wanted_period(parsed: Parsed, now_ns: int) -> Period:
    """Return the month asked for, the present one if none is.

    Raises:
        InvalidParameter: it is no month, or has not begun.
    """
    text = parsed.string("period")
    try:
        period = parse_period(text) if text else period_of(now_ns)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    if period.start_ns > now_ns:
        raise InvalidParameter(f"{period} has not begun: there is nothing to bill")
    return period


def rendered(bill: Bill, chosen: str) -> bytes:
    """Write a bill in a format. Blocks.

    Raises:
        AruntimeError: an exporter refuses, or is not installed.
    """
    if chosen == "table":
        return bill_table(bill).encode()
    if chosen == "json":
        return bill_json(bill).encode()
    exporter: FileExporter = exporter_class(FILE_KIND, chosen)()
    file = io.BytesIO()
    exporter.write(bill, file)
    return file.getvalue()


async def run_bill(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Rate a month's records and write the bill; the file is opened when there is one."""
    chosen, path = parsed.string("format"), parsed.string("output")
    if chosen == PARQUET:
        outputs.check_terminal(session, path, "bill")
    now_ns = time.time_ns()
    period = wanted_period(parsed, now_ns)
    tenant = parsed.string("tenant") or None
    wanted = parsed.string("prices") or "current"
    book = await trio.to_thread.run_sync(find_book, daemon.pricing.store, wanted)
    records = await daemon.meter.usage_records(period.start_ns, period.end_ns, tenant)

    def make() -> bytes:
        with LedgerReader(daemon.meter.ledger_path) as reader:
            bill = make_bill(reader, records, book, period, now_ns=now_ns)
        return rendered(bill, chosen)

    content = await trio.to_thread.run_sync(make)
    async with outputs.opened(session, path) as write:
        await write(content)
    return 0


COMMANDS = [
    Command(
        "bill", "Make the bill of a month", run_bill, "",
        (
            Flag("format", "", "choice", "table", "string", ", ".join(FORMATS), choices=FORMATS),
            Flag("output", "o", "string", None, "string", "Write to a file, instead of STDOUT"),
            Flag("period", "", "string", None, "MONTH", "Such as 2026-11 (default this month)"),
            Flag("prices", "", "string", None, "VERSION",
                 "Use this version of the price book (default the one in force)"),
            Flag("tenant", "", "string", None, "string", "Of this tenant only"),
        ),
        maximum=0, section="management",
        description="The same records and the same price book give the same bill, to the byte.\n"
        "A bill is provisional until the month is over and all its usage is in the ledger.",
    ),
]  # fmt: skip
