"""A shim whose system calls, and those of all it forks, are answered by the test.

seccomp(2) hands every call of the filtered processes to a listener (SECCOMP_RET_USER_NOTIF), which
lets it through or makes it fail with an error number. The product knows nothing of it: the filter
is loaded by a small launcher before it becomes the shim.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aruntime.container import libseccomp
from aruntime.shim import boot
from tests.harness import wait_until

# include/uapi/linux/seccomp.h
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags, nr, arch, instruction pointer, arguments."""
ANSWER = struct.Struct("=QqiI")
"""struct seccomp_notif_resp: id, val, error, flags."""
FLAG_CONTINUE = 1


def _iowr(number: int, size: int) -> int:
    """Return _IOWR('!', number, size) of include/uapi/asm-generic/ioctl.h."""
    return 3 << 30 | size << 16 | ord("!") << 8 | number


NOTIF_RECV = _iowr(0, NOTIFICATION.size)
NOTIF_SEND = _iowr(1, ANSWER.size)
PIDFD_GETFD = 438

LAUNCHER = """
import ctypes, os, struct, sys
if os.fork():
    os._exit(0)
os.setsid()
libc = ctypes.CDLL(None, use_errno=True)
everything = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FC00000), 8)
program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(everything)))
os.write(1, b"%d" % os.getpid())
os.close(1)
os.open(sys.argv[1] + "/shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(1, 2)
libc.syscall(int(sys.argv[2]), 1, 1 << 3, program)
os.execv(sys.argv[3], sys.argv[3:])
"""

NEVER_FAIL = frozenset(
    {"exit", "exit_group", "rt_sigreturn", "restart_syscall"}
    | {"umask", "gettid", "getpid", "getppid"}
)
"""They do not return, or the kernel knows no failure of them."""


KILL = -1
"""Instead of an error number: the shim gets SIGKILL before the call."""


class Call(NamedTuple):
    """One system call of a launch: who made it, which, and the how-manieth of these it was."""

    role: str
    name: str
    nth: int


class FilteredShim:
    """A shim under a filter, and the thread that answers for the kernel.

    Attributes:
        calls: what shim and init have called since :meth:`arm`, in order.
        hit: what the chosen call was about (the file its first argument refers to, if it is a
            descriptor), None while it was not made.
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.calls: list[Call] = []
        self.hit: str | None = None
        self._target: Call | None = None
        self._errno = 0
        self._armed = False
        self._counts: dict[tuple[str, str], int] = {}
        self._program_runs = False
        self._names = names_by_number()
        number = libseccomp.syscall_resolve_name("seccomp")
        launched = subprocess.run(
            [sys.executable, "-c", LAUNCHER, str(run_dir), str(number), *boot.argv(str(run_dir))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
        self.pid = int(launched.stdout)
        self._listener = listener_of(self.pid)
        # Answering needs a thread: whoever waits for a filtered process would else wait for itself.
        # Not trio's: the kernel's questions come while the test's own thread waits.
        self._thread = threading.Thread(target=self._answer)  # noqa: TID251
        self._thread.start()
        wait_until(lambda: (run_dir / "shim.sock").exists(), what="the shim's socket")

    def arm(self, target: Call | None, number: int = 0) -> None:
        """Record from now on; let one call fail with this error number, or KILL the shim there."""
        self._counts, self._program_runs, self.calls = {}, False, []
        self._target, self._errno, self.hit = target, number, None
        self._armed = True

    def disarm(self) -> None:
        """Let every call through."""
        self._armed = False

    def close(self) -> None:
        """End the shim, if it still lives, and the thread with it."""
        self.disarm()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._thread.join(20)
        assert not self._thread.is_alive(), "somebody still runs under the filter"
        os.close(self._listener)

    def _answer(self) -> None:
        answer_all(self._listener, self._decide)

    def _decide(self, pid: int, nr: int, first: int) -> int:
        """Return 0 to let a call through, or the error number it fails with."""
        if not self._armed or (self._program_runs and pid != self.pid):
            return 0
        name = self._names.get(nr, str(nr))
        role = "shim" if pid == self.pid else "init"
        count = self._counts[role, name] = self._counts.get((role, name), 0) + 1
        call = Call(role, name, count)
        self.calls.append(call)
        if call == self._target and name not in NEVER_FAIL:
            self.hit = target_of(pid, first)
            if self._errno == KILL:
                os.kill(self.pid, signal.SIGKILL)
                return errno.EINTR
            return self._errno
        if name == "execve" and role == "init":
            self._program_runs = True
        return 0


def answer_all(listener: int, decide: Callable[[int, int, int], int]) -> None:
    """Answer for the kernel until nobody is left under the filter.

    Args:
        listener: descriptor that the calls come from; stays the caller's.
        decide: is given who calls, the number of the call and its first argument; returns 0 to
            let it through, or the error number it fails with.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for _, events in poll.poll():
            if not events & select.POLLIN:
                return
        buffer = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, buffer)
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.EINTR), error
            continue  # it died meanwhile
        notice, pid, _, nr, _, _, first, *_ = NOTIFICATION.unpack(buffer)
        number = decide(pid, nr, first)
        answer = ANSWER.pack(notice, 0, -number, 0 if number else FLAG_CONTINUE)
        with contextlib.suppress(FileNotFoundError):  # killed while we thought
            fcntl.ioctl(listener, NOTIF_SEND, answer)


def target_of(pid: int, fd: int) -> str:
    """Return what a descriptor of a process refers to, if it is one."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def names_by_number() -> dict[int, str]:
    """Return the names of this machine's system calls."""
    found = {}
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_num_arch
    resolve.restype, resolve.argtypes = ctypes.c_void_p, [ctypes.c_uint32, ctypes.c_int]
    release = ctypes.CDLL(None).free
    release.argtypes = [ctypes.c_void_p]
    for number in range(600):
        address = resolve(libseccomp.arch_native(), number)
        if address:
            found[number] = ctypes.string_at(address).decode()
            release(address)
    return found


def listener_of(pid: int) -> int:
    """Take the listener out of a launcher, which waits in its next call until it is answered."""

    def listeners() -> list[int]:
        found = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if "seccomp notify" in os.readlink(entry):
                    found.append(int(entry.name))
        return found

    wait_until(listeners, what="the filter")
    pidfd = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        taken = int(libc.syscall(PIDFD_GETFD, pidfd, listeners()[0], 0))
    finally:
        os.close(pidfd)
    assert taken >= 0, os.strerror(ctypes.get_errno())
    os.set_inheritable(taken, False)
    return taken
