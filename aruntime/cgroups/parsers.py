"""The text formats of cgroup files, bytes in, integers out.

Pure functions; opening and reading files is :mod:`aruntime.cgroups.files` and
:mod:`aruntime.cgroups.reader`. Each format is quoted above its parser as the kernel writes it
(Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst). A malformed file raises ValueError.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import itemgetter

UNLIMITED_V1 = 1 << 62
"""A v1 byte limit at or above this means no limit (the kernel shows 9223372036854771712)."""

Device = tuple[int, int]
"""Major and minor number of a block device."""


def parse_limit(text: bytes) -> int:
    """Return a v2 limit (``max`` or a number); 0 means no limit."""
    word = text.strip()
    return 0 if word == b"max" else int(word)


def parse_limit_v1(text: bytes) -> int:
    """Return a v1 byte limit; 0 means no limit."""
    value = int(text)
    return 0 if value >= UNLIMITED_V1 or value < 0 else value


# nr_periods 12
# nr_throttled 3
def parse_flat_keyed(text: bytes) -> dict[bytes, int]:
    """Return a flat keyed file (``key value`` per line) as a dict."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def find_keyed(text: bytes, key: bytes) -> int:
    """Return one value of a flat keyed file, 0 if the key is missing.

    Far cheaper than parsing the whole file when one value of forty is wanted.
    """
    mark = key + b" "
    start = 0 if text.startswith(mark) else text.find(b"\n" + mark) + 1
    if start == 0 and not text.startswith(mark):
        return 0
    end = text.find(b"\n", start)
    return int(text[start + len(mark) : end if end >= 0 else len(text)])


def flat_keyed_picker(sample: bytes, keys: tuple[bytes, ...]) -> Callable[[bytes], tuple[int, ...]]:
    """Return a function that picks ``keys`` out of a flat keyed file laid out as ``sample``.

    The kernel writes the keys of memory.stat in one order for as long as it runs, so the places
    are looked up once; each reading checks that the keys still stand there and is parsed in full
    if they do not. A key the kernel does not know reads 0. ``keys`` needs two members or more.
    Files of one layout share one function.
    """
    return _picker(tuple(sample.split()[::2]), keys)


@functools.lru_cache(maxsize=64)
def _picker(
    words: tuple[bytes, ...], keys: tuple[bytes, ...]
) -> Callable[[bytes], tuple[int, ...]]:
    def pick_slowly(text: bytes) -> tuple[int, ...]:
        found = parse_flat_keyed(text)
        return tuple(found.get(key, 0) for key in keys)

    if not all(key in words for key in keys):
        return pick_slowly
    places = [2 * words.index(key) for key in keys]
    keys_of = itemgetter(*places)
    values_of = itemgetter(*(place + 1 for place in places))

    def pick(text: bytes) -> tuple[int, ...]:
        words = text.split()
        try:
            if keys_of(words) == keys:
                return tuple(map(int, values_of(words)))
        except IndexError:
            pass
        return pick_slowly(text)

    return pick


# 254:0 Read 4096
# 254:0 Write 0
# 254:0 Sync 4096
# 254:0 Async 0
# 254:0 Discard 0
# 254:0 Total 4096
# Total 4096
def parse_blkio(text: bytes) -> dict[Device, tuple[int, int, int]]:
    """Return (Read, Write, Discard) per device of a v1 blkio counter file.

    Sync and Async are the same amounts cut another way and are left out; Discard is 0 on
    kernels that do not know it.
    """
    counters: dict[bytes, list[int]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or words[1] not in _BLKIO_PLACES:
            continue
        counters.setdefault(words[0], [0, 0, 0])[_BLKIO_PLACES[words[1]]] = int(words[2])
    return {parse_device(name): (row[0], row[1], row[2]) for name, row in counters.items()}


_BLKIO_PLACES = {b"Read": 0, b"Write": 1, b"Discard": 2}


# 254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0
def parse_nested_keyed(text: bytes) -> dict[bytes, dict[bytes, int]]:
    """Return a nested keyed file (io.stat, io.max) as ``{device: {key: value}}``.

    ``max`` is given as 0, and so are words that no number follows. A device line without any
    pair (io.stat of an idle device on some kernels) is kept, empty.
    """
    rows: dict[bytes, dict[bytes, int]] = {}
    for line in text.splitlines():
        name, *pairs = line.split()
        row = rows.setdefault(name, {})
        for pair in pairs:
            key, _, value = pair.partition(b"=")
            row[key] = int(value) if value.isdigit() else 0
    return rows


def parse_device(text: bytes) -> Device:
    """Return (major, minor) of ``MAJ:MIN``."""
    major, _, minor = text.partition(b":")
    return int(major), int(minor)


# some avg10=0.00 avg60=0.00 avg300=0.00 total=1234
# full avg10=0.00 avg60=0.00 avg300=0.00 total=0
def parse_pressure(text: bytes) -> tuple[int, int]:
    """Return the totals (some, full) of a PSI file in microseconds; a missing line reads 0."""
    some = full = 0
    for line in text.splitlines():
        total = int(line.rpartition(b"total=")[2])
        if line.startswith(b"some"):
            some = total
        elif line.startswith(b"full"):
            full = total
    return some, full


# 0-3,8
def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the numbers of a kernel list (cpuset.cpus, cpuset.mems); empty text is no number.

    Raises:
        ValueError: the text is not in the list format of cpuset(7).
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if not part.strip():
            continue
        first, separator, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not separator)):
            raise ValueError(part)
        low, high = int(first), int(last or first)
        if low > high or high > _HIGHEST_CPU:
            raise ValueError(part)
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


_HIGHEST_CPU = 65535
"""More than any kernel is built for (NR_CPUS ≤ 8192): a typing error must not fill the memory."""


# a *:* rwm
# c 136:* rwm
def parse_device_list(text: bytes) -> list[tuple[str, int | None, int | None, str]]:
    """Return the rules of a v1 ``devices.list``: (type, major, minor, access), None for ``*``."""
    rules = []
    for line in text.splitlines():
        kind, numbers, access = line.decode().split()
        major, _, minor = numbers.partition(":")
        rules.append((kind, _number_or_any(major), _number_or_any(minor), access))
    return rules


def _number_or_any(text: str) -> int | None:
    return None if text == "*" else int(text)
