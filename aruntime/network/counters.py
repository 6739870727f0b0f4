"""Bytes and packets of network links, as the container behind each link sees them.

What the host's end of a veth pair receives is what the container sent, so receive and transmit
are swapped here, once. Bytes are those of the Ethernet frame without its checksum; a packet merged
by GSO or GRO counts once.

Read by RTM_GETSTATS (linux/if_link.h, since 4.7) with only the 64-bit counters asked for: a
dump of all links costs about a microsecond a link, a single link a few microseconds. RTM_GETLINK
carries some 1,900 bytes of other things per link.

Out of scope: which link belongs to whom (attach), resets between incarnations (metering).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from aruntime.kernel import netlink

if TYPE_CHECKING:
    import _socket

RTM_NEWSTATS = 92
RTM_GETSTATS = 94
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
IFLA_STATS_LINK_64 = 1
FILTER_LINK_64 = 1 << (IFLA_STATS_LINK_64 - 1)
RECEIVE_BYTES = 1 << 16

_NLMSGHDR = struct.Struct("=IHHII")
_IF_STATS_MSG = struct.Struct("=BBHII")
_U32 = struct.Struct("=I")
_NLATTR = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_LINK_STATS64 = struct.Struct("=8Q")
"""rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped."""

_IFINDEX_OFFSET = _NLMSGHDR.size + 4
_ATTRIBUTES_OFFSET = _NLMSGHDR.size + _IF_STATS_MSG.size


class LinkStats(NamedTuple):
    """Counters since the link was made, from the far (the container's) side. They never fall."""

    receive_bytes: int
    transmit_bytes: int
    receive_packets: int
    transmit_packets: int
    receive_drops: int
    transmit_drops: int
    egress_bytes: int = 0
    """Of what it sent, that which left the host (egress); of IP packets, without their frames."""
    egress_packets: int = 0


class LinkCounters:
    """A netlink socket that reads the counters of the links of one network namespace.

    It stays with the namespace in which it was made. Not thread-safe: one caller at a time. Owns
    the socket; ``close`` it.
    """

    def __init__(self) -> None:
        self._socket: _socket.socket = netlink.open_socket()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; closing twice does nothing."""
        self._socket.close()

    def read(self, ifindex: int) -> LinkStats | None:
        """Return the counters of one link, None when there is no such link.

        Raises:
            OSError: the kernel refused.
        """
        sequence = self._request(ifindex, 0)
        found: dict[int, LinkStats] = {}
        while not found:
            number = parse(self._socket.recv(RECEIVE_BYTES), sequence, found)
            if number == errno.ENODEV:
                return None
            if number:
                raise OSError(number, os.strerror(number))
        return found[ifindex]

    def read_all(self) -> dict[int, LinkStats]:
        """Return the counters of every link of the namespace by interface index.

        Raises:
            OSError: the kernel refused.
        """
        sequence = self._request(0, NLM_F_DUMP)
        found: dict[int, LinkStats] = {}
        number: int | None = None
        while number is None:
            number = parse(self._socket.recv(RECEIVE_BYTES), sequence, found)
        if number:
            raise OSError(number, os.strerror(number))
        return found

    def _request(self, ifindex: int, flags: int) -> int:
        """Send a request for one link or all of them; return its sequence number."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        length = _NLMSGHDR.size + _IF_STATS_MSG.size
        self._socket.send(
            _NLMSGHDR.pack(length, RTM_GETSTATS, NLM_F_REQUEST | flags, self._sequence, 0)
            + _IF_STATS_MSG.pack(0, 0, 0, ifindex, FILTER_LINK_64)
        )
        return self._sequence


def parse(datagram: bytes, sequence: int, found: dict[int, LinkStats]) -> int | None:
    """Add the links of one datagram to found.

    ::

        nlmsghdr 16 | if_stats_msg 12: family, pad, pad, ifindex, filter_mask | nlattr 4 | u64 × 25

    Messages with another sequence number answer an earlier, interrupted request and are skipped.

    Returns:
        None if more may follow, 0 at the end of a dump, an errno if the kernel refused.
    """
    offset = 0
    while offset < len(datagram):
        length, kind, _, answered, _ = _NLMSGHDR.unpack_from(datagram, offset)
        if answered == sequence:
            if kind == RTM_NEWSTATS:
                ifindex, stats = _link(datagram, offset)
                found[ifindex] = stats
            elif kind == NLMSG_DONE:
                return 0
            elif kind == NLMSG_ERROR:
                number: int = -_ERRNO.unpack_from(datagram, offset + _NLMSGHDR.size)[0]
                return number
        offset += (length + 3) & ~3
    return None


def _link(datagram: bytes, message: int) -> tuple[int, LinkStats]:
    """Return the index and the swapped counters of the message at this offset."""
    ifindex: int = _U32.unpack_from(datagram, message + _IFINDEX_OFFSET)[0]
    offset = message + _ATTRIBUTES_OFFSET
    size, kind = _NLATTR.unpack_from(datagram, offset)
    while kind != IFLA_STATS_LINK_64:  # alignment padding on machines that need it
        offset += (size + 3) & ~3
        size, kind = _NLATTR.unpack_from(datagram, offset)
    rx_packets, tx_packets, rx_bytes, tx_bytes, _, _, rx_dropped, tx_dropped = (
        _LINK_STATS64.unpack_from(datagram, offset + _NLATTR.size)
    )
    return ifindex, LinkStats(tx_bytes, rx_bytes, tx_packets, rx_packets, tx_dropped, rx_dropped)
