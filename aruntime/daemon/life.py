"""One run of a container, from launch to the last reading of its counters.

Functions on a record and the parts of the daemon; which runs there are, and when, is the
supervisor's. The order of a start and of an end is what accounting rests on (metering.md R6, R7),
so it stands here in one place:

    start   cgroup → init forked; meanwhile address, files, payload → counters registered → state
            on disk while init sets itself up → the user's program (bringup)
    end     init is a zombie → exit code → its output is in the log → final reading, durable
            → reaped; meanwhile last look, address released, cgroup removed → state on disk
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial

import structlog
import trio

from aruntime.cgroups.driver import Cgroup
from aruntime.container.state import Status, move
from aruntime.daemon import bringup, connections, directories, launching, sinks
from aruntime.daemon.announcement import Announcement
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.daemon.shim_launch import Launch
from aruntime.errors import AruntimeError, InitFailed
from aruntime.kernel import process

journal = structlog.get_logger()

OUTPUT_GRACE_SECONDS = 2.0
"""How long output may still arrive after init's death before its pipes are given up."""
DESTROY_ATTEMPTS = 100
DESTROY_PAUSE_SECONDS = 0.01
"""A cgroup whose last task has just died answers EBUSY for a moment."""


async def launch(parts: Parts, container: Container, *, restarted: bool = False) -> None:
    """Start a run; the program has been executed when this returns.

    Cannot be cancelled half-way. A failure leaves no process, cgroup, address or mount behind,
    what was used until then is metered, and state.json tells the error.

    Args:
        restarted: this start is the restart policy's, and counted as one.

    Raises:
        AruntimeError: CommandNotFound, CommandNotInvokable, InitFailed, ControllerUnavailable …
        OSError: the disk or the kernel refused something.
    """
    with trio.CancelScope(shield=True):
        async with container.lock:
            container.exited = Announcement()
            container.stop_requested = False
            try:
                await _launch(parts, container, restarted=restarted)
            except (AruntimeError, OSError) as error:
                await _record_failure(parts, container, error)
                raise
    parts.events.publish("container", "start", container.id, container.event_attributes())


async def _launch(parts: Parts, container: Container, *, restarted: bool) -> None:
    ready = await take_prepared(parts, container)
    child = ready.child
    with contextlib.closing(ready):
        async with contextlib.AsyncExitStack() as undo:
            container.cgroup = ready.cgroup
            undo.push_async_callback(end_of_cgroup, parts, container)
            try:
                if ready.cgroup is not None:
                    subject = parts.meter_subject(container)
                    await parts.meter.register(subject, restarted=restarted)
            except BaseException:
                await _discard_child(parts, container, child)
                raise
            if ready.cgroup is not None:
                undo.push_async_callback(
                    parts.meter.final, container.id, exit_code=None, zombie_pid=0
                )
            undo.push_async_callback(_discard_child, parts, container, child)
            if ready.error is not None:
                raise ready.error
            for warning in ready.warnings:
                journal.warning(
                    "container started with less than asked", id=container.id, why=warning
                )
            if not child.is_asked:
                sink = sinks.open_sink(parts, container)
                await child.ask(ready.fds(sink), tty=container.config.tty)
            ready.close_sent()
            await child.forked()
            await bringup.bring_up(parts, container, child, ready.streams)
            undo.pop_all()
    parts.meter.state(container.id, "running")


async def take_prepared(parts: Parts, container: Container) -> launching.Prepared:
    """Return what a start needs, made now unless it was made with the container.

    Raises:
        ShimUnavailable: as ``launching.begin``.
    """
    ready, container.prepared = container.prepared, None
    if ready is None:
        ready = launching.begin(parts, container)
        await trio.to_thread.run_sync(launching.prepare, parts, container, ready)
    return ready


async def discard_prepared(parts: Parts, container: Container) -> None:
    """Give back what was made for a start that will not come."""
    ready, container.prepared = container.prepared, None
    if ready is not None:
        with contextlib.closing(ready):
            await _discard_child(parts, container, ready.child)
            container.cgroup = ready.cgroup
            await end_of_cgroup(parts, container)
        close_sink(container)


async def _record_failure(parts: Parts, container: Container, error: Exception) -> None:
    """Leave the record as docker leaves it: not running, with exit code and error."""
    code = error.EXIT_CODE if isinstance(error, AruntimeError) else 125
    container.state.pid = 0
    container.state.exit_code = code if isinstance(error, InitFailed) else 128
    container.state.error = " ".join(str(error).splitlines())
    if container.state.status is not Status.CREATED:
        move(container.state, Status.EXITED)
    end_streams(container)
    if container.sink is not None:
        container.sink.finished.set()
    close_sink(container)
    container.exited.set()
    with contextlib.suppress(OSError):  # a full disk: the error that is being raised says so
        await parts.save_state(container)


async def _discard_child(parts: Parts, container: Container, child: Launch) -> None:
    """End a child whose program never ran, unless the shim has reaped it already."""
    if child.is_asked and not child.is_reaped:
        with contextlib.suppress(AruntimeError):  # the shim has reaped it, or is gone
            await _kill_child(parts, container, child)
    container.held_by_shim = False
    own = child.take_pidfd()
    if own >= 0:
        os.close(own)
    if container.sink is not None:
        await wait_output(parts, container)


async def _kill_child(parts: Parts, container: Container, child: Launch) -> None:
    await child.forked()
    pidfd = child.pidfd if child.pidfd >= 0 else container.pidfd
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await trio.lowlevel.wait_readable(pidfd)
    if not child.is_set_up:
        # Only of one that is does the shim leave the reaping to us.
        (await child.created()).close()
    child.close()
    await parts.shim.client.reap(container.id)


async def watch(parts: Parts, container: Container) -> None:
    """Wait for the end of a run and bring it to its end.

    Cancelled while waiting it leaves the container running; the ending itself is not cancelled.
    """
    if container.pidfd >= 0 and not process.is_dead(container.pidfd):
        await trio.lowlevel.wait_readable(container.pidfd)
    with trio.CancelScope(shield=True):
        async with container.lock:
            await _end(parts, container)


async def _end(parts: Parts, container: Container) -> None:
    now = container.state
    zombie, code = shell_exit(now.pid, container.pidfd, now.start_time)
    now.exit_code = code
    now.finished_ns = time.time_ns()
    await wait_output(parts, container)
    await _close_books(parts, container, zombie)


async def end_unobserved(parts: Parts, container: Container) -> None:
    """Bring a run to its end that ended while nobody looked; the caller set what is known."""
    async with container.lock:
        await _close_books(parts, container, zombie=0)


async def _close_books(parts: Parts, container: Container, zombie: int) -> None:
    """The last steps of a run, from the final reading to state.json."""
    now = container.state
    code = now.exit_code
    final = await parts.meter.final(
        container.id, exit_code=code, zombie_pid=zombie, stopped=now.stopped_by_user
    )
    now.oom_killed = final.oom_kills > 0
    move(now, Status.EXITED)
    now.pid = 0
    end_streams(container)
    async with trio.open_nursery() as nursery:
        # A zombie is in no cgroup's way: neither waits for the other.
        nursery.start_soon(_reap, parts, container)
        await end_of_cgroup(parts, container, hide=container.config.auto_remove)
    close_sink(container)
    if not container.hidden:
        await parts.keep_state(container)
    if now.oom_killed:
        parts.events.publish("container", "oom", container.id, container.event_attributes())
    shown = "unknown" if code is None else str(code)
    attributes = container.event_attributes(exitCode=shown)
    parts.events.publish("container", "die", container.id, attributes)
    container.exited.set()


async def _reap(parts: Parts, container: Container) -> None:
    if container.held_by_shim:
        with contextlib.suppress(AruntimeError):  # a shim that died has nothing left to reap
            await parts.shim.client.reap(container.id)
    container.held_by_shim = False


def shell_exit(pid: int, pidfd: int, start_time: int | None = None) -> tuple[int, int | None]:
    """Return the pid of a zombie (0 if it was reaped) and its exit code (None if unknown).

    The code of an unreaped zombie is in /proc/PID/stat; after a shim's death the host's init
    reaps, and the held pidfd tells it on kernels from 6.15 on (design.md §9.7).
    """
    found = process.process_stat(pid) if pid else None
    if found is not None and start_time in (None, found.start_time):
        return pid, process.shell_code(found.exit_code)
    status = process.pidfd_get_exit(pidfd) if pidfd >= 0 else None
    return 0, None if status is None else process.shell_code(status)


async def wait_output(parts: Parts, container: Container) -> None:
    """Wait until all that was written before the death is in the log."""
    sink = container.sink
    if sink is None or not sink.sources:
        if sink is not None:
            sink.finished.set()
            sink.wake()
        return
    with trio.move_on_after(OUTPUT_GRACE_SECONDS) as scope:
        await sink.finished.wait()
    if scope.cancelled_caught:
        journal.warning("output pipe is still held by a stranger; given up", id=container.id)
        await parts.pump.discard(sink)
    container.state.log_dropped_bytes += sink.dropped_bytes


def close_sink(container: Container) -> None:
    """Close the log, if it is open."""
    if container.sink is not None:
        container.sink.close()
        container.sink = None


def end_streams(container: Container) -> None:
    """Close what the daemon holds of a run: stdin, pty, pidfd."""
    if container.stdin is not None:
        container.stdin.close()
        container.stdin = None
    for name in ("master_fd", "pidfd"):
        fd = getattr(container, name)
        if fd >= 0:
            os.close(fd)
            setattr(container, name, -1)


async def end_of_cgroup(parts: Parts, container: Container, *, hide: bool = False) -> None:
    """Release the address and remove the cgroup, after a last look at its counters.

    Args:
        hide: the container itself goes next: its directory is taken off the disk's list.
    """
    removal = partial(release_and_destroy, parts, container, hide=hide)
    try:
        if await parts.meter.recheck(container.id, unless_grown=removal):
            await trio.to_thread.run_sync(removal)
    except BlockingIOError:
        assert container.cgroup is not None
        try:
            await destroy_cgroup(parts, container.cgroup, container.id)
        except OSError as error:
            journal.error("cgroup not removed", id=container.id, error=str(error))
    container.address = ""
    if container.cgroup is not None:
        parts.meter.unregister(container.id)
        container.cgroup = None


def release_and_destroy(parts: Parts, container: Container, *, hide: bool) -> None:
    """Give the address back and remove the cgroup, if nothing runs in it (blocks).

    Raises:
        BlockingIOError: a task in the cgroup is not gone yet.
    """
    connections.release(parts, container)
    if container.cgroup is not None:
        parts.driver.destroy(container.cgroup)
        parts.meter.unregister(container.id)
    if hide:
        with contextlib.suppress(OSError):  # the removal tries again, and says so
            container.hidden = directories.remove(parts, container, volumes=True)


async def destroy_cgroup(parts: Parts, cgroup: Cgroup, metered: str = "") -> None:
    """Remove a cgroup; what still runs in it is killed, and metered first.

    Args:
        metered: the container whose account gets what the counters still grow by.

    Raises:
        BlockingIOError: a task in it does not die.
    """
    for attempt in range(DESTROY_ATTEMPTS):
        if metered:
            await parts.meter.recheck(metered)
        try:
            await trio.to_thread.run_sync(parts.driver.destroy, cgroup)
            return
        except BlockingIOError:
            if attempt == DESTROY_ATTEMPTS - 1:
                raise
            await trio.to_thread.run_sync(parts.driver.kill, cgroup)
            await trio.sleep(DESTROY_PAUSE_SECONDS)
