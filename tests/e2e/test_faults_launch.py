"""Fault injection end to end: each system call of a launch fails in turn, nothing is left behind.

What fails is a call of the container's init or of the shim itself, or the shim dies instead of
making it. The list of calls is not written down here: a first launch is recorded, so that what is
added tomorrow fails tomorrow. By default the first two and the last call of each name fail;
ARUNTIME_TEST_ALL_FAULTS=1 takes every single one.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import KILL, NEVER_FAIL, Call, FilteredShim
from tests.harness import RunningDaemon, wait_until
from tests.traces import assert_no_more_than, assert_one_line, traces

pytestmark = pytest.mark.e2e

ALL = bool(os.environ.get("ARUNTIME_TEST_ALL_FAULTS"))
ERRORS = (errno.EPERM, errno.ENOSPC, errno.ENOMEM, errno.EIO)


@pytest.fixture
def filtered(busybox_tar: bytes) -> Iterator[tuple[RunningDaemon, FilteredShim]]:
    """Yield a daemon and the filtered shim that it has found."""
    daemon = RunningDaemon()
    shim = FilteredShim(daemon.run_dir)
    daemon.start()
    daemon.load_busybox(busybox_tar)
    daemon.run("run", "--rm", "busybox", "true")
    assert daemon.shim_pid == shim.pid
    yield daemon, shim
    shim.disarm()
    daemon.destroy()
    shim.close()


KINDS = {
    "bridge": ["--rm", "busybox", "true"],
    "private": [
        "--rm", "--network", "none", "--userns", "auto", "-t", "--read-only", "-u", "user",
        "-v", "/tmp:/given:ro", "--tmpfs", "/scratch", "--ulimit", "core=0", "busybox", "true",
    ],
}  # fmt: skip


TOLERATED = frozenset(
    {
        "chdir", "fchown", "getsockname", "keyctl", "openat",
        "brk", "madvise", "mmap", "mremap", "munmap",
    }
)  # fmt: skip
"""What a container can do without: chdir is tried again as the user, stdio need not become the
user's, a kernel or filter without keys keeps none from it (as runc has it), of what is opened the
score of the OOM killer is a wish, and the allocator asks again. Else no name here may ever be one
that isolates or limits.
"""


def is_tolerated(call: Call, place: str) -> bool:
    """Whether a launch may go on after this failure.

    The child that holds a new user namespace for its parent waits on a pipe: it is killed anyway.
    """
    return call.name in TOLERATED or (place.startswith("pipe:") and call.name in ("read", "close"))


def targets(calls: list[Call], role: str) -> list[Call]:
    """Return which calls shall fail: of each name the first two and the last, or all."""
    most: dict[str, int] = {}
    for call in calls:
        if call.role == role:
            most[call.name] = call.nth
    return [
        call
        for call in calls
        if call.role == role
        and call.name not in NEVER_FAIL
        and (ALL or call.nth in (1, 2, most[call.name]))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_init(filtered: tuple[RunningDaemon, FilteredShim], kind: str) -> None:
    """Whatever fails: one line or success, never a trace; then a healthy start works."""
    daemon, shim = filtered
    argv = KINDS[kind]
    daemon.run("run", *argv)
    shim.arm(None)
    daemon.run("run", *argv)
    shim.disarm()
    before = traces(daemon)
    chosen = targets(shim.calls, "init")
    assert len(chosen) > 60
    seeded = random.Random(len(chosen))
    failed = 0
    for target in chosen:
        number = seeded.choice(ERRORS)
        shim.arm(target, number)
        done = daemon.run("run", *argv, code=None, timeout=20)
        shim.disarm()
        what = f"{target} {errno.errorcode[number]}: exit {done.returncode} {done.stderr!r}"
        if done.returncode == 0:
            assert shim.hit is None or is_tolerated(target, shim.hit), (what, shim.hit)
        else:
            assert_one_line(done, (125, 126, 127))
            failed += 1
        assert_no_more_than(before, daemon, what)
    assert failed > len(chosen) * 0.8
    daemon.run("run", *argv)
    assert daemon.shim_pid == shim.pid


def renew(daemon: RunningDaemon, shim: FilteredShim) -> FilteredShim:
    """Put a filtered shim in the place of one that died and of its successor."""
    shim.close()
    successor = daemon.shim_pid
    daemon.stop()
    if successor:
        os.kill(successor, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{successor}").exists(), what="the shim ends")
    fresh = FilteredShim(daemon.run_dir)
    daemon.start()
    return fresh


@pytest.mark.parametrize("death", [False, True], ids=["errors", "kills"])
def test_calls_of_the_shim(filtered: tuple[RunningDaemon, FilteredShim], death: bool) -> None:
    """The shim's own calls fail, or it is killed between them: an answer comes, nothing stays."""
    daemon, shim = filtered
    argv = KINDS["bridge"]
    shim.arm(None)
    daemon.run("run", *argv)
    shim.disarm()
    before = traces(daemon)
    seeded = random.Random(death)
    chosen = targets(shim.calls, "shim")
    for target in chosen if ALL else seeded.sample(chosen, min(7, len(chosen))):
        number = KILL if death else seeded.choice(ERRORS)
        shim.arm(target, number)
        done = daemon.run("run", *argv, code=None, timeout=30)
        shim.disarm()
        if done.returncode:
            assert_one_line(done, (125, 126, 127))
        # A shim that ends of the failure may be at it still.
        wait_until(lambda: daemon.run("run", *argv, code=None).returncode == 0, what="a start")
        if daemon.shim_pid != shim.pid:
            shim = renew(daemon, shim)
        daemon.run("run", *argv)
        assert_no_more_than(before, daemon, f"{target} {number}")
    assert daemon.shim_pid == shim.pid
