"""More processes in a running container: exec, and the probes of health checks.

An exec's output goes to whoever started it, never into the container's log. Its process is a child
of the shim and stays a zombie until its own /proc/PID/io has been added to the container's
account (design.md §9.5); what it used of CPU and memory is the container's from the first
nanosecond, it runs in the same cgroup. Should this daemon die, the shim reads its output to nowhere
so that it goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator

import structlog
import trio

from aruntime.container import logfile
from aruntime.container.state import Status
from aruntime.daemon import launching
from aruntime.daemon.life import shell_exit
from aruntime.daemon.log_reader import Chunk
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container, Exec, Input, Streams, open_streams
from aruntime.errors import AruntimeError, Conflict

journal = structlog.get_logger()

READ_BYTES = 1 << 16
OUTPUT_GRACE_SECONDS = 1.0
"""How long output may follow an exec's end: a process it left behind may hold the pipes."""


async def start_exec(
    parts: Parts, container: Container, request: launching.ExecRequest
) -> tuple[Exec, Streams]:
    """Run a process in a container; its program has been executed when this returns.

    The caller owns the streams' daemon ends (with a tty the master is the exec's). The process
    is watched, metered and reaped in the background, whoever listens to it or not.

    Raises:
        Conflict: the container is not running, or paused.
        CommandNotFound, CommandNotInvokable, InitFailed: it could not be started.
    """
    async with container.lock:
        if container.state.status is Status.PAUSED:
            raise Conflict(
                f"container {container.short_id} is paused, unpause the container before exec"
            )
        if not container.is_running:
            raise Conflict(f"container {container.short_id} is not running")
        with trio.CancelScope(shield=True):
            started = Exec(secrets.token_hex(32), request.args, tty=request.tty)
            streams = open_streams(tty=request.tty, stdin=request.stdin)
            try:
                await _start(parts, container, request, started, streams)
            except BaseException:
                streams.close()
                raise
            container.execs[started.id] = started
    parts.spawn(watch, parts, container, started)
    return started, streams


async def _start(
    parts: Parts,
    container: Container,
    request: launching.ExecRequest,
    started: Exec,
    streams: Streams,
) -> None:
    payload = await trio.to_thread.run_sync(launching.prepare_exec, parts, container, request)
    try:
        created = await parts.shim.client.execute(
            container.id,
            started.id,
            tty=request.tty,
            fds={"payload": payload, **streams.child_ends(), **streams.output_ends()},
        )
    finally:
        os.close(payload)
    streams.close_child_ends()
    started.pid = int(created.fields["pid"])
    started.pidfd = created.take("pidfd")
    if request.tty:
        started.master_fd = created.take("master")
        if request.stdin:
            started.stdin = Input(os.dup(started.master_fd), tty=True)
    elif streams.stdin_write >= 0:
        started.stdin = Input(streams.stdin_write, tty=False)
        streams.stdin_write = -1
    created.close()


async def watch(parts: Parts, container: Container, started: Exec) -> None:
    """Wait for an exec's end, add its block I/O to the container, reap it."""
    await trio.lowlevel.wait_readable(started.pidfd)
    with trio.CancelScope(shield=True):
        zombie, code = shell_exit(started.pid, started.pidfd)
        started.exit_code = -1 if code is None else code
        try:
            if zombie:
                await parts.meter.exec_final(container.id, zombie)
            await parts.shim.client.reap(container.id, started.id)
        except AruntimeError as error:
            journal.warning("exec not reaped", container=container.short_id, error=error.message)
        os.close(started.pidfd)
        started.pidfd = -1
        if started.stdin is not None:
            started.stdin.close()
        if started.master_fd >= 0:
            os.close(started.master_fd)
            started.master_fd = -1
        started.exited.set()
        container.execs.pop(started.id, None)


@contextlib.asynccontextmanager
async def exec_output(
    parts: Parts, started: Exec, streams: Streams
) -> AsyncIterator[trio.MemoryReceiveChannel[Chunk]]:
    """Yield a channel of an exec's output; it ends with the output, or soon after the process.

    Takes over the descriptors it reads. If the block is left before the output has ended (the
    client went, or detached), the rest is read to nowhere.
    """
    sending, receiving = trio.open_memory_channel[Chunk](0)
    readers = [
        OutputReader(parts, fd, stream, sending.clone())
        for fd, stream in take_outputs(started, streams)
    ]
    sending.close()
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.run)
        nursery.start_soon(_give_up_soon, started, readers)
        async with receiving:
            yield receiving
        nursery.cancel_scope.cancel()


def take_outputs(started: Exec, streams: Streams) -> list[tuple[int, int]]:
    """Return the descriptors of an exec's output with their streams; the caller owns them."""
    sources = [(streams.stdout_read, logfile.STDOUT), (streams.stderr_read, logfile.STDERR)]
    streams.stdout_read = streams.stderr_read = -1
    if started.master_fd >= 0:
        return [(os.dup(started.master_fd), logfile.STDOUT)]
    return sources


def leave_output(parts: Parts, started: Exec, streams: Streams) -> None:
    """Let an exec go on without a listener: what it writes is read to nowhere."""
    for fd, _ in take_outputs(started, streams):
        if fd >= 0:
            parts.spawn(read_to_nowhere, trio.lowlevel.FdStream(fd))
    streams.close()


async def read_to_nowhere(source: trio.lowlevel.FdStream) -> None:
    """Read to the end of file and close: a full pipe would stop its writer for ever.

    Closing alone does not help: the shim holds the pipe too, and reads it only without a daemon.
    """
    async with source:
        with contextlib.suppress(trio.BrokenResourceError):  # EIO: the pty is closed
            while await source.receive_some(READ_BYTES):
                pass


async def _give_up_soon(started: Exec, readers: list[OutputReader]) -> None:
    """Stop the readers once the process has ended and its pipes are empty.

    What a slow client has not taken yet is not given up.
    """
    await started.exited.wait()
    while True:
        await trio.sleep(OUTPUT_GRACE_SECONDS)
        for reader in readers:
            reader.give_up_if_idle()


class OutputReader:
    """Reads one stream of an exec; owns the descriptor and the channel's end."""

    __slots__ = ("_idle", "_parts", "_scope", "_sending", "_source", "_stream")

    def __init__(
        self, parts: Parts, fd: int, stream: int, sending: trio.MemorySendChannel[Chunk]
    ) -> None:
        self._parts = parts
        self._source = trio.lowlevel.FdStream(fd)
        self._stream = stream
        self._sending = sending
        self._scope = trio.CancelScope()
        self._idle = False

    async def run(self) -> None:
        """Read to the end of the stream, or until given up or cancelled: then to nowhere."""
        ended = False
        try:
            with self._scope:
                async with self._sending:
                    with contextlib.suppress(trio.BrokenResourceError):  # nobody listens any more
                        while content := await self._receive():
                            await self._sending.send(Chunk(0, self._stream, content))
                        ended = True
        finally:
            if ended:
                self._source.close()
            else:
                self._parts.spawn(read_to_nowhere, self._source)

    def give_up_if_idle(self) -> None:
        """End the stream if nothing is on its way."""
        if self._idle:
            self._scope.cancel()

    async def _receive(self) -> bytes:
        self._idle = True
        try:
            return bytes(await self._source.receive_some(READ_BYTES))
        except trio.BrokenResourceError:  # EIO: the pty is closed
            return b""
        finally:
            self._idle = False


def kill(started: Exec) -> None:
    """Send SIGKILL to an exec's process, if it still runs."""
    if started.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
