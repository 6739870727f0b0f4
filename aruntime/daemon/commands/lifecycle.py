"""start, stop, kill, restart, pause, resume, rm, rename, wait: one operation on some containers.

Each prints what it was given for every container that it succeeded with, reports the failures one
by one, and fails as a whole if one failed (docker's habit).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from aruntime.daemon import freezing
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.launching import signal_number
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, ContainerNotFound, os_error_text

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

IN_PARALLEL = 16


async def each(
    session: Session,
    daemon: Daemon,
    references: list[str],
    operation: Callable[[Container], Awaitable[object]],
) -> int:
    """Apply an operation to every container named; print names or errors in the order given."""
    outcomes: dict[int, AruntimeError | OSError | None] = {}
    limit = trio.CapacityLimiter(IN_PARALLEL)

    async def one(position: int, reference: str) -> None:
        async with limit:
            try:
                await operation(daemon.supervisor.find(reference))
                outcomes[position] = None
            except (AruntimeError, OSError) as error:
                outcomes[position] = error

    async with trio.open_nursery() as nursery:
        for position, reference in enumerate(references):
            nursery.start_soon(one, position, reference)
    for position, reference in enumerate(references):
        error = outcomes[position]
        if error is None:
            await session.out(f"{reference}\n")
        else:
            message = error.message if isinstance(error, AruntimeError) else os_error_text(error)
            await session.err(f"{PROGRAM}: {message}\n")
    return 1 if any(error is not None for error in outcomes.values()) else 0


async def run_stop(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Stop containers: their stop signal, then SIGKILL."""
    number = signal_number(parsed.string("signal")) if "signal" in parsed.given else None
    timeout = parsed.integer("time") if "time" in parsed.given else None
    return await each(
        session,
        daemon,
        parsed.args,
        lambda item: daemon.supervisor.stop(item, timeout=timeout, number=number),
    )


async def run_restart(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Stop and start containers."""
    timeout = parsed.integer("time") if "time" in parsed.given else None
    return await each(
        session, daemon, parsed.args, lambda item: daemon.supervisor.restart(item, timeout=timeout)
    )


async def run_kill(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Send a signal to containers."""
    number = signal_number(parsed.string("signal"))
    return await each(
        session, daemon, parsed.args, lambda item: daemon.supervisor.kill(item, number)
    )


async def run_pause(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Freeze containers."""
    return await each(session, daemon, parsed.args, lambda item: freezing.pause(daemon.parts, item))


async def run_resume(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Thaw containers."""
    return await each(
        session, daemon, parsed.args, lambda item: freezing.resume(daemon.parts, item)
    )


async def run_rm(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove containers; with -f a missing one is no failure (docker's rule)."""
    force, volumes = parsed.boolean("force"), parsed.boolean("volumes")
    references = parsed.args
    if force:
        known = []
        for reference in references:
            try:
                daemon.supervisor.find(reference)
                known.append(reference)
            except ContainerNotFound as error:
                await session.err(f"{PROGRAM}: {error.message}\n")
        references = known
    return await each(
        session,
        daemon,
        references,
        lambda item: daemon.supervisor.remove(item, force=force, volumes=volumes),
    )


async def run_rename(_session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Rename a container."""
    reference, name = parsed.args
    await daemon.supervisor.rename(daemon.supervisor.find(reference), name)
    return 0


async def run_wait(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Wait for containers to stop, print their exit codes."""
    session.open_ended = True
    containers = [daemon.supervisor.find(reference) for reference in parsed.args]
    for container in containers:
        code = await daemon.supervisor.wait(container)
        await session.out(f"{code}\n")
    return 0


TIME = Flag("time", "t", "int", None, "int", "Seconds to wait before killing the container")
SIGNAL = Flag("signal", "s", "string", None, "string", "Signal to send to the container")
CONTAINERS = "CONTAINER [CONTAINER...]"

COMMANDS = [
    Command(
        "stop", "Stop one or more running containers", run_stop, CONTAINERS,
        (SIGNAL, TIME), minimum=1, section="common", completes="running",
    ),
    Command(
        "restart", "Restart one or more containers", run_restart, CONTAINERS,
        (TIME,), minimum=1, section="common", completes="containers",
    ),
    Command(
        "kill", "Kill one or more running containers", run_kill, CONTAINERS,
        (Flag("signal", "s", "string", "KILL", "string", "Signal to send to the container"),),
        minimum=1, section="common", completes="running",
    ),
    Command(
        "pause", "Pause all processes within one or more containers", run_pause, CONTAINERS,
        minimum=1, section="common", completes="running",
    ),
    Command(
        "resume", "Resume all processes within one or more containers", run_resume, CONTAINERS,
        aliases=("unpause",), minimum=1, section="common", completes="paused",
    ),
    Command(
        "rm", "Remove one or more containers", run_rm, CONTAINERS,
        (
            Flag("force", "f", "bool", help="Force the removal of a running container"),
            Flag("volumes", "v", "bool", help="Remove anonymous volumes of the container"),
        ),
        minimum=1, section="common", completes="containers",
    ),
    Command(
        "rename", "Rename a container", run_rename, "CONTAINER NEW_NAME",
        minimum=2, maximum=2, completes="containers",
    ),
    Command(
        "wait", "Block until one or more containers stop, then print their exit codes", run_wait,
        CONTAINERS, minimum=1, completes="containers",
    ),
]  # fmt: skip
