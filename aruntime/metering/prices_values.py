"""How the values of a price book are written: what each kind of key takes, read exactly.

A reader turns a TOML value into ours or raises ValueError with what the key must be, worded to
follow the key's name. Out of scope: which keys there are (:mod:`aruntime.metering.prices_parse`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from aruntime.metering.currencies import MINOR_DIGITS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_NS = 366 * 86400 * 10**9
FEW = 20
"""Names that an error lists."""
_AMOUNT = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ns|us|ms|s|m|h)", re.ASCII)
_DURATION_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TYPE_NAMES: dict[type, str] = {
    bool: "a boolean", int: "an integer", float: "a float", str: "a string",
    list: "an array", dict: "a table",
}  # fmt: skip

Read = Callable[[Any], Any]
"""Turns a TOML value into ours; ValueError says what it must be."""


def wrong_type(value: Any, wanted: str) -> str:
    """Say that a value has another type than wanted."""
    name = next((text for kind, text in _TYPE_NAMES.items() if type(value) is kind), "a date")
    return f"must be {wanted}, not {name}"


def read_text(value: Any) -> str:
    """One line of text."""
    if not isinstance(value, str):
        raise ValueError(wrong_type(value, "a string"))
    if not value.strip() or value != value.strip():
        raise ValueError("must not be empty nor begin or end with blanks")
    if not value.isprintable() or len(value) > 256:
        raise ValueError("must be one line of at most 256 printable characters")
    return value


def read_one_of(names: Mapping[str, Any] | tuple[str, ...]) -> Read:
    """One of some names."""

    def read(value: Any) -> str:
        text = read_text(value)
        if text not in names:
            near = difflib.get_close_matches(text, names, n=1, cutoff=0.8)
            advice = f"did you mean '{near[0]}'?" if near else _some(text, list(names))
            raise ValueError(f"'{text}' is unknown; {advice}")
        return text

    return read


def _some(text: str, names: list[str]) -> str:
    """Say what there is, of many only what begins as the text does, or the first."""
    if len(names) <= FEW:
        return f"one of {', '.join(names)}"
    alike = [name for name in names if name.startswith(text[:3])] or names
    return f"one like {', '.join(alike[:FEW])}"


def read_currency(value: Any) -> str:
    """A code of ISO 4217."""
    text = read_text(value)
    if text not in MINOR_DIGITS:
        raise ValueError(f"'{text}' is no currency of ISO 4217, such as EUR")
    return text


def read_amount(value: Any) -> Decimal:
    """A sum of money or a quantity, exactly."""
    if isinstance(value, float):
        raise ValueError('must be a decimal string such as "0.05": floats are not exact')
    if not isinstance(value, str):
        raise ValueError(wrong_type(value, 'a decimal string such as "0.05"'))
    if value.startswith("-"):
        raise ValueError(f"must not be negative: {value}")
    if not _AMOUNT.fullmatch(value):
        raise ValueError(
            f'must be a decimal string such as "0.05", up to 12 digits on either side,'
            f" not '{value}'"
        )
    return Decimal(value)


def read_duration(value: Any) -> int:
    """Nanoseconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a time such as "100ms", "1s" or "1m"')
    exact = Decimal(match[1]) * _DURATION_NS[match[2]]
    if exact != int(exact):
        raise ValueError("must be whole nanoseconds")
    if exact > 366 * 86400 * 10**9:
        raise ValueError("must not be longer than a year")
    return int(exact)


def read_quantum(value: Any) -> int:
    """A duration in nanoseconds, longer than nothing."""
    quantum = read_duration(value)
    if quantum == 0:
        raise ValueError("must be longer than nothing; leave it out to bill every nanosecond")
    return quantum


def read_instant(value: Any) -> int:
    """Unix time in nanoseconds of a date-time, or of the first instant of a date."""
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() != timedelta(0):
            raise ValueError("must be in UTC, such as 2026-01-01T00:00:00Z")
        return (value - EPOCH) // timedelta(microseconds=1) * 1000
    if isinstance(value, date):
        return (value - EPOCH.date()).days * 86400 * 10**9
    raise ValueError(wrong_type(value, "a date-time without quotes: 2026-01-01T00:00:00Z"))


def read_start_event(value: Any) -> str:
    """When the time of a run begins; only the start can be honoured."""
    text: str = read_one_of(("pull", "create", "start"))(value)
    if text != "start":
        raise ValueError(f"'{text}' is not metered: a record begins with the container's start")
    return text


def read_shape(kind: type, wanted: str) -> Read:
    """A table or an array."""

    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(wrong_type(value, wanted))
        return value

    return read
