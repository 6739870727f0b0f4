"""A bill before retention is the bill after it, to the last decimal; or the error says why not."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.daemon.bill_process import PAGE, Request, make, make_page
from aruntime.daemon.billing import BillKeeper, unkept
from aruntime.daemon.commands.bill_rows import bill_json
from aruntime.daemon.pricing import Pricing
from aruntime.errors import Unavailable
from aruntime.metering.archive import KEPT, document_of, prepare
from aruntime.metering.bill import Period
from aruntime.metering.chain import Unsigned, next_checkpoint
from aruntime.metering.issuing import store
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord
from aruntime.metering.retention import DAY_NS, Retention, prune
from aruntime.metering.schema import insert_checkpoint
from tests.billing import NOVEMBER, book_text, records_of_days, write_ledger
from tests.ledgers import correction
from tests.metering import CounterTree, faults_in, metering

HOUR = 3600 * 10**9
DECEMBER = NOVEMBER.next
KEEP = Retention(record_days=10, rollup_days=99_999)
SIGNER = Unsigned()


def request(path: Path, period: Period, now_ns: int = DECEMBER.next.end_ns) -> Request:
    """Ask for the bill of a month."""
    with LedgerReader(path / "ledger.db") as reader:
        head_seq, _ = reader.head()
    return Request(
        ledger=str(path / "ledger.db"), head_seq=head_seq, open_records=[], book=book_text(),
        book_name="prices.toml", period=str(period), tenant=None, format="json", now_ns=now_ns,
    )  # fmt: skip


def billed(path: Path, period: Period) -> str:
    """The bill of a month, with every digit."""
    return bill_json(make(request(path, period)))


def old_checkpoint(file: LedgerFile, time_ns: int) -> None:
    """A checkpoint over all records, made long ago."""
    head = file.durable.head
    made = next_checkpoint(
        file.checkpoint, host=(file.host_id, file.created_ns), reason="hour",
        at=(head.seq, head.hash, head.sums), signer=SIGNER,
    )  # fmt: skip
    made = msgspec.structs.replace(made, time_ns=time_ns)
    with file.transaction() as connection:
        insert_checkpoint(connection, made)
    file.checkpoint = made


def keep_and_prune(path: Path, period: Period, now_ns: int) -> int:
    """Keep a month's bill, then let go of what is old; how many records went."""
    text = document_of(make(request(path, period)))
    file = LedgerFile(str(path / "ledger.db"))
    file.open()
    done = 0
    try:
        store(file, prepare(text), kind=KEPT, author="", signer=SIGNER, now_ns=now_ns)
        old_checkpoint(file, period.end_ns)
        while some := prune(file, SIGNER, KEEP, now_ns, before_ns=period.end_ns):
            done += some
    finally:
        file.close()
    return done


def months(seed: int) -> list[LedgerRecord]:
    """Records of runs in November; some go on until December, and corrections of both kinds."""
    records = records_of_days(seed, runs=6, hours=20)
    shift = NOVEMBER.end_ns - records[0].wall_start - 5 * HOUR
    moved = [
        msgspec.structs.replace(
            one, wall_start=one.wall_start + shift, wall_end=one.wall_end + shift
        )
        for one in records
    ]
    made = [
        correction(one, net_transmit=-1, proc_write=-(one.proc_write // 3))
        for one in moved[::5]
        if one.net and one.net["eth0"][1]
    ]
    numbered = [
        msgspec.structs.replace(one, seq=place) for place, one in enumerate(moved, 1)
    ]  # fmt: skip
    return [*numbered, *made]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 30))
def test_before_and_after_are_one(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Of the month whose records went, and of the next one, in which its runs end."""
    path = tmp_path_factory.mktemp("ledger")
    write_ledger(path / "ledger.db", months(seed))
    before = {period: billed(path, period) for period in (NOVEMBER, DECEMBER)}
    assert "Lines" in before[NOVEMBER]
    gone = keep_and_prune(path, NOVEMBER, DECEMBER.end_ns)
    assert gone > 0
    assert {period: billed(path, period) for period in before} == before
    assert faults_in(path) == []


def test_a_run_whose_beginning_is_gone_is_rounded_as_before(tmp_path: Path) -> None:
    """Quantum and minimum need its whole time: roll-ups keep it by run, and verify checks it."""
    for seed in range(40):
        path = tmp_path / str(seed)
        path.mkdir()
        write_ledger(path / "ledger.db", months(seed))
        before = json.loads(billed(path, DECEMBER))
        keep_and_prune(path, NOVEMBER, DECEMBER.end_ns)
        with LedgerReader(path / "ledger.db") as reader:
            runs = {run: ns for one in reader.rollups() for run, ns in one.runs.items()}
            records = list(reader.records())
        going_on = [one for one in records if one.kind == "final" and one.incarnation in runs]
        if going_on and any(
            line["BilledNanoseconds"] > line["MeteredNanoseconds"]
            for one in before["Invoices"]
            for line in one["Lines"]
            if line["ContainerID"] == going_on[0].container_id
        ):
            break
    else:
        pytest.fail("no run went on")
    assert json.loads(billed(path, DECEMBER)) == before
    file = LedgerFile(str(path / "ledger.db"))
    file.open()
    with file.transaction() as connection:
        connection.execute(
            'UPDATE rollups SET rollup = replace(rollup, \'"runs":{"\', \'"runs":{"x":1,"\')'
        )
    file.close()
    assert any("are not their sum" in fault for fault in faults_in(path))


async def test_retention_keeps_the_bill_first(counters: CounterTree, tmp_path: Path) -> None:
    """By the real process, before the first record of the month goes; the bill is as it was."""
    old = months(3)
    shift = -20 * 365 * DAY_NS // 10
    path = tmp_path / "ledger.db"
    moved = [
        msgspec.structs.replace(
            one, wall_start=one.wall_start + shift, wall_end=one.wall_end + shift,
            amended={
                name: value + shift if name.startswith("wall_") else value
                for name, value in one.amended.items()
            },
        )
        for one in old
    ]  # fmt: skip
    write_ledger(path, moved)
    file = LedgerFile(str(path))
    file.open()
    old_checkpoint(file, moved[-1].wall_end + DAY_NS)
    file.close()
    first, second = unkept(str(path), moved[-1].wall_end + DAY_NS)
    async with metering(counters, tmp_path) as meter:
        pricing = Pricing(tmp_path, meter)
        await pricing.open()
        assert await BillKeeper(meter, pricing).keep(7) == 7
        await pricing.load(book_text().replace("2026-01-01", "2020-01-01").encode(), "prices.toml")
        meter.checkpoints.keep_bills = BillKeeper(meter, pricing).keep
        before = {period: made(path, pricing, period) for period in (first, second)}
        meter.checkpoints._keep = KEEP
        gone = await meter.checkpoints.prune()
        assert gone >= len(moved)
        for period, bill in before.items():
            after = made(path, pricing, period)
            assert after["Invoices"]
            for one in (after, bill):
                del one["LedgerHeadSequence"], one["LedgerHeadHash"]
                for invoice in one["Invoices"]:
                    del invoice["LedgerHeadHash"]
            assert after == bill
        assert unkept(str(path), moved[-1].wall_end + DAY_NS) == []
    assert faults_in(tmp_path) == []


def made(path: Path, pricing: Pricing, period: Period) -> dict[str, list[dict[str, object]]]:
    """The bill of a month by the book in force."""
    assert pricing.store.book is not None
    text = pricing.store.text(pricing.store.book.version).decode()
    asked = msgspec.structs.replace(request(path.parent, period), book=text)
    found: dict[str, list[dict[str, object]]] = json.loads(bill_json(make(asked)))
    return found


async def test_records_stay_until_their_bill_is_kept(
    counters: CounterTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bill that cannot be made holds the pruning at its month, and the log says why."""
    records = write_ledger(tmp_path / "ledger.db", records_of_days(3, runs=2, hours=4))
    before_ns = records[-1].wall_end + DAY_NS
    (month,) = unkept(str(tmp_path / "ledger.db"), before_ns)
    async with metering(counters, tmp_path) as meter:
        pricing = Pricing(tmp_path, meter)
        await pricing.open()
        await pricing.load(book_text().encode(), "prices.toml")
        monkeypatch.setattr("aruntime.daemon.billing.COMMAND", ["false"])
        monkeypatch.setattr("aruntime.daemon.billing.time.time_ns", lambda: NOVEMBER.end_ns + 5)
        keeper = BillKeeper(meter, pricing)
        assert await keeper.keep(before_ns) == month.start_ns
        monkeypatch.setattr("aruntime.daemon.billing.time.time_ns", lambda: NOVEMBER.end_ns - 5)
        assert await keeper.keep(before_ns) == month.start_ns


def test_without_a_book_there_is_none(tmp_path: Path) -> None:
    """The error says why, and what to do; such a month never holds up retention later."""
    write_ledger(tmp_path / "ledger.db", records_of_days(3, runs=2, hours=4))
    file = LedgerFile(str(tmp_path / "ledger.db"))
    file.open()
    old_checkpoint(file, NOVEMBER.end_ns)
    assert prune(file, SIGNER, KEEP, DECEMBER.end_ns) > 0
    file.close()
    with pytest.raises(Unavailable, match="no price book was in force then: 'aruntime usage --si"):
        billed(tmp_path, NOVEMBER)
    assert unkept(str(tmp_path / "ledger.db"), DECEMBER.end_ns) == []


def test_the_page_of_a_month_that_is_gone_has_its_costs(tmp_path: Path) -> None:
    """Usage from the sums, money from the bill that was kept."""
    write_ledger(tmp_path / "ledger.db", months(3))
    bill = json.loads(billed(tmp_path, NOVEMBER))
    keep_and_prune(tmp_path, NOVEMBER, DECEMBER.end_ns)
    asked = msgspec.structs.replace(request(tmp_path, NOVEMBER), format=PAGE, book="")
    page = make_page(asked)
    assert all(one["Payable"] in page for one in bill["Invoices"])
    assert bill["PriceBookVersion"][:12] in page
