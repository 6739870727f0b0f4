"""Reading the counters of one cgroup again and again at the least cost.

Here is what both cgroup versions share: descriptors kept open and read with pread (0.7 µs a file
where open, read and close take 10), and what it means that a file or the whole cgroup vanished.
Which files there are and what they say is :mod:`aruntime.cgroups.reader_v1` and ``reader_v2``.
Nothing is accumulated here.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from aruntime.cgroups.parsers import find_keyed, parse_limit, parse_pressure
from aruntime.cgroups.stats import FastStats, PidsStats, Pressure, Stats

GONE = frozenset({errno.ENOENT, errno.ENODEV})
"""A removed cgroup answers ENODEV on a kept descriptor and ENOENT on a new open."""
_ABSENT = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})
"""An optional source that is not there: old kernel, or pressure information switched off."""
READ_SIZE = 16384
NUMBER_SIZE = 64
"""For a file of one number: so small a buffer costs the allocator nothing."""


class Reader(Protocol):
    """Open descriptors on one cgroup's counters. Not safe for two threads at once."""

    def read(self) -> Stats | None:
        """Read everything; None when the cgroup is gone."""
        ...

    def read_fast(self) -> FastStats | None:
        """Read the billed numbers alone; None when the cgroup is gone."""
        ...

    def read_still(self) -> FastStats | None:
        """Read the billed numbers if the cgroup has stood still since the last :meth:`read`.

        Then it has used no CPU time, and neither its memory nor its block I/O nor its time frozen
        has changed, which others may do to it: whatever else ``read`` says is what it said, but
        limits, which anybody may write, and pressure, which grows while tasks wait. None: call
        ``read``, for something has changed, the cgroup is gone, or this reader cannot tell.
        """
        ...

    def is_spent(self) -> bool:
        """Whether CPU time and block I/O are what the last :meth:`read` found.

        Of a cgroup without processes nothing else that is billed can grow. False: call ``read``.
        """
        ...

    def close(self) -> None:
        """Close all descriptors; calling it again does nothing."""
        ...


class CgroupGone(Exception):
    """The cgroup was removed under the reader."""


class CounterFiles:
    """The descriptors of one reader, owned here.

    A file is *kept* (its own descriptor) or *named* (opened relative to a directory descriptor
    for each reading, for hosts where descriptors run short).
    """

    __slots__ = ("_directories", "_keep_open", "_kept")

    def __init__(self, keep_open: bool) -> None:
        self._keep_open = keep_open
        self._directories: dict[str, int] = {}
        self._kept: list[KeptFile] = []

    def directory(self, path: str) -> int:
        """Open a cgroup directory, once.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        fd = self._directories.get(path)
        if fd is None:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._directories[path] = fd
        return fd

    def file(self, directory: str, name: str, *, optional: bool = False) -> CounterFile:
        """Return a counter file, kept open or not as the policy says.

        Args:
            directory: the cgroup's directory.
            name: the file in it.
            optional: not every kernel has the file; it is to be read by ``read_optional``.

        Raises:
            FileNotFoundError: the cgroup, or a file that is not optional, does not exist.
        """
        directory_fd = self.directory(directory)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
        except OSError as error:
            if not optional or error.errno not in _ABSENT:
                error.filename = f"{directory}/{name}"
                raise
            return NamedFile(-1, name)
        if self._keep_open:
            return self._keep(fd)
        os.close(fd)
        return NamedFile(directory_fd, name)

    def kept(self, directory: str, name: str) -> KeptFile:
        """Return a counter file that has a descriptor whatever the policy: it is read each second.

        Raises:
            FileNotFoundError: the cgroup or the file does not exist.
        """
        try:
            return self._keep(
                os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.directory(directory))
            )
        except OSError as error:
            error.filename = f"{directory}/{name}"
            raise

    def _keep(self, fd: int) -> KeptFile:
        kept = KeptFile(fd)
        self._kept.append(kept)
        return kept

    def close_directories(self) -> None:
        """Close the directories when no file needs them any more (all are kept)."""
        if self._keep_open:
            for fd in self._directories.values():
                os.close(fd)
            self._directories.clear()

    def close(self) -> None:
        """Close everything."""
        for fd in (*self._kept, *self._directories.values()):
            os.close(fd)
        self._kept.clear()
        self._directories.clear()


class KeptFile(int):
    """One file of a cgroup with a descriptor of its own, which is all that it is.

    A container has two dozen of them; as an object with fields each would weigh three times as
    much. The descriptor belongs to the :class:`CounterFiles`.
    """

    __slots__ = ()

    def read(self) -> bytes:
        """Return the content.

        Raises:
            CgroupGone: the cgroup was removed.
            OSError: any other failure.
        """
        try:
            return os.pread(self, READ_SIZE, 0)
        except OSError as error:
            if error.errno in GONE:
                raise CgroupGone from error
            raise self._named(error) from None

    def read_optional(self) -> bytes:
        """Return the content, empty if this cgroup has no such source any more."""
        try:
            return os.pread(self, READ_SIZE, 0)
        except OSError as error:
            if error.errno in _ABSENT:
                return b""
            raise self._named(error) from None

    def _named(self, error: OSError) -> OSError:
        """Give an error of a descriptor the file's name."""
        error.filename = os.path.basename(os.readlink(f"/proc/self/fd/{int(self)}"))
        return error


class NamedFile:
    """One file of a cgroup that is opened for each reading; without a directory it is not there.

    The directory's descriptor belongs to the :class:`CounterFiles`.
    """

    __slots__ = ("_directory_fd", "_name")

    def __init__(self, directory_fd: int, name: str) -> None:
        self._directory_fd = directory_fd
        self._name = name

    def read(self) -> bytes:
        """Return the content; raises as :meth:`KeptFile.read`."""
        try:
            return self._read_by_name()
        except OSError as error:
            if error.errno in GONE:
                raise CgroupGone from error
            error.filename = self._name
            raise

    def read_optional(self) -> bytes:
        """Return the content, empty if this host or cgroup has no such source."""
        if self._directory_fd < 0:
            return b""
        try:
            return self._read_by_name()
        except OSError as error:
            if error.errno in _ABSENT:
                return b""
            error.filename = self._name
            raise

    def _read_by_name(self) -> bytes:
        fd = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory_fd)
        try:
            return os.read(fd, READ_SIZE)
        finally:
            os.close(fd)


CounterFile = KeptFile | NamedFile


class PidsFiles:
    """The pids controller's files of one cgroup, the same on v1 and v2."""

    __slots__ = ("_current", "_events", "_limit", "_peak")

    def __init__(self, files: CounterFiles, directory: str) -> None:
        self._current = files.file(directory, "pids.current")
        self._peak = files.file(directory, "pids.peak", optional=True)
        self._limit = files.file(directory, "pids.max")
        self._events = files.file(directory, "pids.events", optional=True)

    def read(self) -> PidsStats:
        """Read everything about tasks."""
        return PidsStats(
            int(self._current.read()),
            int(self._peak.read_optional() or 0),
            parse_limit(self._limit.read()),
            find_keyed(self._events.read_optional(), b"max"),
        )


class UnifiedFiles:
    """What a cgroup2 directory tells without any controller: pressure and frozen time."""

    __slots__ = ("_frozen_mark", "_local", "_pressure")

    def __init__(self, files: CounterFiles, directory: str) -> None:
        self._frozen_mark = hash(b"")
        self._pressure = tuple(
            files.file(directory, f"{name}.pressure", optional=True)
            for name in ("cpu", "memory", "io")
        )
        self._local = files.file(directory, "cgroup.stat.local", optional=True)

    def read_pressure(self) -> Pressure | None:
        """Read the pressure totals, None where the kernel keeps none."""
        texts = [file.read_optional() for file in self._pressure]
        if not all(texts):
            return None
        (cpu, _), memory, io = (parse_pressure(text) for text in texts)
        return Pressure(cpu, *memory, *io)

    def read_frozen_usec(self) -> int | None:
        """Read the time frozen, None before Linux 6.18."""
        text = self._local.read_optional()
        self._frozen_mark = hash(text)
        return find_keyed(text, b"frozen_usec") if b"frozen_usec" in text else None

    def is_frozen_time_still(self) -> bool:
        """Whether the time frozen is what it was at the last reading."""
        return hash(self._local.read_optional()) == self._frozen_mark
