"""A ledger as a file of JSON lines: to hand out, to keep elsewhere, to verify without the host.

The first line names the ledger and says where its chain stood; then come its checkpoints, the sums
of what was pruned, the bills that were issued, and its records with their hashes. Whoever has the
whole file can check it as the host can. A file of some records only (of a tenant, of a time) says
so and cannot be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from aruntime.errors import InvalidParameter
from aruntime.metering.archive import Archived, Seal
from aruntime.metering.chain import Checkpoint, Head, Rollup
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord, canonical
from aruntime.metering.verifying import Row

HEADER, CHECKPOINT, ROLLUP, BILL = "ledger", "checkpoint", "rollup", "bill"
"""The ``kind`` of the lines that are no records."""
FORMAT = 1


class _BillLine(msgspec.Struct):
    seal: Seal
    document: bytes


Line = TypeVar("Line", Checkpoint, Rollup, _BillLine)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    kind: str = HEADER
    v: int = FORMAT
    host_id: str
    created_ns: int
    complete: bool
    """All records and checkpoints of the ledger follow."""
    head: Head


class _Kind(msgspec.Struct):
    kind: str


def line(record: LedgerRecord) -> bytes:
    """A record as a line: canonical JSON with the hash behind it."""
    return canonical(record)[:-1] + b',"hash":"' + record.hash.encode() + b'"}\n'


def checkpoint_line(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as a line."""
    fields = {"kind": CHECKPOINT, **msgspec.structs.asdict(checkpoint)}
    return msgspec.json.encode(fields, order="sorted") + b"\n"


def bill_line(archived: Archived) -> bytes:
    """A stored bill as a line: its seal, and its document, compressed, in base 64."""
    fields = {"kind": BILL, "seal": archived.seal, "document": archived.packed}
    return msgspec.json.encode(fields, order="sorted") + b"\n"


def lines(reader: LedgerReader) -> Iterator[bytes]:
    """A whole ledger, as of the beginning of the reader's instant.

    Raises:
        Unavailable: it cannot be read.
    """
    yield _header(reader, complete=True)
    for checkpoint in reader.checkpoints():
        yield checkpoint_line(checkpoint)
    for rollup in reader.rollups():
        fields = {"kind": ROLLUP, **msgspec.structs.asdict(rollup)}
        yield msgspec.json.encode(fields, order="sorted") + b"\n"
    for bill in reader.bills():
        yield bill_line(bill)
    for row in reader.rows():
        # As it is stored, so that what is wrong with it goes along.
        yield row.text[:-1] + b',"hash":"' + row.hash.encode() + b'"}\n'


def some_lines(reader: LedgerReader, records: Iterable[LedgerRecord]) -> Iterator[bytes]:
    """Some of a ledger's records, with a header that says so."""
    yield _header(reader, complete=False)
    for record in records:
        yield line(record)


def _header(reader: LedgerReader, *, complete: bool) -> bytes:
    host_id, created_ns = reader.host()
    head = reader.kept_head() or Head(hash=reader.head()[1])
    made = Header(host_id=host_id, created_ns=created_ns, complete=complete, head=head)
    return msgspec.json.encode(made, order="sorted") + b"\n"


class ExportedLedger:
    """The parts of an exported ledger, for :func:`aruntime.metering.verifying.verified`.

    Args:
        source: the lines.
        name: of the file, for messages.

    Raises:
        InvalidParameter: it is no exported ledger, or not a whole one.
    """

    def __init__(self, source: Iterable[bytes], name: str) -> None:
        self._source = iter(source)
        self._name = name
        self._first: bytes | None = None
        try:
            self._header = msgspec.json.decode(next(self._source, b""), type=Header)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"{name} is no exported ledger: {error}") from None
        if self._header.kind != HEADER or self._header.v != FORMAT:
            raise InvalidParameter(f"{name} is no exported ledger of format {FORMAT}")
        if not self._header.complete:
            raise InvalidParameter(
                f"{name} has only some records of its ledger; export it whole to verify it"
            )

    def host(self) -> tuple[str, int]:
        """Its id and when it was made."""
        return self._header.host_id, self._header.created_ns

    def kept_head(self) -> Head:
        """Where the chain stood."""
        return self._header.head

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Those of the file; to be read to the end before what follows.

        Raises:
            InvalidParameter: a line is not what an export has.
        """
        yield from self._of_kind(CHECKPOINT, Checkpoint)

    def rollups(self) -> Iterator[Rollup]:
        """Those of the file; to be read to the end before the rows.

        Raises:
            InvalidParameter: a line is not what an export has.
        """
        yield from self._of_kind(ROLLUP, Rollup)

    def bills(self) -> Iterator[Archived]:
        """Those of the file; to be read to the end before the rows.

        Raises:
            InvalidParameter: a line is not what an export has.
        """
        for one in self._of_kind(BILL, _BillLine):
            yield Archived(one.seal, one.document)

    def rows(self) -> Iterator[Row]:
        """The records.

        Raises:
            InvalidParameter: a line is no JSON object with a number and a hash.
        """
        text = self._first if self._first is not None else next(self._source, b"")
        while text:
            yield _row(text, self._name)
            text = next(self._source, b"")

    def _of_kind(self, kind: str, made: type[Line]) -> Iterator[Line]:
        """Lines of a kind, up to the first of another, which is kept."""
        text = self._first if self._first is not None else next(self._source, b"")
        while text:
            try:
                if msgspec.json.decode(text, type=_Kind).kind != kind:
                    break
                yield msgspec.json.decode(text, type=made)  # unknown fields are left out
            except msgspec.DecodeError as error:
                raise InvalidParameter(f"{self._name}, line {text[:40]!r}: {error}") from None
            text = next(self._source, b"")
        self._first = text


class _Stored(msgspec.Struct):
    seq: int
    container_id: str
    tenant: str
    wall_start: int
    wall_end: int
    hash: str


def _row(text: bytes, name: str) -> Row:
    try:
        stored = msgspec.json.decode(text, type=_Stored)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"{name}: no record: {error}") from None
    tail = b',"hash":"' + stored.hash.encode() + b'"}'
    text = text.rstrip(b"\n")
    content = text.removesuffix(tail) + b"}" if text.endswith(tail) else text
    return Row._make((*msgspec.structs.astuple(stored), content))
