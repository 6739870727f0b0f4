"""``bill``: what tenants owe for a month."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from aruntime.daemon.bill_process import DOCUMENT, Request
from aruntime.daemon.billing import COMMAND, failure, keep_bill, request_of
from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.ledger_correct import user_name
from aruntime.daemon.commands.price import find_book
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.session import Session
from aruntime.errors import Conflict, InvalidParameter, Unavailable, UsageError
from aruntime.metering.archive import ISSUED
from aruntime.metering.bill import Period, parse_period, period_of
from aruntime.metering.prices import PriceBook

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

PARQUET = "focus-parquet"
CHUNK_BYTES = 1 << 16
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


async def run_bill(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Have a bill made of a month's records and write it; the file is opened when there is one."""
    chosen, path = parsed.string("format"), parsed.string("output")
    if chosen == PARQUET:
        outputs.check_terminal(session, path, "bill")
    now_ns = time.time_ns()
    period = wanted_period(parsed, now_ns)
    tenant = parsed.string("tenant") or None
    version = parsed.string("prices")
    books = daemon.pricing.store
    book = await trio.to_thread.run_sync(find_book, books, version or "current")
    if parsed.boolean("issue"):
        if tenant is not None or version:
            raise UsageError("--issue is for everybody's bill by the book in force: leave --tenant"
                             " and --prices out")  # fmt: skip
        await issue(session.uid, daemon, period, book)
    request = await request_of(daemon.meter, daemon.pricing, period, tenant, book, chosen, now_ns)
    request = msgspec.structs.replace(request, is_chosen=bool(version))
    await write_bill(session, path, request)
    return 0


async def issue(uid: int, daemon: Daemon, period: Period, book: PriceBook) -> None:
    """Store the bill of a month for ever, if that was not done; durable when this returns.

    Raises:
        InvalidParameter: the month goes on.
        Conflict: usage of it is not in the ledger yet.
        Unavailable: the bill cannot be made, the key not be read, or the disk refuses.
    """
    now_ns = time.time_ns()
    if period.end_ns > now_ns:
        raise InvalidParameter(f"{period} goes on: its bill can be issued when the month is over")
    request = await request_of(daemon.meter, daemon.pricing, period, None, book, DOCUMENT, now_ns)
    if request.open_records:
        names = ", ".join(sorted({one.name or one.container_id for one in request.open_records}))
        raise Conflict(
            f"usage of {period} is not in the ledger yet ({names}): issue it after the next full"
            " hour"
        )
    author = await trio.to_thread.run_sync(user_name, uid)
    await keep_bill(daemon.meter, request, kind=ISSUED, author=author)


async def write_bill(session: Session, path: str, request: Request) -> None:
    """Run the process that makes a bill or a page, and pass on what it writes.

    Cancelled, it is killed.

    Raises:
        Unavailable: it failed, and why.
        OSError: the client cannot open the file, or its disk refuses.
    """
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                COMMAND,
                stdin=msgspec.json.encode(request),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
                start_new_session=True,  # with no more weight than anybody (priority.py)
            )
        )
        assert process.stdout is not None
        assert process.stderr is not None
        if first := await process.stdout.receive_some(CHUNK_BYTES):
            async with outputs.opened(session, path) as write:
                await write(bytes(first))
                while chunk := await process.stdout.receive_some(CHUNK_BYTES):
                    await write(bytes(chunk))
        said = b"".join([chunk async for chunk in process.stderr])
        if code := await process.wait():
            raise Unavailable(failure(code, said))
        for line in said.decode(errors="replace").splitlines():
            await session.err(f"{PROGRAM}: {escape_controls(line)}\n")


COMMANDS = [
    Command(
        "bill", "Make the bill of a month", run_bill, "",
        (
            Flag("format", "", "choice", "table", "string", ", ".join(FORMATS), choices=FORMATS),
            Flag("issue", "", "bool",
                 help="Issue it: number, sign and keep it, so that it never changes"),
            Flag("output", "o", "string", None, "string", "Write to a file, instead of STDOUT"),
            Flag("period", "", "string", None, "MONTH", "Such as 2026-11 (default this month)"),
            Flag("prices", "", "string", None, "VERSION",
                 "Use this version of the price book (default the one in force)"),
            Flag("tenant", "", "string", None, "string", "Of this tenant only"),
        ),
        maximum=0, section="management",
        description="The same records and the same price book give the same bill, to the byte.\n"
        "A bill is provisional until the month is over and all its usage is in the ledger; then\n"
        "it can be issued, and is shown for ever as it was, whatever becomes of records or prices.",
    ),
]  # fmt: skip
