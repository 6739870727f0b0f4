"""DNS messages: what is answered, how, and that no garbage does harm."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.network import dns as messages

NAMES = {
    "web": ["10.0.0.2"],
    "db": ["10.0.0.3", "fd00::3"],
    "many": [f"10.0.1.{place}" for place in range(100)],
}


class Known:
    """What a container knows: NAMES, in 10.0.0.0/16 and fd00::/64."""

    def addresses(self, name: str) -> list[str] | None:
        """Return the addresses of a name."""
        return NAMES.get(name.lower())

    def name_at(self, address: str) -> str | None:
        """Return who has an address."""
        return {"10.0.0.2": "web.shop", "fd00::3": "db.shop"}.get(address)

    def covers(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether an address is in one of the networks."""
        return any(address in ip_network(one) for one in ("10.0.0.0/16", "fd00::/64"))


def asked(
    name: str, kind: str = "A", *, tcp: bool = False, edns: int | None = None
) -> dns.message.Message:
    """Return the answer to a question; it must be one to it."""
    query = dns.message.make_query(name, kind, use_edns=edns)
    wire = messages.answer(query.to_wire(), Known(), tcp=tcp)
    assert wire is not None, "forwarded"
    assert messages.is_answer_to(wire, query.to_wire())
    answer = dns.message.from_wire(wire)
    assert query.is_response(answer)
    assert answer.flags & dns.flags.RA
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    """Return the data of all records of an answer, sorted."""
    return sorted(item.to_text() for rrset in answer.answer for item in rrset)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("web.", "A", ["10.0.0.2"]),
        ("WeB.", "A", ["10.0.0.2"]),
        ("db.", "A", ["10.0.0.3"]),
        ("db.", "AAAA", ["fd00::3"]),
        ("db.", "ANY", ["10.0.0.3", "fd00::3"]),
        ("web.", "AAAA", []),
        ("web.", "MX", []),
        ("2.0.0.10.in-addr.arpa.", "PTR", ["web.shop."]),
        (dns.reversename.from_address("fd00::3").to_text(), "PTR", ["db.shop."]),
    ],
)
def test_what_is_ours(name: str, kind: str, found: list[str]) -> None:
    """With authority; a name without an address of that kind is there all the same (NODATA)."""
    answer = asked(name, kind)

    assert texts(answer) == found
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.TC
    assert {rrset.ttl for rrset in answer.answer} <= {messages.TTL_SECONDS}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nobody.", "A"),
        ("example.org.", "A"),
        ("web.example.org.", "A"),
        ("8.8.8.8.in-addr.arpa.", "PTR"),
        ("in-addr.arpa.", "PTR"),
        ("1.2.in-addr.arpa.", "PTR"),
        ("web.", "PTR"),
        (".", "NS"),
    ],
)
def test_what_is_not_ours_is_forwarded(name: str, kind: str) -> None:
    """All but a PTR of our own name, which is NODATA."""
    query = dns.message.make_query(name, kind).to_wire()
    answer = messages.answer(query, Known(), tcp=False)

    assert answer is None or (name, kind) == ("web.", "PTR")


def test_an_address_that_nobody_has() -> None:
    """Of our networks: it is known that there is no name."""
    answer = asked("99.0.0.10.in-addr.arpa.", "PTR")

    assert (answer.rcode(), texts(answer)) == (dns.rcode.NXDOMAIN, [])


@pytest.mark.parametrize(
    ("name", "code"), [("nobody.", dns.rcode.NXDOMAIN), ("example.org.", dns.rcode.REFUSED)]
)
def test_what_cannot_be_forwarded(name: str, code: dns.rcode.Rcode) -> None:
    """A single word does not exist then; of the rest we cannot say so."""
    query = dns.message.make_query(name, "A")
    answer = dns.message.from_wire(messages.negative(query.to_wire(), tcp=False))

    assert query.is_response(answer)
    assert answer.rcode() == code


def test_addresses_take_turns() -> None:
    """Every address comes first now and then (docker's round robin)."""
    firsts = {asked("many.", tcp=True).answer[0][0].to_text() for _ in range(500)}

    assert len(firsts) > 50


@pytest.mark.parametrize(
    ("edns", "payload", "limit"),
    [(None, None, 512), (0, 100, 512), (0, 700, 700), (0, 4096, messages.MOST_UDP_BYTES)],
)
def test_long_answers_are_cut_for_udp(edns: int | None, payload: int | None, limit: int) -> None:
    """To what the client takes and what passes in one frame; TCP brings the whole."""
    query = dns.message.make_query("many.", "A", use_edns=edns, payload=payload)
    wire = messages.answer(query.to_wire(), Known(), tcp=False)
    assert wire is not None
    cut = dns.message.from_wire(wire)

    assert cut.flags & dns.flags.TC
    assert len(wire) <= limit
    assert cut.edns == (-1 if edns is None else 0)
    whole = asked("many.", tcp=True, edns=edns)
    assert not whole.flags & dns.flags.TC
    assert len(texts(whole)) == len(NAMES["many"])


def test_a_later_edns_is_refused() -> None:
    """RFC 6891, 6.1.3: BADVERS, so that the client asks again by version 0."""
    assert asked("web.", edns=1).rcode() == dns.rcode.BADVERS


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_nobody_gets_everything(kind: str) -> None:
    """There are no zones to be transferred."""
    assert asked("web.", kind).rcode() == dns.rcode.REFUSED


def test_other_operations() -> None:
    """An update is not implemented; several questions are an error; so is another class."""
    query = dns.message.make_query("web.", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    answer = messages.answer(query.to_wire(), Known(), tcp=False)
    assert answer is not None
    assert messages.code_of(answer) == messages.NOTIMP
    query = dns.message.make_query("web.", "A", rdclass="CH")
    answer = messages.answer(query.to_wire(), Known(), tcp=False)
    assert answer is not None
    assert messages.code_of(answer) == messages.REFUSED
    double = bytearray(dns.message.make_query("web.", "A").to_wire())
    double[5] = 2
    answer = messages.answer(bytes(double), Known(), tcp=False)
    assert answer is not None
    assert messages.code_of(answer) == messages.FORMERR


@pytest.mark.parametrize("query", [b"", b"short", bytes(11)])
def test_less_than_a_header_gets_no_answer(query: bytes) -> None:
    """Nothing could be said to whom."""
    with pytest.raises(ValueError, match="header"):
        messages.answer(query, Known(), tcp=False)


def test_answers_get_no_answer() -> None:
    """Two servers must not talk to each other for ever."""
    query = dns.message.make_query("web.", "A")
    wire = messages.answer(query.to_wire(), Known(), tcp=False)
    assert wire is not None

    with pytest.raises(ValueError, match="an answer"):
        messages.answer(wire, Known(), tcp=False)
    with pytest.raises(ValueError, match="an answer"):
        messages.refusal(wire, messages.SERVFAIL)


def check_is_harmless(packet: bytes) -> None:
    """Whatever comes: an answer of the same number, forwarding, or silence; never an error."""
    for tcp in (False, True):
        try:
            answer = messages.answer(packet, Known(), tcp=tcp)
            negative = messages.negative(packet, tcp=tcp)
        except ValueError:
            assert len(packet) < messages.HEADER.size or packet[2] & 0x80
            continue
        for one in (answer, negative):
            if one is not None:
                assert messages.number_of(one) == messages.number_of(packet)
                assert one[2] & 0x80
                assert len(one) <= (65535 if tcp else max(messages.MOST_UDP_BYTES, len(packet)))


@given(st.binary(max_size=600))
def test_garbage(packet: bytes) -> None:
    """Random bytes."""
    check_is_harmless(packet)


@given(
    st.sampled_from(["web.", "many.", "2.0.0.10.in-addr.arpa.", "x.y.example.org."]),
    st.sampled_from(["A", "AAAA", "PTR", "ANY", "SOA", "OPT"]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 60),
    st.binary(max_size=30),
)
def test_bent_queries(
    name: str, kind: str, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    """Real queries with some bytes changed, cut off, and something behind them."""
    query = dns.message.make_query(
        name, kind, use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, b"x" * 8)]
    )
    packet = bytearray(query.to_wire())
    for place, value in changes:
        packet[place % len(packet)] = value
    check_is_harmless(bytes(packet[: len(packet) - cut]) + tail)


@given(st.ip_addresses())
def test_addresses_and_their_reverse_names(address: IPv4Address | IPv6Address) -> None:
    """The name below arpa leads back to the address."""
    assert messages.address_of(address.reverse_pointer.upper()) == address


def test_replies_of_servers_are_matched() -> None:
    """Another number, another question or a query is no answer; case and a bare error are."""
    query = dns.message.make_query("Example.org.", "A")
    asked = query.to_wire()
    reply = dns.message.make_response(query).to_wire()

    assert messages.is_answer_to(reply, asked)
    assert messages.is_answer_to(reply.lower(), asked.lower())
    bare = reply[:3] + bytes([messages.SERVFAIL]) + bytes(8)
    assert messages.is_answer_to(bare, asked)
    assert not messages.is_answer_to(reply[:3] + bytes(9), asked)
    assert not messages.is_answer_to(messages.renumbered(reply, query.id ^ 1), asked)
    assert not messages.is_answer_to(asked, asked)
    other = dns.message.make_response(dns.message.make_query("example.net.", "A", id=query.id))
    assert not messages.is_answer_to(other.to_wire(), asked)
    assert not messages.is_answer_to(b"\0", asked)
