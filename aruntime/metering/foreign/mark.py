"""Which cgroups are older than their metering, so that nothing before it is billed.

When metering of a pattern begins, what is there already has counters that belong to nobody. What
comes later counts from zero, also if it comes while no daemon looks: the pattern goes on to be
metered until a daemon is started without it.

The kernel gives the directories of a cgroup tree ascending inode numbers (kernfs, cyclic with a
generation above them), never the same one twice. So the highest number seen when a pattern's
metering began tells the two apart, exactly and whatever clocks do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import msgspec

from aruntime.metering.foreign.known import read_json, table


class Marks(msgspec.Struct, frozen=True):
    """Per pattern, the highest inode number of a cgroup that was there before it."""

    boot_id: str
    """Numbers of another boot mean nothing."""
    highest: dict[str, int] = {}

    def is_older(self, inode: int, patterns: Iterable[str]) -> bool:
        """Whether a cgroup was there before the metering of every pattern it fits."""
        return all(inode <= self.highest.get(pattern, inode) for pattern in patterns)


def begin(path: str, boot_id: str, patterns: Iterable[str], highest: int) -> Marks:
    """Continue the marks of a former daemon's patterns, set those of new ones, keep them.

    Patterns that are no longer wanted lose theirs. Blocks.

    Args:
        path: the file that the marks are kept in.
        boot_id: of this boot.
        patterns: those that are metered from now on.
        highest: the highest inode number of all cgroups that are there now.

    Raises:
        OSError: the file cannot be written.
    """
    before = read(path, boot_id)
    marks = Marks(boot_id, {text: before.get(text, highest) for text in patterns})
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(msgspec.json.encode(marks))
    os.replace(temporary, path)
    return marks


def forget(path: str) -> None:
    """Remove the marks: nothing is metered any more.

    Raises:
        OSError: the file cannot be removed.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def read(path: str, boot_id: str) -> Mapping[str, int]:
    """Return the marks of this boot that are kept in a file, none if it is missing or damaged."""
    kept = table(read_json(path))
    highest = table(kept.get("highest"))
    if kept.get("boot_id") != boot_id:
        return {}
    return {text: number for text, number in highest.items() if type(number) is int}
