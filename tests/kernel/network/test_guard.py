"""Which frames a container may send: real frames in private network namespaces, seen by others."""

from __future__ import annotations

import contextlib
import socket
import struct
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from aruntime.network import Network, default_definition
from tests.kernel.network.test_network_attach import SUBNET, talk
from tests.networks import asked

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host

pytestmark = pytest.mark.kernel

ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
MARK = b"who-is-it"
NEIGHBOUR_ADVERTISEMENT = 136
ICMP6, ETH_P_IPV6 = 58, 0x86DD


def checksum(summed: bytes) -> int:
    """Return the internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def advertisement(source: IPv6Address, target: IPv6Address, mac: bytes) -> bytes:
    """Return a frame in which somebody says that an address is at a hardware address (RFC 4861)."""
    everybody = IPv6Address("ff02::1")
    body = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, 0x20000000) + target.packed
    body += b"\2\1" + mac
    summed = source.packed + everybody.packed + struct.pack("!II", len(body), ICMP6) + body
    body = body[:2] + checksum(summed).to_bytes(2, "big") + body[4:]
    head: bytes = struct.pack("!IHBB", 0x60000000, len(body), ICMP6, 255) + source.packed
    frame: bytes = (
        bytes.fromhex("333300000001") + mac + ETH_P_IPV6.to_bytes(2, "big") + head
        + everybody.packed + body
    )  # fmt: skip
    return frame


def send_frame(frame: bytes) -> None:
    """Send a frame as it is."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw:
        raw.bind(("eth0", ETH_P_ALL))
        raw.send(frame)


def sniffer() -> socket.socket:
    """Open a socket that sees the frames that come in."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.bind(("eth0", ETH_P_ALL))
    raw.settimeout(0.05)
    return raw


def advertised(raw: socket.socket) -> list[IPv6Address]:
    """Return the targets of the advertisements that have arrived, until none comes any more."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            frame = raw.recv(2048)
            if (
                frame[12:14] == ETH_P_IPV6.to_bytes(2, "big")
                and frame[54] == NEIGHBOUR_ADVERTISEMENT
            ):
                found.append(IPv6Address(frame[62:78]))
    return found


@pytest.mark.parametrize("repaired", [False, True])
def test_neighbours_advertise_themselves_only(host: Host, tmp_path: Path, repaired: bool) -> None:
    """IPv6 works, and nobody can say that another's address is at its own hardware address."""
    if not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("this host has no IPv6")
    definition = msgspec.structs.replace(
        default_definition("artest6", SUBNET), subnet6="fd00:77::/64", gateway6="fd00:77::1"
    )
    with closing(Network(definition, tmp_path / "leases")) as network:
        one, two = (host.run(network.attach, asked(digit)) for digit in "ab")
        assert not any("can send from any address" in text for text in one.repairs)
        if repaired:
            host.run(network.ensure)  # the sets are now as nft wrote them
        first, second = host.container(one.netlink), host.container(two.netlink)
        talk(second, first, two.ip6)
        mac, own, other = (
            bytes.fromhex(one.mac.replace(":", "")), IPv6Address(one.ip6), IPv6Address(two.ip6)
        )  # fmt: skip
        with second.run(sniffer) as raw:
            first.run(send_frame, advertisement(own, IPv6Address("fd00:77::1"), mac))
            first.run(send_frame, advertisement(own, other, mac))
            first.run(send_frame, advertisement(other, other, mac))
            first.run(send_frame, advertisement(own, own, mac))
            assert advertised(raw) == [own]


def packet(to: bytes, mac: bytes, source: str, target: str) -> bytes:
    """Return a frame with an IPv4 packet of an experimental protocol (RFC 3692)."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(MARK), 0, 0, 64, 253, 0)
    head += IPv4Address(source).packed + IPv4Address(target).packed
    # Where br_netfilter is loaded, it drops what has a wrong one.
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return to + mac + ETH_P_IP.to_bytes(2, "big") + head + MARK


def claim(frame_mac: bytes, mac: bytes, address: str) -> bytes:
    """Return an ARP announcement to everybody (RFC 826)."""
    head = b"\xff" * 6 + frame_mac + ETH_P_ARP.to_bytes(2, "big")
    own = IPv4Address(address).packed
    return head + struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 2) + mac + own + mac + own


def sources(raw: socket.socket) -> list[tuple[str, str]]:
    """Return the senders of the packets and announcements that have arrived."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            frame, about = raw.recvfrom(2048)
            kind = int.from_bytes(frame[12:14], "big")
            if about[2] == socket.PACKET_OUTGOING:
                continue  # it complains to the sender, and cites it
            if kind == ETH_P_IP and frame.endswith(MARK):
                found.append(("ip", str(IPv4Address(frame[26:30]))))
            elif kind == ETH_P_ARP and int.from_bytes(frame[20:22], "big") == 2:
                found.append(("arp", str(IPv4Address(frame[28:32]))))
    return found


def test_only_own_addresses_leave_a_port(host: Host, tmp_path: Path) -> None:
    """Another's source, another hardware address, an announcement of another's: all dropped."""
    definition = default_definition("artest7", SUBNET)
    with closing(Network(definition, tmp_path / "leases")) as network:
        one, two, three = (host.run(network.attach, asked(digit)) for digit in "abc")
        first, second, _ = (host.container(each.netlink) for each in (one, two, three))
        mac, other = (bytes.fromhex(each.mac.replace(":", "")) for each in (one, two))
        wrong = bytes.fromhex("020000000099")
        with second.run(sniffer) as raw:
            for frame in (
                packet(other, mac, three.ip, two.ip),
                packet(other, mac, "192.0.2.1", two.ip),
                packet(other, wrong, one.ip, two.ip),
                claim(mac, mac, three.ip),
                claim(mac, mac, one.gateway),
                claim(mac, wrong, one.ip),
                claim(wrong, wrong, one.ip),
                other + mac + b"\x88\xcc" + MARK,  # neither IP nor ARP
                packet(other, mac, one.ip, two.ip),
                claim(mac, mac, one.ip),
            ):
                first.run(send_frame, frame)
            assert set(sources(raw)) == {("ip", one.ip), ("arp", one.ip)}
