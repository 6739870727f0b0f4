"""What stands beside the records in a ledger: checkpoints, roll-ups, and sums over both. Pure.

A checkpoint says, signed, where the chain stood: the last record's number and hash, how many
records there ever were, and the sums over them. It names the checkpoint before it by hash, so
none can be taken out. One of reason ``pruned`` is where the chain begins after old records were
deleted; the roll-ups hold their sums.

Out of scope: signing (:mod:`aruntime.metering.signing`), checking a whole ledger
(:mod:`aruntime.metering.verifying`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from aruntime.metering.record import LedgerRecord, canonical, chain_hash

HOUR_NS = 3600 * 10**9

SUMMED = (
    "running_ns",
    "paused_ns",
    "cpu_ns",
    "cpu_user_ns",
    "cpu_system_ns",
    "mem_bytens2",
    "mem_usage_bytens2",
    "cpu_alloc_ns",
    "mem_alloc_bytens2",
    "proc_read",
    "proc_write",
    "proc_cancelled",
    "oom_kills",
    "samples",
)
"""Fields of a record that are simply added up."""

BLOCK_SUMS = ("blk_read", "blk_write", "blk_reads", "blk_writes", "blk_discard")
"""Names of the sums over all disks, in the order of a record's ``blk``."""
NETWORK_SUMS = (
    "net_receive",
    "net_transmit",
    "net_receive_packets",
    "net_transmit_packets",
    "net_egress",
    "net_egress_packets",
)
"""Names of the sums over all interfaces, in the order of a record's ``net``."""

REASONS = ("hour", "period", "demand", "stop", "pruned", "bill")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain stood; see the module's text."""

    n: int
    """Number of the checkpoint, from 1 without gaps."""
    host_id: str
    created_ns: int
    """Of the ledger."""
    time_ns: int
    """Unix time at which it was made."""
    reason: str
    """``hour``; ``period``: a UTC month is over; ``demand``; ``stop`` of the daemon; ``pruned``;
    ``bill``: one was stored."""
    seq: int
    """The last record it covers."""
    hash: str
    """That record's."""
    records: int
    """How many records there ever were up to ``seq``."""
    sums: dict[str, int]
    """Over all of them, by the names of :func:`sums_of`."""
    bill: str = ""
    """Hash of the seal of the last bill that was stored; empty before the first."""
    prev: str = ""
    """Hash of the checkpoint before, empty in the first."""
    key: str = ""
    """The signer's Ed25519 public key, 64 hex digits; empty: there was no key to sign with."""
    signature: str = ""
    """Ed25519 over :func:`signed_bytes`, 128 hex digits."""


class Rollup(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over one container's records of one UTC hour, kept when the records go."""

    hour_ns: int
    """Unix time of its beginning."""
    tenant: str
    container_id: str
    price_version: str
    name: str
    """Of the container, as of the last record."""
    records: int
    first_seq: int
    last_seq: int
    estimated: int
    """How many of the records were estimated."""
    sums: dict[str, int]
    runs: dict[str, int] = {}
    """Running time by incarnation: what quantum and minimum of a run that goes on will need. Empty
    where it is not known: of records that were deleted before it was kept, of sums for ever."""

    @property
    def has_runs(self) -> bool:
        """Whether ``runs`` is known."""
        return bool(self.runs) or not self.sums.get("running_ns")


def sums_of(record: LedgerRecord) -> dict[str, int]:
    """The quantities of a record that add up, disks and interfaces summed; zeros left out."""
    sums: dict[str, int] = {}
    for name in SUMMED:
        if value := getattr(record, name):
            sums[name] = value
    for names, rows in ((BLOCK_SUMS, record.blk), (NETWORK_SUMS, record.net)):
        for row in rows.values():
            # Rows of records written before egress was counted are shorter.
            for name, value in zip(names, row, strict=False):
                if value:
                    sums[name] = sums.get(name, 0) + value
    return sums


def add_sums(total: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Two sums in one."""
    added = dict(total)
    for name, value in more.items():
        added[name] = added.get(name, 0) + value
    return added


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the chain, and what the whole chain adds up to."""

    seq: int = 0
    hash: str
    sums: dict[str, int] = {}
    """Over all records there ever were, by the names of :func:`sums_of`."""
    kinds: dict[str, int] = {}
    """Records by kind."""
    estimated: dict[str, int] = {}
    """Records by reason for which they are estimates."""


class Sealed(NamedTuple):
    """A record with its place in the chain, and its canonical bytes."""

    record: LedgerRecord
    text: bytes


def append(head: Head, host_id: str, records: Iterable[LedgerRecord]) -> tuple[Head, list[Sealed]]:
    """Number and chain records behind a head; the new head and what is to be stored."""
    seq, last = head.seq, head.hash
    sums, kinds, estimated = dict(head.sums), dict(head.kinds), dict(head.estimated)
    sealed = []
    for record in records:
        seq += 1
        numbered = msgspec.structs.replace(record, seq=seq, host_id=host_id, prev=last, hash="")
        text = canonical(numbered)
        last = chain_hash(last, text)
        sealed.append(Sealed(msgspec.structs.replace(numbered, hash=last), text))
        for name, value in sums_of(record).items():
            sums[name] = sums.get(name, 0) + value
        kinds[record.kind] = kinds.get(record.kind, 0) + 1
        for reason in record.estimated:
            estimated[reason] = estimated.get(reason, 0) + 1
    return Head(seq=seq, hash=last, sums=sums, kinds=kinds, estimated=estimated), sealed


def signed_bytes(signed: msgspec.Struct) -> bytes:
    """What a signature covers: canonical JSON of everything but the signature.

    Args:
        signed: a checkpoint, or a seal. One from before there were bills says nothing of any.
    """
    fields = msgspec.structs.asdict(signed)
    del fields["signature"]
    if not fields.get("bill", True):
        del fields["bill"]
    return msgspec.json.encode(fields, order="sorted")


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """What the next checkpoint's ``prev`` is."""
    return hashlib.sha256(signed_bytes(checkpoint)).hexdigest()


class Signs(Protocol):
    """A key, ready to sign (:class:`aruntime.metering.signing.Signer`)."""

    public: str

    def sign(self, text: bytes) -> str:
        """Ed25519 signature, 128 hex digits."""


class Unsigned:
    """Stands for no key."""

    public = ""

    def sign(self, _text: bytes) -> str:
        """No signature."""
        return ""


def next_checkpoint(
    before: Checkpoint | None,
    *,
    host: tuple[str, int],
    reason: str,
    at: tuple[int, str, Mapping[str, int]],
    signer: Signs,
    bill: str = "",
) -> Checkpoint:
    """Sign a place in the chain.

    Args:
        before: the last checkpoint.
        host: the ledger's id and when it was made.
        reason: one of chain.REASONS.
        at: number and hash of the last record that is covered, sums over all up to it.
        signer: the key.
        bill: hash of the seal of a bill that is stored with it.
    """
    seq, digest, sums = at
    unsigned = Checkpoint(
        n=before.n + 1 if before is not None else 1,
        host_id=host[0],
        created_ns=host[1],
        time_ns=time.time_ns(),
        reason=reason,
        seq=seq,
        hash=digest,
        records=seq,
        sums=dict(sums),
        bill=bill or (before.bill if before is not None else ""),
        prev=checkpoint_hash(before) if before is not None else "",
        key=signer.public,
    )
    return msgspec.structs.replace(unsigned, signature=signer.sign(signed_bytes(unsigned)))
