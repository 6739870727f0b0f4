"""What the client does when no daemon answers: explain, print help, or start one.

Imported only then, so it may import what it likes. The daemon is started detached, in a session
of its own, with its log in ROOT/aruntimed.log; it inherits the environment and so ARUNTIME_ROOT,
ARUNTIME_RUN_DIR and ARUNTIME_CONFIG. Two clients that come at once start one: there is a lock in
the run directory.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import subprocess
import sys

from aruntime import __version__
from aruntime.cli import client
from aruntime.daemon import dispatch, settings
from aruntime.daemon.commands import completion
from aruntime.daemon.commands.flags import parse
from aruntime.daemon.commands.system import DAEMON
from aruntime.errors import AruntimeError, os_error_text

SUPERVISORS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"})
"""What a service manager told our own process is not for the daemon."""
LOG_BYTES = 8 << 20
"""A log longer than this is put aside (one generation) when a daemon is started."""


def without_daemon(argv: list[str], path: bytes, failure: OSError, *, default: bool) -> int:
    """Do what can be done for a command whose daemon does not answer; returns the exit code.

    Args:
        argv: the command line after ``--host``.
        path: the socket that was tried.
        failure: what connect(2) said.
        default: the path is not of the user's own choosing, so a daemon may be started there.
    """
    known = dispatch.load_registry()
    try:
        line = dispatch.read_line(known, argv, client.terminal_size()[1])
        if not isinstance(line, str) and line.command.name == "completion":
            line = completion.script(line.args[0], known)
    except AruntimeError as error:
        return client.fail(error.message, error.EXIT_CODE)
    if isinstance(line, str):
        sys.stdout.write(line)
        sys.stdout.flush()
        return 0
    if line.command.name == "__complete":
        return 0  # TAB starts nothing
    where = os.fsdecode(path)
    if failure.errno not in (errno.ENOENT, errno.ECONNREFUSED):
        return client.fail(explanation(where, failure))
    if line.command.name == "version":
        os.write(1, f"Client:\n Version: {__version__}\n".encode())
        return client.fail(f"no daemon answers at {where}; start one with 'aruntimed'", 1)
    if not default:
        return client.fail(
            f"no daemon answers at {where}; start it with 'aruntimed --socket {where}'"
        )
    if os.geteuid() != 0:
        return client.fail(
            f"no daemon answers at {where} and only root can start one;"
            " run 'sudo aruntimed', or this command as root"
        )
    try:
        return client.converse(started(path), argv)
    except AruntimeError as error:
        return client.fail(error.message)
    except OSError as error:
        return client.fail(f"cannot start a daemon: {os_error_text(error)}")


def explanation(where: str, failure: OSError) -> str:
    """One line on why a socket that exists cannot be used."""
    if failure.errno == errno.EACCES:
        return (
            f"permission denied at {where}; run this as root, or join the group that"
            f" owns the socket ('stat -c %G {where}')"
        )
    reason = failure.strerror or str(failure)
    return f"cannot connect to {where}: {reason.lower()}"


def started(path: bytes) -> _socket.socket:
    """Start a daemon, unless another client does so already, and connect to it.

    Raises:
        AruntimeError: the settings are wrong, or the daemon gave up; the message has its reason.
        OSError: a directory, the log or the process cannot be made.
    """
    chosen = settings.load(parse(DAEMON, []), os.environ)
    chosen.run_dir.mkdir(parents=True, exist_ok=True)
    chosen.root.mkdir(parents=True, exist_ok=True)
    lock = os.open(chosen.run_dir / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for candidate in {path, os.fsencode(chosen.socket)}:
            try:
                return client.connect(candidate)
            except OSError:
                pass  # nobody has started it while we waited for the lock
        spawn(chosen)
        return client.connect(os.fsencode(chosen.socket))
    finally:
        os.close(lock)


def spawn(chosen: settings.Settings) -> None:
    """Start aruntimed and wait until its socket answers.

    Raises:
        AruntimeError: it ended instead; the message is the last line of its log.
    """
    log_path = chosen.root / "aruntimed.log"
    if log_path.exists() and log_path.stat().st_size > LOG_BYTES:
        log_path.rename(f"{log_path}.1")
    with open(log_path, "ab") as log:
        began = log.tell()
        readable, writable = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "aruntime.daemon.main", "--ready-fd", str(writable)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(writable,),
                start_new_session=True,
                cwd="/",
                env={name: text for name, text in os.environ.items() if name not in SUPERVISORS},
            )
        finally:
            os.close(writable)
    with open(readable, "rb") as ready:
        if ready.read():
            process.returncode = 0  # it lives on and is not ours to wait for
            return
    code = process.wait()
    with open(log_path, errors="replace") as text:
        text.seek(began)
        lines = text.read().splitlines()
    reason = lines[-1].removeprefix("aruntimed: ") if lines else f"it exited with {code}"
    raise AruntimeError(f"cannot start a daemon: {reason}; its log is {log_path}")
