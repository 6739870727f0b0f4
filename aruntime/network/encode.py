"""The netlink messages that connect a container, encoded ahead of its start.

The daemon encodes, the container's init only sends: a start then costs two sends and no look-up.
The layouts are those of rtnetlink(7) and linux/{netlink,rtnetlink,if_link,if_addr,veth}.h, packed
here with struct in a few tens of microseconds (importing pyroute2 costs 135 ms, encoding with it
about a millisecond); a test compares every batch byte for byte with pyroute2's own encoding.

Two batches per container, every message acknowledged (NLM_F_ACK):

* *host*, sent from the host's network namespace: the veth pair, its host end up and a port of the
  bridge, its peer ``eth0`` placed straight into the namespace open at a known descriptor. The peer
  cannot be brought up in the same message (ENOTCONN), and its index is only honoured when the
  index of the host end is given too (drivers/net/veth.c), so both are chosen here.
* *inside*, sent from the container's namespace: loopback up, eth0 up, address, default route.

Neither end makes itself an IPv6 address: duplicate detection, MLD reports and router solicitations
would be counted (and billed) as traffic of a container that has not sent a byte, and cost 0.7 ms of
kernel time per start. The request is a message of its own because IFLA_AF_SPEC is ignored at
creation, and looked at only after IFF_UP of the same message (net/core/rtnetlink.c). The host end,
up without carrier until eth0 is up, has no address yet.

Both ends are asked for with one queue, which is what they have anyway: unasked the kernel makes one
per processor and takes the others back, for which it waits twice for all processors while it holds
the lock on links (veth_init_queues in drivers/net/veth.c, netif_set_real_num_tx_queues).

The sender needs CAP_NET_ADMIN over both namespaces.

IPv6 only where the network has it: its address skips duplicate detection (IFA_F_NODAD), since the
lease says that nobody else has it and the start does not wait a second for the kernel to agree.

Out of scope: sockets and acknowledgements (aruntime.kernel.netlink), which address and which
bridge (ipam, attach), and removing links: a veth goes with its network namespace, an explicit
deletion costs 14-36 ms under the rtnl lock.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

NETNS_FD = 250
"""Descriptor number at which the sender of a host batch holds the new network namespace."""

LOOPBACK_IFINDEX = 1
"""The loopback link is the first of every network namespace."""
ETH0_IFINDEX = 100
"""Index of eth0 inside: above any fallback tunnel (sit0, tunl0, …) a new namespace starts with;
that of eth1 is the next."""

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_NEWQDISC = 36
RTM_DELQDISC = 37

AF_INET = 2
AF_BRIDGE = 7
AF_INET6 = 10

IFF_UP = 0x1
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_MASTER = 10
IFLA_PROTINFO = 12
IFLA_LINKINFO = 18
IFLA_AF_SPEC = 26
IFLA_GROUP = 27
IFLA_NET_NS_FD = 28
IFLA_NUM_TX_QUEUES = 31
IFLA_NUM_RX_QUEUES = 32
IFLA_INFO_KIND = 1
IFLA_BRPORT_MODE = 4
NLA_F_NESTED = 0x8000
IFLA_INFO_DATA = 2
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
VETH_INFO_PEER = 1

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_F_PERMANENT = 0x80
IFA_F_NODAD = 0x02

RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RTN_UNICAST = 1

TC_H_ROOT = 0xFFFFFFFF
TCA_KIND = 1
TCA_OPTIONS = 2
TCA_TBF_PARMS = 1
TCA_TBF_RATE64 = 4
TCA_TBF_BURST = 6
TC_LINKLAYER_ETHERNET = 1
BURST_PART = 100
LEAST_BURST_BYTES = 32768
"""A shaped link may send a hundredth of a second's worth at once, and this much at least: a packet
merged by GSO is not taken apart then for a rate of 26 Mbit/s or more."""
QUEUE_PART = 20
"""What it may not send yet waits for a twentieth of a second at most; then it is dropped."""

_NLMSGHDR = struct.Struct("=IHHII")
_NLATTR = struct.Struct("=HH")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_TCMSG = struct.Struct("=BxxxiIII")
_TC_RATESPEC = struct.Struct("=BBHhHI")
_TC_TBF_QOPT = struct.Struct("=12s12sIII")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_INT = struct.Struct("=i")


def mac_of(address: int) -> bytes:
    """Return the hardware address of an IPv4 address, docker's way: 02:42 and the four bytes.

    One address always has one hardware address, so no ARP cache goes stale when an address passes
    to another container.
    """
    return b"\x02\x42" + address.to_bytes(4, "big")


def ifname(interface: int) -> str:
    """Return the name inside of an interface by its number."""
    return f"eth{interface}"


def sysctls(interface: int, *, ipv6: bool = False) -> dict[str, str]:
    """Return what must be set below /proc/sys before the interface is up.

    A neighbour must not make itself the container's router by IPv6 (CVE-2020-13401), and a host
    that has IPv6 switched off for new links has it on where a network was made with it. There are
    no netlink messages for these.
    """
    base = f"net/ipv6/conf/{ifname(interface)}"
    return {f"{base}/accept_ra": "0", **({f"{base}/disable_ipv6": "0"} if ipv6 else {})}


def encode_host(
    *,
    host_ifname: str,
    host_ifindex: int,
    bridge_ifindex: int,
    mac: bytes,
    mtu: int,
    group: int,
    interface: int = 0,
    netns_fd: int = NETNS_FD,
    hairpin: bool = False,
    rate_bytes: int = 0,
) -> bytes:
    """Return the batch that makes the veth pair and makes its host end a port of the bridge.

    Args:
        rate_bytes: what the container receives per second at most; 0: there is no limit.
        hairpin: frames may leave by the port they came from. A container that reaches its own
            published port needs it where br_netfilter turns the frame around within the bridge.
    """
    peer = (
        _IFINFOMSG.pack(0, 0, ETH0_IFINDEX + interface, 0, 0)
        + _attribute(IFLA_IFNAME, _name(ifname(interface)))
        + _attribute(IFLA_ADDRESS, mac)
        + _attribute(IFLA_MTU, _U32.pack(mtu))
        + _attribute(IFLA_NET_NS_FD, _INT.pack(netns_fd))
        + _ONE_QUEUE
    )
    body = (
        _IFINFOMSG.pack(0, 0, host_ifindex, IFF_UP, IFF_UP)
        + _attribute(IFLA_IFNAME, _name(host_ifname))
        + _attribute(IFLA_MTU, _U32.pack(mtu))
        + _attribute(IFLA_GROUP, _U32.pack(group))
        + _attribute(IFLA_MASTER, _U32.pack(bridge_ifindex))
        + _ONE_QUEUE
        + _attribute(
            IFLA_LINKINFO,
            _attribute(IFLA_INFO_KIND, b"veth\0")
            + _attribute(IFLA_INFO_DATA, _attribute(VETH_INFO_PEER, peer)),
        )
    )
    messages = [(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body), _without_ipv6(host_ifindex)]
    if hairpin:
        messages.append(_hairpin(host_ifindex))
    if rate_bytes:
        messages.append(_shaper(host_ifindex, rate_bytes))
    return _batch(*messages)


def encode_inside(
    address: IPv4Interface,
    gateway: int = 0,
    *,
    interface: int = 0,
    address6: IPv6Interface | None = None,
    gateway6: int = 0,
    rate_bytes: int = 0,
) -> bytes:
    """Return the batch that brings up an interface, eth0 with loopback, and gives it its places.

    Args:
        address: its IPv4 address and subnet.
        gateway: where the default route leads; 0: there is none here.
        interface: its number.
        address6: its IPv6 address and subnet, None without IPv6.
        gateway6: where the IPv6 default route leads; 0: there is none here.
        rate_bytes: what it sends per second at most; 0: there is no limit.
    """
    ifindex = ETH0_IFINDEX + interface
    messages = [_link_up(LOOPBACK_IFINDEX)] if not interface else []
    messages.append(_without_ipv6(ifindex))
    if rate_bytes:
        messages.append(_shaper(ifindex, rate_bytes))
    messages += [_link_up(ifindex), _new_address(ifindex, address)]
    if address6 is not None:
        messages.append(_new_address(ifindex, address6))
    if gateway:
        messages.append(_default_route(ifindex, AF_INET, gateway.to_bytes(4, "big")))
    if address6 is not None and gateway6:
        messages.append(_default_route(ifindex, AF_INET6, gateway6.to_bytes(16, "big")))
    return _batch(*messages)


def encode_default_route(interface: int, gateway: int, gateway6: int = 0) -> bytes:
    """Return the batch that makes an interface the way out of a running container; 0: no way."""
    ifindex = ETH0_IFINDEX + interface
    messages = []
    if gateway:
        messages.append(_default_route(ifindex, AF_INET, gateway.to_bytes(4, "big")))
    if gateway6:
        messages.append(_default_route(ifindex, AF_INET6, gateway6.to_bytes(16, "big")))
    return _batch(*messages)


def encode_rate(ifindex: int, rate_bytes: int) -> bytes:
    """Return the batch that gives a link another rate; 0: none, ENOENT if it has none already."""
    if rate_bytes:
        return _batch(_shaper(ifindex, rate_bytes))
    return _batch((RTM_DELQDISC, 0, _TCMSG.pack(0, ifindex, 0, TC_H_ROOT, 0)))


def burst_bytes(rate_bytes: int) -> int:
    """Return what a link with a rate may send at once after a rest."""
    return max(rate_bytes // BURST_PART, LEAST_BURST_BYTES)


def encode_removal(ifindex: int) -> bytes:
    """Return the batch that removes a link, and with the host end of a veth pair the other."""
    return _batch((RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, ifindex, 0, 0)))


def encode_down(ifindex: int) -> bytes:
    """Return the batch that takes a link down: nothing passes it, its counters stay."""
    return _batch((RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, ifindex, 0, IFF_UP)))


def encode_loopback() -> bytes:
    """Return the batch for the inside of a container without network: loopback up, no more."""
    return _batch(_link_up(LOOPBACK_IFINDEX))


def _link_up(ifindex: int) -> tuple[int, int, bytes]:
    return RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, ifindex, IFF_UP, IFF_UP)


def _new_address(ifindex: int, at: IPv4Interface | IPv6Interface) -> tuple[int, int, bytes]:
    if isinstance(at, IPv4Interface):
        family, flags, broadcast = AF_INET, IFA_F_PERMANENT, at.network.broadcast_address.packed
    else:
        family, flags, broadcast = AF_INET6, IFA_F_PERMANENT | IFA_F_NODAD, b""
    body = (
        _IFADDRMSG.pack(family, at.network.prefixlen, flags, RT_SCOPE_UNIVERSE, ifindex)
        + _attribute(IFA_LOCAL, at.packed)
        + _attribute(IFA_ADDRESS, at.packed)
        + (_attribute(IFA_BROADCAST, broadcast) if broadcast else b"")
    )
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body


def _default_route(ifindex: int, family: int, gateway: bytes) -> tuple[int, int, bytes]:
    body = (
        _RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
        + _attribute(RTA_GATEWAY, gateway)
        + _attribute(RTA_OIF, _INT.pack(ifindex))
    )
    return RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body


def _without_ipv6(ifindex: int) -> tuple[int, int, bytes]:
    """Keep a link from making itself a link-local IPv6 address."""
    mode = _attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    body = _attribute(IFLA_AF_SPEC, _attribute(AF_INET6, mode))
    return RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, ifindex, 0, 0) + body


def _shaper(ifindex: int, rate_bytes: int) -> tuple[int, int, bytes]:
    """Let a link send no more than a rate: a token bucket (tc-tbf(8)), in place of a former one.

    What comes too fast waits in a short queue, so whoever sends by TCP is slowed, not cut.
    """
    burst = burst_bytes(rate_bytes)
    spec = _TC_RATESPEC.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate_bytes, 0xFFFFFFFF))
    queue = min(burst + rate_bytes // QUEUE_PART, 0xFFFFFFFF)
    options = _attribute(TCA_TBF_PARMS, _TC_TBF_QOPT.pack(spec, bytes(12), queue, 0, 0))
    options += _attribute(TCA_TBF_BURST, _U32.pack(min(burst, 0xFFFFFFFF)))
    if rate_bytes > 0xFFFFFFFF:
        options += _attribute(TCA_TBF_RATE64, _U64.pack(rate_bytes))
    body = (
        _TCMSG.pack(0, ifindex, 0, TC_H_ROOT, 0)
        + _attribute(TCA_KIND, b"tbf\0")
        + _attribute(TCA_OPTIONS, options)
    )
    return RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body


def _hairpin(host_ifindex: int) -> tuple[int, int, bytes]:
    """Let a port of a bridge send frames back to where they came from (linux/if_bridge.h)."""
    mode = _attribute(IFLA_BRPORT_MODE, b"\1")
    body = _IFINFOMSG.pack(AF_BRIDGE, 0, host_ifindex, 0, 0)
    return RTM_SETLINK, 0, body + _attribute(IFLA_PROTINFO | NLA_F_NESTED, mode)


def _name(name: str) -> bytes:
    return name.encode("ascii") + b"\0"


def _attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute; its length excludes the padding to four bytes."""
    length = _NLATTR.size + len(payload)
    return _NLATTR.pack(length, kind) + payload + bytes(-length % 4)


_ONE_QUEUE = _attribute(IFLA_NUM_TX_QUEUES, _U32.pack(1)) + _attribute(
    IFLA_NUM_RX_QUEUES, _U32.pack(1)
)


def _batch(*messages: tuple[int, int, bytes]) -> bytes:
    """Join messages (type, extra flags, body), numbered from 1 for their acknowledgements."""
    return b"".join(
        _NLMSGHDR.pack(
            _NLMSGHDR.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, 0
        )
        + body
        for sequence, (kind, flags, body) in enumerate(messages, start=1)
    )


def payload(
    host: bytes, inside: bytes, sysctls: Mapping[str, str], netns_fd: int = NETNS_FD
) -> dict[str, Any]:
    """Return the launch payload's entry for two batches and the settings written beside them."""
    return {
        "host": base64.b64encode(host).decode("ascii"),
        "inside": base64.b64encode(inside).decode("ascii"),
        "netns_fd": netns_fd,
        "sysctls": dict(sysctls),
    }


def without_network() -> dict[str, Any]:
    """Return the launch payload's entry for ``--network none``: loopback up, an empty host part."""
    return payload(b"", encode_loopback(), {})
