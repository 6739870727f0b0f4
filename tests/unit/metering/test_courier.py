"""An exporter's way through a ledger: what is sent again, what is passed by, what is never lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aruntime.errors import InvalidParameter
from aruntime.metering.courier import Courier
from aruntime.metering.push import (
    LedgerRecord,
    NotDelivered,
    PushOptions,
    Rejected,
    make_exporter,
    parse_options,
    read_secret,
)
from tests.ledgers import usage, write_records

Item = tuple[int, int]
"""Number of the record, number of the item of it."""


class Memory:
    """An exporter of two items a record, whose receiver is a list in memory."""

    target = "memory"

    def __init__(self, refuse: Callable[[Item], bool] = lambda _item: False) -> None:
        self.stored: list[Item] = []
        self.batches: list[list[Item]] = []
        self.refuse = refuse
        self.failure: Exception | None = None
        self.fails_after_storing = False

    def items(self, record: LedgerRecord) -> list[Item]:
        """Two of each record."""
        return [(record.seq, 0), (record.seq, 1)]

    def send(self, items: Sequence[Item]) -> None:
        """Store them, or fail as told."""
        if self.failure is not None and not self.fails_after_storing:
            raise self.failure
        if any(map(self.refuse, items)):
            raise Rejected("not liked")
        self.stored += items
        self.batches.append(list(items))
        if self.failure is not None:
            raise self.failure

    def shown(self, item: Item) -> list[int]:
        """As JSON."""
        return list(item)

    def close(self) -> None:
        """Nothing to close."""


def courier(path: Path, exporter: Memory, **options: object) -> Courier:
    """A courier as after a start of the daemon."""
    chosen: dict[str, object] = {"batch": 4, "retry_min": 0.01, "retry_max": 0.1, **options}
    return Courier(
        "memory",
        exporter,
        PushOptions(**chosen),  # type: ignore[arg-type]  # fields by name
        ledger=str(path / "ledger.db"),
        directory=str(path / "exports"),
    )


def all_items(count: int) -> list[Item]:
    """What records 1 to count come to."""
    return [(seq, part) for seq in range(1, count + 1) for part in (0, 1)]


def drain(going: Courier) -> None:
    """Step until nothing more is waiting."""
    while not going.step().wait_seconds:
        pass


def test_everything_in_order_in_batches(tmp_path: Path) -> None:
    """A batch holds whole records and is bounded; the cursor is at the end."""
    write_records(tmp_path / "ledger.db", map(usage, range(7)))
    memory = Memory()
    going = courier(tmp_path, memory)
    drain(going)
    assert memory.stored == all_items(7)
    assert max(map(len, memory.batches)) == 4
    assert (going.state.sequence, going.state.pending, going.state.delivered) == (7, 0, 14)
    assert going.state.last_success_ns > 0
    assert not going.step().records


def test_cursor_survives_a_restart(tmp_path: Path) -> None:
    """What was acknowledged is not sent again; what is new is."""
    write_records(tmp_path / "ledger.db", map(usage, range(3)))
    memory = Memory()
    drain(courier(tmp_path, memory))
    write_records(tmp_path / "ledger.db", map(usage, range(2)))
    drain(courier(tmp_path, memory))
    assert memory.stored == all_items(5)


def test_what_was_stored_but_not_acknowledged_comes_again(tmp_path: Path) -> None:
    """At least once: the same items, in the same order."""
    write_records(tmp_path / "ledger.db", map(usage, range(2)))
    memory = Memory()
    memory.failure, memory.fails_after_storing = NotDelivered("hung up"), True
    going = courier(tmp_path, memory)
    step = going.step()
    assert step.error is memory.failure
    assert 0.005 <= step.wait_seconds <= 0.01
    memory.failure = None
    drain(going)
    assert memory.stored == all_items(2) * 2
    assert going.state.failures == 1
    assert going.state.error == ""


def test_pauses_double_up_to_a_bound_and_obey_the_receiver(tmp_path: Path) -> None:
    """Back-off with jitter; a Retry-After is kept to, within an hour."""
    write_records(tmp_path / "ledger.db", [usage()])
    memory = Memory()
    memory.failure = NotDelivered("down")
    going = courier(tmp_path, memory)
    waits = [going.step().wait_seconds for _ in range(8)]
    assert all(
        0.5 * ceiling <= wait <= ceiling
        for wait, ceiling in zip(waits, [0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1, 0.1], strict=True)
    )
    memory.failure = NotDelivered("busy", retry_after=7)
    assert going.step().wait_seconds == 7
    memory.failure = NotDelivered("busy", retry_after=1e9)
    assert going.step().wait_seconds == 3600
    assert going.state.pending == 1


def test_a_refused_item_is_kept_and_passed_by(tmp_path: Path) -> None:
    """Only the one at fault; everything around it arrives."""
    write_records(tmp_path / "ledger.db", map(usage, range(4)))
    memory = Memory(refuse=lambda item: item == (2, 1))
    going = courier(tmp_path, memory)
    drain(going)
    assert sorted(memory.stored) == [item for item in all_items(4) if item != (2, 1)]
    kept = (tmp_path / "exports/memory.rejected").read_text().splitlines()
    assert [json.loads(line)["item"] for line in kept] == [[2, 1]]
    assert json.loads(kept[0])["reason"] == "not liked"
    assert going.state.rejected == 1


def test_a_receiver_that_refuses_everything_is_waited_for(tmp_path: Path) -> None:
    """A wrong address must not empty the ledger into the file of rejected items."""
    write_records(tmp_path / "ledger.db", map(usage, range(4)))
    memory = Memory(refuse=lambda _item: True)
    going = courier(tmp_path, memory)
    assert "refuses everything" in str(going.step().error)
    assert (going.state.rejected, going.state.sequence) == (0, 0)
    memory.refuse = lambda _item: False
    drain(going)
    assert memory.stored == all_items(4)


def test_a_batch_of_refused_items_alone_is_passed_by(tmp_path: Path) -> None:
    """As soon as the receiver takes something that comes later; until then it is waited for."""
    write_records(tmp_path / "ledger.db", map(usage, range(6)))
    memory = Memory(refuse=lambda item: item[0] <= 6)
    going = courier(tmp_path, memory)
    assert "refuses everything" in str(going.step().error)
    write_records(tmp_path / "ledger.db", [usage(6), usage(7)])
    drain(going)
    assert sorted(set(memory.stored)) == [(7, 0), (7, 1), (8, 0), (8, 1)]
    assert (going.state.rejected, going.state.sequence) == (12, 8)


def test_only_what_is_new_if_asked_so(tmp_path: Path) -> None:
    """``start = "newest"`` begins at the end of the ledger, and remembers that it did."""
    write_records(tmp_path / "ledger.db", map(usage, range(3)))
    memory = Memory()
    drain(courier(tmp_path, memory, start="newest"))
    write_records(tmp_path / "ledger.db", [usage()])
    drain(courier(tmp_path, memory, start="newest"))
    assert memory.stored == [(4, 0), (4, 1)]


def test_a_ledger_that_was_set_back_is_not_exported(tmp_path: Path) -> None:
    """Other records under exported numbers are for a human; another host's ledger is new."""
    write_records(tmp_path / "ledger.db", map(usage, range(3)))
    memory = Memory()
    drain(courier(tmp_path, memory))
    for change in (f"UPDATE records SET hash = '{'0' * 64}'", "DELETE FROM records"):
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
            connection.execute(f"{change} WHERE seq = 3")
        assert "set back" in str(courier(tmp_path, memory).step().error)
    assert memory.stored == all_items(3)
    (tmp_path / "ledger.db").unlink()
    write_records(tmp_path / "ledger.db", [usage()])
    step = courier(tmp_path, memory).step()
    assert "another ledger" in step.notes[0]
    assert memory.stored == all_items(3) + all_items(1)


def test_removed_records_are_told(tmp_path: Path) -> None:
    """Retention that was faster than the exporter leaves a hole, which is said."""
    write_records(tmp_path / "ledger.db", map(usage, range(6)))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("DELETE FROM records WHERE seq < 4")
    memory = Memory()
    step = courier(tmp_path, memory).step()
    assert step.notes == ["records 1 to 3 were removed before their export"]
    assert memory.stored[0] == (4, 0)


def test_a_disk_that_refuses_the_cursor_repeats_no_batch(tmp_path: Path) -> None:
    """While the daemon lives it remembers; the cursor is written when the disk takes it."""
    write_records(tmp_path / "ledger.db", map(usage, range(4)))
    (tmp_path / "exports/memory.json.new").mkdir(parents=True)
    memory = Memory()
    going = courier(tmp_path, memory)
    assert going.step().error is not None
    assert memory.stored == all_items(2)
    (tmp_path / "exports/memory.json.new").rmdir()
    drain(going)
    assert memory.stored == all_items(4)
    drain(courier(tmp_path, memory))
    assert memory.stored == all_items(4)


def test_a_damaged_cursor_stops_the_export(tmp_path: Path) -> None:
    """It says which file to remove; without it everything is exported again."""
    write_records(tmp_path / "ledger.db", [usage()])
    memory = Memory()
    drain(courier(tmp_path, memory))
    (tmp_path / "exports/memory.json").write_text("{")
    assert "memory.json is damaged" in str(courier(tmp_path, memory).step().error)
    (tmp_path / "exports/memory.json").unlink()
    drain(courier(tmp_path, memory))
    assert memory.stored == all_items(1) * 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["append", "step", "restart", "down", "hangs_up", "up"]), max_size=25)
)
def test_whatever_happens_each_item_arrives(
    tmp_path_factory: pytest.TempPathFactory, moves: list[str]
) -> None:
    """Any order of growth, failures and restarts: all items, none torn out of order."""
    path = tmp_path_factory.mktemp("courier")
    write_records(path / "ledger.db", [usage()])
    memory, count = Memory(), 1
    going = courier(path, memory)
    for move in moves:
        if move == "append":
            write_records(path / "ledger.db", [usage()])
            count += 1
        elif move == "restart":
            going = courier(path, memory)
        elif move == "step":
            going.step()
        else:
            memory.failure = None if move == "up" else NotDelivered(move)
            memory.fails_after_storing = move == "hangs_up"
    memory.failure = None
    drain(going)
    assert list(dict.fromkeys(memory.stored)) == all_items(count)


def test_options_are_checked() -> None:
    """Unknown keys, wrong types and ranges are named."""
    for table, words in (
        ({"colour": 1}, "unknown key 'colour'"),
        ({"batch": "many"}, "batch"),
        ({"batch": 0}, "batch"),
        ({"interval": -1}, "interval"),
        ({"retry-min": 5, "retry-max": 1}, "retry-max"),
        ({"start": "tomorrow"}, "start"),
    ):
        with pytest.raises(InvalidParameter, match=words):
            parse_options(PushOptions, table)


def test_tables_are_checked() -> None:
    """The message names the file and the table."""
    for name, table, words in (
        ("a b", {}, r"c\.toml: \[export\.a b\]: a name has"),
        ("x", {"type": "carrier-pigeon"}, "no push exporter 'carrier-pigeon'"),
        ("x", {"type": "prometheus"}, "no push exporter 'prometheus'"),
        ("x", {"type": "openmeter"}, "the key 'url' is missing"),
    ):
        with pytest.raises(InvalidParameter, match=words):
            make_exporter(name, table, "/c.toml")


def test_secrets_must_be_secret(tmp_path: Path) -> None:
    """A file that others may read is refused with what to do."""
    path = tmp_path / "token"
    path.write_text("  s3cret\n")
    path.chmod(0o644)
    with pytest.raises(InvalidParameter, match="chmod 600"):
        read_secret(str(path))
    path.chmod(0o600)
    assert read_secret(str(path)) == "s3cret"
    path.write_text("\n")
    with pytest.raises(InvalidParameter, match="holds no secret"):
        read_secret(str(path))
    with pytest.raises(InvalidParameter, match="cannot read a secret"):
        read_secret(str(tmp_path / "none"))
    with pytest.raises(InvalidParameter, match="regular file"):
        read_secret("/dev/null")
