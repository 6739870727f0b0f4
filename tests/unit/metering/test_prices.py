"""Price books: what is read, and every mistake with the line on which it stands."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from aruntime.metering.prices import PriceBook, PriceBookError
from aruntime.metering.prices_check import check_succession
from aruntime.metering.prices_parse import load_book, parse_book

JANUARY = 1_767_225_600 * 10**9
"""2026-01-01T00:00:00Z."""
FEBRUARY = JANUARY + 31 * 86400 * 10**9

HEAD = """\
provider = "Example Hosting"
default_currency = "EUR"
"""

CPU = """\
[[price]]
sku = "cpu"
price_id = "cpu-1"
measure = "cpu"
basis = "allocation"
unit = "Core-Hours"
unit_price = "0.04"
currency = "EUR"
valid_from = 2026-01-01T00:00:00Z
"""


def changed(text: str, old: str, new: str) -> str:
    """A text with one of its lines changed."""
    assert text.count(old) == 1
    return text.replace(old, new)


def problems(text: str) -> list[str]:
    """What is wrong with a book called ``b``, without its name."""
    with pytest.raises(PriceBookError) as caught:
        parse_book(text, "b")
    assert all(problem.startswith("b:") for problem in caught.value.problems)
    assert all("\n" not in problem for problem in caught.value.problems)
    return [problem.removeprefix("b:") for problem in caught.value.problems]


def test_everything_a_book_may_say() -> None:
    """Every key, read exactly."""
    book = parse_book(
        """
        provider = "Example Hosting"
        publisher = "Example Labs"
        invoice_issuer = "Example Billing"
        service_name = "Boxes"
        region_id = "north"
        region_name = "North"
        default_currency = "EUR"
        rounding = "half_up"
        paused = "full"
        [tenants.acme]
        currency = "JPY"
        name = "ACME Corporation"
        budget = "1000"
        [tenants.other]
        [[price]]
        sku = "memory"
        price_id = "m-eur"
        measure = "memory"
        basis = "max"
        unit = "GiB-Hours"
        unit_price = "0.000000000001"
        currency = "EUR"
        valid_from = 2026-01-01
        valid_to = 2026-02-01T00:00:00.000001Z
        quantum = "100ms"
        minimum = "1.5m"
        free = "0.5"
        paused = "free"
        start_event = "start"
        description = "memory"
        [[price]]
        sku = "memory"
        price_id = "m-jpy"
        measure = "memory"
        basis = "usage"
        unit = "GiB-Hours"
        unit_price = "5"
        currency = "JPY"
        valid_from = 2026-01-01
        valid_to = 2026-02-01T00:00:00.000001+00:00
        """,
        "b",
    )
    eur, jpy = book.prices

    assert (book.publisher, book.invoice_issuer) == ("Example Labs", "Example Billing")
    assert (book.service_name, book.region_id, book.region_name) == ("Boxes", "north", "North")
    assert (book.rounding, len(book.version)) == ("half_up", 64)
    assert (book.currency_of("acme"), book.currency_of("other"), book.currency_of("new")) == (
        "JPY", "EUR", "EUR",
    )  # fmt: skip
    assert (book.budget_of("acme"), book.budget_of("other")) == (Decimal(1000), None)
    assert (book.account_name("acme"), book.account_name("other")) == ("ACME Corporation", "other")
    assert (eur.unit_price, eur.free) == (Decimal("0.000000000001"), Decimal("0.5"))
    assert (eur.valid_from_ns, eur.valid_to_ns) == (JANUARY, FEBRUARY + 1000)
    assert (eur.quantum_ns, eur.minimum_ns) == (100_000_000, 90_000_000_000)
    assert (eur.paused, jpy.paused, eur.bills_paused, jpy.bills_paused) == (
        "free", "full", False, True,
    )  # fmt: skip
    assert (eur.quantity_name, jpy.quantity_name) == ("memory_max", "memory_used")
    assert eur.unit_size == Fraction(3600 * 2**30)
    assert eur.line == 16
    assert book.boundaries() == (JANUARY, FEBRUARY + 1000)
    assert book.valid_at(JANUARY - 1) == ()
    assert book.valid_at(JANUARY) == (eur, jpy)
    assert book.valid_at(FEBRUARY + 1000) == ()


def test_defaults() -> None:
    """What a short book leaves out."""
    book = parse_book(HEAD + CPU, "b")
    (price,) = book.prices

    assert (book.publisher, book.invoice_issuer, book.service_name) == (
        "Example Hosting", "Example Hosting", "Containers",
    )  # fmt: skip
    assert book.rounding == "half_even"
    assert (price.quantum_ns, price.minimum_ns, price.free) == (1, 0, Decimal(0))
    assert (price.paused, price.valid_to_ns) == ("memory_only", None)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('provider = "Example Hosting"', "", "1: provider is missing"),
        ('"Example Hosting"', '"Example\\nHosting"',
         "1: provider must be one line of at most 256 printable characters"),
        ('"Example Hosting"', '" "',
         "1: provider must not be empty nor begin or end with blanks"),
        ('default_currency = "EUR"', 'default_currency = "EURO"',
         "2: default_currency 'EURO' is no currency of ISO 4217, such as EUR"),
        ('sku = "cpu"', "sku = 5", "4: sku must be a string, not an integer"),
        ('price_id = "cpu-1"', "", "3: price_id is missing"),
        ('measure = "cpu"', 'measure = "cpus"',
         "6: measure 'cpus' is unknown; did you mean 'cpu'?"),
        ('basis = "allocation"', "", "3: basis is missing: usage, allocation, max"),
        ('basis = "allocation"', 'basis = "request"',
         "7: basis 'request' is unknown; one of usage, allocation, max"),
        ('"Core-Hours"', '"Core-Hour"',
         "8: unit 'Core-Hour' is unknown; did you mean 'Core-Hours'?"),
        ('"Core-Hours"', '"GiB-Hours"',
         "8: unit 'GiB-Hours' does not measure cpu; use one like Core-Seconds, Core-Hours or"
         " vCPU-Days"),
        ('"0.04"', "0.04",
         '9: unit_price must be a decimal string such as "0.05": floats are not exact'),
        ('"0.04"', "4", '9: unit_price must be a decimal string such as "0.05", not an integer'),
        ('"0.04"', '"-0.04"', "9: unit_price must not be negative: -0.04"),
        ('"0.04"', '"4e-2"',
         "9: unit_price must be a decimal string such as \"0.05\", up to 12 digits on either side,"
         " not '4e-2'"),
        ('"0.04"', '"NaN"',
         "9: unit_price must be a decimal string such as \"0.05\", up to 12 digits on either side,"
         " not 'NaN'"),
        ('"0.04"', '"٤"',
         "9: unit_price must be a decimal string such as \"0.05\", up to 12 digits on either side,"
         " not '٤'"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00",
         "11: valid_from must be in UTC, such as 2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+01:00",
         "11: valid_from must be in UTC, such as 2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", '"2026-01-01"',
         "11: valid_from must be a date-time without quotes: 2026-01-01T00:00:00Z, not a string"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z\nvalid_to = 2026-01-01",
         "12: valid_to must be later than valid_from"),
        ('basis = "allocation"', 'basis = "usage"\nquantum = "1s"',
         "8: quantum rounds the time of a run: it needs basis 'allocation' or 'max', or measure"
         " 'container'"),
        ('basis = "allocation"', 'basis = "allocation"\nquantum = "0s"',
         "8: quantum must be longer than nothing; leave it out to bill every nanosecond"),
        ('basis = "allocation"', 'basis = "allocation"\nquantum = "1"',
         '8: quantum must be a time such as "100ms", "1s" or "1m"'),
        ('basis = "allocation"', 'basis = "allocation"\nminimum = "0.5ns"',
         "8: minimum must be whole nanoseconds"),
        ('basis = "allocation"', 'basis = "allocation"\nminimum = "9000h"',
         "8: minimum must not be longer than a year"),
        ('basis = "allocation"', 'basis = "allocation"\nmininum = "1s"',
         "8: unknown key 'mininum'; did you mean 'minimum'?"),
        ('basis = "allocation"', 'basis = "allocation"\nstart_event = "pull"',
         "8: start_event 'pull' is not metered: a record begins with the container's start"),
        ('basis = "allocation"', 'basis = "allocation"\npaused = "half"',
         "8: paused 'half' is unknown; one of full, memory_only, storage_only, free"),
        ('measure = "cpu"', 'measure = "container"',
         "7: basis cannot be given for measure 'container'"),
        ("[[price]]", "[tenants]\nacme = 1\n[[price]]",
         "4: tenant 'acme' must be a table, not an integer"),
        ("[[price]]", '[tenants.acme]\nbudgt = "1"\n[[price]]',
         "4: unknown key 'budgt'; did you mean 'budget'?"),
        ("[[price]]", '[tenants.acme]\n\ncurrency = "USD"\n[[price]]',
         "5: nothing says what sku 'cpu' costs in USD"),
        ('currency = "EUR"\nvalid', 'currency = "USD"\nvalid',
         "1: nothing says what sku 'cpu' costs in EUR"),
        ("[[price]]", "[price]", "3: price must be tables [[price]], not a table"),
        ("[[price]]", "price = [1]\n[x]", "3: price must be a table [[price]], not an integer"),
        ("[[price]]", '[[price]\n', "3: not valid TOML: expected ']]' at the end of an array"
         " declaration"),
        ('sku = "cpu"', 'sku = "cpu"\nsku = "cpu"', "5: not valid TOML: cannot overwrite a value"),
        ("valid_from = 2026-01-01T00:00:00Z", 'valid_from = "', "11: not valid TOML: illegal"
         " character '\\n'"),
    ],
)  # fmt: skip
def test_one_mistake_has_one_line(old: str, new: str, expected: str) -> None:
    """Each mistake alone is one line with its number; what follows from it may be told too."""
    assert expected in problems(changed(HEAD + CPU, old, new))


def test_all_mistakes_in_one_go() -> None:
    """A book with several is told them all, in the order of lines."""
    text = changed(HEAD + CPU, '"0.04"', "0.04")
    text = changed(text, '"Core-Hours"', '"Hours"')
    text = changed(text, HEAD, HEAD + 'rounding = "bankers"\n')

    assert [problem.partition(":")[0] for problem in problems(text)] == ["3", "9", "10"]


def priced(number: int, span: str, extra: str = "") -> str:
    """A price of the same SKU with an id and a span of its own; 10 lines, 11 with an end."""
    start, _, end = span.partition("..")
    text = changed(CPU, "cpu-1", f"cpu-{number}")
    text = changed(text, "valid_from = 2026-01-01T00:00:00Z\n", f"valid_from = {start}\n")
    return text + (f"valid_to = {end}\n" if end else "") + extra


def test_prices_that_follow_each_other() -> None:
    """One ends at the instant at which the next begins; the order in the file is free."""
    book = parse_book(HEAD + priced(2, "2026-02-01") + priced(1, "2026-01-01..2026-02-01"), "b")

    assert [price.price_id for price in book.prices] == ["cpu-1", "cpu-2"]


def test_a_gap_names_both_lines() -> None:
    """A day without a price."""
    found = problems(HEAD + priced(1, "2026-01-01..2026-02-01") + priced(2, "2026-02-02"))

    assert found == [
        "13: gap: sku 'cpu' in EUR has no price from 2026-02-01T00:00:00Z (line 3) to"
        " 2026-02-02T00:00:00Z"
    ]


@pytest.mark.parametrize("end", ["..2026-02-02", ""])
def test_an_overlap_names_both_lines(end: str) -> None:
    """A day with two prices, or a price without end before another."""
    text = HEAD + priced(1, "2026-01-01" + end) + priced(2, "2026-02-01")
    until = "2026-02-02T00:00:00Z" if end else "open"

    assert problems(text) == [
        f"{13 if end else 12}: overlap: sku 'cpu' in EUR is priced from 2026-02-01T00:00:00Z here,"
        f" but until {until} on line 3"
    ]


def test_duplicate_ids_and_measures() -> None:
    """An id names one price, a SKU one measure."""
    other = changed(priced(1, "2026-02-01"), 'measure = "cpu"', 'measure = "memory"')
    text = HEAD + priced(1, "2026-01-01..2026-02-01") + changed(other, "Core-Hours", "GiB-Hours")

    assert problems(text) == [
        "13: price_id 'cpu-1' is that of line 3 too",
        "13: sku 'cpu' measures memory here and cpu on line 3; give it a sku of its own",
    ]


def test_currencies_cover_the_same_time() -> None:
    """A tenant that pays in another currency has a price at every moment too."""
    dollars = changed(priced(2, "2026-01-02..2026-03-01"), '"EUR"', '"USD"')

    assert problems(HEAD + CPU + dollars) == [
        "12: gap: sku 'cpu' is priced from 2026-01-02T00:00:00Z in USD, but from"
        " 2026-01-01T00:00:00Z in EUR (line 3)",
        "12: gap: sku 'cpu' is priced until 2026-03-01T00:00:00Z in USD, but until open in EUR"
        " (line 3)",
    ]


def test_an_empty_book() -> None:
    """Nothing would be billed, and that is said."""
    assert problems("") == [
        "1: provider is missing",
        "1: default_currency is missing",
        "1: there is no [[price]]: nothing would be billed",
    ]


def test_bytes_that_are_no_text() -> None:
    """The line of the first byte that is not UTF-8."""
    with pytest.raises(PriceBookError, match=r"^b:3: not valid UTF-8$"):
        parse_book(HEAD.encode() + b'name = "\xff"', "b")


def test_a_file_without_a_last_line_end() -> None:
    """A value that the file's end cuts off is told with the last line."""
    assert problems(HEAD + "rounding = [") == ["3: not valid TOML: invalid value"]


def test_windows_line_ends() -> None:
    """Lines are counted as an editor counts them."""
    assert problems(changed(HEAD + CPU, '"0.04"', "4").replace("\n", "\r\n"))[0].startswith("9:")


def test_too_long_or_too_deep() -> None:
    """What cannot be a price book is refused before it is read."""
    with pytest.raises(PriceBookError, match="longer than"):
        parse_book(b"#" * (1 << 20) + b"\n", "b")
    with pytest.raises(PriceBookError, match="nested too deeply"):
        parse_book("a = " + "[" * 100_000, "b")


def test_files(tmp_path: Path) -> None:
    """A file's name stands before the line; one that is not there is told as such."""
    file = tmp_path / "prices.toml"
    with pytest.raises(PriceBookError, match=r"cannot read price book .*prices\.toml: no such"):
        load_book(file)
    file.write_text(HEAD + CPU)
    assert load_book(file).name == str(file)
    file.write_text(HEAD)
    with pytest.raises(PriceBookError, match=rf"^{file}:1: there is no"):
        load_book(file)


NOW = JANUARY + 10 * 86400 * 10**9
"""2026-01-11."""


def refusals(old: str, new: str, tenants: tuple[str, ...] = ()) -> list[str]:
    """Why a book may not follow another."""
    before, after = parse_book(old, "old"), parse_book(new, "new")
    try:
        check_succession(before, after, NOW, tenants)
    except PriceBookError as error:
        return list(error.problems)
    return []


def test_what_may_change() -> None:
    """New prices from a future time, ends of old ones, words, prices that have not begun."""
    old = HEAD + priced(1, "2026-01-01..2026-03-01") + priced(2, "2026-03-01")
    ended = HEAD + priced(1, "2026-01-01..2026-01-12") + priced(3, "2026-01-12")
    told = (
        HEAD
        + priced(1, "2026-01-01..2026-03-01", 'description = "cores"\n')
        + changed(priced(2, "2026-03-01"), '"0.04"', '"0.05"')
    )

    assert refusals(old, old) == []
    assert refusals(old, ended) == []
    assert refusals(old, told) == []


def test_the_past_stays() -> None:
    """A price that has begun may not cost something else, vanish, or have ended earlier."""
    old = HEAD + CPU
    dearer = changed(old, '"0.04"', '"0.05"')
    ended = HEAD + priced(1, "2026-01-01..2026-01-10") + priced(2, "2026-01-10")

    assert refusals(old, dearer) == [
        "new:3: price 'cpu-1' is valid since 2026-01-01T00:00:00Z: its unit_price cannot change;"
        " end it and add a price with another price_id"
    ]
    assert refusals(old, ended) == [
        "new:3: price 'cpu-1' was valid until open: its end cannot become 2026-01-10T00:00:00Z,"
        " since the past stays",
        "new:13: price 'cpu-2' would be valid from 2026-01-10T00:00:00Z, in the past",
    ]
    assert refusals(old, HEAD + priced(9, "2026-02-01")) == [
        "new:1: price 'cpu-1' was valid from 2026-01-01T00:00:00Z and cannot be left out; give it a"
        " valid_to instead"
    ]


def test_currency_and_rounding_stay() -> None:
    """A tenant that has used anything stays with its currency, invoices with their rounding."""
    dollars = changed(priced(2, "2026-01-01"), '"EUR"', '"USD"')
    old = HEAD + CPU + dollars
    new = HEAD + '[tenants.acme]\ncurrency = "USD"\n' + CPU + dollars

    assert refusals(old, new, ("other",)) == []
    assert refusals(old, new, ("acme",)) == [
        "new:4: tenant 'acme' was billed in EUR and cannot pay in USD"
    ]
    assert refusals(HEAD + CPU, 'rounding = "up"\n' + HEAD + CPU) == [
        "new:1: rounding was half_even: changing it would change old invoices"
    ]


def test_version_is_the_text() -> None:
    """The same bytes have the same version, others another."""

    def version(text: str) -> str:
        book: PriceBook = parse_book(text, "b")
        return book.version

    assert version(HEAD + CPU) == version(HEAD + CPU)
    assert version(HEAD + CPU) != version(HEAD + CPU + "# a comment\n")
