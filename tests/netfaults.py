"""A daemon that is killed at a chosen step of what it tells the kernel about networks.

Steps are the system calls that change something outside of the daemon: messages on sockets
(netlink, its own and nft's), links and names of files. seccomp(2) hands each to a listener
(SECCOMP_RET_USER_NOTIF), which lets it through or kills the daemon before it. Everything else
runs unhindered. The product knows nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from pathlib import Path

from aruntime.container import libseccomp
from tests.faults import answer_all, listener_of
from tests.harness import RunningDaemon

STEPS = ("sendto", "sendmsg", "symlink", "symlinkat", "unlink", "unlinkat", "rename", "mkdir",
         "rmdir")  # fmt: skip
NETLINK_FAMILY = 16
FILES = frozenset(STEPS) - {"sendto", "sendmsg"}

PROGRAM = """#!{python}
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = {numbers}
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
code = [(0x20, 0, 0, 0)]
for place, number in enumerate(numbers):
    code.append((0x15, len(numbers) - place, 0, number))
code += [(6, 0, 0, ALLOW), (6, 0, 0, NOTIFY)]
text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(text)))
libc.syscall({seccomp}, 1, 1 << 3, program)
try:
    os.mkdir("/proc/waits-until-the-listener-is-taken")
except OSError:
    pass
os.execv({target!r}, [{target!r}, *sys.argv[1:]])
"""
"""Puts itself under the filter and becomes the daemon; it waits in a call
until the listener, which execve closes, was taken."""


class FaultyDaemon:
    """A running daemon under a filter, and the thread that answers for the kernel.

    Attributes:
        steps: the steps since :meth:`arm`, in words.
    """

    def __init__(self, daemon: RunningDaemon) -> None:
        self.steps: list[str] = []
        self._daemon = daemon
        self._kill_at = 0
        self._armed = False
        script = daemon.base / "faulty-daemon"
        numbers = [libseccomp.syscall_resolve_name(name) for name in STEPS]
        self._names = dict(zip(numbers, STEPS, strict=True))
        text = PROGRAM.format(
            python=sys.executable, numbers=numbers, target=daemon.program,
            seccomp=libseccomp.syscall_resolve_name("seccomp"),
        )  # fmt: skip
        script.write_text(text)
        script.chmod(0o755)
        # Not trio's: the kernel's questions come while the test's own thread waits.
        self._thread = threading.Thread(target=self._answer)  # noqa: TID251
        honest, daemon.program = daemon.program, str(script)
        try:
            # It sends before it says that it is ready: somebody must answer from the start.
            daemon.start(on_spawn=self._listen)
        finally:
            daemon.program = honest

    def _listen(self, pid: int) -> None:
        self.pid = pid
        self._listener = listener_of(pid)
        self._thread.start()

    def arm(self, kill_at: int) -> None:
        """Count steps from now on; kill the daemon before this one (from 1; 0: never)."""
        self.steps, self._kill_at, self._armed = [], kill_at, True

    def close(self) -> None:
        """End the daemon, if it still lives, and wait for all that run under the filter."""
        self._armed = False
        if self._daemon.process is not None:
            self._daemon.kill()
        self._thread.join(30)
        assert not self._thread.is_alive(), "somebody still runs under the filter"
        os.close(self._listener)

    def _answer(self) -> None:
        answer_all(self._listener, self._count)

    def _count(self, pid: int, nr: int, first: int) -> int:
        """Note a step that counts; kill the daemon if it is the chosen one. All may go on."""
        name = self._names.get(nr, str(nr))
        if not self._armed or (name not in FILES and not is_netlink(pid, first)):
            return 0
        self.steps.append(name)
        if len(self.steps) == self._kill_at:
            self._armed = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return 0


def is_netlink(pid: int, fd: int) -> bool:
    """Whether a descriptor of a process is a netlink socket."""
    try:
        path = Path(f"/proc/{pid}/fd/{fd}")
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        inode = os.readlink(path).removeprefix("socket:[").removesuffix("]")
        rows = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(row.split()[-1] == inode for row in rows)
