"""Fault injection: every single system call of a launch fails once (style.md, rule 20).

The test traces the shim with ptrace(2), follows the init it forks and makes its n-th system call
fail with EIO, for every n until a launch comes through untouched. Product code knows nothing of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.shim.commander import Shim

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="registers of x86-64"),
]


# include/uapi/linux/ptrace.h
PTRACE_CONT = 7
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_GETEVENTMSG = 0x4201
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_O_TRACESYSGOOD = 0x01
PTRACE_O_TRACEFORK = 0x02
PTRACE_O_TRACECLONE = 0x08
PTRACE_O_TRACEEXEC = 0x10
PTRACE_EVENT_FORK = 1
PTRACE_EVENT_CLONE = 3
PTRACE_EVENT_EXEC = 4
WALL = 0x40000000
SYSCALL_STOP = signal.SIGTRAP | 0x80

# arch/x86: struct user_regs_struct has 27 words
REGISTERS = ctypes.c_ulonglong * 27
ORIG_RAX, RAX = 15, 10
EXIT_CALLS = frozenset({60, 231, 15})
"""exit, exit_group and rt_sigreturn do not return, so they cannot fail."""
NO_CALL = (1 << 64) - 1
IDLE_PASSES = 2000
"""Looks in which nothing had happened, before one is made for what comes without an event."""

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, content: Any = 0) -> None:
    """Call ptrace(2)."""
    if libc.ptrace(request, pid, address, content) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Tracer:
    """Follows the children of a shim and counts their system calls.

    Attributes:
        calls: numbers of the system calls seen since :meth:`arm`.
    """

    def __init__(self, pid: int) -> None:
        self.shim = pid
        self.live: set[int] = set()
        self.entered: set[int] = set()
        self.failing: set[int] = set()
        self.target = 0
        self.calls: list[int] = []
        options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE
        ptrace(PTRACE_SEIZE, pid, 0, options | PTRACE_O_TRACEEXEC)

    def arm(self, target: int) -> None:
        """Make the ``target``-th system call of the next launch fail."""
        self.target, self.calls = target, []

    def follow(self) -> None:
        """Wait for a fork of the shim and follow the family until it has executed or died."""
        self._wait_fork()
        idle = 0
        while self.live:
            stops = sum(self._step(pid) for pid in list(self.live))
            idle = 0 if stops else idle + 1
            if idle > IDLE_PASSES:
                # A child whose parent was killed while it forked comes without an event; until it
                # is waited for, the parent cannot finish dying.
                self._adopt_new()
                idle = 0

    def _wait_fork(self) -> None:
        while True:
            _, status = os.waitpid(self.shim, WALL)
            assert os.WIFSTOPPED(status), status
            event = status >> 16
            ptrace(PTRACE_CONT, self.shim, 0, 0 if event else os.WSTOPSIG(status))
            if event in (PTRACE_EVENT_FORK, PTRACE_EVENT_CLONE):
                break
        self._adopt_new()

    def _adopt_new(self) -> None:
        """Find children that were attached by themselves, and let them run to their next call."""
        known = {self.shim, *self.live}
        for pid in descendants(self.shim) - known:
            if tracer_of(pid) == os.getpid():
                _, status = os.waitpid(pid, WALL)  # the stop in which a new tracee is born
                if os.WIFSTOPPED(status):
                    self.live.add(pid)
                    ptrace(PTRACE_SYSCALL, pid)

    def _step(self, pid: int) -> bool:
        """Handle one stop of a tracee; whether there was one."""
        found, status = os.waitpid(pid, WALL | os.WNOHANG)
        if not found:
            return False
        if not os.WIFSTOPPED(status):
            self.live.discard(pid)
            return True
        event = status >> 16
        if event == PTRACE_EVENT_EXEC:
            ptrace(PTRACE_DETACH, pid)
            self.live.discard(pid)
            return True
        delivered = 0
        if os.WSTOPSIG(status) == SYSCALL_STOP:
            self._at_call(pid)
        elif event in (PTRACE_EVENT_FORK, PTRACE_EVENT_CLONE):
            self._adopt_new()
        elif not event:
            delivered = os.WSTOPSIG(status)
        try:
            ptrace(PTRACE_SYSCALL, pid, 0, delivered)
        except ProcessLookupError:
            self.live.discard(pid)
        return True

    def _at_call(self, pid: int) -> None:
        registers = REGISTERS()
        try:
            ptrace(PTRACE_GETREGS, pid, 0, ctypes.addressof(registers))
        except ProcessLookupError:
            return
        if pid in self.entered:
            self.entered.discard(pid)
            if pid in self.failing:
                self.failing.discard(pid)
                registers[RAX] = NO_CALL + 1 - errno.EIO
                ptrace(PTRACE_SETREGS, pid, 0, ctypes.addressof(registers))
            return
        self.entered.add(pid)
        if registers[ORIG_RAX] in EXIT_CALLS:
            return
        self.calls.append(registers[ORIG_RAX])
        if len(self.calls) == self.target:
            self.failing.add(pid)
            registers[ORIG_RAX] = NO_CALL
            ptrace(PTRACE_SETREGS, pid, 0, ctypes.addressof(registers))

    def close(self) -> None:
        """Let the shim go."""
        ptrace(PTRACE_INTERRUPT, self.shim)
        os.waitpid(self.shim, WALL)
        ptrace(PTRACE_DETACH, self.shim)


def descendants(pid: int) -> set[int]:
    """Return the children of a process and theirs."""
    try:
        content = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    found = {int(word) for word in content.split()}
    return found.union(*(descendants(child) for child in found))


def tracer_of(pid: int) -> int:
    """Return who traces a process."""
    try:
        content = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or since
        return 0
    return int(content.partition("TracerPid:")[2].split()[0])


@pytest.fixture
def tracer(shim: Shim) -> Iterator[Tracer]:
    """Return a tracer of the shim."""
    following = Tracer(shim.process.pid)
    yield following
    following.close()


def attempt(shim: Shim, tracer: Tracer, target: int, **options: Any) -> str:
    """Launch once with a failing call; return how it went."""
    tracer.arm(target)
    shim.send_launch("c1", ["true"], start=True, **options)
    tracer.follow()
    return outcome(shim, "c1")


def outcome(shim: Shim, container_id: str, exec_id: str = "") -> str:
    """Return how a launch or exec went, reaped."""
    key = (container_id, exec_id)
    first = shim.daemon.expect_one_of(("created", "failed"), *key)
    if first["op"] == "failed":
        assert first["strerror"], first
        return f"failed: {first['step']}"
    second = shim.daemon.expect_one_of(("running", "failed"), *key)
    if second["op"] == "failed":
        shim.daemon.forget(*key)
        return f"failed: {second['step']}"
    code = shim.reap(*key)["code"]
    shim.daemon.forget(*key)
    return f"exit {code}"


def targets(calls: list[int]) -> list[int]:
    """Return which calls shall fail: all, but of a run of the same call (capabilities are read
    one by one) only the first two and the last."""
    chosen = []
    for place, number in enumerate(calls):
        inner = calls[max(0, place - 2) : place + 2]
        if len(inner) < 4 or set(inner) != {number}:
            chosen.append(place + 1)
    return chosen


KINDS = ("pid", "mount", "uts", "ipc", "network", "cgroup", "user")
IDS = [{"containerID": 0, "hostID": 300000, "size": 65536}]


def options_of(kind: str, shim: Shim) -> dict[str, Any]:
    """Return the launch options of a kind of container."""
    if kind == "terminal":
        return {"tty": True, "init": True, "login": "alice", "cwd": "/work"}
    if kind == "mapped":
        linux = {"uidMappings": IDS, "gidMappings": IDS}
        return {"namespaces": KINDS, "linux": linux, "init": False}
    return {}


@pytest.mark.parametrize("kind", ["plain", "terminal", "mapped"])
def test_every_call_of_a_launch_may_fail(shim: Shim, tracer: Tracer, kind: str) -> None:
    """Whatever fails: an answer comes, nothing is left, and the shim works on."""
    options = options_of(kind, shim)
    fds, mounts = shim.descriptors(), Path(f"/proc/{shim.process.pid}/mountinfo").read_text()
    assert attempt(shim, tracer, 0, **options) == "exit 0"
    chosen = targets(tracer.calls)
    assert len(chosen) > 100
    outcomes = []
    for target in chosen:
        outcomes.append(attempt(shim, tracer, target, **options))
        # An init that the intermediate process could not announce any more ends by itself and is
        # found by the next sweep.
        shim.wait_for(lambda: not shim.children())
        shim.wait_descriptors(fds, (target, outcomes[-1]))
    assert Path(f"/proc/{shim.process.pid}/mountinfo").read_text() == mounts
    assert sum(text.startswith("failed") for text in outcomes) > len(chosen) * 0.8
    assert len(set(outcomes)) > 10
    assert attempt(shim, tracer, 0, **options) == "exit 0"


def test_every_call_of_an_exec_may_fail(shim: Shim) -> None:
    """As for a launch; the container goes on."""
    shim.launch("c1", ["sleep", "1000"])
    tracer = Tracer(shim.process.pid)

    def attempt_exec(target: int) -> str:
        tracer.arm(target)
        shim.request_exec("c1", "e1", ["true"], login="alice", tty=True)
        tracer.follow()
        return outcome(shim, "c1", "e1")

    assert attempt_exec(0) == "exit 0"
    chosen, fds, children = targets(tracer.calls), shim.descriptors(), shim.children()
    assert len(chosen) > 50
    outcomes = []
    for target in chosen:
        outcomes.append(attempt_exec(target))
        assert shim.children() == children, (target, outcomes[-1])
        assert shim.descriptors() == fds, (target, outcomes[-1])
    assert sum(text.startswith("failed") for text in outcomes) > len(chosen) * 0.8
    tracer.close()
    shim.kill("c1")
    shim.reap("c1")
