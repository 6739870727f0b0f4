"""Making and removing cgroup directories, the same on v1 and v2.

Knows directories and undo; limits, joining and the rules of a controller are the drivers'.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from aruntime.errors import Conflict


class Undo:
    """What must be taken back if a later step fails; each step registers right after it is done."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Register the undoing of what has just been done."""
        self._steps.append(step)

    def run(self, cause: BaseException) -> BaseException:
        """Take everything back, last first, and return what to raise.

        That is the cause itself, or a group of it and what failed while undoing.
        """
        failures: list[BaseException] = []
        for step in reversed(self._steps):
            try:
                step()
            except OSError as error:
                failures.append(error)
        self._steps.clear()
        if not failures:
            return cause
        return BaseExceptionGroup("an operation failed, and undoing it too", [cause, *failures])


def make_fresh(directory: str) -> None:
    """Make one cgroup directory; an empty leftover of the same name is removed first.

    Raises:
        FileNotFoundError: the parent does not exist.
        Conflict: the directory is there and has processes.
    """
    try:
        os.mkdir(directory, 0o755)
        return
    except FileExistsError:
        pass
    try:
        remove(directory)
    except BlockingIOError:
        raise Conflict(
            f"cgroup {directory} exists and has processes; they are listed in its cgroup.procs, "
            "end them first"
        ) from None
    os.mkdir(directory, 0o755)


def missing_levels(mount_point: str, path: str) -> list[str]:
    """Return the directories of ``path`` below ``mount_point`` that do not exist, outermost first.

    A hierarchy must never be made by accident out of a plain directory, so the mount point itself
    is not among them.
    """
    levels = []
    directory = mount_point
    for part in path.strip("/").split("/"):
        directory = f"{directory}/{part}"
        if not os.path.isdir(directory):
            levels.append(directory)
    return levels


def remove(directory: str) -> None:
    """Remove a cgroup and its descendants; one that is gone already is fine.

    Raises:
        BlockingIOError: processes are in it, or are just leaving; try again shortly.
    """
    try:
        os.rmdir(directory)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    for child in children(directory):
        remove(child)
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        raise BlockingIOError(errno.EBUSY, os.strerror(errno.EBUSY), directory) from None


def children(directory: str) -> list[str]:
    """Return the child cgroups of a directory, none if it is gone."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def list_pids(directory: str) -> list[int]:
    """Return the processes of a cgroup and its descendants, as this pid namespace numbers them."""
    pids: list[int] = []
    try:
        with open(f"{directory}/cgroup.procs", "rb") as file:
            pids += map(int, file.read().split())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return pids
    for child in children(directory):
        pids += list_pids(child)
    return pids
