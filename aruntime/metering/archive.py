"""Bills that are kept: what was issued can be shown again, to the byte, for ever (R17). Pure.

A bill that is issued becomes a *document*, canonical JSON of all its lines and of what vouches for
them, and a *seal*: signed, numbered, naming the document by its hash, the seal before it, the price
book, the records and the head of the ledger. Invoices are numbered through, from 1 without gaps.
One of kind ``kept`` was not issued: retention kept it before it deleted the month's records.

Out of scope: making bills (:mod:`aruntime.metering.invoicing`), storing them
(:mod:`aruntime.metering.issuing`), checking them (:mod:`aruntime.metering.verifying`).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import msgspec

from aruntime.metering.bill import Bill, Issue, parse_period
from aruntime.metering.chain import Signs, signed_bytes
from aruntime.metering.prices import PriceBook
from aruntime.metering.rating import Invoice

VERSION = 1

ISSUED, KEPT = "issued", "kept"

PIECE_BYTES = 1 << 18
CHANGED = "its document was changed: its hash is not the one that was signed"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A bill as it is stored."""

    v: int = VERSION
    period: str
    host_id: str
    head_seq: int
    head_hash: str
    first_seq: int
    last_seq: int
    clock_steps: tuple[int, ...]
    book: PriceBook
    """Without its prices: lines have theirs, and the version names the text."""
    invoices: tuple[Invoice, ...]


class SealedInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the seal says of one invoice."""

    number: int
    """From 1 without gaps through all bills of the host; 0: not issued."""
    id: str
    """As FOCUS has it."""
    tenant: str
    account_name: str
    currency: str
    payable: Decimal


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What a seal needs to know of a document, so that nobody else has to hold its lines."""

    period: str
    book_version: str
    first_seq: int
    """Of the lowest record that is in it; 0: there was none."""
    last_seq: int
    head_seq: int
    """The ledger's last record when it was made."""
    head_hash: str
    """That record's."""
    invoices: tuple[SealedInvoice, ...]
    """Without numbers until it is sealed."""
    digest: str
    """SHA-256 of the document, 64 hex digits."""


class Seal(Outline, frozen=True, kw_only=True):
    """What vouches for a document."""

    n: int
    """Number of the bill, from 1 without gaps."""
    host_id: str
    created_ns: int
    """Of the ledger."""
    time_ns: int
    """Unix time at which it was issued or kept."""
    kind: str
    """``issued`` or ``kept``."""
    author: str
    """The user who issued it, by the kernel's word; empty for a bill that retention kept."""
    prev: str = ""
    """Hash of the seal before, empty in the first."""
    key: str = ""
    """The signer's public key, as in a checkpoint."""
    signature: str = ""


class Archived(NamedTuple):
    """A bill as it is stored."""

    seal: Seal
    packed: bytes
    """The document, compressed (zlib)."""
    found_by: tuple[int, str] | None = None
    """Number and period by which the ledger finds it; None where it is in no table."""

    def digest(self) -> str:
        """SHA-256 of the document, which is not held in memory as a whole; empty if garbled."""
        unpacking, digest = zlib.decompressobj(), hashlib.sha256()
        try:
            piece = unpacking.decompress(self.packed, PIECE_BYTES)
            while piece:
                digest.update(piece)
                piece = unpacking.decompress(unpacking.unconsumed_tail, PIECE_BYTES)
        except zlib.error:
            return ""
        return digest.hexdigest() if unpacking.eof else ""

    def document(self) -> bytes:
        """The document's bytes.

        Raises:
            ValueError: they were garbled.
        """
        try:
            return zlib.decompress(self.packed)
        except zlib.error as error:
            raise ValueError(f"its document cannot be read: {error}") from None


def document_of(bill: Bill) -> bytes:
    """The bytes that are kept of a bill; the same for the same bill."""
    document = Document(
        period=str(bill.period),
        host_id=bill.host_id,
        head_seq=bill.head_seq,
        head_hash=bill.head_hash,
        first_seq=bill.first_seq,
        last_seq=bill.last_seq,
        clock_steps=bill.clock_steps,
        book=msgspec.structs.replace(bill.book, prices=()),
        invoices=bill.invoices,
    )
    return msgspec.json.encode(document, order="sorted")


def bill_of(archived: Archived) -> Bill:
    """The bill that a document is of.

    Raises:
        ValueError: it is not the document that was sealed, or of a newer aruntime.
    """
    text, seal = archived.document(), archived.seal
    if hashlib.sha256(text).hexdigest() != seal.digest:
        raise ValueError(CHANGED)
    document = msgspec.json.decode(text, type=Document)
    if document.v != VERSION:
        raise ValueError(f"document of version {document.v}, this aruntime knows {VERSION}")
    numbers = {one.id: one.number for one in seal.invoices}
    return Bill(
        period=parse_period(document.period),
        book=document.book,
        invoices=document.invoices,
        host_id=document.host_id,
        head_seq=document.head_seq,
        head_hash=document.head_hash,
        is_provisional=False,
        clock_steps=document.clock_steps,
        first_seq=document.first_seq,
        last_seq=document.last_seq,
        issue=Issue(seal.n, seal.time_ns, seal.author, numbers) if seal.kind == ISSUED else None,
    )


class Prepared(NamedTuple):
    """A document that is ready to be sealed."""

    outline: Outline
    packed: bytes
    """As in :class:`Archived`."""

    def encoded(self) -> bytes:
        """For :func:`decode_prepared`."""
        return msgspec.json.encode(self.outline) + b"\n" + self.packed


def decode_prepared(text: bytes) -> Prepared:
    """Read what another process prepared.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    outline, _, packed = text.partition(b"\n")
    return Prepared(msgspec.json.decode(outline, type=Outline), packed)


def prepare(text: bytes) -> Prepared:
    """Make a document ready to be sealed; takes memory for its lines."""
    document = msgspec.json.decode(text, type=Document)
    return Prepared(
        Outline(
            period=document.period,
            book_version=document.book.version,
            first_seq=document.first_seq,
            last_seq=document.last_seq,
            head_seq=document.head_seq,
            head_hash=document.head_hash,
            invoices=tuple(
                SealedInvoice(
                    number=0,
                    id=invoice_id(document, invoice),
                    tenant=invoice.tenant,
                    account_name=invoice.account_name,
                    currency=invoice.currency,
                    payable=invoice.payable,
                )
                for invoice in document.invoices
            ),
            digest=hashlib.sha256(text).hexdigest(),
        ),
        zlib.compress(text, 9),
    )


def sealed(
    prepared: Prepared,
    before: Iterable[Seal],
    *,
    host: tuple[str, int],
    kind: str,
    author: str,
    time_ns: int,
    signer: Signs,
) -> Archived:
    """Seal a document.

    Args:
        prepared: the document.
        before: all seals that there are.
        host: the ledger's id and when it was made.
        kind: ``issued`` or ``kept``.
        author: who issues it.
        time_ns: Unix time.
        signer: the key.
    """
    seals, outline = list(before), prepared.outline
    number = max((one.number for seal in seals for one in seal.invoices), default=0)
    invoices = outline.invoices
    if kind == ISSUED:
        invoices = tuple(
            msgspec.structs.replace(one, number=number + place)
            for place, one in enumerate(outline.invoices, 1)
        )
    unsigned = Seal(
        n=seals[-1].n + 1 if seals else 1,
        host_id=host[0],
        created_ns=host[1],
        time_ns=time_ns,
        kind=kind,
        author=author,
        prev=seal_hash(seals[-1]) if seals else "",
        key=signer.public,
        **{**msgspec.structs.asdict(outline), "invoices": invoices},
    )
    seal = msgspec.structs.replace(unsigned, signature=signer.sign(signed_bytes(unsigned)))
    return Archived(seal, prepared.packed)


def invoice_id(document: Document, invoice: Invoice) -> str:
    """The same for the same month, tenant, currency and host."""
    return f"{document.period}/{invoice.tenant}/{invoice.currency}/{document.host_id}"


def seal_hash(seal: Seal) -> str:
    """What the next seal's ``prev`` is, and what checkpoints name it by."""
    return hashlib.sha256(signed_bytes(seal)).hexdigest()


def latest(archived: Iterable[Archived], period: str) -> Archived | None:
    """The bill of a month that holds: the issued one, else the one that was kept."""
    found = [one for one in archived if one.seal.period == period]
    return found[-1] if found else None
