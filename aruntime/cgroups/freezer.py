"""Suspending and killing the processes of one cgroup.

The cgroup2 freezer is preferred wherever a cgroup2 tree is mounted, with controllers or without:
its tasks can be killed while frozen, and ``cgroup.events`` tells when the last one stopped. The
v1 freezer is the fallback; there ``freezer.state`` may stay FREEZING while tasks keep arriving,
and SIGKILL waits for the thaw. Serialising a pause against launch and exec is the supervisor's.
Source: Documentation/admin-guide/cgroup-v2.rst (cgroup.freeze, cgroup.kill), cgroup-v1/
freezer-subsystem.rst.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import NamedTuple

from aruntime.cgroups.files import read_file, write_file
from aruntime.cgroups.parsers import find_keyed
from aruntime.errors import ControllerUnavailable, Unavailable

FREEZE_TIMEOUT_SECONDS = 10.0
"""Longer than any healthy freeze by far (0.1 ms); a task stuck in the kernel never freezes."""
_RETRY_SECONDS = 0.0002
_THAW_EVERY = 50
_THAW_SECONDS = 0.01
_KILL_ROUNDS = 100


class Freezer(NamedTuple):
    """The directories of one cgroup that can suspend it; at least one is given by the host."""

    unified: str | None
    """The cgroup's directory in the cgroup2 tree."""
    v1: str | None
    """The cgroup's directory in the v1 freezer hierarchy."""


def freeze_request(freezer: Freezer) -> None:
    """Ask for the freeze and return at once; :func:`is_frozen` tells when it is done.

    With the v1 freezer a request that stays FREEZING must be repeated.

    Raises:
        ControllerUnavailable: the host has neither freezer.
        OSError: the cgroup is gone (ENOENT, ENODEV) or the write was refused.
    """
    if freezer.unified is not None:
        write_file(f"{freezer.unified}/cgroup.freeze", "1")
    else:
        write_file(_state_file(freezer), "FROZEN")


def thaw_request(freezer: Freezer) -> None:
    """Let the processes run on; both trees are thawed, whichever froze them."""
    if freezer.unified is not None:
        write_file(f"{freezer.unified}/cgroup.freeze", "0")
    if freezer.v1 is not None:
        write_file(_state_file(freezer), "THAWED")
    elif freezer.unified is None:
        _state_file(freezer)


def state(freezer: Freezer) -> str:
    """Return ``thawed``, ``freezing`` or ``frozen`` as the kernel sees it now."""
    if freezer.unified is not None:
        if find_keyed(read_file(f"{freezer.unified}/cgroup.events"), b"frozen"):
            return "frozen"
        requested = read_file(f"{freezer.unified}/cgroup.freeze").strip() == b"1"
        if requested:
            return "freezing"
        if freezer.v1 is None:
            return "thawed"
    return read_file(_state_file(freezer)).strip().decode().lower()


def is_frozen(freezer: Freezer) -> bool:
    """Return whether every process of the cgroup is suspended, by either freezer."""
    if freezer.unified is not None:
        if find_keyed(read_file(f"{freezer.unified}/cgroup.events"), b"frozen"):
            return True
        if freezer.v1 is None:
            return False
    return read_file(_state_file(freezer)).strip() == b"FROZEN"


def freeze(freezer: Freezer, timeout_seconds: float = FREEZE_TIMEOUT_SECONDS) -> None:
    """Suspend all processes and return when the kernel says that none runs.

    Blocks; not cancellable. On failure the cgroup is thawed again.

    Raises:
        Unavailable: the processes did not stop within the time.
        ControllerUnavailable: the host has no freezer.
        OSError: the cgroup is gone.
    """
    deadline = time.monotonic() + timeout_seconds
    if freezer.unified is not None:
        frozen = _freeze_unified(freezer.unified, deadline)
    else:
        frozen = _freeze_v1(_state_file(freezer), deadline)
    if not frozen:
        thaw_request(freezer)
        raise Unavailable(
            f"the processes did not freeze within {timeout_seconds:g} s, one is probably stuck "
            "in the kernel; look for state D in aruntime top, then try again"
        )


def thaw(freezer: Freezer, timeout_seconds: float = FREEZE_TIMEOUT_SECONDS) -> None:
    """Let the processes run on and return when the kernel says so. Blocks.

    Raises:
        Unavailable: an ancestor cgroup is frozen and holds this one.
    """
    thaw_request(freezer)
    deadline = time.monotonic() + timeout_seconds
    if freezer.unified is not None:
        thawed = _wait_for_events(freezer.unified, frozen=False, deadline=deadline)
    else:
        thawed = True
    if not thawed or (freezer.v1 is not None and _v1_parent_freezing(freezer.v1)):
        raise Unavailable(
            "the processes stay frozen because a cgroup above them is frozen; thaw that one first"
        )


def _freeze_unified(directory: str, deadline: float) -> bool:
    write_file(f"{directory}/cgroup.freeze", "1")
    return _wait_for_events(directory, frozen=True, deadline=deadline)


def _wait_for_events(directory: str, *, frozen: bool, deadline: float) -> bool:
    """Wait on cgroup.events, which the kernel announces by POLLPRI; False after the deadline."""
    fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while bool(find_keyed(os.pread(fd, 4096, 0), b"frozen")) != frozen:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
        return True
    finally:
        os.close(fd)


def _freeze_v1(state_file: str, deadline: float) -> bool:
    """Repeat the request; thaw for a moment now and then so that fork storms can settle."""
    attempt = 0
    while True:
        write_file(state_file, "FROZEN")
        if read_file(state_file) == b"FROZEN\n":
            return True
        if time.monotonic() >= deadline:
            return False
        attempt += 1
        if attempt % _THAW_EVERY == 0:
            write_file(state_file, "THAWED")
            time.sleep(_THAW_SECONDS)
        else:
            time.sleep(_RETRY_SECONDS)


def _v1_parent_freezing(directory: str) -> bool:
    return read_file(f"{directory}/freezer.parent_freezing").strip() == b"1"


def _state_file(freezer: Freezer) -> str:
    if freezer.v1 is None:
        raise ControllerUnavailable(
            "pause needs the freezer controller or a cgroup2 tree and this host has mounted "
            "neither; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
        )
    return f"{freezer.v1}/freezer.state"


def kill(freezer: Freezer, procs_directory: str) -> None:
    """Send SIGKILL to every process of the cgroup and of its descendants, frozen or not.

    Returns when the signal is sent, not when the processes are gone. A cgroup that the v1 freezer
    holds is thawed, or its processes could not die.

    Args:
        freezer: the cgroup's freezer directories.
        procs_directory: a directory whose cgroup.procs lists the processes, which alone is used
            where there is no cgroup.kill (before 5.14).
    """
    killed = freezer.unified is not None and _kill_by_file(freezer.unified)
    # One round even then, for a process that joined the v1 hierarchies only.
    for _ in range(1 if killed else _KILL_ROUNDS):
        if not _kill_listed(procs_directory):
            break
    if freezer.v1 is not None:
        _thaw_if_there(f"{freezer.v1}/freezer.state")


def _kill_by_file(directory: str) -> bool:
    try:
        write_file(f"{directory}/cgroup.kill", "1")
    except FileNotFoundError:
        return False
    return True


def _kill_listed(directory: str) -> bool:
    """Signal every listed process once; False when there was none that could be signalled."""
    found = False
    for root, _, _ in os.walk(directory):
        try:
            pids = read_file(f"{root}/cgroup.procs").split()
        except OSError:
            continue  # a descendant that went meanwhile
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
            found = True
    return found


def _thaw_if_there(state_file: str) -> None:
    try:
        write_file(state_file, "THAWED")
    except FileNotFoundError:
        pass  # the cgroup is gone, and its processes with it
