"""Whether a ledger is what was written: every record, the chain, checkpoints, sums. Pure.

What each kind of tampering shows:

- a changed record: its hash; if that was made anew, the next record's ``prev``; if the whole
  chain was, the next checkpoint, whose signature nobody makes without the key;
- a record taken out, put in or swapped with another: numbers and ``prev``;
- a tail cut off: the last checkpoint, and the head that the ledger keeps beside the records. Who
  cuts all of these is found out by a checkpoint that somebody else keeps.

One fault is told once, not as a trail of broken links behind it. Out of scope: where records come
from (:mod:`aruntime.metering.ledger_reader`), keys (:mod:`aruntime.metering.signing`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec

from aruntime.metering.archive import CHANGED, ISSUED, Archived, Seal, bill_of, seal_hash
from aruntime.metering.chain import (
    Checkpoint,
    Head,
    Rollup,
    add_sums,
    checkpoint_hash,
    signed_bytes,
    sums_of,
)
from aruntime.metering.record import LedgerRecord, canonical, chain_hash, decode, genesis


class Row(NamedTuple):
    """A record as the ledger stores it."""

    seq: int
    container_id: str
    tenant: str
    wall_start: int
    wall_end: int
    hash: str
    text: bytes
    """Canonical JSON."""


class Fault(NamedTuple):
    """Something that is not as it was written."""

    where: str
    """``record 7``, ``records 7 to 9``, ``checkpoint 2``, ``head``."""
    what: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.where}: {self.what}"


class Walk:
    """Goes along a chain. State: the last record, the sums and what is left to compare.

    Args:
        start: the genesis hash, or where a ``pruned`` checkpoint says that the chain begins.
        checkpoints: each is compared with the chain when the record it covers is reached.
        seals: of bills; likewise.

    Attributes:
        first: the lowest record that is there, 0 without any.
        seq, hash: of the last one.
        sums: over all records there ever were.
    """

    def __init__(
        self, start: Head, checkpoints: Iterable[Checkpoint] = (), seals: Iterable[Seal] = ()
    ) -> None:
        self.first = 0
        self.seq, self.hash = start.seq, start.hash
        self.sums = dict(start.sums)
        self._whole = True
        self._due: dict[int, list[Checkpoint]] = {}
        self._billed: dict[int, list[Seal]] = {}
        for checkpoint in checkpoints:
            if checkpoint.seq >= start.seq:
                self._due.setdefault(checkpoint.seq, []).append(checkpoint)
        for seal in seals:
            if seal.head_seq >= start.seq:
                self._billed.setdefault(seal.head_seq, []).append(seal)

    def go(self, rows: Iterable[Row], head: Head | None) -> Iterator[Fault]:
        """Take all records in the order of their numbers, then look what should have come.

        Args:
            rows: the records.
            head: as the ledger keeps it beside the records, None if it is not known.
        """
        yield from self._compare()
        for row in rows:
            for fault in self._step(row):
                self._whole = False
                yield fault
            yield from self._compare()
        yield from self._end(head)

    def _step(self, row: Row) -> Iterator[Fault]:
        missing = range(self.seq + 1, row.seq)
        if missing:
            yield Fault(_records(missing), "missing")
        self.first = self.first or row.seq
        before, self.seq, self.hash = self.hash, row.seq, row.hash
        where = f"record {row.seq}"
        try:
            record = decode(row.text, row.hash)
            fault = _wrong(row, record)
        except (ValueError, msgspec.DecodeError) as error:
            yield Fault(where, f"is no record: {error}")
            return
        for name, value in sums_of(record).items():
            self.sums[name] = self.sums.get(name, 0) + value
        if fault:
            yield Fault(where, fault)
        elif not missing and record.prev != before:
            yield Fault(where, f"does not follow the record {row.seq - 1} that is there")

    def _compare(self) -> Iterator[Fault]:
        """Hold the checkpoints of the present record against it; sums only of a whole chain."""
        for checkpoint in self._due.pop(self.seq, ()):
            where = f"checkpoint {checkpoint.n}"
            if checkpoint.hash != self.hash:
                yield Fault(where, f"record {self.seq} was another when it was signed")
            elif self._whole and checkpoint.sums != self.sums:
                yield Fault(where, f"{_unequal(checkpoint.sums, self.sums)} of the records")
        for seal in self._billed.pop(self.seq, ()):
            if seal.head_hash != self.hash:
                yield Fault(f"bill {seal.n}", f"record {self.seq} was another when it was made")

    def _end(self, head: Head | None) -> Iterator[Fault]:
        known = head.seq if head is not None else 0
        last = max([*self._due, *self._billed, known])
        if last > self.seq:
            yield Fault(_records(range(self.seq + 1, last + 1)), "missing at the end")
        elif head is None:
            return
        elif known < self.seq:
            yield Fault(_records(range(known + 1, self.seq + 1)), "added behind the ledger's head")
        elif head.hash != self.hash:
            yield Fault("head", f"it is not the hash of record {self.seq}")
        elif self._whole and head.sums != self.sums:
            yield Fault("head", f"{_unequal(head.sums, self.sums)} of the records")


Judge = Callable[[Checkpoint | Seal], str]
"""What is wrong with a checkpoint or a seal by itself; empty if nothing is."""


def judge_of(
    host: tuple[str, int], keys: Collection[str], is_signed: Callable[[str, bytes, str], bool]
) -> Judge:
    """Make what judges a ledger's checkpoints one by one.

    Args:
        host: the ledger's id and when it was made.
        keys: public keys that may have signed, as hex; empty: whichever a checkpoint names, and
            none at all is no fault.
        is_signed: of public key, text and signature.
    """

    def judge(signed: Checkpoint | Seal) -> str:
        if (signed.host_id, signed.created_ns) != host:
            return f"is of another ledger, {signed.host_id}"
        if keys and signed.key not in keys:
            return f"is signed with key {signed.key}" if signed.key else "is not signed"
        text = signed_bytes(signed)
        if signed.key and not is_signed(signed.key, text, signed.signature):
            return "its signature is not of its content"
        return ""

    return judge


def check_checkpoints(checkpoints: Iterable[Checkpoint], judge: Judge) -> Iterator[Fault]:
    """Check checkpoints by themselves, in the order of their numbers: links and signatures."""
    number, before = 0, ""
    for checkpoint in checkpoints:
        where = f"checkpoint {checkpoint.n}"
        if checkpoint.n != number + 1:
            yield Fault(where, f"comes after checkpoint {number}")
        elif checkpoint.prev != before:
            yield Fault(where, f"does not follow the checkpoint {number} that is there")
        elif reason := judge(checkpoint):
            yield Fault(where, reason)
        number, before = checkpoint.n, checkpoint_hash(checkpoint)


def check_bills(
    bills: Iterable[Archived], checkpoints: Iterable[Checkpoint], judge: Judge
) -> Iterator[Fault | Seal]:
    """Check stored bills by themselves: links, signatures, documents, numbers; yields their seals.

    Checkpoints name the last bill of then, so that one that was cut off is missed.
    """
    number, before, invoices = 0, "", 0
    due = dict.fromkeys(one.bill for one in checkpoints if one.bill)
    for archived in bills:
        seal = archived.seal
        if seal.n != number + 1:
            yield Fault(f"bill {seal.n}", f"comes after bill {number}")
        elif seal.prev != before:
            yield Fault(f"bill {seal.n}", f"does not follow the bill {number} that is there")
        elif reason := judge(seal) or _wrong_bill(archived, invoices):
            yield Fault(f"bill {seal.n}", reason)
        number, before = seal.n, seal_hash(seal)
        invoices = max([invoices, *(one.number for one in seal.invoices)])
        due.pop(before, None)
        yield seal
    if due:
        yield Fault("bills", f"{len(due)} that checkpoints name are not there")


def _says_so(archived: Archived) -> bool:
    """Whether a document has the invoices that its seal names."""
    try:
        bill = bill_of(archived)
    except (ValueError, msgspec.DecodeError):
        return False
    said = [(one.id, one.payable) for one in archived.seal.invoices]
    return said == [(invoice_id, invoice.payable) for invoice_id, invoice in bill.numbered()]


def _wrong_bill(archived: Archived, invoices: int) -> str:
    """What is wrong with a bill whose seal is right; empty if nothing is."""
    seal = archived.seal
    if archived.found_by not in (None, (seal.n, seal.period)):
        return "the columns it is found by are not what it says"
    if archived.digest() != seal.digest:
        return CHANGED
    if not seal.key and not _says_so(archived):  # a key has signed both, without holding the lines
        return "its invoices are not those of its document"
    numbers = [one.number for one in seal.invoices]
    if seal.kind == ISSUED and numbers != [*range(invoices + 1, invoices + 1 + len(numbers))]:
        return f"its invoices are not numbered from {invoices + 1}"
    return ""


def check_witness(
    witness: Checkpoint, checkpoints: Iterable[Checkpoint], judge: Judge
) -> Iterator[Fault]:
    """Check a checkpoint that was kept elsewhere: it is the ledger's, and still in it."""
    where = f"checkpoint {witness.n} that was kept elsewhere"
    reason = judge(witness)
    if reason:
        yield Fault(where, reason)
    elif witness not in list(checkpoints):
        yield Fault(where, "is not in the ledger, or is another there")


def start_of(genesis_hash: str, checkpoints: Iterable[Checkpoint]) -> Head:
    """Where a ledger's chain begins: at its genesis, or behind what was pruned last."""
    start = Head(hash=genesis_hash)
    for checkpoint in checkpoints:
        if checkpoint.reason == "pruned":
            start = Head(seq=checkpoint.seq, hash=checkpoint.hash, sums=checkpoint.sums)
    return start


def _check_rollups(rollups: Iterable[Rollup], start: Head) -> Iterator[Fault]:
    """Hold the sums of pruned records against what the checkpoint at the chain's beginning says."""
    records, sums = 0, dict[str, int]()
    for one in rollups:
        if one.runs and sum(one.runs.values()) != one.sums.get("running_ns", 0):
            yield Fault("roll-ups", f"those of the runs of {one.container_id} are not their sum")
        records += one.records
        sums = add_sums(sums, one.sums)
    if records != start.seq:
        yield Fault("roll-ups", f"they are of {records} records and not of {start.seq}")
    elif sums != start.sums:
        yield Fault("roll-ups", f"{_unequal(sums, start.sums)} of what was pruned")


def _wrong(row: Row, record: LedgerRecord) -> str:
    """What is wrong with a record by itself; empty if nothing is.

    Raises:
        ValueError: its ``prev`` is no hash.
    """
    if record.seq != row.seq:
        return f"record {record.seq} is in its place"
    if chain_hash(record.prev, row.text) != row.hash or canonical(record) != row.text:
        return "it was changed: its hash is not of its content"
    stored = (row.container_id, row.tenant, row.wall_start, row.wall_end)
    if stored != (record.container_id, record.tenant, record.wall_start, record.wall_end):
        return "the columns it is found by are not what it says"
    return ""


def _records(numbers: range) -> str:
    first, last = numbers[0], numbers[-1]
    return f"record {first}" if first == last else f"records {first} to {last}"


def _unequal(said: Mapping[str, int], found: Mapping[str, int]) -> str:
    """The first sum that differs, in words."""
    name = min(name for name in {*said, *found} if said.get(name, 0) != found.get(name, 0))
    return f"{name} is {said.get(name, 0)} and not the sum {found.get(name, 0)}"


class Verdict(NamedTuple):
    """What a verification found."""

    first: int
    """Lowest record that is there; 0: there is none."""
    last: int
    hash: str
    """Of the last record, or what the first one will follow."""
    checkpoints: int
    signed_until: int
    """The last record that a signed checkpoint covers; 0: none."""
    keys: tuple[str, ...]
    """That signed checkpoints, in order of appearance."""
    faults: tuple[Fault, ...]
    bills: int = 0


class Ledger(Protocol):
    """Where the parts of a ledger come from, all as of one instant."""

    def host(self) -> tuple[str, int]:
        """Its id and when it was made."""

    def checkpoints(self) -> Iterable[Checkpoint]:
        """In the order of their numbers."""

    def rows(self) -> Iterable[Row]:
        """In the order of their numbers."""

    def rollups(self) -> Iterable[Rollup]:
        """The sums of the records that were pruned."""

    def bills(self) -> Iterable[Archived]:
        """Those that are stored, in the order of their numbers."""

    def kept_head(self) -> Head | None:
        """The head kept beside the records, None if it is not known."""


def verified(
    ledger: Ledger,
    keys: Collection[str],
    is_signed: Callable[[str, bytes, str], bool],
    witness: Checkpoint | None = None,
) -> Verdict:
    """Check a whole ledger; memory does not grow with it, but with its faults.

    Args:
        ledger: the parts.
        keys: public keys that may have signed its checkpoints, as hex; empty: any.
        is_signed: of public key, text and signature.
        witness: a checkpoint that was kept elsewhere.
    """
    host = ledger.host()
    checkpoints = list(ledger.checkpoints())
    judge = judge_of(host, keys, is_signed)
    faults = list(check_checkpoints(checkpoints, judge))
    if witness is not None:
        faults += check_witness(witness, checkpoints, judge)
    start = start_of(genesis(*host), checkpoints)
    faults += _check_rollups(ledger.rollups(), start)
    seals = []
    for found in check_bills(ledger.bills(), checkpoints, judge):
        if isinstance(found, Fault):
            faults.append(found)
        else:
            seals.append(found)
    walk = Walk(start, checkpoints if witness is None else [*checkpoints, witness], seals)
    faults += walk.go(ledger.rows(), ledger.kept_head())
    signed = [checkpoint for checkpoint in checkpoints if checkpoint.key]
    return Verdict(
        first=walk.first,
        last=walk.seq,
        hash=walk.hash,
        checkpoints=len(checkpoints),
        signed_until=signed[-1].seq if signed else 0,
        keys=tuple(dict.fromkeys(checkpoint.key for checkpoint in signed)),
        bills=len(seals),
        faults=tuple(faults),
    )
