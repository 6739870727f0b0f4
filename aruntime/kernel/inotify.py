"""inotify(7): being told by the kernel what happens in directories instead of looking.

Only what watching cgroup directories needs. The tree of cgroups is a kernfs: mkdir and rmdir of
cgroups are reported on the directory above, a write to ``cgroup.procs`` as IN_MODIFY on the group's
own directory, and the kernel itself reports changes of ``cgroup.events``.
"""

from __future__ import annotations

import os
import struct

from aruntime.kernel import libc

# include/uapi/linux/inotify.h
IN_MODIFY = 0x00000002
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000
IN_DONT_FOLLOW = 0x02000000
IN_ISDIR = 0x40000000

READ_BYTES = 65536
"""Some two thousand events in one read(2)."""

_EVENT = struct.Struct("iIII")

_init = libc.function("inotify_init1", libc.cint)
_add_watch = libc.function("inotify_add_watch", libc.cint, libc.text, libc.uint)
_rm_watch = libc.function("inotify_rm_watch", libc.cint, libc.cint)


class Event:
    """One event: the watch it belongs to, what happened, and the entry of the directory."""

    __slots__ = ("mask", "name", "watch")

    def __init__(self, watch: int, mask: int, name: str) -> None:
        self.watch = watch
        """-1 with IN_Q_OVERFLOW: events were lost."""
        self.mask = mask
        self.name = name
        """Empty for events of the watched file itself."""


def inotify_init() -> int:
    """Return a new queue, non-blocking and closed on exec; the caller owns the descriptor.

    Raises:
        OSError: EMFILE beyond fs.inotify.max_user_instances or the limit of descriptors.
    """
    return libc.check(_init(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a file or directory; returns the watch's number, the same one for the same inode.

    Raises:
        OSError: ENOENT if it is gone, ENOSPC beyond fs.inotify.max_user_watches.
    """
    return libc.check(_add_watch(fd, libc.encoded(path), mask), "inotify_add_watch", path)


def rm_watch(fd: int, watch: int) -> None:
    """End a watch; the queue then has an IN_IGNORED of it.

    Raises:
        OSError: EINVAL if the kernel has ended it already, as it does when the file is removed.
    """
    libc.check(_rm_watch(fd, watch), "inotify_rm_watch")


def read_events(fd: int) -> list[Event]:
    """Return the events that wait, none if there are none; a full queue takes several calls.

    Raises:
        OSError: the descriptor is bad.
    """
    try:
        content = os.read(fd, READ_BYTES)
    except BlockingIOError:
        return []
    events = []
    place = 0
    while place < len(content):
        watch, mask, _, length = _EVENT.unpack_from(content, place)
        place += _EVENT.size
        name = content[place : place + length].rstrip(b"\0")
        place += length
        events.append(Event(watch, mask, os.fsdecode(name)))
    return events
