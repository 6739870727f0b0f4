"""``invoice``: those that were issued, and one of them as it was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trio

from aruntime.daemon.bill_process import Request
from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.bill import FORMATS, PARQUET, write_bill
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter, NotFound
from aruntime.metering.archive import ISSUED, Seal, SealedInvoice
from aruntime.metering.bill import parse_period
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices_check import instant_text
from aruntime.metering.quantities import NS

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

TABLE = (
    "{{.Number}}\t{{.Period}}\t{{.Tenant}}\t{{.Payable}}\t{{.Currency}}\t{{.Kind}}\t{{.Issued}}\t"
    "{{.By}}"
)
TITLES = {
    "Account": "ACCOUNT", "Bill": "BILL", "By": "ISSUED BY", "Currency": "CURRENCY",
    "ID": "INVOICE ID", "Issued": "ISSUED", "Kind": "KIND", "Number": "NUMBER",
    "Payable": "PAYABLE", "Period": "PERIOD", "Prices": "PRICE BOOK", "Tenant": "TENANT",
}  # fmt: skip


async def run_list(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List what was issued, the latest last."""
    period, tenant = parsed.string("period"), parsed.string("tenant")
    if period:
        try:
            parse_period(period)
        except ValueError as error:
            raise InvalidParameter(str(error)) from None
    seals = await trio.to_thread.run_sync(issued, daemon.meter.ledger_path)
    rows = [
        row_of(seal, one)
        for seal in seals
        for one in seal.invoices
        if period in ("", seal.period) and tenant in ("", one.tenant)
    ]
    text = render_rows(rows, format=parsed.string("format"), titles=TITLES, table=TABLE)
    await session.out(text)
    return 0


def issued(path: str) -> list[Seal]:
    """Return the seals of issued bills. Blocks.

    Raises:
        Unavailable: the ledger cannot be read.
    """
    with LedgerReader(path) as reader:
        return [seal for seal in reader.seals() if seal.kind == ISSUED]


def row_of(seal: Seal, one: SealedInvoice) -> dict[str, Any]:
    """Return the fields of an invoice; the time is to the second."""
    return {
        "Account": escape_controls(one.account_name),
        "Bill": str(seal.n),
        "By": escape_controls(seal.author),
        "Currency": one.currency,
        "ID": one.id,
        "Issued": instant_text(seal.time_ns // NS * NS),
        "Kind": "credit note" if one.payable < 0 else "invoice",
        "Number": str(one.number),
        "Payable": format(one.payable, "f"),
        "Period": seal.period,
        "Prices": seal.book_version,
        "Tenant": escape_controls(one.tenant),
    }


async def run_show(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Write an invoice as it was issued."""
    chosen, path = parsed.string("format"), parsed.string("output")
    if chosen == PARQUET:
        outputs.check_terminal(session, path, "invoice show")
    wanted = parsed.args[0]
    ledger = daemon.meter.ledger_path
    for seal in await trio.to_thread.run_sync(issued, ledger):
        for one in seal.invoices:
            if wanted in (str(one.number), one.id):
                request = Request(
                    ledger=ledger, head_seq=seal.head_seq, open_records=[], book="", book_name="",
                    period=seal.period, tenant=None, format=chosen, now_ns=time.time_ns(),
                    number=one.number,
                )  # fmt: skip
                await write_bill(session, path, request)
                return 0
    raise NotFound(f"no invoice {wanted} was issued: 'aruntime invoice ls' lists them")


COMMANDS = [
    Command(
        "invoice ls", "List invoices that were issued", run_list, "",
        (
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("period", "", "string", None, "MONTH", "Of this month only, such as 2026-11"),
            Flag("tenant", "", "string", None, "string", "Of this tenant only"),
        ),
        aliases=("invoice list",), maximum=0,
    ),
    Command(
        "invoice show", "Show an invoice as it was issued", run_show, "NUMBER|ID",
        (
            Flag("format", "", "choice", "table", "string", ", ".join(FORMATS), choices=FORMATS),
            Flag("output", "o", "string", None, "string", "Write to a file, instead of STDOUT"),
        ),
        minimum=1, maximum=1,
    ),
]  # fmt: skip
