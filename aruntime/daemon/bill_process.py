"""Makes a bill: run as a process of its own, at a low priority.

A month of a host with many containers is hundreds of thousands of lines, which neither belong into
the daemon's memory nor should they take its interpreter. The process reads a :class:`Request` as
JSON from standard input, the records from the ledger itself, and writes the bill to standard
output once it is whole; a failure is one line on standard error and exit code 1.
"""

from __future__ import annotations

import io
import itertools
import os
import sys

import msgspec

from aruntime.daemon.commands.bill_rows import bill_json, bill_table
from aruntime.errors import AruntimeError, os_error_text
from aruntime.metering.bill import FILE_KIND, Bill, FileExporter, parse_period
from aruntime.metering.export import exporter_class
from aruntime.metering.invoicing import make_bill
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.record import LedgerRecord

MODULE = "aruntime.daemon.bill_process"
NICE = 10


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What bill to make of what."""

    ledger: str
    """Path of the file."""
    head_seq: int
    """Number of the last record to take in."""
    open_records: list[LedgerRecord]
    """Usage of the month after it."""
    book: str
    book_name: str
    period: str
    tenant: str | None
    format: str
    now_ns: int


def make(request: Request) -> Bill:
    """Read the ledger and rate it.

    Raises:
        AruntimeError: as :func:`~aruntime.metering.invoicing.make_bill`.
    """
    period = parse_period(request.period)
    book = parse_book(request.book, request.book_name)
    with LedgerReader(request.ledger) as reader:
        found = reader.records(
            since_ns=period.start_ns, until_ns=period.end_ns, tenant=request.tenant
        )
        numbered = itertools.takewhile(lambda record: record.seq <= request.head_seq, found)
        records = [*numbered, *request.open_records]
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
