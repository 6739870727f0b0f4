"""Notifications to systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aruntime.daemon import sdnotify


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A datagram socket in systemd's place."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield listening


def test_assignments_arrive_in_one_datagram(systemd: socket.socket) -> None:
    """systemd gets one line per assignment."""
    assert sdnotify.notify(sdnotify.READY, "STATUS=Listening")
    assert systemd.recv(1000) == b"READY=1\nSTATUS=Listening"


def test_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading @ stands for NUL."""
    name = f"aruntime-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert sdnotify.notify(sdnotify.STOPPING)
        assert listening.recv(100) == b"STOPPING=1"


def test_reload_carries_the_time(systemd: socket.socket) -> None:
    """Type=notify-reload compares MONOTONIC_USEC with its own request."""
    assert sdnotify.reloading()
    lines = systemd.recv(1000).decode().splitlines()
    assert lines[0] == "RELOADING=1"
    assert lines[1].removeprefix("MONOTONIC_USEC=").isdigit()


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Without systemd a notification is no error."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sdnotify.notify(sdnotify.READY)


def test_watchdog_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """The period counts only for the process it was meant for."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert sdnotify.watchdog_seconds() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert sdnotify.watchdog_seconds() == 0.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert sdnotify.watchdog_seconds() == 30.0
    monkeypatch.setenv("WATCHDOG_USEC", "often")
    assert sdnotify.watchdog_seconds() == 0.0


async def test_watchdog_is_fed_twice_per_period(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    """Three notifications in one period and a bit: at its start, half and end."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    with trio.move_on_after(11):
        await sdnotify.feed_watchdog()
    systemd.setblocking(False)
    assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


async def test_unwatched_daemon_feeds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without WatchdogSec= the task ends at once."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with trio.fail_after(5):
        await sdnotify.feed_watchdog()
