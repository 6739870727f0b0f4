"""A container as the daemon holds it in memory, and how its standard streams are made.

The record ties together what is on disk (config.json, state.json) and what only a running daemon
has: descriptors, events, locks. It makes no decisions; those are the supervisor's and the life's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from aruntime.cgroups.driver import Cgroup
from aruntime.container.config import ContainerConfig
from aruntime.container.state import ContainerState
from aruntime.daemon.announcement import Announcement
from aruntime.daemon.pump import LogSink
from aruntime.daemon.turns import Turns

if TYPE_CHECKING:
    from aruntime.daemon.launching import Prepared

# A pipe without a reader; a pty whose slave side is closed.
GONE_ERRNOS = frozenset({errno.EPIPE, errno.EIO})


TENANT_LABEL = "aruntime.tenant"
"""Label, and attribute of events, that says who pays."""


class Exec:
    """One ``exec`` of a container: what was asked, and what became of it.

    Attributes:
        exit_code: None while it runs; -1 when the shim died and took the code along.
    """

    __slots__ = ("args", "exit_code", "exited", "id", "master_fd", "pid", "pidfd", "stdin", "tty")

    def __init__(self, exec_id: str, args: list[str], *, tty: bool) -> None:
        self.id = exec_id
        self.args = args
        self.tty = tty
        self.pid = 0
        self.pidfd = -1
        self.master_fd = -1
        self.stdin: Input | None = None
        self.exit_code: int | None = None
        self.exited = trio.Event()


class Input:
    """The way into a process: the write end of its stdin pipe, or its pty's master.

    Owns its descriptor. :meth:`send` waits while the reader is slow; cancelling it may leave a
    part of the bytes written, as with any pipe.
    """

    __slots__ = ("_fd", "_lock", "tty")

    def __init__(self, fd: int, *, tty: bool) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._lock = trio.StrictFIFOLock()
        self.tty = tty

    async def send(self, content: bytes) -> None:
        """Write bytes; a reader that is gone is not an error, its process is ending."""
        async with self._lock:
            rest = memoryview(content)
            while rest and self._fd >= 0:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    with contextlib.suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_writable(self._fd)
                except OSError as error:
                    if error.errno not in GONE_ERRNOS:
                        raise
                    return

    def close(self) -> None:
        """Close this end: the reader of a pipe sees end of file."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1


class Container:
    """One container of this daemon.

    Attributes:
        exited: set at the end of the present run, after its final reading; a new one per run.
        removed: set once nothing of it is left.
        lock: held by launch, pause, resume, update and exec's start, which exclude each other.
        stop_requested: somebody asked it to stop: no restart by policy.
        woken: ends the back-off before a restart; None outside of one.
        removing: a removal has begun.
        supervised: None without a task; set when the task lets go.
        launching: None unless a launch is under way; set when it has succeeded or failed.
        console_size: rows and columns of the terminal that starts the next run, or zeros.
        prepared: what the next start needs, if that was made beforehand.
        hidden: where its files are once its directory is off the disk's list, else empty.
    """

    __slots__ = (
        "address",
        "attached",
        "cgroup",
        "config",
        "console_size",
        "directory",
        "execs",
        "exited",
        "health",
        "held_by_shim",
        "hidden",
        "launching",
        "lock",
        "master_fd",
        "pidfd",
        "prepared",
        "removed",
        "removing",
        "sink",
        "state",
        "stdin",
        "stop_requested",
        "supervised",
        "woken",
    )

    def __init__(self, config: ContainerConfig, state: ContainerState, directory: str) -> None:
        self.config = config
        self.state = state
        self.directory = directory
        self.pidfd = -1
        self.master_fd = -1
        self.cgroup: Cgroup | None = None
        self.sink: LogSink | None = None
        self.stdin: Input | None = None
        self.execs: dict[str, Exec] = {}
        self.exited = Announcement()
        self.removed = Announcement()
        self.woken: Announcement | None = None
        self.lock = Turns()
        self.stop_requested = False
        self.removing = False
        self.supervised: Announcement | None = None
        self.launching: Announcement | None = None
        self.held_by_shim = False
        self.attached = 0
        self.address = ""
        self.console_size = (0, 0)
        self.prepared: Prepared | None = None
        self.hidden = ""
        self.health: Any = None

    @property
    def id(self) -> str:
        """The full id, 64 hex digits."""
        return self.config.id

    @property
    def short_id(self) -> str:
        """The id as people see it."""
        return self.config.id[:12]

    @property
    def is_running(self) -> bool:
        """Whether its init lives (paused or not)."""
        return self.pidfd >= 0

    def resize(self, rows: int, columns: int) -> None:
        """Tell the container's pty its size; without one nothing happens."""
        if self.master_fd >= 0:
            with contextlib.suppress(OSError):
                set_window_size(self.master_fd, rows, columns)

    def wake(self) -> None:
        """End the back-off before a restart, if there is one."""
        if self.woken is not None:
            self.woken.set()

    async def wait_launched(self) -> None:
        """Wait until no launch is under way: only then it is clear whether it runs."""
        while self.launching is not None:
            await self.launching.wait()

    @property
    def run_seconds(self) -> float:
        """How long the last run lasted."""
        return max(0, self.state.finished_ns - self.state.started_ns) / 1e9

    @property
    def shown_code(self) -> int:
        """The exit code as clients see it; unknown is -1."""
        return -1 if self.state.exit_code is None else self.state.exit_code

    def event_attributes(self, **more: str) -> dict[str, str]:
        """Return the attributes that every event of this container carries."""
        return {
            "image": self.config.image,
            "name": self.config.name,
            **self.config.labels,
            TENANT_LABEL: self.config.tenant,
            **more,
        }


class Streams(msgspec.Struct):
    """Both ends of a process's standard streams; -1 where there is none."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    stdin_write: int = -1
    stdout_read: int = -1
    stderr_read: int = -1

    def child_ends(self) -> dict[str, int]:
        """Return the descriptors for the child, by their names in the shim's protocol."""
        ends = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr}
        return {name: fd for name, fd in ends.items() if fd >= 0}

    def daemon_ends(self) -> dict[str, int]:
        """Return the daemon's descriptors, which the shim holds copies of."""
        ends = {
            "stdin_write": self.stdin_write,
            "stdout_read": self.stdout_read,
            "stderr_read": self.stderr_read,
        }
        return {name: fd for name, fd in ends.items() if fd >= 0}

    def output_ends(self) -> dict[str, int]:
        """Return the read ends of the output only."""
        return {name: fd for name, fd in self.daemon_ends().items() if name != "stdin_write"}

    def close_child_ends(self) -> None:
        """Close the child's ends, once the child has them."""
        for fd in self.child_ends().values():
            os.close(fd)
        self.stdin = self.stdout = self.stderr = -1

    def close(self) -> None:
        """Close everything that is still open."""
        self.close_child_ends()
        for fd in self.daemon_ends().values():
            os.close(fd)
        self.stdin_write = self.stdout_read = self.stderr_read = -1


def open_streams(*, tty: bool, stdin: bool) -> Streams:
    """Make the pipes of a process; with a tty there are none, init opens a pty inside.

    The caller owns all descriptors. Without ``stdin`` the process reads /dev/null.
    """
    streams = Streams()
    if tty:
        return streams
    try:
        if stdin:
            streams.stdin, streams.stdin_write = os.pipe2(os.O_CLOEXEC)
        else:
            streams.stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        streams.stdout_read, streams.stdout = os.pipe2(os.O_CLOEXEC)
        streams.stderr_read, streams.stderr = os.pipe2(os.O_CLOEXEC)
    except OSError:
        streams.close()
        raise
    return streams


def set_window_size(master_fd: int, rows: int, columns: int) -> None:
    """Tell a pty its size in characters (TIOCSWINSZ); its foreground job gets SIGWINCH."""
    fcntl.ioctl(master_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
