"""Makes a bill, or a page of usage and cost: run as a process of its own, at a low priority.

A month of a host with many containers is hundreds of thousands of lines, which neither belong into
the daemon's memory nor should they take its interpreter. The process reads a :class:`Request` as
JSON from standard input, the records from the ledger itself, and writes what was asked for to
standard output once it is whole; a failure is one line on standard error and exit code 1, a line
on standard error with exit code 0 a warning.
"""

from __future__ import annotations

import io
import itertools
import os
import platform
import sys

import msgspec

from aruntime.daemon.commands.bill_rows import bill_json, bill_table
from aruntime.daemon.report_page import page
from aruntime.errors import AruntimeError, Conflict, Unavailable, os_error_text
from aruntime.metering.archive import Archived, bill_of, document_of, latest, prepare
from aruntime.metering.bill import FILE_KIND, Bill, FileExporter, parse_period
from aruntime.metering.export import exporter_class
from aruntime.metering.invoicing import make_bill
from aruntime.metering.issuing import later_records
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.price_store import SHORT_VERSION
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.record import LedgerRecord
from aruntime.metering.report import make_report
from aruntime.metering.usage import Window

MODULE = "aruntime.daemon.bill_process"
NICE = 10
PAGE = "page"
"""A format of a request: the page of ``aruntime dashboard``."""
DOCUMENT = "document"
"""A format of a request: what is sealed when a bill is issued."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What bill to make of what."""

    ledger: str
    """Path of the file."""
    head_seq: int
    """Number of the last record to take in."""
    open_records: list[LedgerRecord]
    """Usage of the month after it."""
    book: str
    """Its text; empty without prices, which only a page can do without."""
    book_name: str
    period: str
    tenant: str | None
    format: str
    now_ns: int
    is_chosen: bool = False
    """The book was asked for, and is not just the one in force."""
    number: int = 0
    """Of the one invoice that is wanted; 0: all."""


def make(request: Request) -> Bill:
    """Read the ledger and rate it, or take the bill that was issued.

    Raises:
        AruntimeError: as :func:`~aruntime.metering.invoicing.make_bill`; or the bill was issued
            with other prices than those asked for, or changed since.
    """
    with LedgerReader(request.ledger) as reader:
        stored = latest(reader.bills(request.period), request.period)
        if stored is None:
            return _bill(reader, request, _records(reader, request))
        head_seq = stored.seal.head_seq
        late = sum(1 for _ in later_records(reader, request.period, head_seq, request.tenant))
    if late and not request.number:
        sys.stderr.write(
            f"{late} records of {request.period} came after its bill was made and are on none:"
            " was the clock set back?\n"
        )
    return _stored_bill(stored, request)


def _stored_bill(stored: Archived, request: Request) -> Bill:
    """The bill of a month that has one for ever, or the part of it that is asked for."""
    seal = stored.seal
    try:
        bill = bill_of(stored)
    except (ValueError, msgspec.DecodeError) as error:
        raise Unavailable(
            f"bill {seal.n} of {seal.period} cannot be shown: {error}; see 'aruntime ledger verify'"
        ) from error
    if request.is_chosen and parse_book(request.book, request.book_name).version != (
        bill.book.version
    ):
        raise Conflict(
            f"{seal.period} was billed for good by price book {bill.book.version[:SHORT_VERSION]}:"
            " leave --prices out"
        )
    wanted = [
        invoice
        for invoice_id, invoice in bill.numbered()
        if request.tenant in (None, invoice.tenant)
        and (
            not request.number or (bill.issue and bill.issue.numbers[invoice_id] == request.number)
        )
    ]
    return bill._replace(invoices=tuple(wanted))


def make_document(request: Request) -> bytes:
    """What is to be sealed of a month: what was kept of it, or its bill.

    Raises:
        AruntimeError: as :func:`~aruntime.metering.invoicing.make_bill`.
    """
    with LedgerReader(request.ledger) as reader:
        stored = latest(reader.bills(request.period), request.period)
        if stored is not None:
            text = stored.document()
        else:
            text = document_of(_bill(reader, request, _records(reader, request)))
    return prepare(text).encoded()


def make_page(request: Request) -> str:
    """Read the ledger and draw it; what is rolled up is shown but cannot be billed.

    Raises:
        AruntimeError: the ledger cannot be read, or plotly is not installed.
    """
    period = parse_period(request.period)
    window = Window(period.start_ns, period.end_ns)
    with LedgerReader(request.ledger) as reader:
        records = _records(reader, request)
        rollups = list(
            reader.rollups(
                since_ns=window.since_ns, until_ns=window.until_ns, tenant=request.tenant
            )
        )
        bill = None
        stored = latest(reader.bills(request.period), request.period)
        if stored is not None:
            bill = _stored_bill(stored, request)
        elif request.book and not rollups:
            bill = _bill(reader, request, records)
        report = make_report(
            records,
            rollups,
            window,
            bill,
            title=f"Usage of {period}" + (f" by {request.tenant}" if request.tenant else ""),
            host=platform.node(),
            head=(bill.head_seq, bill.head_hash) if bill else reader.head(),
            now_ns=request.now_ns,
        )
    try:
        return page(report)
    except ImportError as error:
        raise Unavailable(
            "the page needs plotly; install it with pip install 'aruntime[report]'"
        ) from error


def _records(reader: LedgerReader, request: Request) -> list[LedgerRecord]:
    """The month's records, and what is not in the ledger yet."""
    period = parse_period(request.period)
    found = reader.records(since_ns=period.start_ns, until_ns=period.end_ns, tenant=request.tenant)
    numbered = itertools.takewhile(lambda record: record.seq <= request.head_seq, found)
    return [*numbered, *request.open_records]


def _bill(reader: LedgerReader, request: Request, records: list[LedgerRecord]) -> Bill:
    book = parse_book(request.book, request.book_name)
    period = parse_period(request.period)
    bill = make_bill(reader, records, book, period, now_ns=request.now_ns)
    for head in reader.records(after_seq=request.head_seq - 1, limit=1):
        if head.seq == request.head_seq:  # what was added since is not in the bill
            bill = bill._replace(head_seq=head.seq, head_hash=head.hash)
    return bill


def rendered(bill: Bill, chosen: str) -> bytes:
    """Write a bill in a format.

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


def main() -> int:
    """Do what standard input asks; return the exit code."""
    os.nice(NICE)
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        if request.format == PAGE:
            content = make_page(request).encode(errors="replace")
        elif request.format == DOCUMENT:
            content = make_document(request)
        else:
            content = rendered(make(request), request.format)
    except AruntimeError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{os_error_text(error)}\n")
        return 1
    sys.stdout.buffer.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
