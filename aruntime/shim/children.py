"""The shim's record of one child, and what becomes of its descriptors.

A child is a container's init or an exec'd process. Records are kept small: a thousand idle
containers shall cost the shim a megabyte at most.

    spawning ──► created ──► starting ──► running
        └───────────┴───────────┴──► failing (until it is a zombie, then reaped and forgotten)
"""

from __future__ import annotations

import os

from aruntime.container import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

SPAWNING = "spawning"
CREATED = "created"
STARTING = "starting"
RUNNING = "running"
FAILING = "failing"

HELD_NAMES = (
    "stdout_read",
    "stderr_read",
    "stdin_write",
    "master",
    "pty_read",
    "pty_write",
    "log",
    "index",
    "netns",
)
"""Descriptors that outlive the launch, in the order in which they are handed over."""

NAMESPACE_NAMES = ("netns", "mntns")
"""Descriptors that keep a container's namespaces until its books are closed."""

MADE_NAMES = ("master", "pty_read", "pty_write", "netns")
"""Those of HELD_NAMES that the launch makes; the others the daemon has given and has itself."""


class Child:
    """One child; owns every descriptor in it.

    Attributes:
        fds: held descriptors by name, of HELD_NAMES and NAMESPACE_NAMES.
        channel: the socket to init until execve, None afterwards.
        intermediate: pid and pidfd of the process before init, until it is reaped.
        failure: fields of ``failed``, once the launch has failed.
        ended: names of the streams that are at their end.
        start_at_once: whether it runs as soon as it is set up.
        announced: whether the daemon is told of it as soon as it is forked.
    """

    __slots__ = (
        "announced",
        "channel",
        "ended",
        "exec_id",
        "failure",
        "fds",
        "id",
        "intermediate",
        "pid",
        "pidfd",
        "start_at_once",
        "state",
        "tty",
    )

    def __init__(self, container_id: str, exec_id: str, *, tty: bool) -> None:
        self.id = container_id
        self.exec_id = exec_id
        self.tty = tty
        self.state = SPAWNING
        self.pid = 0
        self.pidfd = -1
        self.fds: dict[str, int] = {}
        self.channel: _socket.socket | None = None
        self.intermediate: tuple[int, int] | None = None
        self.failure: dict[str, Any] | None = None
        self.ended: tuple[str, ...] = ()
        self.start_at_once = False
        self.announced = False

    @property
    def key(self) -> tuple[str, str]:
        """What names it in messages: container id, and exec id or nothing."""
        return self.id, self.exec_id

    @property
    def is_set_up(self) -> bool:
        """Whether it is past READY: handed over to daemons, its output moved."""
        return self.state in (CREATED, STARTING, RUNNING)

    def fields(self, op: str) -> dict[str, Any]:
        """Return a message about this child."""
        named = {"exec_id": self.exec_id} if self.exec_id else {}
        return {"op": op, "id": self.id, **named}

    def held(self, names: tuple[str, ...] = HELD_NAMES) -> dict[str, int]:
        """Return pidfd and those of the named descriptors that there are, in this order."""
        there = [name for name in names if name in self.fds]
        return {"pidfd": self.pidfd, **{name: self.fds[name] for name in there}}

    def take_namespaces(self) -> list[int]:
        """Return the descriptors of its namespaces, the caller's from now on."""
        return [self.fds.pop(name) for name in NAMESPACE_NAMES if name in self.fds]

    def drop(self, name: str) -> None:
        """Close one held descriptor, if there is one."""
        fd = self.fds.pop(name, -1)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close everything."""
        for name in list(self.fds):
            self.drop(name)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.intermediate is not None:
            os.close(self.intermediate[1])
            self.intermediate = None


def key_of(fields: dict[str, Any]) -> tuple[str, str]:
    """Return container id and exec id of a message."""
    return str(fields.get("id", "")), str(fields.get("exec_id", ""))


def death(status: int) -> dict[str, Any]:
    """Return the failure of an init that died without a word."""
    code = os.waitstatus_to_exitcode(status)
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    text = f"init died while it was set up: {how}"
    return {"step": messages.STEP_INIT, "errno": 0, "strerror": text, "path": ""}
