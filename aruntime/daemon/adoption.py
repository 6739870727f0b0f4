"""Takes containers back when a daemon starts, and keeps them when a shim dies.

What may have happened while no daemon lived is decided here, per container:

    the shim holds its init, running           taken over with its pipes, log, pidfd
    the shim holds its init, dead              taken over the same way: its end is then observed,
                                               read and booked as any other (a zombie waits)
    the shim holds an init never started       ended; the launch was cut off
    no shim, the process is alive              watched by pidfd; its pipes are gone, said so
    an init cut off before it was set up       gone, or killed; its cgroup tells what it used
    no shim, the process is gone               exit code unknown, said so; the cgroup, if it is
                                               there, still tells what was used
    another boot                               ended when the host did; nothing more is known
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

import structlog
import trio

from aruntime.cgroups.driver import Cgroup
from aruntime.container import logfile, store
from aruntime.container.state import Status
from aruntime.daemon import (
    bringup,
    connections,
    directories,
    execs,
    joining,
    life,
    sinks,
    unpacking,
)
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container, Exec, Input, Streams
from aruntime.daemon.shim_client import Reply
from aruntime.daemon.supervisor import Supervisor
from aruntime.errors import AruntimeError
from aruntime.kernel import process

journal = structlog.get_logger()

LOST_OUTPUT = "the shim died: output since then is lost"
ACTIVE = frozenset({Status.RUNNING, Status.PAUSED, Status.PAUSING, Status.RESTARTING})


async def adopt_all(parts: Parts, supervisor: Supervisor, held: list[Reply]) -> None:
    """Make every container on disk known again and supervise those that run.

    Args:
        held: the children that the shim handed over; their descriptors are consumed.
    """
    await trio.to_thread.run_sync(directories.make_ready, parts)
    loaded, broken = await trio.to_thread.run_sync(
        store.load_all, str(parts.settings.root / "containers")
    )
    for error in broken:
        journal.error("container not loaded", error=str(error))
    inits = {reply.fields["id"]: reply for reply in held if not reply.fields.get("exec_id")}
    exec_replies = [reply for reply in held if reply.fields.get("exec_id")]
    standing = await trio.to_thread.run_sync(parts.cgroup_names)
    restarts = []
    for config, state, directory in loaded:
        container = Container(config, state, directory)
        supervisor.register(container)
        was_active = state.status in ACTIVE
        reply = inits.pop(container.id, None)
        if reply is not None:
            await adopt_held(parts, container, reply)
        elif was_active:
            await adopt_orphan(parts, container)
        elif container.id in standing:
            await settle_launch(parts, container)
        else:
            parts.meter.declare(parts.meter_subject(container), meter_status(state.status))
        if container.is_running:
            supervisor.supervise_soon(container)
        elif wants_start(container, was_active=was_active):
            restarts.append(container)
        elif container.config.auto_remove and (
            state.starting or state.status is not Status.CREATED
        ):
            await remove_ended(supervisor, container)
    for reply in exec_replies:
        adopt_exec(parts, supervisor, reply)
    for stray in inits.values():
        await discard_stray(parts, stray)
    freed = await trio.to_thread.run_sync(
        connections.reconcile, parts, [item for item in supervisor if item.is_running]
    )
    for container in supervisor:
        if container.is_running and container.id in freed:
            await trio.to_thread.run_sync(joining.repair, parts, container)
    await remove_stray_cgroups(parts, supervisor)
    # Layers that a killed daemon left without an image; no container is unknown by now.
    await trio.to_thread.run_sync(parts.images.collect, lambda: unpacking.holders(supervisor))
    await parts.meter.settle(item.id for item in supervisor)
    for container in restarts:
        parts.spawn(restart, supervisor, container)


async def settle_launch(parts: Parts, container: Container) -> None:
    """Make a container known to the meter that has no process, but a cgroup.

    A launch was cut off before init was set up, or an end before the cgroup was removed: what was
    used is metered, and nothing of it stays.
    """
    cgroup = parts.driver.cgroup(container.id)
    try:
        await trio.to_thread.run_sync(parts.driver.inode, cgroup)
    except FileNotFoundError:
        parts.meter.declare(parts.meter_subject(container), meter_status(container.state.status))
        return
    container.cgroup = cgroup
    await trio.to_thread.run_sync(parts.driver.kill, cgroup)
    await parts.meter.resume_registration(parts.meter_subject(container), "running")
    await parts.meter.final(container.id, exit_code=container.state.exit_code)
    await life.end_of_cgroup(parts, container)


def meter_status(status: Status) -> str:
    """Return what the meter calls a container without a process."""
    return "created" if status is Status.CREATED else "exited"


def wants_start(container: Container, *, was_active: bool) -> bool:
    """Whether docker would start it now that the daemon starts."""
    policy = container.config.restart.name
    ran_before = was_active or container.state.status is Status.EXITED
    if policy == "unless-stopped":
        return ran_before and not container.state.stopped_by_user
    return policy == "always" and ran_before


async def restart(supervisor: Supervisor, container: Container) -> None:
    """Start a container by its policy; a failure is logged, the others go on."""
    try:
        await supervisor.start(container)
    except (AruntimeError, OSError) as error:
        journal.error("not restarted", container=container.short_id, error=str(error))


async def remove_ended(supervisor: Supervisor, container: Container) -> None:
    """Remove a container with --rm that ended while no daemon lived; a failure is logged."""
    try:
        await supervisor.remove(container, volumes=True)
    except (AruntimeError, OSError) as error:
        journal.error("not removed", container=container.short_id, error=str(error))


async def adopt_held(parts: Parts, container: Container, reply: Reply) -> None:
    """Take over a child of the shim with all its descriptors."""
    container.held_by_shim = True
    container.pidfd = reply.take("pidfd")
    container.state.pid = int(reply.fields["pid"])
    await adopt_log(parts, container, reply)
    streams = Streams(
        stdout_read=reply.take("pty_read" if container.config.tty else "stdout_read"),
        stderr_read=reply.take("pty_write" if container.config.tty else "stderr_read"),
    )
    container.master_fd = reply.take("master")
    stdin_fd = reply.take("stdin_write")
    if container.config.tty and container.config.open_stdin:
        container.stdin = Input(os.dup(container.master_fd), tty=True)
    elif stdin_fd >= 0:
        container.stdin = Input(stdin_fd, tty=False)
    reply.close()
    bringup.add_sources(parts, container, streams)
    if reply.fields["state"] != "running":
        # The launch was cut off before the program ran: end it like any other run.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(container.pidfd, signal.SIGKILL)
        container.state.error = "the daemon died while the container was being started"
    if container.config.stdin_once and container.stdin is not None and not container.stdin.tty:
        # Its client went with the old daemon.
        container.stdin.close()
        container.stdin = None
        await parts.shim.client.close_stdin(container.id)
    await resume_meter(parts, container)


async def adopt_log(parts: Parts, container: Container, reply: Reply) -> None:
    """Go on in the log where the shim left off.

    Had the former daemon died between rotating the log and telling the shim, the shim's files
    would be the rotated ones: it gets the present ones then.

    Raises:
        OSError: the log cannot be opened.
    """
    fds = reply.take("log"), reply.take("index")
    path = logfile.log_paths(container.directory)[0]
    if all(fd >= 0 for fd in fds) and is_same_file(fds[0], path):
        sinks.make_sink(parts, container, *fds)
        return
    for fd in fds:
        if fd >= 0:
            os.close(fd)
    fresh = logfile.open_log(container.directory)
    sinks.make_sink(parts, container, *fresh)
    await parts.shim.client.replace_logs(container.id, *fresh)


def is_same_file(fd: int, path: str) -> bool:
    """Whether a descriptor and a path lead to one file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


async def resume_meter(parts: Parts, container: Container) -> None:
    """Find the cgroup again, read its freezer, continue the account from its baseline."""
    cgroup = parts.driver.cgroup(container.id)
    exists = await trio.to_thread.run_sync(parts.driver.exists, cgroup)
    container.cgroup = cgroup if exists else None
    frozen = exists and await trio.to_thread.run_sync(is_frozen, parts, cgroup)
    # Not a move of the table: what the kernel says replaces what was written last.
    container.state.status = Status.PAUSED if frozen else Status.RUNNING
    await trio.to_thread.run_sync(connections.resume, parts, container)
    await parts.meter.resume_registration(
        parts.meter_subject(container), "paused" if frozen else "running"
    )


def is_frozen(parts: Parts, cgroup: Cgroup) -> bool:
    """Whether a cgroup is frozen; not one whose removal a former daemon had begun.

    Nothing runs in that any more, and what it used was durable before the first directory went.
    """
    try:
        return parts.driver.is_frozen(cgroup)
    except FileNotFoundError:
        return False


async def adopt_orphan(parts: Parts, container: Container) -> None:
    """Watch a container whose shim died, or find out that it has ended."""
    now = container.state
    same_boot = now.boot_id == parts.boot_id
    found = process.process_stat(now.pid) if same_boot and now.pid else None
    if found is not None and found.start_time == now.start_time:
        with contextlib.suppress(ProcessLookupError):
            container.pidfd = os.pidfd_open(now.pid)
    if container.pidfd >= 0:
        journal.warning(LOST_OUTPUT, container=container.short_id)
        now.error = LOST_OUTPUT
        sinks.open_sink(parts, container)
        await resume_meter(parts, container)
        return
    await resume_meter(parts, container)
    now.error = (
        "ended while neither daemon nor shim lived: its exit code is unknown"
        if same_boot
        else "the host was restarted: its exit code is unknown"
    )
    now.exit_code = None
    now.finished_ns = time.time_ns()
    await life.end_unobserved(parts, container)


def adopt_exec(parts: Parts, supervisor: Supervisor, reply: Reply) -> None:
    """Watch an exec of a former daemon to its end; its client is gone."""
    with contextlib.suppress(AruntimeError):
        container = supervisor.find(reply.fields["id"])
        adopted = Exec(reply.fields["exec_id"], [], tty=bool(reply.fields.get("tty")))
        adopted.pid = int(reply.fields["pid"])
        adopted.pidfd = reply.take("pidfd")
        adopted.master_fd = reply.take("master")
        container.execs[adopted.id] = adopted
        outputs = Streams(
            stdout_read=reply.take("stdout_read"), stderr_read=reply.take("stderr_read")
        )
        execs.leave_output(parts, adopted, outputs)
        parts.spawn(execs.watch, parts, container, adopted)
    reply.close()


async def discard_stray(parts: Parts, reply: Reply) -> None:
    """End a child that no container goes with: its launch was cut off, or it was erased."""
    container_id, pidfd = str(reply.fields["id"]), reply.take("pidfd")
    reply.close()
    journal.warning(
        "ending a child of the shim that no container goes with", container=container_id[:12]
    )
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        cgroup = parts.driver.cgroup(container_id)
        with contextlib.suppress(OSError):  # its cgroup may be gone
            await trio.to_thread.run_sync(parts.driver.thaw, cgroup)
        await trio.lowlevel.wait_readable(pidfd)
        await parts.shim.client.reap(container_id)
    except (AruntimeError, OSError) as error:
        journal.error("stray container not ended", container=container_id[:12], error=str(error))
    finally:
        os.close(pidfd)


async def remove_stray_cgroups(parts: Parts, supervisor: Supervisor) -> None:
    """Remove groups below our parent that no running container owns."""
    running = {item.id for item in supervisor if item.is_running}
    for name in await trio.to_thread.run_sync(parts.cgroup_names):
        if name not in running:
            cgroup = parts.driver.cgroup(name)
            try:
                await trio.to_thread.run_sync(parts.driver.kill, cgroup)
                await life.destroy_cgroup(parts, cgroup)
            except OSError as error:
                journal.error("stray cgroup not removed", cgroup=cgroup.path, error=str(error))


async def after_shim_loss(parts: Parts, supervisor: Supervisor, held: list[Reply]) -> None:
    """Go on after the connection to the shim was lost; this daemon holds all it needs.

    A shim that lives (it could not send, for one) still holds its children: those that this daemon
    does not know, because their launch failed with the connection, are ended. If it died, exit
    codes now come from the pidfds (the host's init reaps), and should this daemon die too, the
    pipes of the containers die with it.
    """
    inits = {str(reply.fields["id"]): reply for reply in held if not reply.fields.get("exec_id")}
    for container in supervisor:
        reply = inits.get(container.id)
        known = reply is not None and container.state.pid == reply.fields["pid"]
        container.held_by_shim = known and container.launching is None
        if reply is not None and container.held_by_shim:
            del inits[container.id]
            reply.close()
    for reply in held:
        if reply.fields.get("exec_id"):
            again_exec(parts, supervisor, reply)
    for stray in inits.values():
        parts.spawn(discard_stray, parts, stray)
    lost = sum(item.is_running and not item.held_by_shim for item in supervisor)
    if lost:
        journal.error("containers of the dead shim go on without a keeper", count=lost)
    await trio.lowlevel.checkpoint()


def again_exec(parts: Parts, supervisor: Supervisor, reply: Reply) -> None:
    """Go on with an exec that is watched already, or watch one whose start was cut off."""
    with contextlib.suppress(AruntimeError):
        if reply.fields["exec_id"] in supervisor.find(reply.fields["id"]).execs:
            reply.close()
            return
    adopt_exec(parts, supervisor, reply)
