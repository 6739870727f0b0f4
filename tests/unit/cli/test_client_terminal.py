"""The client and its surroundings: signals, window size, raw mode and back."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Served, Terminal


async def test_interrupt_kills_client_and_command(served: Served) -> None:
    """^C where signals are not forwarded: default action, command cancelled."""
    async with served.started("hang") as process:
        await served.seen.ready.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == -signal.SIGINT
        await served.seen.ended.wait()


@pytest.mark.parametrize(
    "name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM"]
)
async def test_signals_are_forwarded(served: Served, name: str) -> None:
    """A command that asked for signals gets them; the client lives on."""
    number = signal.Signals[name]
    async with served.started("signals", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        await process.stdout.receive_some(100)
        process.send_signal(number)
        assert await process.wait() == number


async def test_signals_get_through_while_stdout_blocks(served: Served) -> None:
    """A client stuck in a write to a reader that pauses still forwards ^C."""
    reader, writer = os.pipe()
    async with served.started("signals", "block", stdout=writer) as process:
        os.close(writer)
        await trio.lowlevel.wait_readable(reader)
        await served.wait_blocked_in_write(process.pid)
        process.send_signal(signal.SIGTERM)
        while True:
            await trio.lowlevel.wait_readable(reader)
            if not os.read(reader, 1 << 20):
                break
        assert await process.wait() == signal.SIGTERM
    os.close(reader)


async def test_ignored_signals_stay_ignored(served: Served) -> None:
    """nohup's SIGHUP is not taken back."""
    shell = f"trap '' HUP; exec {' '.join(served.command('signals'))}"
    async with served.started_command(["sh", "-c", shell], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        await process.stdout.receive_some(100)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert await process.wait() == signal.SIGUSR1


async def test_terminal_is_seen(served: Served, terminal: Terminal) -> None:
    """The session knows about terminals and their size."""
    async with served.started(
        "show", stdin=terminal.slave, stdout=terminal.slave, stderr=subprocess.STDOUT
    ):
        assert b"TrueTrue 30x100" in await terminal.read_until(b"x100")


async def test_window_size_is_told(served: Served, terminal: Terminal) -> None:
    """SIGWINCH becomes a resize."""
    async with served.started("size", stdin=terminal.slave, stdout=terminal.slave) as process:
        await terminal.read_until(b"ready")
        termios.tcsetwinsize(terminal.slave, (50, 132))
        process.send_signal(signal.SIGWINCH)
        await terminal.read_until(b"50x132")


RAW_OFF = termios.ICANON | termios.ECHO | termios.ISIG


@pytest.mark.parametrize("argument", ["", "keep"])
async def test_raw_mode_and_back(served: Served, terminal: Terminal, argument: str) -> None:
    """In raw mode ^C is a byte; afterwards the terminal is as before, whoever restores it."""
    before = termios.tcgetattr(terminal.slave)
    streams = {"stdin": terminal.slave, "stdout": terminal.slave}
    async with served.started("raw", argument, **streams) as process:
        await terminal.read_until(b"raw")
        assert not terminal.local_flags() & RAW_OFF
        os.write(terminal.master, b"\x03")
        await terminal.read_until(repr(b"\x03").encode())
        assert await process.wait() == 0
    assert termios.tcgetattr(terminal.slave) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
async def test_deadly_signal_restores_the_terminal(
    served: Served, terminal: Terminal, number: signal.Signals
) -> None:
    """A client killed in raw mode leaves a usable terminal and the right wait status."""
    before = termios.tcgetattr(terminal.slave)
    streams = {"stdin": terminal.slave, "stdout": terminal.slave}
    async with served.started("raw", **streams) as process:
        await terminal.read_until(b"raw")
        process.send_signal(number)
        assert await process.wait() == -number
    assert termios.tcgetattr(terminal.slave) == before


async def test_daemon_that_dies_restores_the_terminal(served: Served, terminal: Terminal) -> None:
    """The client says what happened, exits with 125 and leaves a usable terminal."""
    before = termios.tcgetattr(terminal.slave)
    path = served.path.with_name("dying.sock")
    served.env["ARUNTIME_HOST"] = f"unix://{path}"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    with listener:
        streams = {"stdin": terminal.slave, "stdout": terminal.slave}
        async with served.started("raw", stderr=subprocess.PIPE, **streams) as process:
            connection, _ = await listener.accept()
            await connection.send(b"R\0\0\0\x011" + b"O\0\0\0\x03raw")
            await terminal.read_until(b"raw")
            assert not terminal.local_flags() & RAW_OFF
            connection.close()
            assert await process.wait() == 125
            assert process.stderr is not None
            assert b"the daemon went away" in await process.stderr.receive_some(1000)
    assert termios.tcgetattr(terminal.slave) == before
