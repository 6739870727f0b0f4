"""Telling systemd about the daemon's state, as sd_notify(3) describes it.

Without NOTIFY_SOCKET in the environment every call does nothing. Abstract addresses (a leading
``@``) are systemd's affair and are supported as the manual page says.
"""

from __future__ import annotations

import os
import socket
import time

import trio

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def notify(*assignments: str) -> bool:
    """Send assignments (``READY=1``, ``STATUS=…``) in one datagram.

    Returns False when nobody asked to be notified or the socket is gone: a notification is
    never worth failing for.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.send("\n".join(assignments).encode())
        except OSError:
            return False
    return True


def reloading() -> bool:
    """Say that the configuration is read again; :func:`notify` READY ends it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float:
    """The watchdog's period (WatchdogSec=) if it is meant for this process, else 0."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return 0.0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0


async def feed_watchdog() -> None:
    """Notify twice per period for as long as the event loop runs; returns if not asked to."""
    period = watchdog_seconds()
    while period > 0:
        notify(WATCHDOG)
        await trio.sleep(period / 2)
