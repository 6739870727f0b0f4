"""Properties of rating: additive, exact, blind to order, never less than what was metered."""

from __future__ import annotations

import itertools
import random
from decimal import Decimal
from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.charges import (
    Charge,
    State,
    billed_ns,
    charges,
    has_run_time,
    month_start_ns,
)
from aruntime.metering.currencies import MINOR_DIGITS
from aruntime.metering.prices import Price, PriceBook, Terms
from aruntime.metering.rating import QUANTITY_DECIMALS, invoice, rate, sum_exactly
from aruntime.metering.record import LedgerRecord

S = 10**9
START = month_start_ns(2026, 11) - 3600 * S
"""An hour before a month begins, so that many examples cross into it."""
END = START + 40 * 86400 * S

SOLD = (
    ("cpu", "usage", "Core-Hours"), ("cpu", "allocation", "vCPU-Seconds"),
    ("cpu", "max", "Core-Minutes"), ("memory", "usage", "GiB-Hours"),
    ("memory", "allocation", "MB-Seconds"), ("memory", "max", "GiB-Days"),
    ("container", "", "Hours"), ("network_transmit", "", "GiB"), ("block_reads", "", "Requests"),
    ("paused", "", "Minutes"),
)  # fmt: skip
CURRENCIES = ("EUR", "JPY", "KWD")
PLAIN = ("usage", "")

amounts = st.decimals("0", "1000", places=9, allow_nan=False)
quanta = st.sampled_from([1, S // 10, S, 60 * S])
minima = st.sampled_from([0, 60 * S])
roundings = st.sampled_from(["half_even", "half_up", "half_down"])
moments = st.integers(0, END - START).map(lambda offset: START + offset)


@st.composite
def books(draw: st.DrawFn, *, plain: bool = False) -> PriceBook:
    """A book of some SKUs, each with up to three prices one after the other.

    Args:
        draw: of Hypothesis.
        plain: without free tiers, quantum and minimum.
    """
    prices = []
    for number, (measure, basis, unit) in enumerate(
        draw(st.lists(st.sampled_from(SOLD), min_size=1, max_size=4, unique=True))
    ):
        edges = [0, *sorted(draw(st.sets(moments, max_size=2))), None]
        is_timed = not plain and (measure == "container" or basis in ("allocation", "max"))
        for currency in CURRENCIES:
            for place, (start, end) in enumerate(itertools.pairwise(edges)):
                assert start is not None
                prices.append(
                    Price(
                        sku=f"sku{number}",
                        price_id=f"{number}-{place}-{currency}",
                        measure=measure,
                        basis=basis,
                        unit=unit,
                        unit_price=draw(amounts),
                        currency=currency,
                        valid_from_ns=start,
                        valid_to_ns=end,
                        quantum_ns=draw(quanta) if is_timed else 1,
                        minimum_ns=draw(minima) if is_timed else 0,
                        free=Decimal(0) if plain else draw(st.just(Decimal(0)) | amounts),
                        paused=draw(st.sampled_from(["full", "memory_only", "free"])),
                    )
                )  # fmt: skip
    return PriceBook(
        version="v", name="b", provider="p", publisher="p", invoice_issuer="p", service_name="s",
        default_currency="EUR", rounding=draw(roundings),
        tenants={"b": Terms(currency="JPY"), "c": Terms(currency="KWD")}, prices=tuple(prices),
    )  # fmt: skip


@st.composite
def runs(draw: st.DrawFn, number: int) -> list[LedgerRecord]:
    """The records of one run: contiguous, running or paused, some of an instant, maybe ended."""
    at = draw(moments)
    birth, found = at, []
    tenant = draw(st.sampled_from("abc"))
    spans = draw(st.lists(st.integers(0, 3 * 86400 * S), min_size=1, max_size=5))
    milli = draw(st.sampled_from([0, 250, 3000]))
    for place, span in enumerate(spans):
        paused = draw(st.sampled_from([0, 0, span, span // 3]))
        running = span - paused
        cpu, memory = draw(st.integers(0, 4 * running)), draw(st.integers(0, 1 << 36)) * span
        found.append(
            LedgerRecord(
                seq=number * 100 + place + 1,
                kind="final" if place == len(spans) - 1 and draw(st.booleans()) else "usage",
                container_id=f"c{number}", incarnation=f"boot:{number}:{birth}", tenant=tenant,
                wall_start=at, wall_end=at + span, boot_start_ns=at, boot_end_ns=at + span,
                running_ns=running, paused_ns=paused, cpu_ns=cpu, cpu_request_milli=milli,
                cpu_alloc_ns=max(cpu, milli * running // 1000), mem_bytens2=memory,
                mem_request=1 << 28, mem_alloc_bytens2=max(memory, (1 << 29) * span),
                net={"eth0": (0, draw(st.integers(0, 1 << 40)), 0, 0)},
                blk={"sda": (0, 0, draw(st.integers(0, 1 << 20)), 0, 0)},
            )
        )  # fmt: skip
        at += span
    return found


@st.composite
def ledgers(draw: st.DrawFn) -> list[LedgerRecord]:
    """Records of up to three runs."""
    count = draw(st.integers(1, 3))
    return [record for number in range(count) for record in draw(runs(number))]


def exact(found: list[Charge]) -> dict[tuple[str, str, str], Fraction]:
    """Exact cost before rounding, per tenant, SKU and currency."""
    sums: dict[tuple[str, str, str], Fraction] = {}
    for charge in found:
        key = (charge.record.tenant, charge.price.sku, charge.price.currency)
        sums[key] = sums.get(key, Fraction(0)) + charge.paid * Fraction(charge.price.unit_price)
    return sums


def costs(
    records: list[LedgerRecord], book: PriceBook, *cuts: int
) -> dict[tuple[str, str, str], Fraction]:
    """Exact cost of records that no carried state comes before."""
    return exact(list(charges(records, book, State(), cuts=cuts)))


@given(ledgers(), books(plain=True), st.lists(moments, max_size=3))
def test_additive_before_rounding(
    records: list[LedgerRecord], book: PriceBook, cuts: list[int]
) -> None:
    """Records cost what each of them costs, wherever they are cut in addition."""
    whole = costs(records, book)
    alone: dict[tuple[str, str, str], Fraction] = {}
    for record in records:
        for key, cost in costs([record], book).items():
            alone[key] = alone.get(key, Fraction(0)) + cost

    assert alone == whole
    assert costs(records, book, *cuts) == whole


@given(ledgers(), books(), st.lists(moments, max_size=3))
def test_windows_add_up(records: list[LedgerRecord], book: PriceBook, cuts: list[int]) -> None:
    """Windows one after the other hold together what one window holds, to the rounding of lines.

    Free tiers, quantum and minimum included: earlier records are given to later windows.
    """
    last = max(record.wall_end for record in records) + 1
    edges = sorted({START, *cuts, last})
    whole = rate(records, book, start_ns=START, end_ns=last)
    pieces = [
        line
        for start, end in itertools.pairwise(edges)
        for line in rate(records, book, start_ns=start, end_ns=end)
    ]
    slack = Decimal(len(pieces) + len(whole)).scaleb(-QUANTITY_DECIMALS)

    for key in {(line.tenant, line.sku, line.price_id, line.is_free) for line in whole + pieces}:
        one, many = (
            sum_exactly(
                line.quantity
                for line in lines
                if (line.tenant, line.sku, line.price_id, line.is_free) == key
            )
            for lines in (whole, pieces)
        )
        assert abs(one - many) <= slack


@given(runs(0), books(plain=True), moments)
def test_a_price_boundary_is_the_sum_of_its_parts(
    records: list[LedgerRecord], book: PriceBook, moment: int
) -> None:
    """A boundary at which nothing changes changes nothing, exactly."""
    divided = []
    for price in book.prices:
        end = price.valid_to_ns
        if price.valid_from_ns < moment and (end is None or moment < end):
            replace = msgspec.structs.replace
            divided.append(replace(price, valid_to_ns=moment))
            price = replace(price, valid_from_ns=moment, price_id=price.price_id + "-b")
        divided.append(price)

    assert costs(records, msgspec.structs.replace(book, prices=tuple(divided))) == costs(
        records, book
    )


@given(ledgers(), books(), st.randoms(use_true_random=False))
def test_same_bytes_in_whatever_order(
    records: list[LedgerRecord], book: PriceBook, shuffling: random.Random
) -> None:
    """Rating again, or the records in another order, gives the same bytes."""
    lines = rate(records, book, start_ns=START, end_ns=END)
    shuffled = list(records)
    shuffling.shuffle(shuffled)
    again = rate(shuffled, book, start_ns=START, end_ns=END)

    assert msgspec.json.encode(again) == msgspec.json.encode(lines)
    assert msgspec.json.encode(invoice(again, book)) == msgspec.json.encode(invoice(lines, book))


@given(ledgers(), books())
def test_lines_and_adjustment_are_the_payable(records: list[LedgerRecord], book: PriceBook) -> None:
    """Products are exact, sums are exact, and rounding is half a minor unit at most."""
    lines = rate(records, book, start_ns=START, end_ns=END)
    for line in lines:
        assert Fraction(line.quantity) * Fraction(line.list_unit_price) == Fraction(line.list_cost)
        paid = Fraction(line.quantity) * Fraction(line.contracted_unit_price)
        assert paid == Fraction(line.cost)
        assert line.contracted_unit_price == (0 if line.is_free else line.list_unit_price)
    invoices = invoice(lines, book)

    assert [line for one in invoices for line in one.lines] == sorted(
        lines, key=lambda line: (line.tenant, line.currency)
    )
    for one in invoices:
        minor = Fraction(1, 10 ** MINOR_DIGITS[one.currency])
        total = sum((Fraction(line.cost) for line in one.lines), Fraction(0))
        assert total == Fraction(one.total)
        assert total + Fraction(one.adjustment) == Fraction(one.payable)
        assert abs(Fraction(one.adjustment)) <= minor / 2
        assert (Fraction(one.payable) / minor).denominator == 1


@given(ledgers(), books(), st.data())
def test_more_usage_never_costs_less(
    records: list[LedgerRecord], book: PriceBook, data: st.DataObject
) -> None:
    """Monotone in every quantity of every record."""
    place = data.draw(st.integers(0, len(records) - 1))
    record = records[place]
    more = data.draw(st.integers(0, 1 << 40))
    grown = msgspec.structs.replace(
        record,
        cpu_ns=record.cpu_ns + more,
        cpu_alloc_ns=record.cpu_alloc_ns + more,
        mem_bytens2=record.mem_bytens2 + more,
        mem_alloc_bytens2=record.mem_alloc_bytens2 + more,
        net={"eth0": (0, record.net["eth0"][1] + more, 0, 0)},
    )
    before = costs(records, book)
    after = costs([*records[:place], grown, *records[place + 1 :]], book)

    # A unit that is free leaves another one to be paid, at whichever price is valid then: only
    # with one price per SKU is the whole monotone.
    prices = {(price.sku, price.currency) for price in book.prices}
    if len(prices) == len(book.prices) or not any(price.free for price in book.prices):
        assert all(after.get(key, 0) >= cost for key, cost in before.items())


@given(ledgers(), books())
def test_quantum_and_minimum_never_bill_less_than_was_metered(
    records: list[LedgerRecord], book: PriceBook
) -> None:
    """The billed time of a run that ended is its running time rounded up, to the nanosecond."""
    found = list(charges(records, book, State()))
    plain = tuple(msgspec.structs.replace(p, quantum_ns=1, minimum_ns=0) for p in book.prices)
    metered = list(charges(records, msgspec.structs.replace(book, prices=plain), State()))

    for charge, bare in zip(found, metered, strict=True):
        assert charge.billed_ns >= charge.metered_ns == bare.billed_ns
        assert charge.paid + charge.free >= bare.paid + bare.free
    for record in records:
        if record.kind == "final":
            ran = sum(r.running_ns for r in records if r.container_id == record.container_id)
            for charge in found:
                is_end = charge.record is record and charge.end_ns == record.wall_end
                if is_end and has_run_time(charge.price):
                    extra = charge.billed_ns - charge.metered_ns
                    assert extra == billed_ns(ran, charge.price) - ran


@given(st.integers(0, 10**15), st.sampled_from([1, 7, S]), st.integers(0, 10**13))
def test_rounding_up_of_time(running: int, quantum: int, minimum: int) -> None:
    """The least multiple of the quantum that holds the time, or the minimum; nothing is nothing."""
    price = Price(
        sku="s", price_id="p", measure="container", basis="", unit="Hours", unit_price=Decimal(1),
        currency="EUR", valid_from_ns=0, quantum_ns=quantum, minimum_ns=minimum,
    )  # fmt: skip
    billed = billed_ns(running, price)

    assert billed >= running
    assert billed in (0, minimum) or (billed % quantum == 0 and billed - running < quantum)
    assert (billed == 0) == (running == 0)


@given(ledgers(), books())
def test_free_tiers_are_used_up_and_no_further(
    records: list[LedgerRecord], book: PriceBook
) -> None:
    """Per tenant, SKU and month the free part is the tier or everything there was."""
    once = {(price.sku, price.currency): price for price in book.prices}
    fixed = tuple(
        msgspec.structs.replace(price, free=once[price.sku, price.currency].free)
        for price in book.prices
    )
    found = list(charges(records, msgspec.structs.replace(book, prices=fixed), State()))
    sums: dict[tuple[str, str, int], list[Fraction]] = {}
    for charge in found:
        is_later = charge.start_ns >= month_start_ns(2026, 11)
        is_latest = charge.start_ns >= month_start_ns(2026, 12)
        key = (charge.record.tenant, charge.price.sku, is_later + is_latest)
        both = sums.setdefault(key, [Fraction(0), Fraction(0)])
        both[0] += charge.free
        both[1] += charge.free + charge.paid
        assert charge.paid >= 0
        assert charge.free >= 0
    for (tenant, sku, _), (free, everything) in sums.items():
        tier = Fraction(once[sku, book.currency_of(tenant)].free)
        assert free == min(tier, everything)


@given(ledgers(), books(), st.integers(0, 15))
def test_piece_by_piece_is_all_at_once(
    records: list[LedgerRecord], book: PriceBook, place: int
) -> None:
    """A state that is carried on gives what one rating of everything gives."""
    ordered = sorted(records, key=lambda r: (r.wall_end, r.seq))
    state = State()
    pieces = [
        charge
        for part in (ordered[:place], ordered[place:])
        for charge in charges(part, book, state)
    ]
    again = State(state.running_ns, state.free_used)

    assert exact(pieces) == costs(records, book)
    assert (again.running_ns, again.free_used) == (state.running_ns, state.free_used)


@given(runs(0), books(plain=True), st.integers(0, 3))
def test_merged_records_cost_the_same(
    records: list[LedgerRecord], book: PriceBook, place: int
) -> None:
    """Two records of one price, state and month cost what their sum costs: roll-ups keep money."""
    if place + 1 >= len(records):
        return
    first, second = records[place], records[place + 1]
    inside = [edge for edge in (*book.boundaries(), *(month_start_ns(2026, m) for m in (11, 12)))
              if first.wall_start < edge < second.wall_end]  # fmt: skip
    if inside or (first.paused_ns and second.running_ns) or (second.paused_ns and first.running_ns):
        return
    merged = msgspec.structs.replace(
        second,
        wall_start=first.wall_start,
        **{
            name: getattr(first, name) + getattr(second, name)
            for name in (
                "running_ns", "paused_ns", "cpu_ns", "cpu_alloc_ns", "mem_bytens2",
                "mem_alloc_bytens2",
            )
        },
        net={"eth0": tuple(map(int.__add__, first.net["eth0"], second.net["eth0"]))},
        blk={"sda": tuple(map(int.__add__, first.blk["sda"], second.blk["sda"]))},
    )  # fmt: skip

    assert costs([*records[:place], merged, *records[place + 2 :]], book) == costs(records, book)
