"""Changes to an nftables table as netlink messages: elements of maps, named counters.

Tables, chains and rules are written by the nft program (nat); what changes with every start of a
container is sent from here, in some tens of microseconds where starting nft takes 5 ms. Layouts are
those of linux/netfilter/{nfnetlink,nf_tables}.h; numbers in attributes are big-endian.

A batch is one transaction: the kernel takes all of it or nothing.

    nlmsghdr 16 | nfgenmsg 4: family, version, resource id | attributes

A connection is kept open: the kernel makes whoever closes one wait (milliseconds, for an RCU grace
period) while anything that was deleted is not freed yet.

Out of scope: what maps and counters mean (publishing, egress).
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aruntime.kernel import netlink

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
NFT_MSG_GETTABLE = 1
NFT_MSG_NEWSETELEM = 12
NFT_MSG_DELSETELEM = 14
NFT_MSG_NEWOBJ = 18
NFT_MSG_GETOBJ = 19
NFT_MSG_DELOBJ = 20
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

NFTA_TABLE_NAME = 1
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_DATA = 2
NFTA_SET_ELEM_OBJREF = 9
NFTA_DATA_VALUE = 1
NFTA_OBJ_TABLE = 1
NFTA_OBJ_NAME = 2
NFTA_OBJ_TYPE = 3
NFTA_OBJ_DATA = 4
NFT_OBJECT_COUNTER = 1
NFTA_COUNTER_BYTES = 1
NFTA_COUNTER_PACKETS = 2
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

FAMILIES = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
"""NFPROTO_* of linux/netfilter.h by nft's word."""

RECEIVE_BYTES = 1 << 16
MOST_PER_BATCH = 256
"""Changes in one transaction; a batch must fit the socket's send buffer, 208 KiB by default."""

_NLMSGHDR = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("!BBH")
_NLATTR = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_ATTRIBUTES = _NLMSGHDR.size + _NFGENMSG.size


class Table(NamedTuple):
    """What names a table."""

    family: str
    """``inet``, ``ip``, ``ip6`` or ``bridge``."""
    name: str


class Change(NamedTuple):
    """One message of a transaction."""

    family: str
    kind: int
    flags: int
    body: bytes


class Count(NamedTuple):
    """A named counter."""

    bytes: int
    packets: int


def add_element(table: Table, map_name: str, key: bytes, value: bytes | str = b"") -> Change:
    """Return the change that adds an element to a map or set; one that is there already may stay.

    EBUSY or EEXIST when the key is there with another value.

    Args:
        table: where the map is.
        map_name: of the map.
        key: its fields, each padded with zeroes to four bytes.
        value: likewise, or the name of an object of the table; nothing for a set.
    """
    content = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))
    if isinstance(value, str):
        content += attribute(NFTA_SET_ELEM_OBJREF, _text(value))
    elif value:
        content += nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, value))
    return Change(
        table.family, NFT_MSG_NEWSETELEM, NLM_F_CREATE, _elements(table, map_name, content)
    )


def delete_element(table: Table, map_name: str, key: bytes) -> Change:
    """Return the change that takes an element out of a map (ENOENT when it is not there)."""
    content = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))
    return Change(table.family, NFT_MSG_DELSETELEM, 0, _elements(table, map_name, content))


def clear_map(table: Table, map_name: str) -> Change:
    """Return the change that empties a map."""
    body = attribute(NFTA_SET_ELEM_LIST_TABLE, _text(table.name))
    return Change(
        table.family,
        NFT_MSG_DELSETELEM,
        0,
        body + attribute(NFTA_SET_ELEM_LIST_SET, _text(map_name)),
    )


def add_counter(table: Table, name: str, *, exclusive: bool = False) -> Change:
    """Return the change that makes a named counter; one that is there stays and goes on.

    Args:
        exclusive: EEXIST if it is there already.
    """
    body = _object(table, name) + nested(NFTA_OBJ_DATA, b"")
    flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    return Change(table.family, NFT_MSG_NEWOBJ, flags, body)


def delete_counter(table: Table, name: str) -> Change:
    """Return the change that removes a named counter (ENOENT; EBUSY while a map refers to it)."""
    return Change(table.family, NFT_MSG_DELOBJ, 0, _object(table, name))


class NfTables:
    """A connection to the nftables of the network namespace in which it is first used.

    Owns a socket (``close`` it). Any thread may call any method; they exclude each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: _socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; the next use opens another one."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def is_table(self, table: Table) -> bool:
        """Return whether a table is there.

        Asked before every start: reloading a firewall's own rules often flushes all. To who may not
        ask none is there: a daemon without CAP_NET_ADMIN, which meters and runs nothing, made none.

        Raises:
            OSError: the kernel refused.
        """
        body = attribute(NFTA_TABLE_NAME, _text(table.name))
        try:
            return any(True for _ in self._ask(table.family, NFT_MSG_GETTABLE, 0, body))
        except PermissionError:
            return False

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes: all of them, or none. More than MOST_PER_BATCH are several batches.

        Raises:
            OSError: the kernel refused; ENOENT for a table, map or element that is not there.
        """
        for first in range(0, len(changes), MOST_PER_BATCH):
            with self._lock:
                self._transact(changes[first : first + MOST_PER_BATCH])

    def read_counters(self, table: Table, name: str = "") -> dict[str, Count]:
        """Return the named counters of a table, or one of them; what is not there is absent.

        Raises:
            OSError: the kernel refused.
        """
        body = _object(table, name) if name else attribute(NFTA_OBJ_TABLE, _text(table.name))
        found: dict[str, Count] = {}
        for message in self._ask(table.family, NFT_MSG_GETOBJ, 0 if name else NLM_F_DUMP, body):
            _take_counter(message, found)
        return found

    def order(self, subsystem: int, kind: int, body: bytes) -> None:
        """Have another part of netfilter than nftables do something about IPv4.

        Raises:
            OSError: the kernel refused.
        """
        self._ask("ip", kind, NLM_F_ACK, body, subsystem)

    def _ask(
        self,
        family: str,
        kind: int,
        flags: int,
        body: bytes,
        subsystem: int = NFNL_SUBSYS_NFTABLES,
    ) -> list[bytes]:
        """Return the answers to a request, none if what was asked for is not there.

        Raises:
            OSError: the kernel refused.
        """
        answers: list[bytes] = []
        with self._lock:
            sequence = self._next()
            request = _message(family, kind, NLM_F_REQUEST | flags, sequence, body, subsystem)
            self._opened().send(request)
            while True:
                for answer in self._answers():
                    _, what, _, answered, _ = _NLMSGHDR.unpack_from(answer)
                    if answered != sequence:
                        continue  # left over from a request that was interrupted
                    if what == NLMSG_DONE:
                        return answers
                    if what == NLMSG_ERROR:
                        number = _error_of(answer)
                        if number in (0, errno.ENOENT):
                            return answers
                        raise OSError(number, os.strerror(number))
                    answers.append(answer)
                if answers and not flags & NLM_F_DUMP:
                    return answers

    def _transact(self, changes: Sequence[Change]) -> None:
        """Send one transaction and wait for its acknowledgements.

        Raises:
            OSError: nothing has changed.
        """
        begin = self._next()
        places = {self._next(): change for change in changes}
        requests = [
            _message(
                change.family,
                change.kind,
                NLM_F_REQUEST | NLM_F_ACK | change.flags,
                sequence,
                change.body,
            )
            for sequence, change in places.items()
        ]
        bounds = _bound(NFNL_MSG_BATCH_BEGIN, begin), _bound(NFNL_MSG_BATCH_END, self._next())
        self._opened().send(b"".join((bounds[0], *requests, bounds[1])))
        failure = 0
        while places:
            for answer in self._answers():
                _, kind, _, answered, _ = _NLMSGHDR.unpack_from(answer)
                if kind != NLMSG_ERROR or not (answered in places or answered == begin):
                    continue
                failure = failure or _error_of(answer)
                places.pop(answered, None)
                if answered == begin:
                    places.clear()  # refused as a whole: no other answers come
        if failure:
            raise OSError(failure, os.strerror(failure))

    def _next(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _opened(self) -> _socket.socket:
        if self._socket is None:
            kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
            self._socket = _socket.socket(_socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        return self._socket

    def _answers(self) -> list[bytes]:
        return netlink.split(self._opened().recv(RECEIVE_BYTES))


def _take_counter(message: bytes, found: dict[str, Count]) -> None:
    """Add the counter of a NFT_MSG_NEWOBJ message to found; other objects are passed over."""
    about = dict(_parsed(message[_ATTRIBUTES:]))
    if int.from_bytes(about[NFTA_OBJ_TYPE], "big") != NFT_OBJECT_COUNTER:
        return
    values = dict(_parsed(about[NFTA_OBJ_DATA]))
    name = about[NFTA_OBJ_NAME].rstrip(b"\0").decode("ascii", "replace")
    found[name] = Count(
        int.from_bytes(values[NFTA_COUNTER_BYTES], "big"),
        int.from_bytes(values[NFTA_COUNTER_PACKETS], "big"),
    )


def _elements(table: Table, map_name: str, element: bytes) -> bytes:
    return (
        attribute(NFTA_SET_ELEM_LIST_TABLE, _text(table.name))
        + attribute(NFTA_SET_ELEM_LIST_SET, _text(map_name))
        + nested(NFTA_SET_ELEM_LIST_ELEMENTS, nested(NFTA_LIST_ELEM, element))
    )


def _object(table: Table, name: str) -> bytes:
    return (
        attribute(NFTA_OBJ_TABLE, _text(table.name))
        + attribute(NFTA_OBJ_NAME, _text(name))
        + attribute(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_bytes(4, "big"))
    )


def _message(
    family: str,
    kind: int,
    flags: int,
    sequence: int,
    body: bytes,
    subsystem: int = NFNL_SUBSYS_NFTABLES,
) -> bytes:
    return (
        _NLMSGHDR.pack(_ATTRIBUTES + len(body), subsystem << 8 | kind, flags, sequence, 0)
        + _NFGENMSG.pack(FAMILIES[family], 0, 0)
        + body
    )


def _bound(kind: int, sequence: int) -> bytes:
    """Return the first or the last message of a transaction."""
    return _NLMSGHDR.pack(_ATTRIBUTES, kind, NLM_F_REQUEST, sequence, 0) + _NFGENMSG.pack(
        _socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES
    )


def _error_of(answer: bytes) -> int:
    number: int = -_ERRNO.unpack_from(answer, _NLMSGHDR.size)[0]
    return number


def _text(text: str) -> bytes:
    return text.encode("ascii") + b"\0"


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute; its length excludes the padding to four bytes."""
    return _NLATTR.pack(_NLATTR.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, payload: bytes) -> bytes:
    """Return an attribute that consists of attributes."""
    return attribute(kind | NLA_F_NESTED, payload)


def _parsed(payload: bytes) -> Iterable[tuple[int, bytes]]:
    """Yield number and content of each attribute."""
    offset = 0
    while offset + _NLATTR.size <= len(payload):
        size, kind = _NLATTR.unpack_from(payload, offset)
        yield kind & NLA_TYPE_MASK, payload[offset + _NLATTR.size : offset + size]
        offset += (size + 3) & ~3
