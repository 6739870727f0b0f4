"""Rating by example: every number here was worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal as D
from decimal import Inexact
from fractions import Fraction

import msgspec
import pytest

from aruntime.metering.charges import history_needed, month_start_ns
from aruntime.metering.presets import preset_names, preset_text
from aruntime.metering.prices import PriceBook
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.quantities import MEASURES, quantities
from aruntime.metering.rating import RatedLine, invoice, rate, rounded, sum_exactly, to_decimal
from aruntime.metering.record import LedgerRecord

S = 10**9
HOUR = 3600 * S
GIB = 1 << 30
NOVEMBER = month_start_ns(2026, 11)
DECEMBER = month_start_ns(2026, 12)


DEFAULTS = {
    "sku": '"s"',
    "currency": '"EUR"',
    "unit_price": '"1"',
    "valid_from": "2026-01-01",
}


def run_of(
    seconds: float, *, at: int = NOVEMBER, name: str = "c", kind: str = "final", **fields: object
) -> LedgerRecord:
    """A run that is one record: it began, ran so long, and ended."""
    span = round(seconds * S)
    record = LedgerRecord(
        seq=1, kind=kind, container_id=name, incarnation=f"boot:7:{at}", tenant="acme",
        wall_start=at, wall_end=at + span, boot_start_ns=at, boot_end_ns=at + span,
        running_ns=span, end_reason="exit" if kind == "final" else "cut",
    )  # fmt: skip
    return msgspec.structs.replace(record, **fields)


def preset(name: str) -> PriceBook:
    """A shipped book."""
    return parse_book(preset_text(name), name)


def book(*prices: str, head: str = "") -> PriceBook:
    """A book in EUR of prices that say only what matters."""
    text = f'provider = "P"\ndefault_currency = "EUR"\n{head}\n'
    for number, price in enumerate(prices):
        text += f'[[price]]\nprice_id = "p{number}"\n{price}\n'
        for key, value in DEFAULTS.items():
            text += "" if f"{key} =" in price else f"{key} = {value}\n"
    return parse_book(text, "b")


def november(records: Sequence[LedgerRecord], prices: PriceBook) -> list[RatedLine]:
    """The lines of a month."""
    return rate(records, prices, start_ns=NOVEMBER, end_ns=DECEMBER)


def test_fargate_ten_minutes_a_day() -> None:
    """AWS's own example: 1 vCPU and 2 GB for ten minutes on each of thirty days.

    5 h x 1 vCPU x 0.04048 = 0.2024 and 5 h x 2 GB x 0.004445 = 0.04445: 0.24685, to be paid 0.25.
    """
    prices = preset("fargate")
    records = [
        run_of(600, at=NOVEMBER + day * 24 * HOUR, name=f"task{day}", cpu_request_milli=1000,
               mem_request=2 * GIB)
        for day in range(30)
    ]  # fmt: skip

    lines = november(records, prices)
    (bill,) = invoice(lines, prices)

    assert len(lines) == 60
    # Ten minutes are a sixth of an hour, which no decimal is: thirty lines of 15 decimals each.
    quantity = sum_exactly(line.quantity for line in lines if line.sku == "vcpu")
    assert quantity == 30 * D("0.166666666666667")
    assert abs(bill.total - D("0.24685")) < D("1e-14")
    assert bill.payable == D("0.25")
    assert bill.total + bill.adjustment == bill.payable


def test_fargate_rounds_up_to_a_second_and_bills_a_minute_at_least() -> None:
    """10.2 s are billed as 60 s, 75.3 s as 76 s, and the line says both.

    0.25 vCPU x 60 s = 15 vCPU-s; 0.25 vCPU x 76 s = 19 vCPU-s, of 3,600 to the hour.
    """
    prices = preset("fargate")
    for seconds, billed, core_seconds in ((10.2, 60, 15), (75.3, 76, 19), (60, 60, 15)):
        lines = november([run_of(seconds, cpu_request_milli=250)], prices)
        (line,) = [line for line in lines if line.sku == "vcpu"]

        assert (line.metered_ns, line.billed_ns) == (round(seconds * S), billed * S)
        assert line.quantity == to_decimal(Fraction(core_seconds, 3600))
        assert line.consumed == core_seconds
        assert line.cost == line.quantity * D("0.04048")


def test_cloud_run_rounds_to_a_tenth_of_a_second_beyond_the_free_tier() -> None:
    """250,000.042 s of 1 vCPU and half a GiB: 250,000.1 s are billed, 240,000 vCPU-s are free.

    10,000.1 x 0.000018 = 0.1800018; 125,000.05 GiB-s are within the 450,000 free ones.
    """
    prices = preset("cloud-run")
    lines = november([run_of(250_000.042, cpu_request_milli=1000, mem_limit=GIB // 2)], prices)
    found = {(line.sku, line.is_free): line for line in lines}

    assert found.keys() == {("cpu", False), ("cpu", True), ("memory", True)}
    paid, free, memory = found["cpu", False], found["cpu", True], found["memory", True]
    assert (paid.quantity, paid.cost) == (D("10000.1"), D("0.1800018"))
    assert (free.quantity, free.cost) == (D(240000), D(0))
    assert free.list_cost == D("4.32")
    assert free.contracted_unit_price == 0
    assert memory.quantity == D("125000.05")
    assert invoice(lines, prices)[0].payable == D("0.18")


def test_cloud_run_frees_each_month_anew() -> None:
    """Two instances use up one free tier, in the order of time; the next month has its own."""
    prices = preset("cloud-run")
    records = [
        run_of(200_000, name="a", cpu_request_milli=1000),
        run_of(200_000, name="b", at=NOVEMBER + 200_000 * S, cpu_request_milli=1000),
        run_of(100, name="c", at=DECEMBER, cpu_request_milli=1000),
    ]
    lines = rate(records, prices, start_ns=NOVEMBER, end_ns=month_start_ns(2027, 1))
    quantities_of = [
        (line.container_id, line.is_free, int(line.quantity)) for line in lines if line.sku == "cpu"
    ]

    assert quantities_of == [
        ("a", True, 200_000), ("b", False, 160_000), ("b", True, 40_000), ("c", True, 100),
    ]  # fmt: skip


def test_gke_autopilot_bills_requests_by_the_second_without_a_minimum() -> None:
    """A pod of 250m and 512 MiB that ran an hour and 0.3 s: 3,601 s.

    0.25 x 3601 / 3600 x 0.0445 = 0.01112809 and 0.5 x 3601 / 3600 x 0.0049225 = 0.00246193.
    One that ran 0.3 s is billed one second.
    """
    prices = preset("gke-autopilot")
    pod = run_of(3600.3, cpu_request_milli=250, mem_request=GIB // 2, cpu_ns=1, mem_bytens2=1)
    lines = november([pod], prices)
    cost = {line.sku: line.cost for line in lines}

    assert round(cost["pod-vcpu"], 8) == D("0.01112809")
    assert round(cost["pod-memory"], 8) == D("0.00246193")
    assert {line.billed_ns for line in lines} == {3601 * S}
    (short,) = november([run_of(0.3, cpu_request_milli=1000)], prices)
    assert (short.consumed, short.billed_ns) == (D(1), S)


def test_every_preset_is_a_book() -> None:
    """What is shipped can be loaded as it is."""
    assert preset_names() == ["cloud-run", "fargate", "gke-autopilot"]
    assert {preset(name).default_currency for name in preset_names()} == {"USD"}


def test_every_measure_can_be_sold() -> None:
    """One SKU of each measure at 1 EUR per base unit costs the quantity of the record."""
    record = run_of(
        2, paused_ns=S, wall_end=NOVEMBER + 3 * S, cpu_ns=S, cpu_alloc_ns=2 * S,
        cpu_request_milli=500, mem_request=8, mem_bytens2=60 * S, mem_usage_bytens2=80 * S,
        mem_alloc_bytens2=70 * S, blk={"sda": (1, 2, 3, 4, 5)}, proc_read=6, proc_write=7,
        net={"eth0": (8, 9, 10, 11, 12, 13)},
    )  # fmt: skip
    for name, measure in MEASURES.items():
        if name == "running":
            continue  # sold as container, with paused = "memory_only"
        sold = name.replace("_used", "").replace("_allocated", "").replace("_max", "")
        basis = {"used": "usage", "allocated": "allocation", "max": "max"}.get(name.split("_")[-1])
        if name.endswith("_packets") or sold == name:
            basis = None
        prices = book(
            f'measure = "{sold}"\nunit = "{measure.unit}"\npaused = "full"\n'
            + (f'basis = "{basis}"' if basis else "")
        )
        (line,) = november([record], prices)
        expected = quantities(record)[name]
        if name in ("cpu_allocated", "cpu_max"):
            expected += Fraction(1, 2)  # half a core is kept for it while it is paused

        assert (line.quantity_name, Fraction(line.cost)) == (name, expected)


@pytest.mark.parametrize(
    ("policy", "billed"),
    [
        ("full", {"cpu": 3, "memory": 60, "container": 6, "read": 7, "sent": 5}),
        ("memory_only", {"cpu": 1, "memory": 60, "container": 2, "read": 7, "sent": 0}),
        ("storage_only", {"cpu": 1, "memory": 20, "container": 2, "read": 7, "sent": 0}),
        ("free", {"cpu": 1, "memory": 20, "container": 2, "read": 0, "sent": 0}),
    ],
)
def test_paused_time(policy: str, billed: dict[str, int]) -> None:
    """Two seconds of running, four of pause, half a core and ten bytes, packets in flight."""
    running = run_of(2, kind="usage", cpu_request_milli=500, mem_bytens2=40 * S, seq=1)
    paused = run_of(
        4, at=NOVEMBER + 2 * S, kind="usage", cpu_request_milli=500, running_ns=0, paused_ns=4 * S,
        state="paused", mem_bytens2=80 * S, blk={"sda": (7, 0, 1, 0, 0)}, seq=2,
        net={"eth0": (0, 5, 0, 1)},
    )  # fmt: skip
    prices = book(
        'sku = "cpu"\nmeasure = "cpu"\nbasis = "allocation"\nunit = "Core-Seconds"',
        'sku = "memory"\nmeasure = "memory"\nbasis = "usage"\nunit = "B-Seconds"',
        'sku = "container"\nmeasure = "container"\nunit = "Seconds"',
        'sku = "read"\nmeasure = "block_read"\nunit = "B"',
        'sku = "sent"\nmeasure = "network_transmit"\nunit = "B"',
        head=f'paused = "{policy}"',
    )
    lines = november([running, paused], prices)
    mixed = november(
        [msgspec.structs.replace(paused, wall_start=NOVEMBER, running_ns=2 * S,
                                 mem_bytens2=120 * S)], prices
    )  # fmt: skip

    def costs(found: list[RatedLine]) -> dict[str, D]:
        return {sku: sum_exactly(line.cost for line in found if line.sku == sku) for sku in billed}

    assert costs(lines) == billed
    # A record that holds both, after a time without a daemon: memory is divided by time, and what
    # was read or sent was read or sent while something ran.
    assert costs(mixed) == billed | {"read": 7, "sent": 5}


def test_a_price_change_splits_what_no_cut_split() -> None:
    """An hour across the boundary: a quarter at 1, three quarters at 3, said to be an estimate."""
    prices = book(
        'sku = "cpu"\nmeasure = "cpu"\nbasis = "usage"\nunit = "Core-Seconds"\n'
        "valid_to = 2026-11-02T00:15:00Z",
        'sku = "cpu"\nmeasure = "cpu"\nbasis = "usage"\nunit = "Core-Seconds"\nunit_price = "3"\n'
        "valid_from = 2026-11-02T00:15:00Z",
    )
    record = run_of(3600, at=NOVEMBER + 24 * HOUR, cpu_ns=400 * S, estimated=("daemon_gap",))
    first, second = november([record], prices)

    assert (first.quantity, first.cost, first.price_id) == (D(100), D(100), "p0")
    assert (second.quantity, second.cost, second.price_id) == (D(300), D(900), "p1")
    assert first.end_ns == second.start_ns == NOVEMBER + 24 * HOUR + 900 * S
    assert (first.metered_ns, second.metered_ns) == (900 * S, 2700 * S)
    assert first.estimated == second.estimated == ("daemon_gap", "price_split")


def test_what_has_no_price_costs_nothing() -> None:
    """Before a SKU is sold and after; the part in between is billed."""
    prices = book(
        'measure = "container"\nunit = "Seconds"\nvalid_from = 2026-11-01T00:00:10Z\n'
        "valid_to = 2026-11-01T00:00:30Z"
    )
    (line,) = november([run_of(60)], prices)

    assert (line.start_ns, line.end_ns) == (NOVEMBER + 10 * S, NOVEMBER + 30 * S)
    assert line.cost == 20


def test_a_run_across_months_is_rounded_up_where_it_ends() -> None:
    """November bills what was metered; December the rest and what is missing to the minute."""
    prices = book(
        'measure = "container"\nunit = "Seconds"\nquantum = "10s"\nminimum = "60s"\n'
    )  # fmt: skip
    at = DECEMBER - 7 * S
    begun = run_of(7, at=at, kind="usage")
    ended = run_of(5, at=DECEMBER, incarnation=begun.incarnation, boot_start_ns=DECEMBER, seq=2)
    january = month_start_ns(2027, 1)

    (first,) = november([begun], prices)
    (last,) = rate([begun, ended], prices, start_ns=DECEMBER, end_ns=january)
    (alone,) = rate(
        [ended], prices, start_ns=DECEMBER, end_ns=january,
        before={("c", ended.incarnation): 7 * S},
    )  # fmt: skip

    assert (first.cost, first.billed_ns) == (D(7), 7 * S)
    assert (last.cost, last.metered_ns, last.billed_ns) == (D(53), 5 * S, 53 * S)
    assert alone == last
    assert history_needed([ended]) == {("c", ended.incarnation)}
    assert history_needed([begun, ended]) == frozenset()


def test_nobody_pays_for_a_lost_host_or_a_run_that_never_ran() -> None:
    """No minimum is charged beyond the last baseline of a host that died, nor for nothing."""
    prices = book('measure = "container"\nunit = "Seconds"\nminimum = "60s"')

    (lost,) = november([run_of(5, end_reason="host_lost")], prices)
    assert (lost.cost, lost.billed_ns) == (D(5), 5 * S)
    assert november([run_of(0)], prices) == []


def test_tenants_pay_in_their_currency() -> None:
    """One container each, at the prices of the tenant's own currency, one invoice each."""
    same = 'sku = "t"\nmeasure = "container"\nunit = "Hours"\n'
    prices = book(
        same + 'unit_price = "0.125"',
        same + 'currency = "JPY"\nunit_price = "19.5"',
        same + 'currency = "BHD"\nunit_price = "0.0123"',
        head='rounding = "half_up"\n[tenants.tokyo]\ncurrency = "JPY"\nname = "Tokyo KK"\n'
        '[tenants.manama]\ncurrency = "BHD"',
    )
    records = [run_of(HOUR / S, tenant=tenant) for tenant in ("tokyo", "manama", "acme")]
    invoices = invoice(november(records, prices), prices)

    assert [(one.tenant, one.currency, one.payable) for one in invoices] == [
        ("acme", "EUR", D("0.13")),
        ("manama", "BHD", D("0.012")),
        ("tokyo", "JPY", D(20)),
    ]
    assert [one.adjustment for one in invoices] == [
        D("0.005"), D("-0.0003"), D("0.5"),
    ]  # fmt: skip
    assert [one.account_name for one in invoices] == ["acme", "manama", "Tokyo KK"]
    assert {one.rounding for one in invoices} == {"half_up"}


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("half_even", "0.12"), ("half_up", "0.13"), ("half_down", "0.12"), ("up", "0.13"),
     ("down", "0.12")],
)  # fmt: skip
def test_rounding_rules(rounding: str, expected: str) -> None:
    """Of half a cent, by each rule a book may name."""
    assert rounded(D("0.125"), "EUR", rounding) == D(expected)


def test_corrections_are_marked() -> None:
    """A late correction is a line of its own that says what it amends."""
    prices = book('measure = "process_write"\nunit = "KiB"')
    late = run_of(0, kind="correction", corrects=17, proc_write=512, seq=40)
    (line,) = november([late], prices)

    assert (line.is_correction, line.corrects, line.cost) == (True, 17, D("0.5"))


def test_records_of_the_host_are_no_usage() -> None:
    """A step of the clock and a change of prices have no container."""
    prices = book('measure = "container"\nunit = "Seconds"')
    assert november([LedgerRecord(kind="clock_step", wall_end=NOVEMBER + HOUR)], prices) == []


def test_money_never_rounds_silently() -> None:
    """A sum with more digits than fit raises, and so does a product."""
    with pytest.raises(Inexact):
        sum_exactly([D("1e60"), D("1e-60")])


@pytest.mark.parametrize(
    ("value", "written"),
    [(Fraction(1, 3), "0.333333333333333"), (Fraction(2, 3), "0.666666666666667"),
     (Fraction(5, 10**16), "0.000000000000000"), (Fraction(15, 10**16), "0.000000000000002"),
     (Fraction(1200), "1200"), (Fraction(-1, 8), "-0.125")],
)  # fmt: skip
def test_quantities_have_fifteen_decimals(value: Fraction, written: str) -> None:
    """Half to even, no exponent, no superfluous zero."""
    assert f"{to_decimal(value):f}" == (written if D(written) else "0")
