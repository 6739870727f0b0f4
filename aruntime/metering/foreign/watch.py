"""Finding foreign cgroups as they come and go, by inotify: the tree is never polled.

Every directory that may have metered groups below it is watched for mkdir, rmdir and rename, from
the root on, so a parent that does not exist yet is noticed when it is made. A watch is set before
the directory is listed: what is made in between is seen twice and counted once. When the kernel's
queue overflows, everything is looked through again and compared.

A metered group itself is watched for processes that enter it (a write to ``cgroup.procs``) and, in
the cgroup2 tree, for becoming empty (``cgroup.events``). Both are reported as ``touched``.

Blocking, for a worker thread, one at a time. What a change means for the account is
:mod:`aruntime.daemon.foreign`'s.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from aruntime.cgroups.reader import GONE
from aruntime.kernel import inotify
from aruntime.metering.foreign.patterns import DESCEND, METER, Selection

APPEARED = "appeared"
"""Made while we looked: its counters started at zero."""
FOUND = "found"
"""Was there when we began to look."""
RENAMED = "renamed"
"""Came here from another place, with its counters."""
VANISHED = "vanished"
MISSED = "missed"
"""Was made and removed before it could be looked at."""
TOUCHED = "touched"
"""A process entered, or (cgroup2) the last one left."""

TREE_MASK = (
    inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_ONLYDIR
    | inotify.IN_DONT_FOLLOW
)
GROUP_MASK = inotify.IN_MODIFY | inotify.IN_ONLYDIR | inotify.IN_DONT_FOLLOW
EVENTS_MASK = inotify.IN_MODIFY
_PROCS_FILES = frozenset({"cgroup.procs", "tasks"})


class Change(NamedTuple):
    """Something that happened to a metered group."""

    kind: str
    path: str
    inode: int = 0


class _Group(NamedTuple):
    inode: int
    watches: tuple[int, ...]


class CgroupWatch:
    """The inotify queue (owned), what it watches, and the metered groups that are there.

    Args:
        root: mount point of the hierarchy with the CPU counter.
        unified: mount point of the cgroup2 tree, None without one.
        selection: which groups are metered.
    """

    def __init__(self, root: str, unified: str | None, selection: Selection) -> None:
        self.fd = inotify.inotify_init()
        self.highest = 0
        """Highest inode number of a directory seen so far."""
        self.is_exhausted = False
        """The kernel allows no more watches (fs.inotify.max_user_watches): not everything that is
        made will be told, the caller has to :meth:`scan` now and then."""
        self._root = root
        self._unified = unified
        self._selection = selection
        self._trees: dict[int, str] = {}
        """Path by watch of the directories that are looked through."""
        self._touching: dict[int, str] = {}
        """Path of the metered group by watch of its directory or of its cgroup.events."""
        self._groups: dict[str, _Group] = {}

    def close(self) -> None:
        """Close the queue; calling it again does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def scan(self) -> list[Change]:
        """Look through everything; changes against what is known, for the first call all found.

        Raises:
            OSError: the tree cannot be read.
        """
        return self._compare(FOUND if not self._trees else APPEARED)

    def read(self) -> list[Change]:
        """Return what has happened since, in order; nothing if nothing has.

        Raises:
            OSError: the tree cannot be read.
        """
        changes: list[Change] = []
        while events := inotify.read_events(self.fd):
            for event in events:
                changes += self._changes_of(event)
        return changes

    def _changes_of(self, event: inotify.Event) -> Iterator[Change]:
        if event.mask & inotify.IN_Q_OVERFLOW:
            yield from self._compare(APPEARED)
            yield from [Change(TOUCHED, path) for path in self._groups]
        elif event.mask & inotify.IN_IGNORED:
            self._trees.pop(event.watch, None)
            self._touching.pop(event.watch, None)
        elif event.watch in self._touching:
            if not event.name or event.name in _PROCS_FILES:
                yield Change(TOUCHED, self._touching[event.watch])
        elif event.mask & inotify.IN_ISDIR and event.watch in self._trees:
            path = f"{self._trees[event.watch].rstrip('/')}/{event.name}"
            if event.mask & (inotify.IN_CREATE | inotify.IN_MOVED_TO):
                moved = event.mask & inotify.IN_MOVED_TO
                yield from self._look(path, RENAMED if moved else APPEARED)
            else:
                yield from self._left(path, renamed=bool(event.mask & inotify.IN_MOVED_FROM))

    def _compare(self, kind: str) -> list[Change]:
        """Look through everything again; what is not there any more has vanished."""
        before = dict(self._groups)
        changes = list(self._look("/", kind))
        for path, group in before.items():
            if _inode(self._root + path) != group.inode and self._groups.get(path) == group:
                changes.append(self._vanished(path))
        return changes

    def _look(self, path: str, kind: str) -> Iterator[Change]:
        """Take in a directory that was not known: a group, or a tree of them."""
        waiting = [path]
        while waiting:
            path = waiting.pop()
            role = self._selection.role(path)
            if role == METER:
                yield from self._found(path, kind)
            elif role == DESCEND and self._watch_tree(path):
                waiting += self._children(path)

    def _found(self, path: str, kind: str) -> Iterator[Change]:
        inode = _inode(self._root + path)
        known = self._groups.get(path)
        if known is not None and known.inode == inode:
            return  # seen by the listing and again by its event
        if known is not None:
            yield self._vanished(path)
        if inode is None:
            if known is None:
                yield Change(MISSED, path)
            return
        self.highest = max(self.highest, inode)
        self._groups[path] = _Group(inode, self._watch_group(path))
        yield Change(kind, path, inode)

    def _left(self, path: str, *, renamed: bool) -> Iterator[Change]:
        """A directory was removed or renamed; an older event may be of a namesake before it."""
        if not renamed and _inode(self._root + path) is not None:
            return
        if path in self._groups:
            yield self._vanished(path)
            return
        # Watches of removed directories go by themselves; those of renamed ones know a wrong path.
        for watch, tree in list(self._trees.items()):
            if tree == path or tree.startswith(f"{path}/"):
                self._unwatch(watch)
        for group in [known for known in self._groups if known.startswith(f"{path}/")]:
            yield self._vanished(group)

    def _vanished(self, path: str) -> Change:
        group = self._groups.pop(path)
        for watch in group.watches:
            self._unwatch(watch)
        return Change(VANISHED, path, group.inode)

    def _watch_tree(self, path: str) -> bool:
        """Watch a directory; False if it is gone."""
        try:
            watch = inotify.add_watch(self.fd, self._root + path, TREE_MASK)
        except OSError as error:
            if error.errno in GONE or error.errno == errno.ENOTDIR:
                return False
            if error.errno != errno.ENOSPC:
                raise
            self.is_exhausted = True
            return True  # what is in it now is found, and the rest by looking again
        self._trees[watch] = path
        return True

    def _watch_group(self, path: str) -> tuple[int, ...]:
        """Watch a metered group; without watches its end is still seen, only later."""
        wanted = [(self._root + path, GROUP_MASK)]
        if self._unified is not None:
            wanted.append((f"{self._unified}{path}/cgroup.events", EVENTS_MASK))
        watches = []
        for name, mask in wanted:
            try:
                watch = inotify.add_watch(self.fd, name, mask)
            except OSError:
                continue  # not made in that tree (yet), gone, or no watches left
            self._touching[watch] = path
            watches.append(watch)
        return tuple(watches)

    def watch_again(self, path: str) -> None:
        """Watch what was not there when a group was found: its directory in the cgroup2 tree."""
        group = self._groups.get(path)
        if group is not None:
            self._groups[path] = group._replace(watches=self._watch_group(path))

    def _unwatch(self, watch: int) -> None:
        self._trees.pop(watch, None)
        self._touching.pop(watch, None)
        try:
            inotify.rm_watch(self.fd, watch)
        except OSError:
            pass  # the kernel has ended it with the directory

    def _children(self, path: str) -> list[str]:
        directory = self._root + path
        try:
            self.highest = max(self.highest, os.stat(directory).st_ino)
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in GONE:
                return []
            raise
        return [f"{path.rstrip('/')}/{name}" for name in names]


def _inode(path: str) -> int | None:
    try:
        return os.stat(path, follow_symlinks=False).st_ino
    except OSError:
        return None
