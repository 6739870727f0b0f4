"""Costs so far: they only grow, whatever is cut, killed or lost, and are the bill's at the end."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aruntime.metering.accrual import Accrual, Costs
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.rating import QUANTITY_DECIMALS, rate
from aruntime.metering.record import LedgerRecord
from tests.billing import NOVEMBER, price_book, records_of_days, write_ledger
from tests.ledgers import correction


def refreshed(
    accrual: Accrual, ledger: Path, head: int, unfinished: list[LedgerRecord] | None = None
) -> Costs:
    """Bring sums up to a record and return them."""
    with LedgerReader(ledger) as reader:
        accrual.refresh(reader, price_book(), head, unfinished or [])
    return accrual.costs


def part_of(record: LedgerRecord, numerator: int) -> LedgerRecord:
    """Return the beginning of a record, as the meter had committed it before it was cut."""

    def share(value: int) -> int:
        return value * numerator // 8

    wall_end = record.wall_start + share(record.wall_end - record.wall_start)
    return msgspec.structs.replace(
        record, seq=0, kind="usage", end_reason="", wall_end=wall_end,
        running_ns=share(record.running_ns), paused_ns=share(record.paused_ns),
        cpu_ns=share(record.cpu_ns), cpu_alloc_ns=share(record.cpu_alloc_ns),
        mem_bytens2=share(record.mem_bytens2), mem_alloc_bytens2=share(record.mem_alloc_bytens2),
        proc_write=share(record.proc_write),
        blk={name: tuple(map(share, row)) for name, row in record.blk.items()},
        net={name: tuple(map(share, row)) for name, row in record.net.items()},
    )  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_costs_never_fall_and_end_as_the_bill(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
) -> None:
    """With open intervals, restarts from the file, restarts without it; then equal to the lines."""
    place = tmp_path_factory.mktemp("accrual")
    ledger, path = place / "ledger.db", str(place / "costs.json")
    records = write_ledger(ledger, records_of_days(seed, runs=2, hours=5))
    accrual, before = Accrual(path), dict[tuple[str, str, str], Fraction]()
    for head in sorted(data.draw(st.sets(st.integers(0, len(records) - 1), max_size=4))):
        part = part_of(records[head], data.draw(st.integers(1, 8)))
        costs = refreshed(accrual, ledger, head, [part])
        assert all(costs[key] >= cost for key, cost in before.items())
        before = dict(costs)
        if data.draw(st.booleans()):
            with LedgerReader(ledger) as reader:
                accrual.keep(reader.host()[0])
        if data.draw(st.booleans()):
            accrual = Accrual(path)  # as after a kill -9
    costs = refreshed(accrual, ledger, len(records))
    assert all(costs[key] >= cost for key, cost in before.items())
    assert costs == refreshed(Accrual(str(place / "none.json")), ledger, len(records))

    lines = rate(records, price_book(), start_ns=NOVEMBER.start_ns, end_ns=NOVEMBER.end_ns)
    for key, cost in costs.items():
        own = [one for one in lines if (one.tenant, one.sku, one.currency) == key]
        listed = sum((Fraction(one.list_cost) for one in own), Fraction(0))
        unrounded = sum(Fraction(one.list_unit_price) for one in own) / 10**QUANTITY_DECIMALS
        assert abs(cost - listed) <= unrounded


def test_each_record_is_taken_once(tmp_path: Path) -> None:
    """However often it is refreshed."""
    ledger = tmp_path / "ledger.db"
    records = write_ledger(ledger, records_of_days(2, runs=1, hours=2))
    accrual = Accrual(str(tmp_path / "costs.json"))
    first = refreshed(accrual, ledger, len(records))
    assert first
    assert refreshed(accrual, ledger, len(records)) == first


@pytest.mark.parametrize("damage", ["other ledger", "other record", "garbage", "fraction"])
def test_a_file_that_does_not_fit_is_not_used(tmp_path: Path, damage: str) -> None:
    """The sums are made again from the records."""
    ledger, path = tmp_path / "ledger.db", tmp_path / "costs.json"
    records = write_ledger(ledger, records_of_days(3, runs=1, hours=2))
    accrual = Accrual(str(path))
    right = refreshed(accrual, ledger, len(records))
    with LedgerReader(ledger) as reader:
        accrual.keep("another" if damage == "other ledger" else reader.host()[0])
    kept = msgspec.json.decode(path.read_bytes())
    kept["costs"] = [[*row[:3], "7/2"] for row in kept["costs"]]
    match damage:
        case "other record":
            kept["hash"] = "00" * 32
        case "fraction":
            kept["costs"] = [["acme", "cpu", "EUR", "1/0"]]
    path.write_bytes(b"{" if damage == "garbage" else msgspec.json.encode(kept))

    assert refreshed(Accrual(str(path)), ledger, len(records)) == right


def test_a_file_that_fits_is_believed(tmp_path: Path) -> None:
    """Records up to it are not rated again."""
    ledger, path = tmp_path / "ledger.db", tmp_path / "costs.json"
    records = write_ledger(ledger, records_of_days(3, runs=1, hours=2))
    accrual = Accrual(str(path))
    refreshed(accrual, ledger, len(records))
    with LedgerReader(ledger) as reader:
        accrual.keep(reader.host()[0])
    kept = msgspec.json.decode(path.read_bytes())
    kept["costs"] = [["acme", "cpu", "EUR", "7/2"]]
    path.write_bytes(msgspec.json.encode(kept))
    assert path.stat().st_mode & 0o777 == 0o600

    assert refreshed(Accrual(str(path)), ledger, len(records)) == {
        ("acme", "cpu", "EUR"): Fraction(7, 2)
    }


def test_corrections_are_left_to_bills(tmp_path: Path) -> None:
    """What gives money back would make the sum fall, at the latest when it is made again."""
    ledger = tmp_path / "ledger.db"
    records = write_ledger(ledger, records_of_days(4, runs=2, hours=3))
    right = refreshed(Accrual(str(tmp_path / "a.json")), ledger, len(records))
    sold = next(one for one in records if one.proc_write)
    ledger.unlink()
    back = correction(sold, proc_write=-sold.proc_write, net_transmit=5)
    write_ledger(ledger, [*records, back])
    assert refreshed(Accrual(str(tmp_path / "b.json")), ledger, len(records) + 1) == right
