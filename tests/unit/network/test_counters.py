"""The parser of link counters on hand-made datagrams."""

from __future__ import annotations

import struct

import pytest

from aruntime.network import counters
from aruntime.network.counters import LinkStats

STATS64 = tuple(range(1, 26))
SWAPPED = LinkStats(4, 3, 2, 1, 8, 7)


def message(kind: int, body: bytes, sequence: int = 7) -> bytes:
    """Return one netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def stats(ifindex: int, *, padded: bool = False, sequence: int = 7) -> bytes:
    """Return one RTM_NEWSTATS message as the kernel lays it out."""
    pad = struct.pack("=HH", 4, 0) if padded else b""
    attribute = struct.pack("=HH25Q", 204, counters.IFLA_STATS_LINK_64, *STATS64)
    body = struct.pack("=BBHII", 0, 0, 0, ifindex, 1) + pad + attribute
    return message(counters.RTM_NEWSTATS, body, sequence)


@pytest.mark.parametrize("padded", [False, True])
def test_receive_and_transmit_are_swapped(padded: bool) -> None:
    """What the host's end received is what the container sent, with or without padding."""
    found: dict[int, LinkStats] = {}

    assert counters.parse(stats(9, padded=padded) + stats(11), 7, found) is None
    assert found == {9: SWAPPED, 11: SWAPPED}


def test_end_of_dump() -> None:
    """NLMSG_DONE ends a dump, also behind links in the same datagram."""
    found: dict[int, LinkStats] = {}
    done = message(counters.NLMSG_DONE, bytes(4))

    assert counters.parse(stats(9) + done, 7, found) == 0
    assert list(found) == [9]


def test_refusal_is_an_errno() -> None:
    """A negative acknowledgement comes back as its errno."""
    assert counters.parse(message(counters.NLMSG_ERROR, struct.pack("=i", -19)), 7, {}) == 19


def test_answers_to_an_earlier_request_are_skipped() -> None:
    """Leftovers of an interrupted dump are neither links nor its end."""
    found: dict[int, LinkStats] = {}
    stale = stats(9, sequence=6) + message(counters.NLMSG_DONE, bytes(4), sequence=6)

    assert counters.parse(stale, 7, found) is None
    assert found == {}


def test_parsing_is_cheap() -> None:
    """A link costs microseconds: a thousand of them must not stall a loop for 20 ms."""
    import time

    datagram = b"".join(stats(index) for index in range(1000))
    rounds = []
    for _ in range(5):
        found: dict[int, LinkStats] = {}
        before = time.thread_time_ns()
        counters.parse(datagram, 7, found)
        rounds.append(time.thread_time_ns() - before)

    assert len(found) == 1000
    assert min(rounds) < 20_000_000
