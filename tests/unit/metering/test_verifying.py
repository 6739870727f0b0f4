"""Tampering with a ledger is found, and named: records, order, tail, checkpoints, sums."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aruntime.errors import InvalidParameter
from aruntime.metering import exported
from aruntime.metering.archive import Archived
from aruntime.metering.chain import (
    Checkpoint,
    Head,
    Rollup,
    Unsigned,
    append,
    next_checkpoint,
)
from aruntime.metering.exported import ExportedLedger
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord, canonical, chain_hash, genesis
from aruntime.metering.signing import Signer, is_signed, load_or_make
from aruntime.metering.totals import Note
from aruntime.metering.verifying import Row, Verdict, verified

HOST = ("host", 17)
RECORDS = 12
MARKS = (4, 9)
"""Records after which a checkpoint was made."""


class Kept(NamedTuple):
    """A ledger in memory."""

    all_rows: list[Row]
    marks: list[Checkpoint]
    end: Head | None

    def host(self) -> tuple[str, int]:
        """See verifying.Ledger."""
        return HOST

    def rows(self) -> list[Row]:
        """See verifying.Ledger."""
        return self.all_rows

    def checkpoints(self) -> list[Checkpoint]:
        """See verifying.Ledger."""
        return self.marks

    def rollups(self) -> list[Rollup]:
        """See verifying.Ledger."""
        return []

    def bills(self) -> list[Archived]:
        """See verifying.Ledger."""
        return []

    def kept_head(self) -> Head | None:
        """See verifying.Ledger."""
        return self.end


def usage(number: int) -> LedgerRecord:
    """A record with something to change in every kind of field."""
    return LedgerRecord(
        container_id=f"c{number % 3}",
        incarnation="boot:1:2",
        name="web",
        tenant="acme",
        labels={"a": "b"},
        wall_start=number,
        wall_end=number + 1,
        boot_start_ns=number,
        boot_end_ns=number + 1,
        cpu_ns=10**9 + number,
        mem_bytens2=1 << 80,
        blk={"vda": (1, 2, 3, 4, 5)},
        net={"eth0": (1, 2, 3, 4)},
    )


def row_of(record: LedgerRecord) -> Row:
    """As it is stored."""
    return Row(
        record.seq, record.container_id, record.tenant, record.wall_start, record.wall_end,
        record.hash, canonical(record),
    )  # fmt: skip


@pytest.fixture(name="signer", scope="session")
def _signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return load_or_make(tmp_path_factory.mktemp("keys") / "ledger.key")


@pytest.fixture(name="ledger", scope="session")
def _ledger(signer: Signer) -> Kept:
    """A whole ledger with two checkpoints."""
    head = Head(hash=genesis(*HOST))
    rows: list[Row] = []
    marks: list[Checkpoint] = []
    for number in range(1, RECORDS + 1):
        head, [sealed] = append(head, HOST[0], [usage(number)])
        rows.append(row_of(sealed.record))
        if number in MARKS:
            at = (head.seq, head.hash, head.sums)
            last = marks[-1] if marks else None
            marks.append(next_checkpoint(last, host=HOST, reason="hour", at=at, signer=signer))
    return Kept(rows, marks, head)


def verify(ledger: Kept, signer: Signer, witness: Checkpoint | None = None) -> Verdict:
    """Verify with the key that is trusted."""
    return verified(ledger, {signer.public}, is_signed, witness)


def faults(ledger: Kept, signer: Signer) -> list[str]:
    """What is found, as text."""
    return [str(fault) for fault in verify(ledger, signer).faults]


def resealed(row: Row, seq: int, prev: str = "") -> Row:
    """A record under another number, behind another one if so told, its own hash made anew."""
    record = msgspec.json.decode(row.text, type=LedgerRecord)
    record = msgspec.structs.replace(record, seq=seq, prev=prev or record.prev, hash="")
    digest = chain_hash(record.prev, canonical(record))
    return row_of(msgspec.structs.replace(record, hash=digest))


def rechained(rows: list[Row], start: int) -> list[Row]:
    """All rows with the chain made anew from a place on, as a forger would."""
    made = rows[:start]
    for row in rows[start:]:
        made.append(resealed(row, len(made) + 1, made[-1].hash if made else genesis(*HOST)))
    return made


def test_whole_ledger(ledger: Kept, signer: Signer) -> None:
    """Nothing is wrong with what was written."""
    found = verify(ledger, signer, ledger.marks[0])

    assert found.faults == ()
    assert (found.first, found.last, found.checkpoints) == (1, RECORDS, 2)
    assert found.signed_until == MARKS[-1]
    assert found.keys == (signer.public,)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_changed_bit_is_found(ledger: Kept, signer: Signer, data: st.DataObject) -> None:
    """A single bit of any record's content or hash: exactly that record is named."""
    number = data.draw(st.integers(0, RECORDS - 1))
    row = ledger.all_rows[number]
    if data.draw(st.booleans()):
        text = bytearray(row.text)
        text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        changed = row._replace(text=bytes(text))
    else:
        digit = data.draw(st.integers(0, 63))
        other = "0123456789abcdef"[(int(row.hash[digit], 16) + 1) % 16]
        changed = row._replace(hash=row.hash[:digit] + other + row.hash[digit + 1 :])
    rows = [*ledger.all_rows[:number], changed, *ledger.all_rows[number + 1 :]]
    found = faults(ledger._replace(all_rows=rows), signer)

    assert found
    assert found[0].startswith(f"record {number + 1}:")


@settings(deadline=None, max_examples=60)
@given(first=st.integers(1, RECORDS), second=st.integers(1, RECORDS), numbers=st.booleans())
def test_swapped_records_are_found(
    ledger: Kept, signer: Signer, first: int, second: int, numbers: bool
) -> None:
    """Two records in each other's place, with their own numbers or with each other's."""
    rows = list(ledger.all_rows)
    a, b = rows[first - 1], rows[second - 1]
    rows[first - 1], rows[second - 1] = b._replace(seq=a.seq), a._replace(seq=b.seq)
    if numbers:
        texts = [
            msgspec.json.decode(rows[place - 1].text, type=LedgerRecord)
            for place in (first, second)
        ]
        for place, record in zip((first, second), texts, strict=True):
            renumbered = msgspec.structs.replace(record, seq=place)
            rows[place - 1] = rows[place - 1]._replace(text=canonical(renumbered))
    found = faults(ledger._replace(all_rows=rows), signer)
    named = {f"record {first}", f"record {second}"}

    assert {fault.partition(":")[0] for fault in found} >= (named if first != second else set())
    assert bool(found) == (first != second)


@settings(deadline=None, max_examples=60)
@given(start=st.integers(1, RECORDS), count=st.integers(1, RECORDS))
def test_deleted_records_are_found(ledger: Kept, signer: Signer, start: int, count: int) -> None:
    """Records taken out of the middle or the tail: which ones are missing is said."""
    end = min(RECORDS, start + count - 1)
    rows = [row for row in ledger.all_rows if not start <= row.seq <= end]
    found = faults(ledger._replace(all_rows=rows), signer)
    which = f"record {start}" if start == end else f"records {start} to {end}"

    assert f"{which}: missing" in found[0]


@settings(deadline=None, max_examples=60)
@given(which=st.integers(1, RECORDS), place=st.integers(1, RECORDS), hashed=st.booleans())
def test_inserted_record_is_found(
    ledger: Kept, signer: Signer, which: int, place: int, hashed: bool
) -> None:
    """A record put in once more where those behind it make room, as it was or hashed anew."""
    rows = [row._replace(seq=row.seq + (row.seq >= place)) for row in ledger.all_rows]
    rows.insert(place - 1, ledger.all_rows[which - 1]._replace(seq=place))
    if hashed:
        made = [resealed(row, row.seq) for row in rows[place:]]
        rows = [*rechained(rows[:place], place - 1), *made]
    found = faults(ledger._replace(all_rows=rows), signer)
    named = {fault.partition(":")[0] for fault in found}

    assert (f"record {place}" in named) == (not hashed and which != place)
    assert f"record {place + 1}" in named


@settings(deadline=None, max_examples=60)
@given(number=st.integers(0, RECORDS - 1), insert=st.booleans())
def test_chain_made_anew_is_found(ledger: Kept, signer: Signer, number: int, insert: bool) -> None:
    """A change or an insertion with all later hashes made anew fails at the next checkpoint."""
    rows = list(ledger.all_rows)
    if insert:
        rows.insert(number, rows[number])
    else:
        record = msgspec.json.decode(rows[number].text, type=LedgerRecord)
        cheaper = msgspec.structs.replace(record, cpu_ns=1)
        rows[number] = rows[number]._replace(text=canonical(cheaper))
    forged = rechained(rows, number)
    found = faults(ledger._replace(all_rows=forged, end=None), signer)
    # A record put in twice differs from what was there one later.
    first = number + insert
    broken = [f"checkpoint {place}:" for place, mark in enumerate(MARKS, 1) if mark > first]

    # Behind the last checkpoint only the head, or a later checkpoint, can tell.
    assert [fault.partition(" record")[0] for fault in found] == broken
    assert faults(ledger._replace(all_rows=forged), signer)


@pytest.mark.parametrize("left", [10, 9, 8, 3, 0])
def test_cut_tail_is_found(ledger: Kept, signer: Signer, left: int) -> None:
    """By the head; by a checkpoint if the head was changed too; by a witness if all were."""
    rows = ledger.all_rows[:left]
    head = ledger.end
    for row in rows[-1:]:
        assert head is not None
        head = Head(seq=row.seq, hash=row.hash, sums=head.sums)
    by_head = faults(ledger._replace(all_rows=rows), signer)
    by_checkpoint = faults(ledger._replace(all_rows=rows, end=None), signer)
    marks = [mark for mark in ledger.marks if mark.seq <= left]
    cut = ledger._replace(all_rows=rows, marks=marks, end=None)
    by_witness = verify(cut, signer, ledger.marks[-1]).faults

    assert "missing at the end" in by_head[-1]
    assert bool(by_checkpoint) == (left < MARKS[-1])
    assert faults(cut, signer) == []
    assert bool(by_witness) == (left < MARKS[-1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda mark: msgspec.structs.replace(mark, seq=mark.seq + 1), "signature"),
        (lambda mark: msgspec.structs.replace(mark, sums={"cpu_ns": 1}), "signature"),
        (lambda mark: msgspec.structs.replace(mark, time_ns=5), "signature"),
        (lambda mark: msgspec.structs.replace(mark, key="", signature=""), "not signed"),
        (lambda mark: msgspec.structs.replace(mark, host_id="x"), "another ledger"),
        (lambda mark: msgspec.structs.replace(mark, n=7), "comes after checkpoint 1"),
        (lambda mark: msgspec.structs.replace(mark, prev=""), "does not follow"),
    ],
)
def test_changed_checkpoint_is_found(
    ledger: Kept, signer: Signer, change: Callable[[Checkpoint], Checkpoint], says: str
) -> None:
    """No field of a checkpoint can be changed, nor its signature taken away."""
    marks = [ledger.marks[0], change(ledger.marks[1])]

    assert any(says in fault for fault in faults(ledger._replace(marks=marks), signer))


def test_checkpoint_taken_out_is_found(ledger: Kept, signer: Signer) -> None:
    """The next one does not follow the one before."""
    found = faults(ledger._replace(marks=ledger.marks[1:]), signer)

    assert found == ["checkpoint 2: comes after checkpoint 0"]


def test_other_key_is_found(ledger: Kept, signer: Signer, tmp_path: Path) -> None:
    """Checkpoints made anew with another key are, if the right one is known."""
    other = load_or_make(tmp_path / "other.key")
    forged: list[Checkpoint] = []
    for mark in ledger.marks:
        at = (mark.seq, mark.hash, mark.sums)
        last = forged[-1] if forged else None
        forged.append(next_checkpoint(last, host=HOST, reason="hour", at=at, signer=other))
    found = faults(ledger._replace(marks=forged), signer)

    assert [f"checkpoint {n}: is signed with key {other.public}" for n in (1, 2)] == found
    assert verified(ledger._replace(marks=forged), (), is_signed).keys == (other.public,)


def test_wrong_sums_are_found(ledger: Kept, signer: Signer) -> None:
    """A head or a signed checkpoint whose sums are not those of the records."""
    assert ledger.end is not None
    sums = {**ledger.end.sums, "cpu_ns": 5}
    head = msgspec.structs.replace(ledger.end, sums=sums)

    assert faults(ledger._replace(end=head), signer)[0].startswith("head: cpu_ns is 5 and not")
    at = (MARKS[0], ledger.all_rows[MARKS[0] - 1].hash, {**ledger.marks[0].sums, "cpu_ns": 5})
    wrong = next_checkpoint(None, host=HOST, reason="hour", at=at, signer=signer)
    assert faults(ledger._replace(marks=[wrong]), signer)[0].startswith("checkpoint 1: cpu_ns is 5")


def test_columns_are_checked(ledger: Kept, signer: Signer) -> None:
    """A record that would not be found under its tenant is not as it was written."""
    rows = [row._replace(tenant="other") if row.seq == 5 else row for row in ledger.all_rows]

    assert faults(ledger._replace(all_rows=rows), signer) == [
        "record 5: the columns it is found by are not what it says"
    ]


@contextlib.contextmanager
def written(path: Path, signer: Signer | Unsigned) -> Iterator[LedgerReader]:
    """A real file with some records and a checkpoint, to be read."""
    file = LedgerFile(str(path / "ledger.db"))
    file.open()
    dice = random.Random(7)
    for _ in range(5):
        notes = [Note(usage(dice.randrange(100))) for _ in range(dice.randrange(1, 5))]
        assert file.write([], notes) is None
    with file.transaction() as connection:
        head = file.durable.head
        made = next_checkpoint(
            None, host=(file.host_id, file.created_ns), reason="hour",
            at=(head.seq, head.hash, head.sums), signer=signer,
        )  # fmt: skip
        text = msgspec.json.encode(made).decode()
        connection.execute("INSERT INTO checkpoints VALUES (1, ?)", (text,))
    file.close()
    with LedgerReader(path / "ledger.db") as reader, reader.instant():
        yield reader


def test_exported_ledger_is_verified(signer: Signer, tmp_path: Path) -> None:
    """What is exported whole verifies as the ledger does; a line changed, moved or cut is found."""
    with written(tmp_path, signer) as reader:
        lines = list(exported.lines(reader))
        own = verified(reader, {signer.public}, is_signed)
        partly = list(exported.some_lines(reader, reader.records(after_seq=3)))

    def check(changed: list[bytes]) -> Verdict:
        return verified(ExportedLedger(changed, "x.jsonl"), {signer.public}, is_signed)

    assert check(lines) == own
    assert own.faults == ()
    assert check(lines[:-1]).faults
    assert check([*lines[:3], lines[4], lines[3], *lines[5:]]).faults
    assert check([lines[0], *lines[2:]]).checkpoints == 0
    for place in range(2, len(lines)):
        damaged = lines[place].replace(b'"cpu_ns":1', b'"cpu_ns":2')
        assert damaged != lines[place]
        assert str(check([*lines[:place], damaged, *lines[place + 1 :]]).faults[0]).startswith(
            f"record {place - 1}:"
        )
    with pytest.raises(InvalidParameter, match="only some records"):
        ExportedLedger(partly, "x.jsonl")


@pytest.mark.parametrize(
    "lines", [[], [b""], [b"{}\n"], [b"\x00\xff\n"], [b'{"kind":"ledger","v":2}\n'], [b"[1]\n"]]
)
def test_what_is_no_export_is_refused(lines: list[bytes]) -> None:
    """Any other file is named."""
    with pytest.raises(InvalidParameter, match="x is no exported ledger"):
        ExportedLedger(lines, "x")


def test_unsigned_checkpoints(tmp_path: Path, signer: Signer) -> None:
    """Without a key checkpoints still hold the chain; who expects a key is told."""
    with written(tmp_path, Unsigned()) as reader:
        assert verified(reader, (), is_signed).faults == ()
        assert verified(reader, (), is_signed).keys == ()
        assert verified(reader, {signer.public}, is_signed).faults
