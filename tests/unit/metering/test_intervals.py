"""Cutting intervals into records loses nothing, whatever is cut, merged, refused or repeated."""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.account import COUNTERS, Account, Reading, Request, Totals
from aruntime.metering.chain import HOUR_NS, SUMMED, add_sums, sums_of
from aruntime.metering.cutting import Cutter, Draft
from aruntime.metering.integrals import advance, begin, transition
from aruntime.metering.intervals import Terms, at_freezing, open_interval, record_of, split
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.record import LedgerRecord
from aruntime.metering.totals import KEPT_DRAFTS, Record, shrunk
from tests.metering import START, ZERO, faults_in, records_in, sums_by_tenant, sums_of_totals

WALL = 500_000 * HOUR_NS
TERMS = Terms(tenant="acme", name="web")
small = st.integers(0, 1 << 40)
steps = st.lists(st.tuples(st.integers(0, 3 * HOUR_NS), small, small, small), max_size=8)


def wall_at(boot_ns: int) -> int:
    """Labels of boot times."""
    return WALL + boot_ns - START


def reading(boot_ns: int, cpu: int, memory: int, written: int) -> Reading:
    """Everything a reading has."""
    counters = tuple(cpu // 7 if name == "cpu_user_ns" else 0 for name in COUNTERS)
    return Reading(
        boot_ns, cpu, memory, counters,
        block={"vda": (written, written, 1, 1, 0)},
        network={"eth0": (written, cpu, 1, 1, 0, 0)},
        usage_bytes=2 * memory,
        pids=3,
    )  # fmt: skip


def grown(account: Account, cutter: Cutter, changes: list[tuple[int, int, int, int]]) -> Account:
    """Take readings and let the cutter cut at the hours between them."""
    now, cpu, written = account.time_ns, 0, 0
    for span, used, memory, more in changes:
        now, cpu, written = now + span, cpu + used, written + more
        seen = reading(now, cpu, memory, written)
        after, anomalies = advance(account, seen, cores=1 << 50, request=cutter.request)
        account = cutter.take(account, after, seen, anomalies)
    return account


def running(cutter: Cutter) -> Account:
    """A container that has just begun."""
    return transition(cutter.start(begin(None, "boot:1", START, is_new=True)), "running", START)


def sums(records: list[LedgerRecord]) -> dict[str, int]:
    """Over all of them."""
    found: dict[str, int] = {}
    for record in records:
        found = add_sums(found, sums_of(record))
    found.pop("samples", None)  # a reading at a cut counts on both sides
    return found


@given(changes=steps, request=st.builds(Request, st.integers(0, 4000), st.integers(0, 1 << 33)))
def test_hours_add_up(changes: list[tuple[int, int, int, int]], request: Request) -> None:
    """However many hours lie between readings: the records are whole, contiguous, and the sum."""
    terms = Terms(
        tenant="acme", cpu_request_milli=request.cpu_milli, mem_request=request.memory_bytes
    )
    cutter = Cutter("c", terms, wall_at)
    account = grown(running(cutter), cutter, changes)
    account = cutter.end(account, "exit", 0)
    records = [draft.record for draft in cutter.drafts]
    totals = account.totals
    lasted = account.time_ns - START

    assert [draft.nth for draft in cutter.drafts] == list(range(1, len(records) + 1))
    assert sums(records).get("cpu_ns", 0) == totals.cpu_ns
    assert sum(record.mem_bytens2 for record in records) == totals.memory_bytens2
    assert sum(record.mem_usage_bytens2 for record in records) == totals.usage_bytens2
    assert sum(record.cpu_alloc_ns for record in records) == totals.cpu_alloc_ns
    assert sum(record.blk.get("vda", (0,))[0] for record in records) == sum(
        row[0] for row in totals.block.values()
    )
    assert sum(record.running_ns for record in records) == totals.running_ns == lasted
    for before, after in pairwise(records):
        assert (before.boot_end_ns, before.wall_end) == (after.boot_start_ns, after.wall_start)
        assert (before.wall_end - 1) // HOUR_NS <= before.wall_start // HOUR_NS
    for record in records:
        assert min(getattr(record, name) for name in SUMMED) >= 0
        # What is set aside is never less than what was used, nor than what was requested.
        assert record.cpu_alloc_ns >= record.cpu_ns
        assert record.mem_alloc_bytens2 >= record.mem_bytens2
        floor = record.running_ns * request.cpu_milli // 1000 - len(changes) - 1
        assert record.cpu_alloc_ns >= floor
        assert record.mem_alloc_bytens2 >= 2 * request.memory_bytes * record.running_ns - 1


@given(first=steps, span=st.integers(1, HOUR_NS), cut=st.integers(0, HOUR_NS))
def test_split_lies_between(first: list[tuple[int, int, int, int]], span: int, cut: int) -> None:
    """I(a, c) = I(a, b) + I(b, c), for every quantity, wherever b is."""
    cutter = Cutter("c", TERMS, wall_at)
    before = grown(running(cutter), cutter, first)
    cpu, written = sum(step[1] for step in first), sum(step[3] for step in first)
    seen = reading(before.time_ns + span, cpu + 12345, 777, written + 99)
    after = advance(before, seen, cores=1 << 50).account
    middle = split(before, after, before.time_ns + min(cut, span))
    opened = open_interval(before, TERMS, 0, nth=0)
    rest = open_interval(middle, TERMS, 0, nth=1)
    whole = sums([record_of(opened, after)])

    assert sums([record_of(opened, middle), record_of(rest, after)]) == whole


@given(frozen_after=st.integers(0, 10**9), read_after=st.integers(0, 10**9))
def test_frozen_time_has_no_cpu(frozen_after: int, read_after: int) -> None:
    """All the CPU time of a reading after a freeze was used before it; memory is split by time."""
    cutter = Cutter("c", TERMS, wall_at)
    account = running(cutter)
    frozen = transition(account, "paused", START + frozen_after)
    seen = reading(START + frozen_after + read_after, 1000, 4096, 5)
    after = advance(frozen, seen, cores=1 << 50).account
    point = at_freezing(account, frozen, after)
    opened = open_interval(account, TERMS, 0, nth=0)
    first = record_of(opened, point)
    second = record_of(open_interval(point, TERMS, 0, nth=1), after)

    assert (first.cpu_ns, second.cpu_ns) == (1000, 0)
    assert (first.paused_ns, second.running_ns) == (0, 0)
    assert (first.running_ns, second.paused_ns) == (frozen_after, read_after)
    assert sums([first, second]) == sums([record_of(opened, after)])


@given(st.lists(st.tuples(small, st.sampled_from(("a", "b")), st.booleans()), max_size=120))
def test_merging_keeps_sums_and_payers(drafts: list[tuple[int, str, bool]]) -> None:
    """A disk that stays full costs resolution, not a unit, and mixes neither payers nor prices."""
    made = [
        Draft(
            number,
            LedgerRecord(
                container_id="c", incarnation="i1" if new else "i2", tenant=tenant, cpu_ns=used,
                blk={"vda": (used, 1, 1, 1, 0)}, boot_start_ns=number, boot_end_ns=number + 1,
            ),
        )
        for number, (used, tenant, new) in enumerate(drafts, 1)
    ]  # fmt: skip
    kept = shrunk(tuple(made))
    before = sums_by_tenant(draft.record for draft in made)

    assert sums_by_tenant(draft.record for draft in kept) == before
    assert [draft.nth for draft in kept] == sorted(draft.nth for draft in kept)
    changes = sum(a[1] != b[1] for a, b in pairwise(drafts))
    assert len(kept) <= max(4 * KEPT_DRAFTS, changes + 1, KEPT_DRAFTS)


class Refusing:
    """A connection that fails at its n-th statement, and from then on."""

    def __init__(self, real: sqlite3.Connection, statements: int) -> None:
        self._real = real
        self._left = statements

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, *words: Any) -> Any:
        """As the real one's."""
        self._count()
        return self._real.execute(*words)

    def executemany(self, *words: Any) -> Any:
        """As the real one's."""
        self._count()
        return self._real.executemany(*words)

    @property
    def in_transaction(self) -> bool:
        """As the real one's."""
        return self._real.in_transaction

    def close(self) -> None:
        """As the real one's."""
        self._real.close()


def committed(cutter: Cutter, account: Account) -> Record:
    """What is offered to the disk."""
    interval, drafts = cutter.interval, cutter.hand_over()
    return Record("c", "acme", account, "poll", interval=interval, drafts=drafts)


def test_failure_at_any_statement(tmp_path: Path) -> None:
    """Wherever a commit breaks off, it has happened or it has not; repeated, it counts once."""
    for statements in range(12):
        path = tmp_path / str(statements)
        path.mkdir()
        file = LedgerFile(str(path / "ledger.db"))
        file.open()
        cutter = Cutter("c", TERMS, wall_at)
        account = running(cutter)
        assert file.write([committed(cutter, account)]) is None
        account = grown(account, cutter, [(2 * HOUR_NS + 5, 1000, 50, 7)])
        record = committed(cutter, account)
        assert len(record.drafts) == 2
        real = file._connection
        assert real is not None
        file._connection = Refusing(real, statements)  # type: ignore[assignment]  # plays one
        refused = file.write([record])
        if real.in_transaction:
            real.execute("ROLLBACK")  # as the process's death would
        real.close()
        file = LedgerFile(str(path / "ledger.db"))
        file.open()
        found = file.durable
        written = [one.cpu_ns for one in records_in(path)]
        whole = [0, *(draft.record.cpu_ns for draft in record.drafts)]
        assert written == ([0] if refused else whole)
        assert found.accounts["c"].totals == (Totals(counters=ZERO) if refused else account.totals)
        for _ in range(2):
            assert file.write([record]) is None
        tenants = file.durable.tenants
        file.close()
        account_sums = sums_of_totals(tenants["acme"])

        assert account_sums["cpu_ns"] == 1000
        assert len(records_in(path)) == 3
        assert faults_in(path) == []


def test_repeated_commit_writes_records_once(tmp_path: Path) -> None:
    """A record that is offered again, before or after a restart, is not written again."""
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    cutter = Cutter("c", TERMS, wall_at)
    account = cutter.end(grown(running(cutter), cutter, [(5, 10, 1, 1)]), "exit", 0)
    record = committed(cutter, account)
    for _ in range(2):
        assert file.write([record]) is None
    before = msgspec.structs.asdict(file.durable.head)
    file.close()
    file.open()
    assert file.write([record]) is None
    file.close()

    assert msgspec.structs.asdict(file.durable.head) == before
    assert [one.kind for one in records_in(tmp_path)] == ["start", "final"]
