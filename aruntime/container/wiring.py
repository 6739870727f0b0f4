"""The two sides of a container's network: netlink batches, encoded by aruntime.network, sent here.

The host's batch is sent from the host's network namespace with the host's privileges, the inside
one from the new namespace. Which messages they hold is not known here.
"""

from __future__ import annotations

import _socket
import binascii
import errno
import os

from aruntime.container import joining, messages
from aruntime.kernel import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from aruntime.container.channel import Channel

NETNS_PATH = "/proc/self/ns/net"
GO = b"G"
"""What init and the intermediate process say to each other."""


class HostNetwork:
    """The two sides of a container's network: batches encoded elsewhere, sent from where they
    belong.

    Owns a socket in the host's network namespace from before it is left; with an intermediate
    process that one owns it instead, because the kernel asks for the sender's privileges too.
    """

    __slots__ = ("_channel", "_entries", "_peer", "_socket")

    def __init__(
        self, entries: Sequence[dict[str, Any]], peer: _socket.socket | None, channel: Channel
    ) -> None:
        self._entries = entries
        self._peer = peer
        self._channel = channel
        self._socket: _socket.socket | None = None
        if peer is None and any(entry["host"] for entry in entries):
            channel.step = messages.STEP_NETLINK_HOST
            self._socket = netlink.open_socket()

    def connect(self) -> None:
        """Configure both sides, from inside the new network namespace.

        Raises:
            OSError: what the kernel answered.
        """
        channel = self._channel
        channel.step = messages.STEP_NETLINK_HOST
        if self._peer is not None:
            hand_over_network(self._peer)
        elif self._socket is not None:
            netns_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            send_host_batches(self._entries, self._socket, netns_fd, channel)
            self._socket.close()
        channel.step = messages.STEP_NETLINK_INSIDE
        for entry in self._entries:
            set_sysctls(entry.get("sysctls", {}))
            if entry["inside"]:
                inside = netlink.open_socket()
                netlink.send_and_ack(inside, binascii.a2b_base64(entry["inside"]))
                inside.close()


def set_sysctls(values: dict[str, str]) -> None:
    """Set parameters of this network namespace, through the host's /proc.

    Raises:
        OSError: as write(2).
    """
    for path, value in values.items():
        try:
            joining.write_file(f"/proc/sys/{path}", value.encode())
        except FileNotFoundError:
            continue  # a kernel without that protocol


def send_host_batches(
    entries: Sequence[dict[str, Any]], sock: _socket.socket, netns_fd: int, channel: Channel
) -> None:
    """Send the host's batches, in which ``netns_fd`` of each entry means the new namespace.

    Closes ``netns_fd``.

    Raises:
        OSError: what the kernel answered.
    """
    for entry in entries:
        if not entry["host"]:
            continue
        number = entry["netns_fd"]
        if number in (sock.fileno(), channel.fd, netns_fd):
            raise OSError(errno.EBUSY, f"descriptor {number}, agreed for the netns, is in use")
        os.dup2(netns_fd, number, inheritable=False)
        try:
            netlink.send_and_ack(sock, binascii.a2b_base64(entry["host"]))
        finally:
            os.close(number)
    os.close(netns_fd)


def hand_over_network(peer: _socket.socket) -> None:
    """In the real init: let the intermediate process connect this network namespace."""
    netns_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    peer.sendmsg([GO], [messages.rights([netns_fd])])
    os.close(netns_fd)
    expect_go(peer)
    peer.close()


def expect_go(peer: _socket.socket) -> None:
    """Wait for the other process; exits without a word if it died, having spoken itself."""
    if peer.recv(1) != GO:
        os._exit(1)
