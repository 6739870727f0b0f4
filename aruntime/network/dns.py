"""DNS messages of containers: what we answer ourselves, what is asked of others. No sockets.

Names of containers are answered with authority and a short life; a name that is ours without an
address of the kind asked for is NODATA; an address of a network that nobody has is NXDOMAIN.
Everything else is forwarded as it came, byte for byte but for its number, so that records and
options that we do not know pass too. Reading and writing messages is dnspython's, imported on first
use (50 ms).

RFC 1035 (messages), 2308 (negative answers), 6891 (EDNS), 8482 (ANY), 7766 (TCP).

Out of scope: who has which name (names), sockets, servers and limits (aruntime.daemon.resolver).
"""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import dns.message
    import dns.name

HEADER = struct.Struct("!HHHHHH")
"""Number, flags, and the counts of the four sections."""
RESPONSE = 0x8000
OPCODE = 0x7800
AUTHORITATIVE = 0x0400
RECURSION_DESIRED = 0x0100
RECURSION_AVAILABLE = 0x0080
CODE = 0x000F
FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5
BADVERS = 16
"""The first code that does not fit the header; the rest of it stands in the OPT record."""
LABEL_BYTES = 63
TTL_SECONDS = 5
"""A container that is started anew may have another address."""
PLAIN_UDP_BYTES = 512
MOST_UDP_BYTES = 1232
"""What passes every link without fragments (DNS flag day 2020)."""
MOST_TCP_BYTES = 65535
IN = 1
A, PTR, AAAA, IXFR, AXFR, ANY = 1, 12, 28, 251, 252, 255
IN_ADDR, IP6 = ".in-addr.arpa", ".ip6.arpa"
IP6_DIGITS = 32


class View(Protocol):
    """What one container knows of its networks."""

    def addresses(self, name: str) -> list[str] | None:
        """Return the addresses of a name, None if it is nobody's."""

    def name_at(self, address: str) -> str | None:
        """Return the full name of who has an address, None if nobody has."""

    def covers(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether an address belongs to one of the networks."""


def load() -> None:
    """Import what answering needs, so that no question waits for it (50 ms, blocking)."""
    import dns.message
    import dns.rdtypes.ANY.PTR
    import dns.rdtypes.IN.A
    import dns.rdtypes.IN.AAAA
    import dns.rrset  # noqa: F401 - loaded, not named here


def answer(query: bytes, view: View, *, tcp: bool) -> bytes | None:
    """Return the answer to a query, None if it is to be forwarded.

    Raises:
        ValueError: it deserves no answer: an answer itself, or less than a header.
    """
    flags = _flags_of(query)
    if flags & OPCODE:
        return refusal(query, NOTIMP)
    if HEADER.unpack_from(query)[2] != 1:
        return refusal(query, FORMERR)
    message = _parsed(query)
    if message is None:
        return refusal(query, FORMERR)
    limit = MOST_TCP_BYTES if tcp else _udp_limit(message)
    if message.edns > 0:
        return _coded(message, BADVERS, limit)
    question = message.question[0]
    if question.rdclass != IN or question.rdtype in (AXFR, IXFR):
        return refusal(query, REFUSED)
    name = question.name.to_text(omit_final_dot=True)
    at = address_of(name) if question.rdtype == PTR else None
    if at is not None:
        known = view.name_at(str(at))
        if known is None:
            return _coded(message, NXDOMAIN, limit) if view.covers(at) else None
        return _written(message, {PTR: [f"{known}."]}, limit)
    addresses = view.addresses(name)
    return None if addresses is None else _written(message, _by_type(addresses), limit)


def negative(query: bytes, *, tcp: bool) -> bytes:
    """Return the answer to what we do not know and nobody else can be asked.

    A single word can only have been meant as a container's name and does not exist (NXDOMAIN);
    of any other name we cannot say so (REFUSED, which makes no client wait and ask again).

    Raises:
        ValueError: the query deserves no answer.
    """
    message = _parsed(query)
    if message is None or len(message.question) != 1:
        return refusal(query, FORMERR)
    if len(message.question[0].name) != 2:  # the word and the root
        return refusal(query, REFUSED)
    return _coded(message, NXDOMAIN, MOST_TCP_BYTES if tcp else _udp_limit(message))


def refusal(query: bytes, code: int) -> bytes:
    """Return an answer that is a code and the question, as far as that can be read.

    Raises:
        ValueError: the query deserves no answer.
    """
    flags = _flags_of(query)
    number, questions = HEADER.unpack_from(query)[0], HEADER.unpack_from(query)[2]
    question = question_of(query) if questions == 1 else b""
    shown = RESPONSE | (flags & (OPCODE | RECURSION_DESIRED)) | RECURSION_AVAILABLE | code
    return HEADER.pack(number, shown, 1 if question else 0, 0, 0, 0) + question


def question_of(message: bytes) -> bytes:
    """Return the bytes of the only question, or nothing if they are malformed."""
    at = HEADER.size
    while at < len(message) and message[at]:
        if message[at] > LABEL_BYTES:
            return b""
        at += 1 + message[at]
    end = at + 5
    return message[HEADER.size : end] if end <= len(message) else b""


def renumbered(message: bytes, number: int) -> bytes:
    """Return the message with another number."""
    return number.to_bytes(2, "big") + message[2:]


def number_of(message: bytes) -> int:
    """Return the number of a message that has a header."""
    return int.from_bytes(message[:2], "big")


def code_of(message: bytes) -> int:
    """Return the response code of a message that has a header."""
    return message[3] & CODE


def is_answer_to(reply: bytes, query: bytes) -> bool:
    """Return whether a message from a server answers this query: number, direction, question."""
    if len(reply) < HEADER.size or number_of(reply) != number_of(query):
        return False
    if not int.from_bytes(reply[2:4], "big") & RESPONSE:
        return False
    asked = question_of(query)
    # A server that cannot read the query answers with a bare header.
    return question_of(reply).lower() == asked.lower() or (
        HEADER.unpack_from(reply)[2] == 0 and code_of(reply) in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    )


def address_of(name: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a name below in-addr.arpa or ip6.arpa stands for, None for others."""
    lower = name.lower()
    try:
        if lower.endswith(IN_ADDR):
            return IPv4Address(".".join(reversed(lower.removesuffix(IN_ADDR).split("."))))
        if lower.endswith(IP6):
            digits = lower.removesuffix(IP6).split(".")
            if len(digits) == IP6_DIGITS and all(len(digit) == 1 for digit in digits):
                return IPv6Address(bytes.fromhex("".join(reversed(digits))))
    except ValueError:
        pass
    return None


def _flags_of(query: bytes) -> int:
    if len(query) < HEADER.size:
        raise ValueError("shorter than a header")
    flags: int = HEADER.unpack_from(query)[1]
    if flags & RESPONSE:
        raise ValueError("an answer, not a query")
    return flags


def _parsed(query: bytes) -> dns.message.Message | None:
    """Return the message, None for garbage. What is signed is read without its signature."""
    import dns.exception
    import dns.message

    try:
        return dns.message.from_wire(query, ignore_trailing=False, keyring=False)
    except (dns.exception.DNSException, ValueError):
        return None


def _udp_limit(message: dns.message.Message) -> int:
    if message.edns < 0:
        return PLAIN_UDP_BYTES
    return max(PLAIN_UDP_BYTES, min(message.payload, MOST_UDP_BYTES))


def _by_type(addresses: list[str]) -> dict[int, list[str]]:
    """Return addresses by the type of their record, shuffled: each of several gets its share."""
    found: dict[int, list[str]] = {A: [], AAAA: []}
    for address in addresses:
        found[A if isinstance(ip_address(address), IPv4Address) else AAAA].append(address)
    for shuffled in found.values():
        random.shuffle(shuffled)
    return found


def _written(query: dns.message.Message, records: dict[int, list[str]], limit: int) -> bytes:
    """Return the answer with the records of the type asked for; none of them is NODATA."""
    import dns.rdatatype
    import dns.rrset

    question = query.question[0]
    reply = _begun(query)
    for kind, texts in records.items():
        if texts and question.rdtype in (kind, ANY):
            shown = dns.rdatatype.to_text(dns.rdatatype.RdataType(kind))
            reply.answer.append(
                dns.rrset.from_text_list(question.name, TTL_SECONDS, "IN", shown, texts)
            )
    return _wire(reply, limit)


def _coded(query: dns.message.Message, code: int, limit: int) -> bytes:
    import dns.rcode

    reply = _begun(query)
    reply.set_rcode(dns.rcode.Rcode(code))
    return _wire(reply, limit)


def _begun(query: dns.message.Message) -> dns.message.Message:
    import dns.message

    reply = dns.message.make_response(query, recursion_available=True, our_payload=MOST_UDP_BYTES)
    reply.flags |= AUTHORITATIVE
    return reply


def _wire(reply: dns.message.Message, limit: int) -> bytes:
    """Return the message's bytes; what does not fit is cut off, and the message says so."""
    return reply.to_wire(max_size=limit, prefer_truncation=True)
