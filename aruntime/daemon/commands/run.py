"""run, create, start, attach: making containers and joining a client to them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import trio

from aruntime.container import logfile
from aruntime.container.state import Status
from aruntime.daemon import log_reader, sinks
from aruntime.daemon.attach import attached, parse_detach_keys
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.lifecycle import each
from aruntime.daemon.commands.run_flags import CREATE_FLAGS, RUN_FLAGS, requested_config
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, Conflict, InvalidParameter

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

BOTH = frozenset({logfile.STDOUT, logfile.STDERR})
UNKNOWN_CODE = 125
"""What a client exits with when the container's own code is lost (the shim died)."""


async def run_run(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Create a container, start it and, without -d, stay attached to its end."""
    attach = not parsed.boolean("detach")
    if attach and parsed.boolean("tty") and parsed.boolean("interactive"):
        require_terminal(session)
    # What can be refused is, before there is a container.
    keys = parse_detach_keys(parsed.string("detach-keys"))
    streams, wants_stdin = streams_of(parsed), wants(parsed, "stdin")
    container = await create_container(session, parsed, daemon, starting=True)
    if not attach:
        await start_or_discard(daemon, container)
        await session.out(f"{container.id}\n")
        return 0
    try:
        start = position_now(daemon, container)
    except OSError:
        await start_or_discard(daemon, container)  # fails in the same way, and tidies up
        raise
    with contextlib.closing(start):
        await start_or_discard(daemon, container)
        code = await stay_attached(
            session,
            daemon,
            container,
            start,
            stdin=container.config.open_stdin and wants_stdin,
            streams=streams,
            sig_proxy=parsed.boolean("sig-proxy"),
            detach_keys=keys,
        )
    if code is not None and container.config.auto_remove:
        await container.removed.wait()
    return 0 if code is None else code


def require_terminal(session: Session) -> None:
    """Refuse ``-it`` from a pipe or file, as docker does.

    Raises:
        NotATerminal: the client's stdin is no terminal.
    """
    if not session.stdin_tty:
        raise NotATerminal("the input device is not a TTY; leave out -t, or run it in a terminal")


class NotATerminal(InvalidParameter):
    """A terminal was asked for and there is none (docker exits with 1)."""

    EXIT_CODE = 1


async def run_create(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Create a container without starting it."""
    container = await create_container(session, parsed, daemon)
    await session.out(f"{container.id}\n")
    return 0


async def create_container(
    session: Session, parsed: Parsed, daemon: Daemon, *, starting: bool = False
) -> Container:
    """Make the container that the flags ask for, and its --cidfile."""
    config, warnings = await requested_config(session, parsed, daemon)
    for warning in warnings:
        await session.err(f"WARNING: {warning}\n")
    cidfile = parsed.string("cidfile")
    attached_to_terminal = starting and session.stdin_tty and not parsed.boolean("detach")
    with daemon.images.hold(daemon.images.resolve(config.image_id)):
        container = await daemon.supervisor.create(
            config,
            starting=starting,
            prepare=starting and not cidfile,
            console_size=(session.rows, session.cols)
            if attached_to_terminal and config.tty
            else (0, 0),
        )
    if cidfile:
        try:
            await write_cidfile(session, cidfile, container.id)
        except (AruntimeError, OSError):
            await daemon.supervisor.remove(container, volumes=True)
            raise
    return container


async def write_cidfile(session: Session, path: str, container_id: str) -> None:
    """Write the id to a new file of the client.

    Only once the container exists: what the client made the daemon could not remove again.

    Raises:
        Conflict: the file exists.
        OSError: it cannot be made or written.
    """
    try:
        fd = await session.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise Conflict(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    try:
        os.write(fd, container_id.encode())
    finally:
        os.close(fd)


async def start_or_discard(daemon: Daemon, container: Container) -> None:
    """Start; a container with --rm that cannot be started is removed (docker's rule)."""
    try:
        await daemon.supervisor.start(container)
    except (AruntimeError, OSError):
        if container.config.auto_remove:
            await daemon.supervisor.remove(container, force=True, volumes=True)
        raise


def position_now(daemon: Daemon, container: Container) -> log_reader.Place:
    """Return where the container's log ends before it is started; the caller closes it.

    Raises:
        OSError: the log cannot be opened.
    """
    return log_reader.Place(sinks.open_sink(daemon.parts, container))


async def position_of_running(daemon: Daemon, container: Container) -> log_reader.Place:
    """Return where the log of a running container ends now; the caller closes it.

    Raises:
        OSError: the log cannot be opened.
    """
    sink = sinks.open_sink(daemon.parts, container)
    return await trio.to_thread.run_sync(log_reader.Place, sink)


def wants(parsed: Parsed, stream: str) -> bool:
    """Whether ``-a`` names a stream, or was not given at all."""
    chosen = [name.lower() for name in parsed.strings("attach")]
    for name in chosen:
        if name not in ("stdin", "stdout", "stderr"):
            raise InvalidParameter(f"valid streams are stdin, stdout and stderr, not {name!r}")
    return not chosen or stream in chosen


def streams_of(parsed: Parsed) -> frozenset[int]:
    """Return the output streams a client asked for."""
    numbers = {"stdout": logfile.STDOUT, "stderr": logfile.STDERR}
    return frozenset(number for name, number in numbers.items() if wants(parsed, name))


async def stay_attached(
    session: Session,
    daemon: Daemon,
    container: Container,
    start: log_reader.Place,
    *,
    stdin: bool,
    streams: frozenset[int],
    sig_proxy: bool,
    detach_keys: bytes,
) -> int | None:
    """Attach a client until the container's run ends; None if the user detached."""
    session.open_ended = True
    exited = container.exited
    sink = container.sink
    entrance = container.stdin if stdin else None
    container.attached += 1
    try:
        if sink is None:  # it has ended already: what it wrote is in the file
            await copy_rest(session, start, streams)
        else:
            async with contextlib.aclosing(start.follow()) as output:
                detached = await attached(
                    session,
                    output,
                    entrance=entrance,
                    close_entrance=lambda: close_stdin(daemon, container),
                    send_signal=(
                        (lambda number: forward(daemon, container, number)) if sig_proxy else None
                    ),
                    resize=container.resize,
                    tty=container.config.tty,
                    detach_keys=detach_keys,
                    streams=streams,
                )
            if detached:
                return None
    finally:
        container.attached -= 1
        if container.config.stdin_once and not container.attached and container.stdin is not None:
            with trio.CancelScope(shield=True):
                await close_stdin(daemon, container)
    await exited.wait()
    code = container.state.exit_code
    return UNKNOWN_CODE if code is None else code


async def copy_rest(session: Session, start: log_reader.Place, streams: frozenset[int]) -> None:
    """Write what a container that has already ended wrote since ``start``."""
    for chunk in start.rest():
        if chunk.stream in streams:
            write = session.err if chunk.stream == logfile.STDERR else session.out
            await write(chunk.content)


async def close_stdin(daemon: Daemon, container: Container) -> None:
    """Let the container read end of file on its stdin (a pty has none to give)."""
    entrance = container.stdin
    if entrance is None or entrance.tty:
        return
    container.stdin = None
    entrance.close()
    with contextlib.suppress(AruntimeError):
        await daemon.parts.shim.client.close_stdin(container.id)


async def forward(daemon: Daemon, container: Container, number: int) -> None:
    """Pass a client's signal on; one that comes too late is dropped."""
    with contextlib.suppress(Conflict):
        await daemon.supervisor.signal(container, number)


async def run_start(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Start stopped containers; with -a or -i stay attached to the one that is named."""
    if not parsed.boolean("attach") and not parsed.boolean("interactive"):
        return await each(session, daemon, parsed.args, daemon.supervisor.start)
    if len(parsed.args) > 1:
        raise InvalidParameter("you cannot start and attach multiple containers at once")
    keys = parse_detach_keys(parsed.string("detach-keys"))
    container = daemon.supervisor.find(parsed.args[0])
    is_running = container.is_running
    if is_running:
        start = await position_of_running(daemon, container)
    else:
        if session.stdin_tty and container.config.tty:
            container.console_size = (session.rows, session.cols)
        start = position_now(daemon, container)
    with contextlib.closing(start):
        if not is_running:
            await daemon.supervisor.start(container)
        code = await stay_attached(
            session,
            daemon,
            container,
            start,
            stdin=parsed.boolean("interactive") and container.config.open_stdin,
            streams=BOTH,
            sig_proxy=parsed.boolean("sig-proxy"),
            detach_keys=keys,
        )
    return 0 if code is None else code


async def run_attach(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Attach to a running container."""
    container = daemon.supervisor.find(parsed.args[0])
    if container.state.status is Status.PAUSED:
        raise Conflict("you cannot attach to a paused container, unpause it first")
    if not container.is_running:
        raise Conflict("you cannot attach to a stopped container, start it first")
    keys = parse_detach_keys(parsed.string("detach-keys"))
    with contextlib.closing(await position_of_running(daemon, container)) as start:
        code = await stay_attached(
            session,
            daemon,
            container,
            start,
            stdin=not parsed.boolean("no-stdin") and container.config.open_stdin,
            streams=BOTH,
            sig_proxy=parsed.boolean("sig-proxy"),
            detach_keys=keys,
        )
    return 0 if code is None else code


DETACH_KEYS = Flag(
    "detach-keys", "", "string", None, "string",
    "Override the key sequence for detaching a container (default ctrl-p,ctrl-q)",
)  # fmt: skip
SIG_PROXY = Flag("sig-proxy", "", "bool", True, help="Proxy received signals to the process")

COMMANDS = [
    Command(
        "run", "Create and run a new container from an image", run_run,
        "IMAGE [COMMAND] [ARG...]", RUN_FLAGS, minimum=1, interspersed=False,
        section="common", completes="images",
    ),
    Command(
        "create", "Create a new container", run_create, "IMAGE [COMMAND] [ARG...]",
        CREATE_FLAGS, minimum=1, interspersed=False, section="common", completes="images",
    ),
    Command(
        "start", "Start one or more stopped containers", run_start, "CONTAINER [CONTAINER...]",
        (
            Flag("attach", "a", "bool", help="Attach stdout and stderr and forward signals"),
            Flag("interactive", "i", "bool", help="Attach the container's stdin"),
            DETACH_KEYS,
            SIG_PROXY,
        ),
        minimum=1, section="common", completes="stopped",
    ),
    Command(
        "attach", "Attach local standard input, output and error to a running container",
        run_attach, "CONTAINER",
        (DETACH_KEYS, Flag("no-stdin", "", "bool", help="Do not attach stdin"), SIG_PROXY),
        minimum=1, maximum=1, section="common", completes="running",
    ),
]  # fmt: skip
