"""Links of running containers: joined to a network, taken out of it.

The host's side is sent from the host's network namespace, with the container's at the descriptor
that the batch names; the inner side is sent by a socket that was opened in the container's. A
thread visits that namespace only to open the socket and to set parameters, and is back before
anything else can run on it. Everything blocks.

Out of scope: addresses and names (attach, networks), what a container's start sends (init does).
"""

from __future__ import annotations

import base64
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from aruntime.kernel import namespaces, netlink

OWN_NETNS = "/proc/thread-self/ns/net"


class FreeIndexes:
    """Interface indexes for host links, none of them twice.

    Chosen here because the kernel honours the index inside only if both are given. From a random
    start, so that daemons side by side do not meet; far above the kernel's own. Not thread-safe.
    """

    def __init__(self) -> None:
        self._next = (1 << 24) + secrets.randbelow(1 << 29)

    def take(self) -> int:
        """Return an index that no link of this thread's network namespace has."""
        while True:
            candidate = self._next
            self._next += 1
            try:
                socket.if_indextoname(candidate)
            except OSError:
                return candidate


def send(batch: bytes) -> None:
    """Send a batch from the network namespace of this thread.

    Raises:
        OSError: what the kernel answered.
    """
    with closing(netlink.open_socket()) as sock:
        netlink.send_and_ack(sock, batch)


def send_inside(netns_fd: int, batch: bytes) -> None:
    """Send a batch inside a network namespace.

    Raises:
        OSError: what the kernel answered.
    """
    with visiting(netns_fd):
        sock = netlink.open_socket()
    with closing(sock):
        netlink.send_and_ack(sock, batch)


def connect(netns_fd: int, payload: dict[str, Any]) -> None:
    """Do for a running container what init does at a start, with the launch payload's entry.

    Args:
        netns_fd: its network namespace, which the entry was made for; stays the caller's.
        payload: ``Attachment.netlink``.

    Raises:
        OSError: what the kernel answered; the host's side may stand then.
    """
    send(base64.b64decode(payload["host"]))
    with visiting(netns_fd):
        for path, value in payload["sysctls"].items():
            _set(f"/proc/sys/{path}", value)
    send_inside(netns_fd, base64.b64decode(payload["inside"]))


@contextmanager
def visiting(netns_fd: int) -> Iterator[None]:
    """Have this thread in another network namespace while the block runs.

    Raises:
        OSError: as setns(2).
    """
    own = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(netns_fd, namespaces.CLONE_NEWNET)
        try:
            yield
        finally:
            namespaces.setns(own, namespaces.CLONE_NEWNET)
    finally:
        os.close(own)


def _set(path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError:
        pass  # a kernel without that protocol
