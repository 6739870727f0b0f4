"""The usage view: whole numbers that add up, however a span is divided and grouped."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aruntime.metering.chain import HOUR_NS, Rollup, add_sums, sums_of
from aruntime.metering.charges import State, charges
from aruntime.metering.quantities import COUNTED, MEASURES, counts, quantity, span_ns
from aruntime.metering.rating import QUANTITY_DECIMALS, rate
from aruntime.metering.record import LedgerRecord
from aruntime.metering.usage import WINDOW_EDGE, Usage, Window, usage_rows
from tests.billing import NOVEMBER, price_book, records_of_days

seeds = st.integers(0, 2**32)
MONTH = Window(NOVEMBER.start_ns, NOVEMBER.end_ns)
instants = st.integers(NOVEMBER.start_ns + 15 * 24 * HOUR_NS, NOVEMBER.start_ns + 17 * 24 * HOUR_NS)
DAYS = [NOVEMBER.start_ns + day * 24 * HOUR_NS for day in range(15, 20)]


def total(rows: Iterable[Usage]) -> dict[str, int]:
    """Return sums over rows."""
    sums = dict.fromkeys(MEASURES, 0)
    for row in rows:
        for name, count in row.counts.items():
            sums[name] += count
    return sums


def rolled_up(records: Iterable[LedgerRecord]) -> list[Rollup]:
    """Return the hours of records, as retention keeps them."""
    found: dict[tuple[int, str, str], list[LedgerRecord]] = {}
    for record in records:
        hour = record.wall_start // HOUR_NS * HOUR_NS
        found.setdefault((hour, record.tenant, record.container_id), []).append(record)
    rollups = []
    for (hour, tenant, container_id), ones in found.items():
        sums: dict[str, int] = {}
        for record in ones:
            sums = add_sums(sums, sums_of(record))
        rollups.append(
            Rollup(
                hour_ns=hour, tenant=tenant, container_id=container_id, price_version="",
                name=ones[-1].name, records=len(ones), first_seq=ones[0].seq,
                last_seq=ones[-1].seq, estimated=sum(bool(one.estimated) for one in ones),
                sums=sums,
            )
        )  # fmt: skip
    return rollups


@settings(deadline=None, max_examples=25)
@given(seeds, st.lists(instants, min_size=2, max_size=5, unique=True).map(sorted))
def test_adjacent_windows_add_up(seed: int, edges: list[int]) -> None:
    """However a span is divided, the parts of every measure add up to the whole, exactly."""
    records = records_of_days(seed, runs=3)
    whole = usage_rows(records, [], Window(edges[0], edges[-1]), "tenant")
    parts = [
        usage_rows(records, [], Window(start, end), "tenant") for start, end in pairwise(edges)
    ]
    assert total(whole) == total(row for rows in parts for row in rows)


@settings(deadline=None, max_examples=12)
@given(seeds)
def test_raw_hourly_daily_and_invoice_agree(seed: int) -> None:
    """Per tenant and SKU: records, sums of hours, sums of days, roll-ups and what is invoiced."""
    records = records_of_days(seed, runs=3, hours=10)
    book = price_book()
    rows = {row.group.tenant: row for row in usage_rows(records, [], MONTH, "tenant")}
    hours = [
        Window(at, at + HOUR_NS) for at in range(DAYS[0], DAYS[-1], HOUR_NS)
    ]  # fmt: skip
    days = [Window(day, day + 24 * HOUR_NS) for day in DAYS[:-1]]
    whole = total(rows.values())
    for windows in (hours, days):
        parts = [row for one in windows for row in usage_rows(records, [], one, "tenant")]
        assert total(parts) == whole
    kept = total(usage_rows([], rolled_up(records), MONTH, "tenant"))
    assert {name: kept[name] for name in COUNTED} == {name: whole[name] for name in COUNTED}

    invoiced: dict[tuple[str, str], Fraction] = {}
    for charge in charges(records, book, State()):
        key = charge.record.tenant, charge.price.quantity_name
        billed = (charge.paid + charge.free) * charge.price.unit_size
        invoiced[key] = invoiced.get(key, Fraction(0)) + billed
    for tenant, row in rows.items():
        for name in ("memory_used", "block_read", "process_write", "network_transmit", "container"):
            assert invoiced[tenant, name] == quantity(name, row.counts[name])
    lines = rate(records, book, start_ns=NOVEMBER.start_ns, end_ns=NOVEMBER.end_ns)
    for (tenant, name), exact in invoiced.items():
        written = [one for one in lines if (one.tenant, one.quantity_name) == (tenant, name)]
        added = sum((Fraction(one.consumed) for one in written), Fraction(0))
        assert abs(added - exact) <= len(written) * Fraction(1, 10**QUANTITY_DECIMALS)


@settings(deadline=None, max_examples=12)
@given(seeds, st.sampled_from(["container", "tenant", "label:team"]))
def test_groups_are_a_partition(seed: int, by: str) -> None:
    """Every record is in one group; the greater of request and use is not less than either."""
    records = records_of_days(seed, runs=4, hours=6)
    rows = usage_rows(records, [], MONTH, by)
    sums = dict.fromkeys(MEASURES, 0)
    for record in records:
        for name, count in counts(record).items():
            sums[name] += count
    assert total(rows) == sums
    assert {one for row in rows for one in row.containers} == {one.container_id for one in records}
    for row in rows:
        figures = {name: quantity(name, count) for name, count in row.counts.items()}
        assert figures["cpu_max"] >= max(figures["cpu_used"], figures["cpu_allocated"])
        assert figures["container"] == figures["running"] + figures["paused"]


def test_what_is_set_aside_is_the_greater_of_both() -> None:
    """A tenant that uses less than it asked for is shown what it asked for, container by container.

    That tenants, unattributed and idle time are the capacity: test_partition.
    """
    records = [
        LedgerRecord(
            container_id=name, tenant=tenant, wall_end=HOUR_NS, running_ns=HOUR_NS,
            cpu_ns=busy, cpu_request_milli=500, cpu_alloc_ns=max(busy, HOUR_NS // 2),
        )
        for name, tenant, busy in (("a", "x", HOUR_NS), ("b", "x", 7), ("c", "y", 0))
    ]  # fmt: skip
    rows = usage_rows(records, [], Window(0, HOUR_NS), "tenant")
    assert [row.counts["cpu_used"] for row in rows] == [HOUR_NS + 7, 0]
    assert [row.counts["cpu_max"] for row in rows] == [HOUR_NS * 3 // 2, HOUR_NS // 2]
    assert all(span_ns(record) == HOUR_NS for record in records)


def test_a_record_across_the_edge_is_divided_and_says_so() -> None:
    """In proportion to time, in whole numbers, flagged; instants belong to one side."""
    record = LedgerRecord(
        container_id="a", tenant="t", wall_start=0, wall_end=3, running_ns=3, cpu_ns=10
    )
    instant = LedgerRecord(
        kind="correction", container_id="a", tenant="t", wall_start=2, wall_end=2, cpu_ns=-1
    )
    (first,) = usage_rows([record, instant], [], Window(0, 2), "container")
    (second,) = usage_rows([record, instant], [], Window(2, 9), "container")
    assert (first.counts["cpu_used"], second.counts["cpu_used"]) == (6, 4 - 1)
    assert first.estimated == second.estimated == {WINDOW_EDGE}
    assert usage_rows([record], [], Window(3, 9), "container") == []


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("container", [("t", "b", ""), ("t", "a", "")]),
        ("tenant", [("t", "", "")]),
        ("label:team", [("t", "", "web"), ("t", "", "")]),
    ],
)
def test_rows_are_named_and_ordered(by: str, expected: list[tuple[str, str, str]]) -> None:
    """By tenant, then the greatest users first; the host's own records are nobody's."""
    records = [
        LedgerRecord(container_id="a", tenant="t", name="old", wall_end=1, cpu_ns=1),
        LedgerRecord(
            container_id="b", tenant="t", labels={"team": "web"}, wall_end=1, cpu_ns=2
        ),
        LedgerRecord(kind="clock_step", wall_end=1),
    ]  # fmt: skip
    rows = usage_rows(records, [], Window(0, 9), by)
    assert [tuple(row.group) for row in rows] == expected
