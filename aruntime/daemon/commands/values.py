"""Text to numbers and back, as the values of flags are written and shown by docker.

Sizes follow docker/go-units, durations Go's ``time`` package, integers and booleans Go's
``strconv``; the messages are theirs too, for people search for them. Pure functions; a bad
value raises ``ValueError`` with the reason only, the caller knows which flag it was.
Out of scope: values with a structure of their own (mounts, devices, ulimits).
"""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal

INT64_MAX = (1 << 63) - 1
INT64_MIN = -(1 << 63)

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SIZE_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DECIMAL_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)\Z")
_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?[0-9])*)\Z"
)
_GO_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    '"': '\\"', "\\": "\\\\",
}  # fmt: skip
_DURATION_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5 micro sign
    "μs": 1_000,  # U+03BC Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_UNIX_TIME = re.compile(r"(\d+)(?:\.(\d{1,9}))?")
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")


def parse_bool(text: str) -> bool:
    """Read a boolean as Go's ``strconv.ParseBool`` does."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """Read a signed 64-bit integer with Go's prefixes (``0x``, ``0o``, ``0b``, leading 0)."""
    if not _INTEGER.match(text):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    digits = text.lstrip("+-").replace("_", "").lower()
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    number = int(digits, 8) if octal else int(digits, 0)
    number = -number if text.startswith("-") else number
    if not INT64_MIN <= number <= INT64_MAX:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return number


def parse_bytes(text: str) -> int:
    """Read a size with binary units: ``512``, ``64k``, ``30MB``, ``1.5g``, ``2 GiB``.

    Source: ``RAMInBytes`` of docker/go-units; fractions of a byte are cut off.
    """
    return _parse_scaled(text, 1024)


def parse_size(text: str) -> int:
    """Read a size with decimal units, as docker's log options have it: ``10m`` is 10⁷ bytes."""
    return _parse_scaled(text, 1000)


def _parse_scaled(text: str, base: int) -> int:
    split = max(map(text.rfind, "0123456789. "))
    if split < 0:
        raise ValueError(f"invalid size: '{text}'")
    number = text[:split] if text[split] == " " else text[: split + 1]
    suffix = text[split + 1 :].lower()
    if not _DECIMAL_NUMBER.match(number):
        raise ValueError(f'strconv.ParseFloat: parsing "{number}": invalid syntax')
    if number.startswith("-"):
        raise ValueError(f"invalid size: '{text}'")
    unit, rest = suffix[:1], suffix[1:]
    if unit in {"", "b"} and not rest:
        power = 0
    elif unit in _SIZE_POWERS and rest in {"", "b", "ib"}:
        power = _SIZE_POWERS[unit]
    else:
        raise ValueError(f"invalid suffix: '{suffix}'")
    size = int(Decimal(number) * (base**power))
    if size > INT64_MAX:
        raise ValueError(f"invalid size: '{text}': value out of range")
    return size


def parse_bytes_or_unlimited(text: str) -> int:
    """Read a size as :func:`parse_bytes`, or -1 for no limit (``--memory-swap``)."""
    return -1 if text == "-1" else parse_bytes(text)


def parse_duration(text: str) -> int:
    """Read a Go duration (``1h2m3.5s``, ``250ms``, ``-3us``) as nanoseconds."""
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return 0
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0
    position = 0
    while position < len(body):
        part = _DURATION_PART.match(body, position)
        if part is None or not (part[1] or part[2]):
            raise ValueError(f'time: invalid duration "{text}"')
        if not part[3]:
            raise ValueError(f'time: missing unit in duration "{text}"')
        unit = _DURATION_UNITS.get(part[3])
        if unit is None:
            raise ValueError(f'time: unknown unit "{part[3]}" in duration "{text}"')
        fraction = part[2] or ""
        total += int(part[1] or "0") * unit
        total += int(fraction or "0") * unit // 10 ** len(fraction)
        position = part.end()
    if total > INT64_MAX:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def parse_moment(text: str, now_ns: int) -> int:
    """Read a moment: RFC 3339, Unix seconds, or a duration before now; as Unix nanoseconds."""
    match = _UNIX_TIME.fullmatch(text)
    if match is not None:
        return int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    with contextlib.suppress(ValueError):
        return now_ns - parse_duration(text)
    with contextlib.suppress(ValueError):
        # datetime keeps microseconds; docker's own stamps have nine digits.
        trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text)
        return int(datetime.fromisoformat(trimmed).astimezone().timestamp() * 1e6) * 1000
    raise ValueError(
        f"invalid time {text!r}: give 2026-01-02T13:23:37Z, a Unix time, or a duration such as 42m"
    )


def format_duration(nanoseconds: int) -> str:
    """Write nanoseconds as Go's ``Duration.String``: ``1h2m3.5s``, ``250ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    if rest < 1_000_000_000:
        unit = "ms" if rest >= 1_000_000 else "µs" if rest >= 1_000 else "ns"
        return f"{sign}{_fraction(rest, _DURATION_UNITS[unit])}{unit}"
    minutes, below_minute = divmod(rest, _DURATION_UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_fraction(below_minute, _DURATION_UNITS['s'])}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _fraction(value: int, unit: int) -> str:
    """Write value / unit (a power of ten) without trailing zeros."""
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).zfill(len(str(unit)) - 1).rstrip('0')}"


def format_bytes(size: float) -> str:
    """Write a size in binary units with four digits, as docker stats does: ``1.5MiB``."""
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"), 4)


def format_size(size: float, precision: int = 3) -> str:
    """Write a size in decimal units, as docker images and stats do: ``4.26MB``."""
    return _scaled(size, 1000, ("B", "kB", "MB", "GB", "TB", "PB", "EB"), precision)


def _scaled(size: float, base: int, units: tuple[str, ...], precision: int) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return f"{_significant(size, precision)}{units[index]}"


def _significant(number: float, digits: int) -> str:
    """Write a number as C's ``%.<digits>g``, but never with an exponent below 10**digits."""
    exact = Decimal(number)
    if exact == 0:
        return "0"
    places = digits - 1 - exact.adjusted()
    rounded = exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    text = format(rounded, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def quote(text: str) -> str:
    """Write a text as Go's ``strconv.Quote``: on one line, without control characters.

    What a container is made to run could otherwise forge rows of a table, or speak to a terminal.
    """
    return f'"{"".join(map(_quoted_character, text))}"'


def escape_controls(text: str) -> str:
    """Write what a terminal would obey as Go writes it in quotes; the rest stays as it is."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _quoted_character(c) for c in text)


def _quoted_character(character: str) -> str:
    code = ord(character)
    if character in _GO_ESCAPES:
        return _GO_ESCAPES[character]
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def format_age(seconds: float) -> str:
    """Write an age in words as docker ps does: ``3 minutes``, ``About an hour``, ``2 weeks``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 120:
        one, many = "second", "minute"
        return f"1 {one}" if whole == 1 else f"{whole} {one}s" if whole < 60 else f"About a {many}"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, length, unit in (
        (48, 1, "hours"),
        (24 * 7 * 2, 24, "days"),
        (24 * 30 * 2, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // length} {unit}"
    return f"{int(seconds / 3600) // 24 // 365} years"
