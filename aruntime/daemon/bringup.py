"""A forked init on its way to its program: what the daemon does meanwhile, and what it waits for.

Called by :mod:`aruntime.daemon.life`, which forked it and undoes everything if this fails.
"""

from __future__ import annotations

import os
import time

import msgspec
import structlog

from aruntime.container import logfile
from aruntime.container.state import ContainerState, Status, move
from aruntime.daemon.parts import Parts
from aruntime.daemon.pump import Source
from aruntime.daemon.record import Container, Input, Streams
from aruntime.daemon.shim_client import Reply
from aruntime.daemon.shim_launch import Launch
from aruntime.kernel import process

journal = structlog.get_logger()


async def bring_up(parts: Parts, container: Container, child: Launch, streams: Streams) -> None:
    """Get a forked init to its program; the run is known on disk before that can do anything.

    That and more is done while init sets the container up, except with a terminal, whose
    descriptors come with the end of that. The record in memory says what is the case: a container
    that is not set up does not run, and nobody may look into it.

    Raises:
        InitFailed: it could not be set up, or its program could not be executed.
        AruntimeError, OSError: the shim went away; the disk refused.
    """
    created: Reply | None = None
    if container.config.tty:
        created = await child.created()
        _take_terminal(container, created, streams)
    elif streams.stdin_write >= 0:
        container.stdin = Input(streams.stdin_write, tty=False)
        streams.stdin_write = -1
    try:
        coming = _running_state(parts, container, child.pid)
    except ProcessLookupError:
        (await child.created()).close()  # says why it is gone
        raise
    await parts.save_state(container, coming)
    add_sources(parts, container, streams)
    await child.allow()
    if created is None:
        created = await child.created()
    for warning in created.fields.get("warnings", ()):
        journal.warning("container started with less than asked", id=container.id, why=warning)
    created.close()
    container.held_by_shim = True
    container.pidfd = child.take_pidfd()
    container.state = coming
    await child.running()


def _take_terminal(container: Container, created: Reply, streams: Streams) -> None:
    """Move the descriptors of a pty into the record."""
    container.master_fd = created.take("master")
    streams.stdout_read = created.take("pty_read")
    streams.stderr_read = created.take("pty_write")
    if container.config.open_stdin:
        container.stdin = Input(os.dup(container.master_fd), tty=True)


def add_sources(parts: Parts, container: Container, streams: Streams) -> None:
    """Give the read ends to the pump; with a pty the pair is its private pipe."""
    sink = container.sink
    assert sink is not None
    if container.config.tty:
        parts.pump.add(
            Source(
                sink,
                streams.stdout_read,
                logfile.STDOUT,
                master_fd=container.master_fd,
                pipe_write_fd=streams.stderr_read,
            )
        )
    else:
        parts.pump.add(Source(sink, streams.stdout_read, logfile.STDOUT))
        parts.pump.add(Source(sink, streams.stderr_read, logfile.STDERR))
    streams.stdout_read = streams.stderr_read = -1


def _running_state(parts: Parts, container: Container, pid: int) -> ContainerState:
    """Return what the state is once the program of a forked init runs.

    Raises:
        ProcessLookupError: init is gone.
    """
    coming = msgspec.structs.replace(container.state)
    move(coming, Status.RUNNING)
    coming.pid = pid
    coming.start_time = process.start_time(pid)
    coming.boot_id = parts.boot_id
    coming.started_ns = time.time_ns()
    coming.finished_ns = 0
    coming.exit_code = None
    coming.error = ""
    coming.oom_killed = False
    return coming
