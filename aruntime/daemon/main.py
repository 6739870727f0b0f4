"""aruntimed: from the command line to an orderly stop.

`main` reads the settings, takes the locks and runs the event loop; the command socket opens when
everything behind it works and closes before anything behind it goes. Which parts there are is
:mod:`aruntime.daemon.compose`'s.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator

import structlog
import trio

from aruntime import __version__
from aruntime.daemon import (
    compose,
    dispatch,
    garbage,
    journal,
    locks,
    priority,
    readers,
    sdnotify,
    server,
    settings,
    tenants,
)
from aruntime.daemon.commands.flags import Parsed, parse
from aruntime.daemon.commands.help import help_text
from aruntime.daemon.commands.registry import Registry
from aruntime.daemon.commands.system import DAEMON
from aruntime.daemon.compose import Daemon as Daemon  # where commands look for the type
from aruntime.daemon.hello import Peer
from aruntime.daemon.settings import Settings
from aruntime.errors import AruntimeError, Unavailable, os_error_text
from aruntime.kernel import allocator

log = structlog.get_logger()

PROGRAM = "aruntimed"
ROOT_MODE = 0o711
"""Containers with id mappings traverse it; only root lists it."""
RUN_DIR_MODE = 0o755
SWITCH_SECONDS = 0.001
"""How long a worker thread may keep the event loop waiting for the interpreter (default 5 ms):
polls and scrapes of a thousand containers are computed in threads."""


def main(argv: list[str] | None = None) -> int:
    """Run the daemon in the foreground; the entry of `aruntimed` and of `aruntime daemon`.

    Args:
        argv: the words after the program's name; by default those of this process.

    Returns the exit code: 0 after an orderly stop.
    """
    try:
        parsed = parse(DAEMON, sys.argv[1:] if argv is None else argv)
        if parsed.help:
            sys.stdout.write(help_text(DAEMON))
            sys.stdout.flush()
            return 0
        chosen = settings.load(parsed, os.environ)
        journal.configure(chosen.log_format, chosen.log_level)
        run(chosen, parsed)
    except Exception as error:
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    """Word what kept the daemon from running: one line each, bugs with their traceback."""
    code = 0
    for leaf in dispatch.leaves(error):
        if isinstance(leaf, AruntimeError):
            text = leaf.message
        elif isinstance(leaf, OSError):
            text = os_error_text(leaf)
        else:
            log.critical("stopped by a bug", exc_info=leaf)
            text = f"internal error ({type(leaf).__name__}: {leaf})"
        os.write(2, f"{PROGRAM}: {text}\n".encode(errors="surrogateescape"))
        code = code or getattr(leaf, "EXIT_CODE", dispatch.FAILED)
    return code


def run(chosen: Settings, parsed: Parsed) -> None:
    """Prepare the process and run the event loop until a signal stops it.

    Raises:
        Unavailable: not root. Conflict: another daemon is there.
        AruntimeError, OSError: a part cannot be started.
    """
    if os.geteuid() != 0:
        raise Unavailable(
            f"{PROGRAM} needs root to make containers; run it as root, or use the one that"
            " is running through its socket (--socket-group)"
        )
    os.umask(0o022)
    os.chdir("/")
    raise_file_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    allocator.use_one_arena()
    priority.prefer()
    ready_fd = parsed.integer("ready-fd")
    if ready_fd >= 0:
        os.set_inheritable(ready_fd, False)
    with directories(chosen):
        registry = dispatch.load_registry()
        trio.run(serve, chosen, parsed, registry, ready_fd)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def directories(chosen: Settings) -> Iterator[None]:
    """Make root and run directory and hold their locks while the block runs.

    Raises:
        Conflict: another daemon uses one of them; the message has its pid.
    """
    for path, mode in ((chosen.root, ROOT_MODE), (chosen.run_dir, RUN_DIR_MODE)):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
    with (
        locks.hold(
            chosen.run_dir / "aruntimed.pid",
            f"uses the run directory {chosen.run_dir}; stop it or choose another --run-dir",
        ),
        locks.hold(
            chosen.root / "aruntimed.lock",
            f"uses the root {chosen.root}; stop it or choose another --root",
        ),
    ):
        yield


async def serve(chosen: Settings, parsed: Parsed, registry: Registry, ready_fd: int = -1) -> None:
    """Everything between the locks and the exit; returns after SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with compose.opened(chosen, registry) as daemon:
            with contextlib.ExitStack() as sockets:
                listening = server.bound_socket(chosen.socket, chosen.socket_group)
                doors = [server.CommandServer(sockets.enter_context(listening), registry, daemon)]
                if chosen.readers:
                    doors.append(readers_door(sockets, daemon))
                async with trio.open_nursery() as nursery:
                    for door in doors:
                        await nursery.start(door.run)
                    nursery.start_soon(sdnotify.feed_watchdog)
                    announce(daemon, ready_fd)
                    await obey_signals(signals, daemon, parsed)
                    sdnotify.notify(sdnotify.STOPPING)
                    for door in doors:
                        door.stop()
                    for door in doors:
                        await door.stopped.wait()
                    nursery.cancel_scope.cancel()
    log.info("stopped")


def readers_door(sockets: contextlib.ExitStack, daemon: Daemon) -> server.CommandServer:
    """The socket of tenants' readers, open to every user and closed to all but those."""
    named = daemon.settings.readers

    def admit(connection: trio.socket.SocketType, peer: Peer) -> tenants.TenantDaemon | None:
        theirs = readers.tenants_of(named, peer, readers.peer_groups(connection))
        return tenants.TenantDaemon(daemon, theirs) if theirs else None

    path = daemon.settings.run_dir / tenants.SOCKET_NAME
    listening = sockets.enter_context(server.bound_socket(path, "", tenants.SOCKET_MODE))
    known = tenants.reading_registry(daemon.registry)
    return server.CommandServer(listening, known, daemon, admit)


def announce(daemon: Daemon, ready_fd: int) -> None:
    """Tell the log, systemd and whoever started us that the socket answers."""
    garbage.ShortRounds().begin()
    chosen = daemon.settings
    log.info("ready", version=__version__, socket=str(chosen.socket), root=str(chosen.root))
    sdnotify.notify(sdnotify.READY, f"STATUS=Listening on {chosen.socket}")
    if ready_fd >= 0:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)


async def obey_signals(signals: AsyncIterator[int], daemon: Daemon, parsed: Parsed) -> None:
    """Reload at SIGHUP; return at the first signal that stops."""
    async for number in signals:
        if number != signal.SIGHUP:
            log.info("stopping", signal=signal.Signals(number).name)
            return
        sdnotify.reloading()
        await reload(daemon, parsed)
        sdnotify.notify(sdnotify.READY)


async def reload(daemon: Daemon, parsed: Parsed) -> None:
    """Read the configuration again; a wrong one is logged and changes nothing."""
    try:
        fresh = await trio.to_thread.run_sync(settings.load, parsed, os.environ)
    except AruntimeError as error:
        log.error("configuration not reloaded", error=error.message)
        return
    current = daemon.settings
    if ignored := settings.needs_restart(current, fresh):
        log.warning("these settings need a restart", settings=ignored)
    chosen = settings.reloaded(current, fresh)
    journal.configure(chosen.log_format, chosen.log_level)
    daemon.apply_settings(chosen)
    log.info("configuration reloaded")


if __name__ == "__main__":
    sys.exit(main())
