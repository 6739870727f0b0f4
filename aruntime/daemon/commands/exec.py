"""exec: run a command in a running container."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from aruntime.daemon import execs, launching
from aruntime.daemon.attach import attached, parse_detach_keys
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.run import DETACH_KEYS, require_terminal
from aruntime.daemon.commands.run_flags import read_env_files
from aruntime.daemon.record import Exec, set_window_size
from aruntime.daemon.session import Session

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon


async def run_exec(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Run a command in a container; its exit code is ours."""
    container = daemon.supervisor.find(parsed.args[0])
    env = [*await read_env_files(session, parsed.strings("env-file")), *parsed.strings("env")]
    attach = not parsed.boolean("detach")
    tty = parsed.boolean("tty")
    if attach and tty and parsed.boolean("interactive"):
        require_terminal(session)
    keys = parse_detach_keys(parsed.string("detach-keys"))
    request = launching.ExecRequest(
        args=parsed.args[1:],
        env=env,
        caller_env=session.env,
        working_dir=parsed.string("workdir"),
        user=parsed.string("user"),
        privileged=parsed.boolean("privileged"),
        tty=tty,
        stdin=attach and parsed.boolean("interactive"),
        console_size=(session.rows, session.cols) if tty and session.stdin_tty else (0, 0),
    )
    daemon.events.publish(
        "container",
        f"exec_create: {' '.join(request.args)}",
        container.id,
        container.event_attributes(),
    )
    started, streams = await execs.start_exec(daemon.parts, container, request)
    if not attach:
        execs.leave_output(daemon.parts, started, streams)
        return 0
    session.open_ended = True
    async with execs.exec_output(daemon.parts, started, streams) as output:
        detached = await attached(
            session,
            output,
            entrance=started.stdin,
            close_entrance=lambda: close_stdin(started),
            send_signal=None,
            resize=lambda rows, columns: resize(started, rows, columns),
            tty=tty,
            detach_keys=keys,
        )
    if detached:
        return 0
    await started.exited.wait()
    return 125 if started.exit_code is None or started.exit_code < 0 else started.exit_code


async def close_stdin(started: Exec) -> None:
    """Let the process read end of file."""
    if started.stdin is not None and not started.stdin.tty:
        started.stdin.close()
    await trio.lowlevel.checkpoint()


def resize(started: Exec, rows: int, columns: int) -> None:
    """Tell the exec's pty its size."""
    if started.master_fd >= 0:
        with contextlib.suppress(OSError):
            set_window_size(started.master_fd, rows, columns)


COMMANDS = [
    Command(
        "exec", "Execute a command in a running container", run_exec,
        "CONTAINER COMMAND [ARG...]",
        (
            Flag("detach", "d", "bool", help="Run the command in the background"),
            DETACH_KEYS,
            Flag("env", "e", "list", None, "list", "Set environment variables"),
            Flag("env-file", "", "list", None, "list", "Read in a file of environment variables"),
            Flag("interactive", "i", "bool", help="Keep stdin open even if not attached"),
            Flag("privileged", "", "bool", help="Give extended privileges to the command"),
            Flag("tty", "t", "bool", help="Allocate a pseudo-TTY"),
            Flag("user", "u", help="Username or UID (format: <name|uid>[:<group|gid>])"),
            Flag("workdir", "w", help="Working directory inside the container"),
        ),
        minimum=2, interspersed=False, section="common", completes="running",
    ),
]  # fmt: skip
