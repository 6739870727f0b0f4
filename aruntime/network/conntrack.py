"""Flows that the kernel remembers: forgotten where they would lead past a port published anew.

Addresses are translated with the first packet of a flow and as that one was ever after. A flow of
UDP is over only when nobody has sent for a while, so a client that goes on sending would never
reach a container that was started anew with another address, or whose port was published after the
first packet. TCP needs nothing: a new connection is a new flow.

linux/netfilter/nfnetlink_conntrack.h: a deletion with a filter takes all flows that match. Kernels
before 6.8 know no filter for deletions and refuse; the flows then end by themselves.
"""

from __future__ import annotations

import struct

from aruntime.network.nfnetlink import NfTables, attribute, nested

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_DELETE = 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_PROTO = 2
CTA_PROTO_NUM = 1
CTA_PROTO_DST_PORT = 3
CTA_FILTER = 25
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_REPLY_FLAGS = 2
FILTER_PROTO_NUM = 1 << 3
FILTER_PROTO_DST_PORT = 1 << 5


def forget(tables: NfTables, protocol: int, port: int) -> None:
    """Forget all flows of a protocol (IANA's number) to a port of this host.

    Raises:
        OSError: the kernel refused; older ones always do.
    """
    place = attribute(CTA_PROTO_NUM, bytes([protocol]))
    place += attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
    flags = struct.pack("=I", FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT)
    body = nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, place)) + nested(
        CTA_FILTER,
        attribute(CTA_FILTER_ORIG_FLAGS, flags) + attribute(CTA_FILTER_REPLY_FLAGS, bytes(4)),
    )
    tables.order(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE, body)
