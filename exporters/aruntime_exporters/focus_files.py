"""FOCUS files: rows to CSV and Parquet, and back for the checker.

CSV is that of RFC 4180 with line feeds: null is an empty field, and a field of quotes with nothing
in it (an empty string) reads as an empty string, so that the two are never confused. In Parquet
decimals are decimals of one scale per column, times are UTC time stamps; both read back as the
same rows.

Parquet needs pyarrow (the extra ``aruntime[bill]``); it is imported when it is used. Out of scope:
what rows hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, BinaryIO

from aruntime.errors import Unavailable
from aruntime_exporters.focus_columns import COLUMNS, TIME_FORMAT, Column, Row

QUOTED = frozenset(',"\r\n')

DECIMAL_DIGITS = 38
"""What every reader of Parquet knows as a decimal (16 bytes); longer numbers take 32 bytes."""
LONG_DECIMAL_DIGITS = 76


def csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """The file line by line, the header first."""
    names = [column.name for column in COLUMNS]
    yield ",".join(names) + "\n"
    for row in rows:
        yield ",".join(_field(row[name]) for name in names) + "\n"


def _field(text: str | None) -> str:
    if text is None:
        return ""
    if not text or text.strip() != text or not QUOTED.isdisjoint(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def read_csv(text: str) -> list[Row]:
    """Rows of a CSV file, with None where a field is empty.

    Raises:
        ValueError: it is no CSV of one header and rows as long; with the line.
    """
    records = list(_records(text))
    if not records:
        raise ValueError("line 1: there is no header")
    names = [name or "" for name in records[0]]
    if len(set(names)) != len(names):
        raise ValueError("line 1: a column is there twice")
    for number, record in enumerate(records[1:], 2):
        if len(record) != len(names):
            raise ValueError(f"record {number}: {len(record)} fields, not {len(names)}")
    return [dict(zip(names, record, strict=True)) for record in records[1:]]


def _records(text: str) -> Iterator[list[str | None]]:
    position, record = 0, list[str | None]()
    while position < len(text):
        field, position = _read_field(text, position)
        record.append(field)
        end = text[position : position + 1]
        if end in ("\n", ""):
            yield record
            record = []
        elif end != ",":
            raise ValueError(f"line {text.count(chr(10), 0, position) + 1}: text after a quote")
        elif position + 1 == len(text):
            yield [*record, None]
        position += 1


def _read_field(text: str, start: int) -> tuple[str | None, int]:
    """A field and the position behind it."""
    if text[start : start + 1] != '"':
        ends = (text.find(mark, start) for mark in ",\n")
        end = min((place for place in ends if place >= 0), default=len(text))
        return text[start:end] or None, end
    parts, position = [], start + 1
    while True:
        quote = text.find('"', position)
        if quote < 0:
            raise ValueError(f"line {text.count(chr(10), 0, start) + 1}: a quote is not closed")
        parts.append(text[position:quote])
        if text[quote + 1 : quote + 2] != '"':
            return '"'.join(parts), quote + 1
        position = quote + 2


def write_parquet(rows: Sequence[Row], file: BinaryIO) -> None:
    """Write rows as one Parquet file; the file stays open.

    Raises:
        Unavailable: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    arrow, parquet = _pyarrow()
    arrays, fields = [], []
    for column in COLUMNS:
        texts = [row[column.name] for row in rows]
        kind = _arrow_type(arrow, column, texts)
        values = [None if text is None else _to_arrow(column, text) for text in texts]
        arrays.append(arrow.array(values, kind))
        fields.append(arrow.field(column.name, kind, nullable=column.nullable))
    table = arrow.Table.from_arrays(arrays, schema=arrow.schema(fields))
    parquet.write_table(table, file, compression="zstd")


def read_parquet(file: str | BinaryIO) -> list[Row]:
    """Rows of a Parquet file, written out as in CSV.

    Raises:
        Unavailable: pyarrow is not installed.
        OSError, ValueError: it cannot be read, or a column has another type than ours.
    """
    arrow, parquet = _pyarrow()
    table = parquet.read_table(file)
    known = {column.name: column for column in COLUMNS}
    columns: dict[str, list[str | None]] = {}
    for name in table.column_names:
        column = known.get(name, Column(name))
        _expect_type(arrow, column, table.schema.field(name).type)
        columns[name] = [
            None if value is None else _from_arrow(value)
            for value in table.column(name).to_pylist()
        ]
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Unavailable(
            "Parquet needs pyarrow; install it with pip install 'aruntime[bill]', or take focus-csv"
        ) from error
    return pyarrow, pyarrow.parquet


def _arrow_type(arrow: Any, column: Column, texts: Iterable[str | None]) -> Any:
    if column.kind == "time":
        return arrow.timestamp("s", tz="UTC")
    if column.kind == "integer":
        return arrow.int64()
    if column.kind == "boolean":
        return arrow.bool_()
    if column.kind != "decimal":
        return arrow.string()
    scale = whole = 0
    for text in texts:
        if text is not None:
            head, _, tail = text.lstrip("-").partition(".")
            scale, whole = max(scale, len(tail)), max(whole, len(head))
    if scale + whole > DECIMAL_DIGITS:
        return arrow.decimal256(LONG_DECIMAL_DIGITS, scale)
    return arrow.decimal128(DECIMAL_DIGITS, scale)


def _to_arrow(column: Column, text: str) -> Any:
    match column.kind:
        case "decimal":
            return Decimal(text)
        case "time":
            return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
        case "integer":
            return int(text)
        case "boolean":
            return text == "true"
        case _:
            return text


def _expect_type(arrow: Any, column: Column, found: Any) -> None:
    types = arrow.types
    right = {
        "decimal": types.is_decimal(found),
        "time": types.is_timestamp(found) and found.tz == "UTC",
        "integer": types.is_int64(found),
        "boolean": types.is_boolean(found),
    }.get(column.kind, types.is_string(found))
    if not right:
        raise ValueError(f"column {column.name} is {found}, not {column.kind}")


def _from_arrow(value: Any) -> str:
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, datetime):
        return value.strftime(TIME_FORMAT)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def decimal_text(number: Decimal) -> str:
    """A decimal as FOCUS files have it: no exponent, a point, no needless zeros: ``0.0``."""
    text = format(number, "f")
    whole, _, fraction = text.partition(".")
    digits = fraction.rstrip("0") or "0"
    return "0.0" if not number else f"{whole}.{digits}"
