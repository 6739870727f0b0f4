"""Netlink conversations with the real kernel, by requests that need no privilege."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from aruntime.kernel import netlink

if TYPE_CHECKING:
    import _socket

NLM_F_REQUEST = 1
RTM_GETLINK = 18
LOOPBACK = 1
NOWHERE = 2_000_000_000


def get_link(index: int, sequence: int, flags: int = NLM_F_REQUEST | netlink.NLM_F_ACK) -> bytes:
    """Return a request for one network link (struct ifinfomsg after the header)."""
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    return struct.pack("=IHHII", 16 + len(body), RTM_GETLINK, flags, sequence, 0) + body


@pytest.fixture(name="sock")
def _sock() -> Iterator[_socket.socket]:
    """Return a netlink socket."""
    sock = netlink.open_socket()
    yield sock
    sock.close()


def test_all_acknowledged(sock: _socket.socket) -> None:
    """A batch of good requests returns when each is answered; their results are skipped."""
    netlink.send_and_ack(sock, get_link(LOOPBACK, 1) + get_link(LOOPBACK, 2))


def test_refusal_names_the_message(sock: _socket.socket) -> None:
    """The kernel's refusal is raised with the place of the message; later ones were answered."""
    batch = get_link(LOOPBACK, 5) + get_link(NOWHERE, 6) + get_link(LOOPBACK, 7)
    with pytest.raises(OSError, match="No such device") as caught:
        netlink.send_and_ack(sock, batch)

    assert caught.value.errno == errno.ENODEV
    assert caught.value.__notes__ == ["netlink message 1 of the batch"]
    netlink.send_and_ack(sock, get_link(LOOPBACK, 8))


@pytest.mark.parametrize(
    "batch",
    [
        b"\0" * 5,
        struct.pack("=IHHII", 4, RTM_GETLINK, 5, 1, 0),
        get_link(LOOPBACK, 1)[:-1],
        get_link(LOOPBACK, 1, NLM_F_REQUEST),
        get_link(LOOPBACK, 1) * 2,
    ],
    ids=["no header", "length below the header", "cut off", "no answer asked for", "same number"],
)
def test_malformed_batch(sock: _socket.socket, batch: bytes) -> None:
    """What could wait for ever, or mix answers up, is refused before anything is sent."""
    with pytest.raises(OSError, match="netlink") as caught:
        netlink.send_and_ack(sock, batch)

    assert caught.value.errno == errno.EBADMSG


def test_split_honours_alignment() -> None:
    """A message whose length is no multiple of four is followed by padding."""
    odd = struct.pack("=IHHII", 17, 99, 0, 1, 0) + b"x"

    assert netlink.split(odd + b"\0\0\0" + get_link(1, 2)) == [odd, get_link(1, 2)]
