"""What has become of a container: its states, the moves between them, the record on disk.

Pure: no file and no clock is read here. ``state.json`` is written by
:mod:`aruntime.container.store`; what the container was asked to be is in
:mod:`aruntime.container.config`.

    created ──► running ◄──► pausing ──► paused
       │           │  ▲                    │
       │           ▼  │                    │
       │       restarting                  │
       ▼           │                       ▼
     exited ◄──────┴───────────────────────┘     exited ──► running, dead
"""

from __future__ import annotations

import enum

import msgspec

from aruntime.errors import InvalidTransition
from aruntime.network.ports import PublishedPort


class Status(enum.Enum):
    """The states, by the names docker shows (``pausing`` is ours and short-lived)."""

    CREATED = "created"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    DEAD = "dead"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    # A first start that fails leaves a container created.
    Status.CREATED: frozenset({Status.RUNNING, Status.EXITED, Status.DEAD}),
    Status.RUNNING: frozenset({Status.PAUSING, Status.RESTARTING, Status.EXITED}),
    # A freeze that fails goes back; a container can die while it is being frozen, or frozen.
    Status.PAUSING: frozenset({Status.PAUSED, Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED, Status.DEAD}),
    # A restart policy that finds its container exited announces the restart first.
    Status.EXITED: frozenset({Status.RUNNING, Status.RESTARTING, Status.DEAD}),
    # A removal that failed half-way can only be tried again.
    Status.DEAD: frozenset(),
}
"""Every move there is; staying where one is is always allowed."""

ACTIVE = frozenset({Status.RUNNING, Status.PAUSING, Status.PAUSED})
"""States in which an init process exists."""

OCI_STATUS = {
    Status.CREATED: "created",
    Status.RUNNING: "running",
    Status.PAUSING: "running",
    Status.PAUSED: "paused",
    Status.RESTARTING: "stopped",
    Status.EXITED: "stopped",
    Status.DEAD: "stopped",
}
"""The runtime-spec's names (runtime.md, State; ``paused`` is runc's addition)."""


class ContainerState(msgspec.Struct, kw_only=True):
    """The content of state.json. Times are Unix nanoseconds, 0 for never."""

    status: Status = Status.CREATED
    pid: int = 0
    """Init's pid in the runtime's namespace, 0 without a process."""
    start_time: int = 0
    """Init's start in clock ticks after boot: with ``boot_id`` it tells a pid from its reuse."""
    boot_id: str = ""
    """/proc/sys/kernel/random/boot_id when it was started."""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    """As docker shows it (128 + n by signal); None while it runs and when nobody knows."""
    oom_killed: bool = False
    error: str = ""
    """Why the last start failed, or what is unknown about the last run."""
    restart_count: int = 0
    starting: bool = False
    """``run`` made it, to be started at once: a daemon that dies before that keeps nothing."""
    stopped_by_user: bool = False
    """``stop`` was the last word: the policy unless-stopped keeps it down."""
    interfaces: int = 0
    """How many interfaces (eth0 …) it has had in the present run; their numbers stay used."""
    ports: list[PublishedPort] = []
    """What it has published in the present run."""
    log_dropped_bytes: int = 0
    """Output thrown away because the disk was full (``--log-opt mode=non-blocking``)."""

    @property
    def is_active(self) -> bool:
        """Whether an init process exists by this record."""
        return self.status in ACTIVE


def move(state: ContainerState, to: Status) -> None:
    """Change the status by the table.

    Raises:
        InvalidTransition: there is no such move; the record is unchanged.
    """
    if to is not state.status and to not in TRANSITIONS[state.status]:
        raise InvalidTransition(
            f"a container that is {state.status.value} cannot become {to.value}"
        )
    state.status = to
