"""Links of ended containers: the kernel removes them, and what it keeps too long is removed here.

A veth pair goes with the network namespace of its container, some milliseconds after the last
process. But sockets hold a namespace too: a connection whose last bytes nobody acknowledges is
tried again for minutes after its program ended (net.ipv4.tcp_orphan_retries in
Documentation/networking/ip-sysctl.rst), and nobody can acknowledge them once the container's
address is released. So can another container that shares the namespace. The link would hold one of
the bridge's ports until then, and look as if something ran there.

Removing a link holds the kernel's lock of all links for some 20 ms, which no start or end of a
container is to wait for: hence the time that the kernel is given first.

Out of scope: links of running containers (live).
"""

from __future__ import annotations

import errno
import re
import secrets
import socket
import threading
import time
from collections import deque

from aruntime.network import encode, live

PREFIX = "ar"
NAME = re.compile(rf"{PREFIX}[0-9a-f]{{13}}")
"""What the host links of containers are called."""
GRACE_SECONDS = 1.0


def link_name(container_id: str) -> str:
    """Return a name for a new host link of a container, which no link ever had."""
    return f"{PREFIX}{container_id[:7]}{secrets.token_hex(3)}"


class Departed:
    """The links that are waited for. Any thread may call any method at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, str]] = deque()
        """When each is removed at the latest (monotonic clock), and its name; the oldest first."""

    def add(self, *ifnames: str) -> None:
        """Wait for links whose containers have ended; by name, which no other link ever gets."""
        deadline = time.monotonic() + GRACE_SECONDS
        with self._lock:
            self._waiting.extend((deadline, ifname) for ifname in ifnames)

    def is_due(self) -> bool:
        """Whether the kernel has had its time with any of them."""
        waiting = self._waiting
        return bool(waiting) and waiting[0][0] <= time.monotonic()

    def sweep(self, *, at_once: bool = False) -> list[str]:
        """Remove the links that are still there although the kernel had its time; blocks.

        Acts on the network namespace of the calling thread.

        Args:
            at_once: give it no time.

        Returns:
            The names of those that were removed.

        Raises:
            OSError: the kernel refused; that link is forgotten, the others are tried next time.
        """
        removed: list[str] = []
        while True:
            with self._lock:
                if not self._waiting or not (at_once or self.is_due()):
                    return removed
                _, ifname = self._waiting.popleft()
            if _remove(ifname):
                removed.append(ifname)


def _remove(ifname: str) -> bool:
    """Remove a link; returns whether it was there.

    Raises:
        OSError: the kernel refused.
    """
    try:
        index = socket.if_nametoindex(ifname)
    except OSError:
        return False
    try:
        live.send(encode.encode_removal(index))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    return True
