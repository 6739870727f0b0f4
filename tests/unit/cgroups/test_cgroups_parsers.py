"""The formats of cgroup files, as the kernel writes them and as it never should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.cgroups import parsers

BLKIO = b"""254:0 Read 4096
254:0 Write 8192
254:0 Sync 4096
254:0 Async 8192
254:0 Discard 512
254:0 Total 12800
8:16 Read 7
8:16 Write 0
8:16 Total 7
Total 12807
"""
KEYS = st.from_regex(rb"[a-z_]{1,12}", fullmatch=True)
FLAT = st.dictionaries(KEYS, st.integers(0, 2**63), min_size=2, max_size=30)


def flat(values: dict[bytes, int]) -> bytes:
    """Write a flat keyed file."""
    return b"".join(b"%s %d\n" % item for item in values.items())


@pytest.mark.parametrize(
    ("text", "limit"), [(b"max\n", 0), (b"209715200\n", 209715200), (b"0\n", 0)]
)
def test_limit_of_v2(text: bytes, limit: int) -> None:
    """``max`` is no limit."""
    assert parsers.parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [(b"9223372036854771712\n", 0), (b"-1\n", 0), (b"209715200\n", 209715200)],
)
def test_limit_of_v1(text: bytes, limit: int) -> None:
    """The kernel's huge number is no limit, whatever the page size made of it."""
    assert parsers.parse_limit_v1(text) == limit


@given(FLAT)
def test_flat_keyed_round_trip(values: dict[bytes, int]) -> None:
    """Every key is found in full and alone, however alike the keys are."""
    text = flat(values)
    assert parsers.parse_flat_keyed(text) == values
    for key, value in values.items():
        assert parsers.find_keyed(text, key) == value


@given(FLAT, KEYS)
def test_find_keyed_of_a_missing_key_is_zero(values: dict[bytes, int], key: bytes) -> None:
    """A key that is only part of another one is not found."""
    assert parsers.find_keyed(flat(values), key) == values.get(key, 0)


@given(FLAT, FLAT, st.data())
def test_picker_survives_another_layout(
    sample: dict[bytes, int], later: dict[bytes, int], data: st.DataObject
) -> None:
    """Values are right for the sample's layout, for any other one, and for missing keys."""
    pool = sorted({*sample, *later})
    keys = tuple(data.draw(st.lists(st.sampled_from(pool), min_size=2, unique=True)))
    pick = parsers.flat_keyed_picker(flat(sample), keys)
    for values in (sample, later):
        assert pick(flat(values)) == tuple(values.get(key, 0) for key in keys)


def test_blkio_takes_each_byte_once() -> None:
    """Read, Write and Discard count; Sync, Async and Total are the same bytes again."""
    assert parsers.parse_blkio(BLKIO) == {(254, 0): (4096, 8192, 512), (8, 16): (7, 0, 0)}
    assert parsers.parse_blkio(b"Total 0\n") == {}


def test_nested_keyed_keeps_idle_devices_and_reads_max_as_zero() -> None:
    """io.stat may show a bare device; io.max says max."""
    text = b"254:0 rbytes=1 wbytes=2\n7:0 \n8:0 rbps=max wiops=120\n"
    assert parsers.parse_nested_keyed(text) == {
        b"254:0": {b"rbytes": 1, b"wbytes": 2},
        b"7:0": {},
        b"8:0": {b"rbps": 0, b"wiops": 120},
    }


def test_pressure_totals() -> None:
    """The totals of some and full; the cpu file of older kernels has no full line."""
    some = b"some avg10=1.50 avg60=0.00 avg300=0.00 total=142450\n"
    full = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=17\n"
    assert parsers.parse_pressure(some + full) == (142450, 17)
    assert parsers.parse_pressure(some) == (142450, 0)


@given(st.frozensets(st.integers(0, 300), max_size=40))
def test_cpu_list_round_trip(numbers: frozenset[int]) -> None:
    """Single numbers and ranges give the same set."""
    singles = ",".join(map(str, sorted(numbers)))
    ranges = ",".join(f"{number}-{number}" for number in sorted(numbers))
    assert parsers.parse_cpu_list(singles) == numbers
    assert parsers.parse_cpu_list(ranges + "\n") == numbers


def test_cpu_list_ranges() -> None:
    """The kernel's own form."""
    assert parsers.parse_cpu_list("0-2,8\n") == {0, 1, 2, 8}


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0-99999999999", "1..2", "0x1", "²"])
def test_malformed_cpu_list_is_refused(text: str) -> None:
    """No typing error is taken for a set, and none fills the memory."""
    with pytest.raises(ValueError, match=r".*"):
        parsers.parse_cpu_list(text)


def test_device_list() -> None:
    """devices.list as recorded, with wildcards."""
    text = b"c 136:* rwm\nb *:* m\nc 1:3 rwm\n"
    assert parsers.parse_device_list(text) == [
        ("c", 136, None, "rwm"),
        ("b", None, None, "m"),
        ("c", 1, 3, "rwm"),
    ]
