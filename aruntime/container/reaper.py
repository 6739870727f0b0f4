"""``--init``: our own PID 1, which reaps orphans and passes signals on to the program.

The process that set the container up stays (it runs from a sealed memfd, is not dumpable and is
confined like the program); the program becomes its child, as under tini. Signals that a program
without handlers would ignore as PID 1 thereby kill it.
"""

from __future__ import annotations

import os

from aruntime.kernel import namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # signal itself drags enum in

SIGNAL_BASE = 128

KEPT_SIGNALS = frozenset(
    {
        int(_signal.SIGCHLD),
        # Faults of this process itself, not somebody's message.
        int(_signal.SIGSEGV),
        int(_signal.SIGBUS),
        int(_signal.SIGFPE),
        int(_signal.SIGILL),
        int(_signal.SIGTRAP),
        int(_signal.SIGABRT),
        int(_signal.SIGSYS),
        # Job control is about our own place on the terminal.
        int(_signal.SIGTTIN),
        int(_signal.SIGTTOU),
    }
)
"""Not passed on (as tini keeps them)."""


def fork_program(*, terminal: bool) -> int:
    """Fork; 0 in the child, which is to become the program, its pid in PID 1.

    The child leads a process group of its own, in the terminal's foreground if there is one:
    otherwise a Ctrl-C would reach it twice, from the terminal and passed on.

    Raises:
        OSError: as clone3(2).
    """
    if os.getpid() != 1:
        # In a PID namespace of others: orphans come to us all the same, from the first one on.
        process.set_child_subreaper()
    pid, pidfd = namespaces.clone3(0)
    if pid:
        os.close(pidfd)
        return pid
    os.setpgid(0, 0)
    if terminal:
        os.tcsetpgrp(0, os.getpgrp())  # SIGTTOU, which this costs a background group, is blocked
    return 0


def reap_until_program_ends(program_pid: int) -> None:
    """Reap whatever dies and pass signals on; exits with the program's code, never returns."""
    every = _signal.valid_signals()
    while True:
        received = _signal.sigwaitinfo(every)
        if received.si_signo == _signal.SIGCHLD:
            code = reap(program_pid)
            if code is not None:
                os._exit(code)
        elif received.si_signo not in KEPT_SIGNALS:
            try:
                os.kill(program_pid, received.si_signo)
            except ProcessLookupError:
                pass  # it has died: SIGCHLD is on its way
            except PermissionError:
                pass  # it has become another user, by a setuid program


def reap(program_pid: int) -> int | None:
    """Reap every dead child; return the program's exit code if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == program_pid:
            ended = os.waitstatus_to_exitcode(status)
            code = SIGNAL_BASE - ended if ended < 0 else ended
