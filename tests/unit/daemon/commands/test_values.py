"""Sizes, durations, numbers: docker's spellings in and out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.daemon.commands import values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("512", 512), ("32b", 32), ("32B", 32), ("64k", 65536), ("64KB", 65536),
        ("30MB", 31457280), ("200M", 209715200), ("1.5g", 1610612736), ("2 GiB", 2 << 30),
        ("1t", 1 << 40), ("1p", 1 << 50), (".5k", 512), ("1.", 1), ("+1k", 1024),
    ],
)  # fmt: skip
def test_sizes_have_binary_units(text: str, size: int) -> None:
    """go-units' RAMInBytes."""
    assert values.parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid size: ''"),
        ("m", "invalid size: 'm'"),
        ("-1", "invalid size: '-1'"),
        ("5x", "invalid suffix: 'x'"),
        ("5bb", "invalid suffix: 'bb'"),
        ("5kibi", "invalid suffix: 'kibi'"),
        ("5mm", "invalid suffix: 'mm'"),
        ("1.2.3k", 'strconv.ParseFloat: parsing "1.2.3": invalid syntax'),
        ("5 5k", 'strconv.ParseFloat: parsing "5 5": invalid syntax'),
        ("٣k", "invalid size: '٣k'"),
        ("9999999p", "invalid size: '9999999p': value out of range"),
    ],
)
def test_bad_sizes_say_why(text: str, reason: str) -> None:
    """The reason is go-units' own."""
    with pytest.raises(ValueError) as caught:
        values.parse_bytes(text)
    assert str(caught.value) == reason


def test_unlimited_is_minus_one() -> None:
    """Only --memory-swap takes it."""
    assert values.parse_bytes_or_unlimited("-1") == -1
    assert values.parse_bytes_or_unlimited("1k") == 1024


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("-0", 0), ("1h2m3.5s", 3_723_500_000_000), ("250ms", 250_000_000),
        ("7us", 7_000), ("7µs", 7_000), ("7μs", 7_000), ("-1.5h", -5_400_000_000_000),
        ("+3ns", 3), (".5s", 500_000_000), ("1.s", 1_000_000_000), ("0.1ns", 0),
    ],
)  # fmt: skip
def test_durations_are_go_s(text: str, nanoseconds: int) -> None:
    """time.ParseDuration."""
    assert values.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5s3", 'time: missing unit in duration "5s3"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        (".s", 'time: invalid duration ".s"'),
        ("1..s", 'time: missing unit in duration "1..s"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
    ],
)
def test_bad_durations_say_why(text: str, reason: str) -> None:
    """The reason is Go's own."""
    with pytest.raises(ValueError) as caught:
        values.parse_duration(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1_500, "1.5µs"), (2_000_000, "2ms"), (30_000_000_000, "30s"),
        (3_723_500_000_000, "1h2m3.5s"), (60_000_000_000, "1m0s"), (-1_000, "-1µs"),
    ],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    """Duration.String."""
    assert values.format_duration(nanoseconds) == text


@given(st.integers(-values.INT64_MAX, values.INT64_MAX))
def test_a_written_duration_reads_back(nanoseconds: int) -> None:
    """format and parse are inverse."""
    assert values.parse_duration(values.format_duration(nanoseconds)) == nanoseconds


@given(st.text(alphabet="0123456789.kKmMgGbBi -+", max_size=8))
def test_any_size_text_is_a_size_or_a_reason(text: str) -> None:
    """Never anything but an int in range or ValueError."""
    try:
        size = values.parse_bytes(text)
    except ValueError:
        return
    assert 0 <= size <= values.INT64_MAX


@given(st.integers(values.INT64_MIN, values.INT64_MAX))
def test_integers_read_back_in_every_base(number: int) -> None:
    """Decimal, hex, octal, binary."""
    sign = "-" if number < 0 else ""
    for text in (f"{number}", *(f"{sign}{abs(number):{form}}" for form in ("#x", "#o", "#b"))):
        assert values.parse_int(text) == number


@pytest.mark.parametrize("text", ["", "x", "1_", "_1", "08", "1 ", "0x", "--1", "٣"])
def test_bad_integers_are_refused(text: str) -> None:
    """strconv's syntax, no more."""
    with pytest.raises(ValueError, match="invalid syntax"):
        values.parse_int(text)


def test_integers_have_64_bits() -> None:
    """One more is out of range; a leading zero is octal."""
    with pytest.raises(ValueError, match="out of range"):
        values.parse_int(str(2**63))
    assert values.parse_int("010") == 8
    assert values.parse_int("1_000") == 1000


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (209715200, "200MiB"),
        (1 << 40, "1TiB"), (8_335_654_912, "7.763GiB"),
    ],
)  # fmt: skip
def test_binary_sizes(size: int, text: str) -> None:
    """What the memory column of stats shows."""
    assert values.format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "precision", "text"),
    [
        (0, 4, "0B"), (4_261_502, 3, "4.26MB"), (999, 3, "999B"), (1_000, 3, "1kB"),
        (187_654_321, 3, "188MB"), (1_234_567, 4, "1.235MB"), (999_999, 3, "1000kB"),
    ],
)  # fmt: skip
def test_decimal_sizes(size: int, precision: int, text: str) -> None:
    """What images and the I/O columns of stats show."""
    assert values.format_size(size, precision) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
        (150, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"), (7200, "2 hours"),
        (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"), (900 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_ages_in_words(seconds: float, text: str) -> None:
    """go-units' HumanDuration."""
    assert values.format_age(seconds) == text


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1700000000", 1_700_000_000 * 10**9), ("1700000000.000000001", 1_700_000_000 * 10**9 + 1),
        ("90s", 2_000_000_000 * 10**9 - 90 * 10**9), ("0s", 2_000_000_000 * 10**9),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * 10**9),
        ("2023-11-14T23:13:20.123456789+01:00", 1_700_000_000 * 10**9 + 123_456_000),
    ],
)  # fmt: skip
def test_moments(text: str, nanoseconds: int) -> None:
    """Unix times to the nanosecond, ages before now, RFC 3339 with docker's nine digits."""
    assert values.parse_moment(text, 2_000_000_000 * 10**9) == nanoseconds


@pytest.mark.parametrize("text", ["", "then", "1.2.3", "12-31"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    """The message shows the three forms."""
    with pytest.raises(ValueError, match="invalid time"):
        values.parse_moment(text, 0)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ("sleep 9…", '"sleep 9…"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("a\nb\tc\r\a\b\f\v", '"a\\nb\\tc\\r\\a\\b\\f\\v"'),
        ("\x1b[2J\x7f\0", '"\\x1b[2J\\x7f\\x00"'),
        ("\x9b\u2028\U000e0001", '"\\u009b\\u2028\\U000e0001"'),
    ],
)
def test_quoted_as_go_quotes(text: str, quoted: str) -> None:
    """One line whatever is in it; nothing that a terminal would obey."""
    assert values.quote(text) == quoted


def test_controls_are_escaped_and_nothing_else() -> None:
    """Messages keep their quotes and backslashes."""
    assert values.escape_controls('a "b" \\ é…') == 'a "b" \\ é…'
    assert values.escape_controls('"\x1b[2J\x9b\n"') == r'"\x1b[2J\u009b\n"'
