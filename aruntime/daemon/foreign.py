"""Meters cgroups of other programs for as long as the daemon runs (`--meter-cgroups`).

    appears     named by its path and its program's files, registered, its first process watched
    a process   its pidfd tells the end; then the next one is watched, until there is none
    no process  read completely: what the counters show now is what they will ever show
    vanishes    ended; if something may have been used since the last reading, its record says
                ``removed_unread``, for a removed cgroup tells nothing any more

Other programs remove a cgroup when they like. docker, podman and Kubernetes take milliseconds
after the end of a container, so its last reading is in time as a rule, and never by chance: it is
taken when the kernel says that the last process has ended.

Nothing is written into a foreign cgroup. Which cgroups are meant, found and how they are called is
:mod:`aruntime.metering.foreign`'s, their accounts are the meter's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
import trio

from aruntime.cgroups import tree
from aruntime.cgroups.driver import Cgroup, Driver
from aruntime.daemon.settings import Settings
from aruntime.errors import AruntimeError
from aruntime.metering.clock import boot_id
from aruntime.metering.foreign import identity, mark
from aruntime.metering.foreign.identity import States
from aruntime.metering.foreign.mark import Marks
from aruntime.metering.foreign.meter import ForeignMeter
from aruntime.metering.foreign.paths import CGROUP
from aruntime.metering.foreign.patterns import Selection
from aruntime.metering.foreign.watch import (
    FOUND,
    MISSED,
    RENAMED,
    TOUCHED,
    VANISHED,
    CgroupWatch,
    Change,
)
from aruntime.metering.subject import MeterSubject

log = structlog.get_logger()

MARKS = "foreign.json"
"""In the run directory, which does not outlive the boot that the marks are of."""
NAMING_ATTEMPTS = 3
"""How often a program's files are asked again: some are written after the cgroup is made."""
OPENING_ATTEMPTS = 10
CHUNK = 64
"""Groups looked at in one turn of the worker thread; events of others wait that long."""

T = TypeVar("T")


class Group:
    """One metered cgroup that is there; owned by the event loop."""

    def __init__(self, inode: int, subject: MeterSubject, trees: frozenset[str]) -> None:
        self.inode = inode
        self.subject = subject
        self.trees = trees
        """Hierarchies it was in when it was last opened."""
        self.is_read = False
        """It has no process, and was read since it had one."""
        self.was_used = False
        """It had a process while we looked."""
        self.watching = trio.CancelScope()
        """Around the task that waits for the end of its first process."""
        self.is_watched = False
        self.is_paused = False
        self.cpu_ns = -1
        """CPU time when its freezer was last asked."""
        self.naming = 0
        """How often its program's files were asked."""
        self.signature: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        """Of the container."""
        return self.subject.id

    @property
    def cgroup(self) -> Cgroup:
        """The handle."""
        assert self.subject.cgroup is not None
        return self.subject.cgroup


class Sight(NamedTuple):
    """A change with what was seen in the worker thread that read it."""

    change: Change
    subject: MeterSubject | None = None
    trees: frozenset[str] = frozenset()
    pidfd: int = -1
    """Of one of its processes, -1 if it has none; the receiver owns it."""
    pid: int = 0
    is_paused: bool = False


class Seen(NamedTuple):
    """What a look at a group now and then shows."""

    signature: tuple[int, ...] | None
    subject: MeterSubject | None
    """Named anew; None if nothing can have changed."""
    trees: frozenset[str]
    is_paused: bool


class ForeignCgroups:
    """State: the watch (owned while :meth:`run` runs), the groups by path, and their programs'
    containers that ended and may come back."""

    def __init__(self, settings: Settings, driver: Driver, meter: ForeignMeter) -> None:
        self._driver = driver
        self._meter = meter
        self._selection = Selection(settings.meter_cgroups, excluded=[settings.cgroup_parent])
        self._given = settings.meter_states
        self._marks_path = str(settings.run_dir / MARKS)
        self._where = States()
        self._marks = Marks("")
        self._groups: dict[str, Group] = {}
        self._ended: dict[str, MeterSubject] = {}
        self._mounts: dict[frozenset[str] | None, Mapping[str, str]] = {}
        """Mount points by the trees that a cgroup is in."""
        self._one_thread = trio.CapacityLimiter(1)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Meter until cancelled; ``started`` when everything that was there is registered.

        Raises:
            ControllerUnavailable: the host does not count CPU time.
            OSError: inotify cannot be used, or the marks cannot be kept.
        """
        root = self._driver.counter_root()
        unified = self._driver.hierarchy.unified
        with contextlib.closing(CgroupWatch(root, unified, self._selection)) as watch:
            sights = await self._in_thread(self._begin, watch)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._take_all(sights)
                log.info("foreign cgroups metered", count=len(self._groups))
                task_status.started()
                nursery.start_soon(self._refresh, watch)
                while True:
                    await trio.lowlevel.wait_readable(watch.fd)
                    try:
                        sights = await self._in_thread(self._look, watch.read)
                    except OSError as error:
                        log.error("cgroups cannot be looked through", error=str(error))
                        watch.is_exhausted = True  # look again with the next refresh
                        continue
                    await self._take_all(sights)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """The watch is not made for two threads at once."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._one_thread)

    # -- in the worker thread ----------------------------------------------------------------

    def _begin(self, watch: CgroupWatch) -> list[Sight]:
        """The first look; what is older than its metering is known from then on."""
        self._where = identity.states(self._given)
        sights = self._look(watch.scan)
        texts = [pattern.text for pattern in self._selection.patterns]
        self._marks = mark.begin(self._marks_path, boot_id(), texts, watch.highest)
        return sights

    def _look(self, read: Callable[[], list[Change]]) -> list[Sight]:
        """Changes with what must be seen of them at once, before it is gone."""
        return [self._sight(change) for change in read()]

    def _sight(self, change: Change) -> Sight:
        if change.kind == VANISHED:
            return Sight(change)
        cgroup = self._cgroup(change.path)
        pid, pidfd = open_process(self._processes(cgroup))
        if change.kind == TOUCHED:
            return Sight(change, pidfd=pidfd, pid=pid)
        subject = identity.identify(change.path, cgroup, self._where)
        there = cgroup.present()
        trees = frozenset(there.mounts)
        return Sight(change, subject, trees, pidfd, pid, self._is_frozen(there))

    def _is_frozen(self, cgroup: Cgroup) -> bool:
        with contextlib.suppress(AruntimeError, OSError):  # no freezer, or just gone
            return self._driver.is_frozen(cgroup)
        return False

    def _cgroup(self, path: str, trees: frozenset[str] | None = None) -> Cgroup:
        """The handle of a foreign cgroup, in all trees or in some; few combinations are many's."""
        mounts = self._mounts.get(trees)
        if mounts is None:
            every = self._driver.cgroup_at(path).mounts.items()
            mounts = {name: top for name, top in every if trees is None or name in trees}
            self._mounts[trees] = mounts
        return Cgroup(path, mounts, is_foreign=True)

    def _processes(self, cgroup: Cgroup) -> Callable[[], list[int]]:
        directory = self._driver.counter_root() + cgroup.path
        return lambda: tree.list_pids(directory)

    # -- changes -----------------------------------------------------------------------------

    async def _take_all(self, sights: Iterable[Sight]) -> None:
        for sight in sights:
            await self._take(sight)

    async def _take(self, sight: Sight) -> None:
        kind, path = sight.change.kind, sight.change.path
        if kind == VANISHED:
            await self._end(path)
        elif sight.subject is None:
            if group := self._groups.get(path):
                await self._touched(group, sight)
            elif sight.pidfd >= 0:
                os.close(sight.pidfd)
        elif kind == MISSED:
            log.warning("a cgroup went before it could be read", cgroup=path)
            await self._meter.miss(self._own_id(sight.subject))
        else:
            await self._register(sight, self._own_id(sight.subject))

    def _own_id(self, subject: MeterSubject) -> MeterSubject:
        """A second cgroup of one container id is metered under its path: both were used."""
        if all(group.id != subject.id for group in self._groups.values()):
            return subject
        path = subject.labels[identity.PATH_LABEL]
        other = identity.plain(path, subject.cgroup)
        labels = subject.labels | {identity.MAKER_LABEL: CGROUP}
        return msgspec.structs.replace(other, tenant=subject.tenant, labels=labels)

    async def _register(self, sight: Sight, subject: MeterSubject) -> None:
        change = sight.change
        group = Group(change.inode, subject, sight.trees)
        group.is_paused = sight.is_paused and change.kind == FOUND
        try:
            if change.kind == FOUND:
                await self._resume(change, subject, "paused" if sight.is_paused else "running")
            else:
                await self._meter.take_in(subject, is_new=change.kind != RENAMED)
        except FileNotFoundError:
            # Its end comes next; nothing of it was seen.
            await self._meter.miss(subject)
            if sight.pidfd >= 0:
                os.close(sight.pidfd)
            return
        self._ended.pop(subject.id, None)
        self._groups[change.path] = group
        log.debug("foreign cgroup", cgroup=change.path, name=subject.name, kind=change.kind)
        await self._touched(group, sight)

    async def _resume(self, change: Change, subject: MeterSubject, status: str) -> None:
        """Register what was there when we began to look."""
        texts = [pattern.text for pattern in self._selection.matching(change.path)]
        if self._meter.knows(subject) or not self._marks.is_older(change.inode, texts):
            await self._meter.resume_registration(subject, status)
            return
        await self._meter.take_in(subject, is_new=False)
        self._meter.state(subject.id, status)

    async def _touched(self, group: Group, sight: Sight) -> None:
        """A process entered, or the last one left."""
        if sight.pidfd < 0:
            if group.was_used and not group.is_watched and not group.is_read:
                await self._emptied(group, 0)
            return
        group.was_used, group.is_read = True, False
        if group.is_watched or self._nursery is None:
            os.close(sight.pidfd)
            return
        group.is_watched, group.watching = True, trio.CancelScope()
        self._nursery.start_soon(self._watch_process, group, sight.pid, sight.pidfd)

    async def _watch_process(self, group: Group, pid: int, pidfd: int) -> None:
        """Wait for the end of a process, then of the next one, until there is none."""
        processes = self._processes(group.cgroup)
        with group.watching:
            while pidfd >= 0:
                try:
                    await trio.lowlevel.wait_readable(pidfd)
                finally:
                    os.close(pidfd)
                ended = pid
                pid, pidfd = open_process(processes)
                if pidfd < 0:
                    group.is_watched = False
                    await self._emptied(group, ended)

    async def _emptied(self, group: Group, zombie_pid: int) -> None:
        """Read everything, now that nothing is left to use anything."""
        processes = self._processes(group.cgroup)
        is_read = await self._meter.read_emptied(group.id, zombie_pid, lambda: not processes())
        group.is_read = is_read and not group.is_watched

    async def _end(self, path: str) -> None:
        """The cgroup is gone."""
        group = self._groups.pop(path, None)
        if group is None:
            return
        group.watching.cancel()
        await self._meter.vanish(group.id, is_read=group.is_read)
        self._ended[group.id] = group.subject
        if not group.is_read:
            log.warning("a cgroup was removed unread", cgroup=path, name=group.subject.name)

    # -- now and then ------------------------------------------------------------------------

    async def _refresh(self, watch: CgroupWatch) -> None:
        """In the rhythm of the slow readings: names, freezers, and what ended for good."""
        while True:
            await trio.sleep(self._meter.rounds.slow_seconds)
            groups = list(self._groups.items())
            for start in range(0, len(groups), CHUNK):
                some = [
                    (path, group, self._is_idle(group)) for path, group in groups[start:][:CHUNK]
                ]
                for path, group, seen in await self._in_thread(self._see_all, watch, some):
                    if self._groups.get(path) is group:
                        self._apply(group, seen)
            for subject in list(self._ended.values()):
                if not await self._in_thread(identity.is_kept, subject, self._where):
                    self._forget(subject)
            if watch.is_exhausted:
                await self._take_all(await self._in_thread(self._look, watch.scan))

    def _is_idle(self, group: Group) -> bool:
        """Whether it may be frozen: it is, or has used no CPU time since the last turn."""
        snapshot = self._meter.snapshot(group.id)
        before, group.cpu_ns = group.cpu_ns, snapshot.totals.cpu_ns if snapshot is not None else 0
        return group.is_paused or group.cpu_ns == before

    def _see_all(
        self, watch: CgroupWatch, groups: list[tuple[str, Group, bool]]
    ) -> list[tuple[str, Group, Seen]]:
        return [(path, group, self._see(watch, path, group, idle)) for path, group, idle in groups]

    def _see(self, watch: CgroupWatch, path: str, group: Group, idle: bool) -> Seen:
        """What has changed about a group; in the worker thread."""
        signature = identity.signature(group.subject, self._where)
        subject = None
        if signature != group.signature or group.naming < NAMING_ATTEMPTS:
            subject = identity.identify(path, group.cgroup, self._where)
        trees = group.trees
        if group.naming < NAMING_ATTEMPTS:
            trees = frozenset(group.cgroup.present().mounts)
            if trees != group.trees:
                watch.watch_again(path)
        is_paused = idle and self._is_frozen(self._cgroup(path, trees))
        return Seen(signature, subject, trees, is_paused)

    def _apply(self, group: Group, seen: Seen) -> None:
        group.naming += 1
        group.signature = seen.signature
        named = seen.subject
        if named is not None and named.id == group.id and named != group.subject:
            group.subject = named
            self._meter.update(named)
        if seen.trees != group.trees:
            group.trees = seen.trees
            self._meter.reopen(group.id)
        if seen.is_paused != group.is_paused:
            group.is_paused = seen.is_paused
            self._meter.state(group.id, "paused" if seen.is_paused else "running")

    def _forget(self, subject: MeterSubject) -> None:
        """Its program does not know it any more, unless it came back meanwhile."""
        if self._ended.get(subject.id) is subject:
            del self._ended[subject.id]
            self._meter.forget(subject.id)


def open_process(processes: Callable[[], list[int]]) -> tuple[int, int]:
    """Return the pid and a new pidfd of the first process of a group; (0, -1) if it has none.

    The caller owns the pidfd.
    """
    for _ in range(OPENING_ATTEMPTS):
        pids = processes()
        for pid in pids:
            try:
                return pid, os.pidfd_open(pid)
            except OSError as error:
                if error.errno not in (errno.ESRCH, errno.EINVAL):
                    return 0, -1
        if not pids:
            break
    return 0, -1
