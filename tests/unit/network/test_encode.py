"""The netlink batches, byte for byte against pyroute2's own encoding."""

from __future__ import annotations

import struct
import time
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from aruntime.network import encode

REQUEST_ACK = encode.NLM_F_REQUEST | encode.NLM_F_ACK
CREATE = REQUEST_ACK | encode.NLM_F_CREATE | encode.NLM_F_EXCL


def encoded(
    message: Any, kind: int, flags: int, sequence: int, fields: dict[str, int], *attributes: Any
) -> bytes:
    """Return one message as pyroute2 encodes it."""
    message["header"] |= {"type": kind, "flags": flags, "sequence_number": sequence, "pid": 0}
    message.update(fields)
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


def link_up(index: int, sequence: int) -> bytes:
    """Return pyroute2's message that brings a link up."""
    fields = {"index": index, "flags": 1, "change": 1}
    return encoded(ifinfmsg(), encode.RTM_NEWLINK, REQUEST_ACK, sequence, fields)


def without_ipv6(index: int, sequence: int) -> bytes:
    """Return pyroute2's message that keeps a link from making itself an IPv6 address."""
    mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    return encoded(
        ifinfmsg(),
        encode.RTM_NEWLINK,
        REQUEST_ACK,
        sequence,
        {"index": index},
        ("IFLA_AF_SPEC", mode),
    )


@given(
    name=st.from_regex(r"[a-z][a-z0-9]{0,14}", fullmatch=True),
    index=st.integers(1, 2**31 - 1),
    bridge=st.integers(1, 2**31 - 1),
    address=st.integers(0, 2**32 - 1),
    mtu=st.integers(68, 65535),
    netns_fd=st.integers(0, 1000),
)
def test_host_batch_is_pyroute2s(
    name: str, index: int, bridge: int, address: int, mtu: int, netns_fd: int
) -> None:
    """The veth pair with its peer in the container's namespace, for any names and numbers."""
    mac = encode.mac_of(address)
    peer = {
        "index": encode.ETH0_IFINDEX,
        "attrs": [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_ADDRESS", mac.hex(":")),
            ("IFLA_MTU", mtu),
            ("IFLA_NET_NS_FD", netns_fd),
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 1),
        ],
    }
    expected = encoded(
        ifinfmsg(),
        encode.RTM_NEWLINK,
        CREATE,
        1,
        {"index": index, "flags": 1, "change": 1},
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_GROUP", 1 << 31 | bridge),
        ("IFLA_MASTER", bridge),
        ("IFLA_NUM_TX_QUEUES", 1),
        ("IFLA_NUM_RX_QUEUES", 1),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]}),
                ]
            },
        ),
    )

    assert expected + without_ipv6(index, 2) == encode.encode_host(
        host_ifname=name,
        host_ifindex=index,
        bridge_ifindex=bridge,
        mac=mac,
        mtu=mtu,
        group=1 << 31 | bridge,
        netns_fd=netns_fd,
    )


@given(
    address=st.integers(1, 2**32 - 2), prefix=st.integers(1, 30), gateway=st.integers(1, 2**32 - 1)
)
def test_inside_batch_is_pyroute2s(address: int, prefix: int, gateway: int) -> None:
    """Loopback, no IPv6 address generation, eth0, address and default route, in this order."""
    interface = IPv4Interface((address, prefix))
    expected = b"".join(
        (
            link_up(1, 1),
            without_ipv6(encode.ETH0_IFINDEX, 2),
            link_up(encode.ETH0_IFINDEX, 3),
            encoded(
                ifaddrmsg(),
                encode.RTM_NEWADDR,
                CREATE,
                4,
                {"family": 2, "prefixlen": prefix, "flags": 0x80, "index": encode.ETH0_IFINDEX},
                ("IFA_LOCAL", str(interface.ip)),
                ("IFA_ADDRESS", str(interface.ip)),
                ("IFA_BROADCAST", str(interface.network.broadcast_address)),
            ),
            encoded(
                rtmsg(),
                encode.RTM_NEWROUTE,
                CREATE,
                5,
                {"family": 2, "table": 254, "proto": 3, "scope": 0, "type": 1},
                ("RTA_GATEWAY", str(IPv4Address(gateway))),
                ("RTA_OIF", encode.ETH0_IFINDEX),
            ),
        )
    )

    assert encode.encode_inside(interface, gateway) == expected


def test_loopback_batch_is_pyroute2s() -> None:
    """A container without network gets its loopback link up and nothing else."""
    assert encode.encode_loopback() == link_up(1, 1)


def test_hardware_address_follows_the_address() -> None:
    """02:42 and the four bytes of the address, as docker derives it."""
    assert encode.mac_of(int(IPv4Address("172.29.1.2"))).hex(":") == "02:42:ac:1d:01:02"


def test_a_port_that_sends_back() -> None:
    """The third message of a host batch, for a container that publishes ports."""
    plain: dict[str, Any] = {
        "host_ifname": "h", "host_ifindex": 7, "bridge_ifindex": 8, "mac": bytes(6), "mtu": 1500,
        "group": 9,
    }  # fmt: skip
    message = ifinfmsg()
    message["family"] = 7
    protinfo = {"attrs": [("IFLA_BRPORT_MODE", 1)]}
    expected = encoded(
        message, encode.RTM_SETLINK, REQUEST_ACK, 3, {"index": 7, "family": 7},
        ("IFLA_PROTINFO", protinfo),
    )  # fmt: skip
    found = encode.encode_host(**plain, hairpin=True).removeprefix(encode.encode_host(**plain))
    # pyroute2 leaves the flag out; without it the kernel takes the attribute for an old one's.
    plain_head = struct.pack("=HH", 12, encode.IFLA_PROTINFO)
    nested_head = struct.pack("=HH", 12, encode.IFLA_PROTINFO | encode.NLA_F_NESTED)
    assert found == expected.replace(plain_head, nested_head)


def test_encoding_is_cheap() -> None:
    """Both batches of a container take at most 0.2 ms of CPU (best of several rounds)."""
    interface = IPv4Interface("172.29.0.2/16")
    rounds = []
    for _ in range(20):
        before = time.thread_time_ns()
        for index in range(10):
            encode.encode_host(
                host_ifname="ar0123456789abc",
                host_ifindex=1000 + index,
                bridge_ifindex=7,
                mac=b"\x02\x42\x0a\x00\x00\x02",
                mtu=1500,
                group=1 << 31,
            )
            encode.encode_inside(interface, 1)
        rounds.append(time.thread_time_ns() - before)

    assert min(rounds) / 10 < 200_000
