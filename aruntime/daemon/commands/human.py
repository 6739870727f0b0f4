"""Times and sizes in the words docker uses for people."""

from __future__ import annotations

SECOND = 1_000_000_000
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def duration(nanoseconds: int) -> str:
    """Return a duration roughly: ``2 minutes``, ``About an hour``, ``3 weeks``."""
    seconds = max(0, nanoseconds) // SECOND
    minutes, hours = seconds // 60, round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def ago(nanoseconds: int) -> str:
    """Return how long ago something was."""
    return f"{duration(nanoseconds)} ago"


def decimal_size(count: float, digits: int = 3) -> str:
    """Return bytes with decimal units (network and block I/O of stats, images)."""
    return _size(count, 1000.0, UNITS, digits)


def binary_size(count: float, digits: int = 4) -> str:
    """Return bytes with binary units (memory of stats)."""
    return _size(count, 1024.0, BINARY_UNITS, digits)


def _size(count: float, base: float, units: tuple[str, ...], digits: int) -> str:
    position = 0
    while count >= base and position < len(units) - 1:
        count /= base
        position += 1
    return f"{count:.{digits}g}{units[position]}"
