"""Old records become sums by the hour, old hours one sum; nothing that adds up is ever lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import Unavailable
from aruntime.metering import exported, retention
from aruntime.metering.chain import HOUR_NS, Rollup, Unsigned, add_sums, next_checkpoint, sums_of
from aruntime.metering.exported import ExportedLedger
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord
from aruntime.metering.retention import DAY_NS, Retention, joined, prune, rollups_of
from aruntime.metering.schema import insert_checkpoint
from aruntime.metering.signing import is_signed
from aruntime.metering.totals import Note
from aruntime.metering.verifying import verified
from tests.metering import faults_in

NOW = 500_000 * HOUR_NS
KEEP = Retention(record_days=10, rollup_days=20)
SIGNER = Unsigned()


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Iterator[LedgerFile]:
    """A ledger, open."""
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    yield file
    file.close()


def usage(wall_ns: int, number: int = 0, **more: object) -> LedgerRecord:
    """A record of ten minutes."""
    record = LedgerRecord(
        container_id=f"c{number % 3}",
        name=f"n{number}",
        tenant=("acme", "other")[number % 2],
        wall_start=wall_ns,
        wall_end=wall_ns + HOUR_NS // 6,
        cpu_ns=1000 + number,
        mem_bytens2=1 << 90,
        blk={"vda": (1, 2, 3, 4, 5), "vdb": (1, 0, 0, 0, 0)},
    )
    return msgspec.structs.replace(record, **more)


def write(file: LedgerFile, *records: LedgerRecord) -> None:
    """Commit records."""
    assert file.write([], [Note(record) for record in records]) is None


def check(file: LedgerFile, time_ns: int) -> None:
    """Make a checkpoint as of a time."""
    head = file.durable.head
    made = next_checkpoint(
        file.checkpoint,
        host=(file.host_id, file.created_ns),
        reason="hour",
        at=(head.seq, head.hash, head.sums),
        signer=SIGNER,
    )
    made = msgspec.structs.replace(made, time_ns=time_ns)
    with file.transaction() as connection:
        insert_checkpoint(connection, made)
    file.checkpoint = made


def prune_all(file: LedgerFile, now_ns: int = NOW) -> int:
    """Prune until nothing is left to do."""
    done = 0
    while some := prune(file, SIGNER, KEEP, now_ns):
        done += some
    return done


def kept(path: Path) -> tuple[list[int], list[Rollup]]:
    """Numbers of the records, and the roll-ups."""
    with LedgerReader(path / "ledger.db") as reader:
        return [record.seq for record in reader.records()], list(reader.rollups())


def fill(file: LedgerFile, days: int = 30, each: int = 4) -> None:
    """Records and a checkpoint for each of the last days."""
    for day in range(days, 0, -1):
        at = NOW - day * DAY_NS
        write(file, *(usage(at + number * HOUR_NS // 2, number) for number in range(each)))
        check(file, at + HOUR_NS * 3)


def test_old_records_become_hours_and_old_hours_a_sum(
    file: LedgerFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten days of records stay, ten more of hours; the whole ledger still verifies."""
    monkeypatch.setattr(retention, "AT_ONCE", 7)
    fill(file)
    before = file.durable.head
    prune_all(file)
    records, rollups = kept(tmp_path)
    hours = [one for one in rollups if one.hour_ns]
    for_ever = [one for one in rollups if not one.hour_ns]

    assert records == list(range(81, 121))
    assert min(one.hour_ns for one in hours) == NOW - 20 * DAY_NS
    assert max(one.hour_ns for one in hours) < NOW - 10 * DAY_NS
    assert {(one.tenant, one.container_id) for one in for_ever} == {("acme", ""), ("other", "")}
    assert sum(one.records for one in rollups) == 80
    sums: dict[str, int] = {}
    for one in rollups:
        sums = add_sums(sums, one.sums)
    with LedgerReader(tmp_path / "ledger.db") as reader:
        for record in reader.records():
            sums = add_sums(sums, sums_of(record))
        pruned = [one for one in reader.checkpoints() if one.reason == "pruned"]
        assert reader.head() == (120, before.hash)
    assert sums == before.sums
    assert pruned[-1].seq == 80
    assert faults_in(tmp_path) == []
    assert prune_all(file) == 0


def test_pruned_ledger_is_exported_whole(file: LedgerFile, tmp_path: Path) -> None:
    """Its sums go along: the file verifies without the host, and not without them."""
    fill(file)
    prune_all(file)
    with LedgerReader(tmp_path / "ledger.db") as reader, reader.instant():
        lines = list(exported.lines(reader))
    without = [line for line in lines if b'"kind":"rollup"' not in line]

    assert verified(ExportedLedger(lines, "x"), (), is_signed).faults == ()
    found = verified(ExportedLedger(without, "x"), (), is_signed)
    assert [str(fault) for fault in found.faults] == [
        "roll-ups: they are of 0 records and not of 80"
    ]


def test_ledger_goes_on_behind_what_was_pruned(file: LedgerFile, tmp_path: Path) -> None:
    """When all are gone, the next record follows the last one, also after a restart."""
    fill(file, days=3)
    prune_all(file, NOW + 50 * DAY_NS)
    assert kept(tmp_path)[0] == []
    assert faults_in(tmp_path) == []
    file.close()
    file.open()
    write(file, usage(NOW + 50 * DAY_NS))

    assert kept(tmp_path)[0] == [13]
    assert faults_in(tmp_path) == []


def test_only_what_is_covered_goes(file: LedgerFile, tmp_path: Path) -> None:
    """Without a checkpoint behind them that is as old, records stay."""
    write(file, *(usage(NOW - 30 * DAY_NS, number) for number in range(3)))
    assert prune_all(file) == 0
    check(file, NOW - DAY_NS)
    assert prune_all(file) == 0
    assert kept(tmp_path)[0] == [1, 2, 3]


def test_wrong_clock_neither_keeps_nor_takes(file: LedgerFile, tmp_path: Path) -> None:
    """A record dated into the future goes with its neighbours; a young one stops the pruning."""
    write(file, usage(NOW - 30 * DAY_NS), usage(NOW + 900 * DAY_NS), usage(NOW - 29 * DAY_NS))
    check(file, NOW - 28 * DAY_NS)
    write(file, usage(NOW - 2 * DAY_NS), usage(NOW - 25 * DAY_NS))
    check(file, 1)  # the clock of a host that forgot the year
    prune_all(file)

    assert kept(tmp_path)[0] == [4, 5]
    assert faults_in(tmp_path) == []


def test_changed_chain_is_not_pruned(file: LedgerFile, tmp_path: Path) -> None:
    """Evidence stays where it is."""
    fill(file)
    with file.transaction() as connection:
        connection.execute("UPDATE records SET record = replace(record, '1000', '1') WHERE seq = 9")
    with pytest.raises(Unavailable, match="is not pruned, for it was changed: record 9"):
        prune(file, SIGNER, KEEP, NOW)

    assert kept(tmp_path) == (list(range(1, 121)), [])
    assert file.write([], [Note(usage(NOW))]) is None


def test_garbled_roll_up_is_told_and_kept(file: LedgerFile) -> None:
    """What cannot be read is an error of this hour, never the daemon's end."""
    fill(file)
    assert prune(file, SIGNER, Retention(record_days=28, rollup_days=99), NOW) > 0
    with file.transaction() as connection:
        connection.execute("UPDATE rollups SET rollup = 'x'")
    with pytest.raises(Unavailable, match="cannot prune the ledger"):
        prune_all(file)


def test_full_disk_leaves_all_as_it_was(file: LedgerFile, tmp_path: Path) -> None:
    """Pruning is one transaction."""
    fill(file)
    assert file._connection is not None
    file._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(Unavailable, match="cannot prune the ledger"):
        prune(file, SIGNER, KEEP, NOW)
    file._connection.execute("PRAGMA query_only = 0")

    assert kept(tmp_path) == (list(range(1, 121)), [])
    assert prune_all(file) > 0


def test_changed_roll_up_is_found(file: LedgerFile, tmp_path: Path) -> None:
    """Sums are held against the checkpoint that says what they were."""
    fill(file)
    prune_all(file)
    with file.transaction() as connection:
        connection.execute(
            "UPDATE rollups SET rollup = json_set(rollup, '$.sums.cpu_ns', 1) WHERE hour_ns ="
            " (SELECT max(hour_ns) FROM rollups) AND container_id = 'c0'"
        )
    assert [fault.partition(":")[0] for fault in faults_in(tmp_path)] == ["roll-ups"]
    with file.transaction() as connection:
        connection.execute("DELETE FROM rollups WHERE hour_ns = 0")
    assert [fault.partition(" are")[0] for fault in faults_in(tmp_path)] == ["roll-ups: they"]


records_of_days = st.lists(
    st.builds(
        usage,
        st.integers(0, 72).map(lambda hours: NOW + hours * HOUR_NS // 2),
        st.integers(0, 7),
        price_version=st.sampled_from(("", "v1")),
        running_ns=st.integers(0, 1 << 70),
    ),
    max_size=40,
)


@given(records=records_of_days, cut=st.integers(0, 40))
def test_sums_survive_any_grouping(records: list[LedgerRecord], cut: int) -> None:
    """Raw, hourly and daily sums are equal, and it does not matter what was rolled up when."""
    numbered = [
        msgspec.structs.replace(record, seq=number) for number, record in enumerate(records, 1)
    ]
    whole = rollups_of(numbered)
    parts = [rollups_of(numbered[:cut]), rollups_of(numbered[cut:])]
    merged: dict[tuple[int, str, str, str], Rollup] = {}
    for key, one in [item for part in parts for item in part.items()]:
        merged[key] = joined(merged[key], one) if key in merged else one
    raw: dict[str, int] = {}
    for record in numbered:
        raw = add_sums(raw, sums_of(record))
    hourly: dict[str, int] = {}
    daily: dict[int, dict[str, int]] = {}
    for one in whole.values():
        hourly = add_sums(hourly, one.sums)
        day = one.hour_ns // DAY_NS
        daily[day] = add_sums(daily.get(day, {}), one.sums)
    by_day: dict[str, int] = {}
    for sums in daily.values():
        by_day = add_sums(by_day, sums)

    assert merged == whole
    assert raw == hourly == by_day
    assert sum(one.records for one in whole.values()) == len(records)


def test_runs_of_hours_that_were_kept_before_are_not_guessed() -> None:
    """A roll-up of an older file has none: with it, the hour's runs are not known."""
    (new,) = rollups_of([usage(NOW, running_ns=5, incarnation="boot:1:2")]).values()
    old = msgspec.structs.replace(new, runs={})
    idle = msgspec.structs.replace(new, runs={}, sums={})
    assert new.runs == {"boot:1:2": 5}
    assert joined(new, new).runs == {"boot:1:2": 10}
    assert joined(old, new).runs == joined(new, old).runs == {}
    assert joined(idle, new).runs == new.runs
    assert (new.has_runs, old.has_runs, idle.has_runs) == (True, False, True)
