"""ledger verify, tail, export, checkpoint: the ledger as auditors and scripts want it.

Everything is read beside the writer, in worker threads that stop when the client goes away.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypedDict, TypeVar

import msgspec
import trio

from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.images import archive_source
from aruntime.daemon.commands.ledger_rows import (
    checkpoint_row,
    csv_lines,
    records_text,
    verdict_text,
)
from aruntime.daemon.commands.listing import render_objects
from aruntime.daemon.commands.logs import moment, parse_tail
from aruntime.daemon.commands.run_request import read_file
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter
from aruntime.metering import exported
from aruntime.metering.chain import Checkpoint
from aruntime.metering.exported import ExportedLedger
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord
from aruntime.metering.verifying import Ledger, Row, Verdict, verified

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

FAULTY = 1
"""Exit code of verify when something is not as it was written."""
MOST_FAULTS = 100
"""That are listed; more are counted."""
CANCEL_EVERY = 1000
FOLLOW_SECONDS = 0.3
BATCH_BYTES = 1 << 18
HEX_KEY = re.compile(r"[0-9a-f]{64}")

Item = TypeVar("Item")


async def run_verify(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check the ledger, or an exported one, and say what is wrong with it."""
    keys = await _trusted(session, parsed, daemon)
    witness = await _witness(session, parsed.string("checkpoint"))
    if parsed.args:
        async with archive_source(session, parsed.args[0]) as fd:
            name = parsed.args[0]
            found = await trio.to_thread.run_sync(_verify_export, os.dup(fd), name, keys, witness)
    else:
        name = daemon.meter.ledger_path
        found = await trio.to_thread.run_sync(verified_file, name, keys, witness)
    await session.out(verdict_text(found, name, parsed.string("format")))
    for fault in found.faults[:MOST_FAULTS]:
        await session.err(f"{PROGRAM}: ledger: {fault}\n")
    if len(found.faults) > MOST_FAULTS:
        await session.err(f"{PROGRAM}: ledger: {len(found.faults) - MOST_FAULTS} faults more\n")
    return FAULTY if found.faults else 0


def verified_file(path: str, keys: set[str], witness: Checkpoint | None = None) -> Verdict:
    """Verify a ledger's file, in a worker thread that ends with its command.

    Args:
        path: of the file.
        keys: public keys that may have signed; none: whoever signed.
        witness: a checkpoint that was kept elsewhere.

    Raises:
        Unavailable: the file cannot be read.
    """
    from aruntime.metering.signing import is_signed  # its import takes a tenth of a second

    with LedgerReader(path) as reader, reader.instant():
        return verified(_Cancellable(reader), keys, is_signed, witness)


def _verify_export(fd: int, name: str, keys: set[str], witness: Checkpoint | None) -> Verdict:
    from aruntime.metering.signing import is_signed

    with open(fd, "rb") as source:
        return verified(_Cancellable(ExportedLedger(source, name)), keys, is_signed, witness)


class _Cancellable:
    """A ledger whose reading ends when the command is cancelled."""

    def __init__(self, ledger: Ledger) -> None:
        self.host = ledger.host
        self.checkpoints = ledger.checkpoints
        self.rollups = ledger.rollups
        self.bills = ledger.bills
        self.kept_head = ledger.kept_head
        self._rows = ledger.rows

    def rows(self) -> Iterator[Row]:
        """See Ledger."""
        return _cancellable(self._rows())


def _cancellable(items: Iterable[Item]) -> Iterator[Item]:
    for number, item in enumerate(items):
        if not number % CANCEL_EVERY:
            trio.from_thread.check_cancelled()
        yield item


async def _trusted(session: Session, parsed: Parsed, daemon: Daemon) -> set[str]:
    """Public keys that may have signed: those given, else the daemon's own.

    Raises:
        InvalidParameter: one is no key, or cannot be read.
    """
    from aruntime.metering.signing import public_key_in

    keys = set()
    for given in parsed.strings("key"):
        if HEX_KEY.fullmatch(given):
            keys.add(given)
        else:
            keys.add(public_key_in(await read_file(session, given), given))
    return keys if keys or parsed.args else await own_keys(daemon)


async def own_keys(daemon: Daemon) -> set[str]:
    """Return the daemon's own public key; none if it signs nothing.

    Raises:
        AruntimeError: the key's file cannot be read.
    """
    if daemon.settings.ledger.key is None:
        return set()
    return {(await trio.to_thread.run_sync(daemon.meter.checkpoints.signer)).public}


async def _witness(session: Session, path: str) -> Checkpoint | None:
    if not path:
        return None
    try:
        return msgspec.json.decode(await read_file(session, path), type=Checkpoint)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"{path} is no checkpoint: {error}") from None


async def run_tail(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show the last records, and with -f those that come."""
    count = parse_tail(parsed.string("tail"))
    shown, follow = parsed.string("format"), parsed.boolean("follow")
    wanted = _wanted(parsed, daemon)
    path, books = daemon.meter.ledger_path, daemon.meter.books
    if follow:
        session.open_ended = True
    head = books.head.seq
    records = await trio.to_thread.run_sync(_last, path, wanted, -1 if count is None else count)
    await session.out(records_text(records, shown, heading=True))
    head = max([head, *(record.seq for record in records)])
    while follow:
        await trio.sleep(FOLLOW_SECONDS)
        if books.head.seq > head:
            records = await trio.to_thread.run_sync(_after, path, wanted, head)
            head = max([books.head.seq, *(record.seq for record in records)])
            await session.out(records_text(records, shown, heading=False))
    return 0


class Wanted(TypedDict, total=False):
    """Which records, by the names of LedgerReader.records."""

    since_ns: int
    until_ns: int
    tenant: str
    container_id: str


def _wanted(parsed: Parsed, daemon: Daemon) -> Wanted:
    """What the flags select.

    Raises:
        InvalidParameter: a moment is none.
        ContainerNotFound: no container has the name, and it is no whole id of a removed one.
    """
    now, wanted = time.time_ns(), Wanted()
    if since := moment(parsed, "since", now, 0):
        wanted["since_ns"] = since
    if until := moment(parsed, "until", now, 0):
        wanted["until_ns"] = until
    if tenant := parsed.string("tenant"):
        wanted["tenant"] = tenant
    if parsed.args:
        name = parsed.args[0]
        whole = HEX_KEY.fullmatch(name) is not None
        wanted["container_id"] = name if whole else daemon.supervisor.find(name).id
    return wanted


def _last(path: str, wanted: Wanted, count: int) -> list[LedgerRecord]:
    with LedgerReader(path) as reader:
        return reader.last(count, **wanted)


def _after(path: str, wanted: Wanted, seq: int) -> list[LedgerRecord]:
    with LedgerReader(path) as reader:
        return list(reader.records(after_seq=seq, **wanted))


async def run_export(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Write the ledger, or some of its records, to a file or standard output."""
    wanted = _wanted(parsed, daemon)
    with LedgerReader(daemon.meter.ledger_path) as reader, reader.instant():
        if parsed.string("format") == "csv":
            lines = csv_lines(reader.records(**wanted))
        elif wanted:
            lines = exported.some_lines(reader, reader.records(**wanted))
        else:
            lines = exported.lines(reader)
        async with outputs.opened(session, parsed.string("output")) as write:
            await outputs.copy(_batches(lines), write)
    return 0


def _batches(lines: Iterator[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= BATCH_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)


async def run_checkpoint(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Sign where the chain stands now, and print it: whoever keeps it can prove a cut later."""
    made = await daemon.meter.checkpoints.make("demand")
    shown = parsed.string("format")
    if shown in ("", "json"):
        await session.out(exported.checkpoint_line(made))
    else:
        await session.out(render_objects([checkpoint_row(made)], shown))
    return 0


_SELECTION = (
    Flag("since", "", "string", None, "string",
         "Records that end after a moment (e.g. 2026-01-02T13:23:37Z or 42m)"),
    Flag("until", "", "string", None, "string", "Records that begin before a moment"),
    Flag("tenant", "", "string", None, "NAME", "Records of this tenant only"),
)  # fmt: skip

COMMANDS = [
    Command(
        "ledger verify", "Check that the ledger is what was written", run_verify, "[FILE]",
        (
            Flag("checkpoint", "", "string", None, "FILE",
                 "Checkpoint that was kept elsewhere: finds a cut that left no trace here"),
            Flag("format", "", "string", None, "string", "'json' or a Go template"),
            Flag("key", "", "list", None, "FILE|HEX",
                 "Ed25519 key, public or not, that signed the checkpoints; may be repeated"
                 " (default: the daemon's own)"),
        ),
        maximum=1, completes="files",
        description="Checks each record's hash, the chain, the checkpoints and their signatures,"
        " and the sums. With FILE, an exported ledger ('-': standard input). Exit code 1, and a"
        " line for each fault, if something was changed, taken out, swapped or cut off.",
    ),
    Command(
        "ledger tail", "Show the last records of the ledger", run_tail, "[CONTAINER]",
        (
            Flag("follow", "f", "bool", help="Show records as they are written"),
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            *_SELECTION,
            Flag("tail", "n", "string", "10", "string", "Number of records to show, or all"),
        ),
        maximum=1, completes="containers",
    ),
    Command(
        "ledger export", "Write the ledger to a file or STDOUT", run_export, "[CONTAINER]",
        (
            Flag("format", "", "choice", "json", "json|csv", "JSON lines, or a table for people",
                 choices=("json", "csv")),
            Flag("output", "o", "string", None, "FILE", "Write to a file, instead of STDOUT"),
            *_SELECTION,
        ),
        maximum=1, completes="containers",
        description="Without a selection, JSON lines are the whole ledger with its checkpoints:"
        " 'ledger verify FILE' checks it, anywhere.",
    ),
    Command(
        "ledger checkpoint", "Sign where the ledger stands, and print it", run_checkpoint, "",
        (Flag("format", "", "string", None, "string", "'json' or a Go template"),),
        maximum=0,
    ),
]  # fmt: skip
