"""ledger correct: a new record that says what was wrong with an old one, why, and who says so."""

from __future__ import annotations

import pwd
import textwrap
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.ledger_rows import records_text
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter, UsageError
from aruntime.metering.amending import Wanted, amend
from aruntime.metering.bill import period_of
from aruntime.metering.clock import boottime_ns
from aruntime.metering.corrections import Author, change_text, parse_amount
from aruntime.metering.quantities import COUNTED

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

MOST_REASON_BYTES = 1024


async def run_correct(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Append a correction and say what it does."""
    wanted, reason = wanted_of(parsed), reason_of(parsed)
    books = daemon.meter.books
    await books.commits.commit()  # so that a record that waits has its number
    now_ns = time.time_ns()
    name = await trio.to_thread.run_sync(user_name, session.uid)
    author = Author(name, reason, now_ns, books.boot_id, boottime_ns())
    made = await books.commits.exclusively(partial(amend, books.file, wanted, author))
    if shown := parsed.string("format"):
        await session.out(records_text([made], shown, heading=True))
    else:
        await session.out(
            f"record {made.seq} corrects record {made.corrects} of"
            f" {escape_controls(made.name or made.container_id)}: {change_text(made)};"
            f" counts in {period_of(made.wall_start)}\n"
        )
    return 0


def wanted_of(parsed: Parsed) -> Wanted:
    """Return what shall change.

    Raises:
        UsageError: no change was given, or both kinds.
        InvalidParameter: an amount or a number is none.
    """
    is_void = parsed.boolean("void")
    amounts = [
        *(parse_amount(text) for text in parsed.strings("add")),
        *(parse_amount(text, is_whole=True) for text in parsed.strings("set")),
    ]
    if is_void == bool(amounts):
        raise UsageError("say what was wrong: --add or --set MEASURE=NUMBER, or --void for all")
    text = parsed.args[0]
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not int(text):
        raise InvalidParameter(
            f"'{text}' is no record number: 'aruntime ledger tail' shows them as SEQ"
        )
    return Wanted(int(text), amounts, is_void)


def reason_of(parsed: Parsed) -> str:
    """Return why.

    Raises:
        UsageError: nothing was said.
        InvalidParameter: it is a novel.
    """
    reason = parsed.string("reason").strip()
    if not reason:
        raise UsageError("say why with --reason: it stands in the ledger and on the bill")
    if len(reason.encode(errors="replace")) > MOST_REASON_BYTES or not reason.isprintable():
        raise InvalidParameter(
            f"--reason must be one line of at most {MOST_REASON_BYTES} bytes of text"
        )
    return reason


def user_name(uid: int) -> str:
    """Return a user's name, by the kernel's word of who asks; the number without one. Blocks."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


COMMANDS = [
    Command(
        "ledger correct", "Correct a record of the ledger by a new one", run_correct, "SEQ",
        (
            Flag("add", "", "list", None, "MEASURE=NUMBER",
                 "Count so much more, or less if negative; may be repeated"),
            Flag("format", "", "string", None, "string", "'json' or a Go template"),
            Flag("reason", "", "string", None, "TEXT",
                 "Why; stands in the ledger and on the bill"),
            Flag("set", "", "list", None, "MEASURE=NUMBER",
                 "Count so much instead; may be repeated"),
            Flag("void", "", "bool", help="Count nothing of what the record says was used"),
        ),
        minimum=1, maximum=1,
        description="The record stays as it is; a new one, chained and signed like any other,\n"
        "says what is to be counted more or less. It counts where the record does, or in\n"
        "this month if the bill of that one was issued. Measures, in the units of 'usage\n"
        "--format json':\n"
        + textwrap.fill(", ".join(COUNTED), 80),
    ),
]  # fmt: skip
