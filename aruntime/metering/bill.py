"""A bill: the invoices of one calendar month, and what vouches for them.

What ``aruntime bill`` prints and what exporters of the kind ``file`` write. An exporter of this
kind is found by its name, which is a value of ``--format``.

Out of scope: rating (:mod:`aruntime.metering.rating`), where records come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import BinaryIO, NamedTuple, Protocol

from aruntime.metering.prices import PriceBook
from aruntime.metering.rating import Invoice

FILE_KIND = "file"

_PERIOD = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


class Period(NamedTuple):
    """A calendar month, UTC."""

    year: int
    month: int

    def __str__(self) -> str:
        """``2026-11``."""
        return f"{self.year:04}-{self.month:02}"

    @property
    def next(self) -> Period:
        """The month after."""
        return Period(self.year + self.month // 12, self.month % 12 + 1)

    @property
    def start_ns(self) -> int:
        """Its first instant, Unix ns."""
        first = datetime(self.year, self.month, 1, tzinfo=UTC)
        return int(first.timestamp()) * 10**9

    @property
    def end_ns(self) -> int:
        """The first instant after it, Unix ns."""
        return self.next.start_ns


def parse_period(text: str) -> Period:
    """Read ``2026-11``.

    Raises:
        ValueError: it is no month.
    """
    match = _PERIOD.fullmatch(text)
    if match is None or not 1970 <= int(match[1]) <= 9998:
        raise ValueError(f"invalid period '{text}': give a month such as 2026-11")
    return Period(int(match[1]), int(match[2]))


def period_of(instant_ns: int) -> Period:
    """The month of a Unix time in ns."""
    moment = datetime.fromtimestamp(instant_ns // 10**9, tz=UTC)
    return Period(moment.year, moment.month)


class Issue(NamedTuple):
    """That a bill was issued: it will never change."""

    n: int
    """Number of the bill, from 1 without gaps."""
    time_ns: int
    """Unix time."""
    author: str
    numbers: Mapping[str, int]
    """Of its invoices, by their ids."""


class Bill(NamedTuple):
    """What one host's ledger and price book say is to be paid for a month."""

    period: Period
    book: PriceBook
    invoices: tuple[Invoice, ...]
    """By tenant."""
    host_id: str
    head_seq: int
    """Of the last record of the ledger when the bill was made."""
    head_hash: str
    """That record's hash: it stands for all of them."""
    is_provisional: bool
    """The month is not over, or usage of it is not in the ledger yet."""
    clock_steps: tuple[int, ...] = ()
    """Numbers of the ledger's records that say that the host's clock was set, in order: lines of
    records before and after one may bear the same times."""
    first_seq: int = 0
    """Of the lowest record of the ledger that is in it; 0: there is none."""
    last_seq: int = 0
    issue: Issue | None = None
    """None: not issued."""

    def numbered(self) -> Iterator[tuple[str, Invoice]]:
        """Invoices with their ids: the same for the same month, tenant, currency and host."""
        for invoice in self.invoices:
            yield f"{self.period}/{invoice.tenant}/{invoice.currency}/{self.host_id}", invoice


class FileExporter(Protocol):
    """Writes bills as files.

    Attributes:
        kind: ``file``.
    """

    kind: str

    def write(self, bill: Bill, file: BinaryIO) -> None:
        """Write a bill; the file stays open. Called in a worker thread.

        Raises:
            AruntimeError: something is missing that it needs.
            OSError: the file cannot be written.
        """
