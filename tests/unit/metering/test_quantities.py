"""Quantities of records: exact, in the unit that is named, the same however they are added."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.quantities import (
    MEASURES,
    UNITS,
    convert,
    decimal_text,
    quantities,
    total_quantities,
)
from aruntime.metering.record import LedgerRecord

RECORD = LedgerRecord(
    running_ns=3_000_000_001,
    paused_ns=500_000_000,
    cpu_ns=1_234_567_891,
    cpu_request_milli=250,
    cpu_alloc_ns=2_000_000_000,
    mem_bytens2=3,
    mem_usage_bytens2=2_000_000_000,
    mem_limit=1024,
    mem_alloc_bytens2=4_000_000_000,
    blk={"8:0": (1, 2, 3, 4, 5), "8:16": (10, 20, 30, 40, 50)},
    proc_read=7,
    proc_write=8,
    proc_cancelled=100,
    net={"eth0": (11, 12, 13, 14, 5, 2), "eth1": (1, 1, 1, 1)},
)


def test_every_measure_of_a_record() -> None:
    """All of them, worked out by hand."""
    assert quantities(RECORD) == {
        "cpu_used": Fraction("1.234567891"),
        "cpu_allocated": Fraction("0.75000000025"),
        "cpu_max": 2,
        "memory_used": Fraction("0.0000000015"),
        "memory_allocated": Fraction("3584.000001024"),
        "memory_max": 2,
        "memory_charged": 1,
        "block_read": 11,
        "block_write": 22,
        "block_reads": 33,
        "block_writes": 44,
        "process_read": 7,
        "process_write": 8,
        "network_receive": 12,
        "network_transmit": 13,
        "network_receive_packets": 14,
        "network_transmit_packets": 15,
        "running": Fraction("3.000000001"),
        "paused": Fraction("0.5"),
        "container": Fraction("3.500000001"),
        "network_egress": 5,
        "network_egress_packets": 2,
    }


def test_units_are_base_units() -> None:
    """A measure's unit is one whose size is 1, so that counts need one division only."""
    assert {UNITS[measure.unit].size for measure in MEASURES.values()} == {1}


def test_a_request_comes_before_a_limit() -> None:
    """The limit stands for a request only where there is none; without either it is nothing."""
    both = LedgerRecord(running_ns=10**9, mem_request=5, mem_limit=9, cpu_limit_milli=500)

    assert quantities(both)["memory_allocated"] == 5
    assert quantities(both)["cpu_allocated"] == Fraction("0.5")
    assert quantities(LedgerRecord(running_ns=10**9))["memory_allocated"] == 0


@given(st.lists(st.tuples(*[st.integers(0, 10**20)] * 4), max_size=6))
def test_sums_are_exact(rows: list[tuple[int, int, int, int]]) -> None:
    """The quantities of records add up to the total's, as fractions."""
    records = [
        LedgerRecord(cpu_ns=cpu, mem_bytens2=memory, running_ns=running, mem_request=request)
        for cpu, memory, running, request in rows
    ]
    sums = {
        name: sum((Fraction(quantities(record)[name]) for record in records), Fraction(0))
        for name in MEASURES
    }

    assert total_quantities(records) == sums


@given(st.integers(-(10**30), 10**30), st.integers(0, 12), st.integers(0, 12))
def test_decimal_text_is_exact(digits: int, twos: int, fives: int) -> None:
    """What is written is the number itself, without exponent or superfluous digits."""
    value = Fraction(digits, 2**twos * 5**fives)
    text = decimal_text(value)

    assert Fraction(text) == value
    assert "e" not in text
    assert "." not in text or not text.endswith("0")


def test_a_third_has_no_decimal_form() -> None:
    """What cannot be written out is refused, not rounded."""
    with pytest.raises(ValueError, match="finite"):
        decimal_text(Fraction(1, 3))


def test_conversion() -> None:
    """Between units of one dimension only."""
    assert convert(7200, "Core-Seconds", "vCPU-Hours") == 2
    assert convert(Fraction(1, 2), "GiB-Hours", "B-Seconds") == 3600 * 2**29
    with pytest.raises(ValueError, match="do not measure the same"):
        convert(1, "GiB", "GiB-Hours")
