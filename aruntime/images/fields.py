"""The fields of tar headers: numbers in octal, base 256 and decimal, times, pax records.

Pure; every function raises ValueError with a reason. Formats: POSIX pax, "ustar Interchange
Format" and "pax Extended Header Keyword/Value Pairs"; GNU tar manual, "Extensions to tar" (base
256). Standard library only.
"""

from __future__ import annotations

NANOSECONDS = 1_000_000_000
TIME_LIMIT = (1 << 62) // NANOSECONDS
"""Most seconds: file systems clamp what is left to their own limits."""
DIGITS = 20


def number(field: bytes) -> int:
    """Read a numeric field: octal digits, or base 256 when the top bit is set; may be negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError(f"{field!r} is not a number")
    return int(digits, 8)


def decimal(text: bytes) -> int:
    """Read a decimal number of a pax record."""
    if not text.isdigit() or len(text) > DIGITS:
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def seconds_ns(seconds: int) -> int:
    """Turn seconds into nanoseconds, within what the kernel takes."""
    return max(-TIME_LIMIT, min(TIME_LIMIT, seconds)) * NANOSECONDS


def time_ns(text: bytes) -> int:
    """Read a pax time, decimal seconds with a fraction, as nanoseconds."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise ValueError(f"{text[:40]!r} is not a time")
    total = seconds_ns(decimal(whole)) + int(fraction[:9].ljust(9, b"0"))
    return -total if text.startswith(b"-") else total


def parse_pax(content: bytes, records: dict[str, bytes]) -> None:
    """Parse the records of a pax header, ``"%d %s=%s\\n"`` each, into a dict.

    A record with an empty value takes an earlier or global one away. Of the sparse format 0.0,
    whose keys repeat, the values are joined as format 0.1 writes them.
    """
    at = 0
    extents: list[bytes] = []
    while at < len(content):
        space = content.find(b" ", at, at + DIGITS)
        length = decimal(content[at:space]) if space > 0 else 0
        record = content[space + 1 : at + length]
        if length < 5 or at + length > len(content) or not record.endswith(b"\n"):
            raise ValueError("a record's length is wrong")
        raw_key, equals, value = record[:-1].partition(b"=")
        if not equals or not raw_key:
            raise ValueError("a record is not key=value")
        key = raw_key.decode("utf-8", "surrogateescape")
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            extents.append(value)
        elif value:
            records[key] = value
        else:
            records.pop(key, None)
        at += length
    if extents:
        records["GNU.sparse.map"] = b",".join(extents)
