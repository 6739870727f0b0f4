"""Moves the output of all containers into their logs, on one thread.

A thread of its own because splice(2) into a file may wait for the disk (dirty page throttling)
and the event loop must not; the kernel call releases the interpreter lock, so the thread costs
the loop nothing. All containers share it: there is no thread or process per container.

Ownership: a :class:`LogSink` owns the descriptors of its log and index; a source descriptor
(the read end of a pipe, or the pipe behind a pty) belongs to the pump from :meth:`Pump.add`
until its end of file, when the pump closes it. Rendering logs is out of scope (log_reader).
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import select
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import structlog
import trio

from aruntime.container import logfile
from aruntime.container.config import LogOptions
from aruntime.daemon.announcement import Announcement

FULL_DISK_RETRY_SECONDS = 1.0
BUSY_PIPE_BYTES = 1 << 20
DEFAULT_PIPE_BYTES = 1 << 16

journal = structlog.get_logger()


class LogSink:
    """The log of one container, written by the pump thread and followed by readers.

    Attributes:
        generation: goes up by one with every rotation.
        rotating: held by the pump's thread while it rotates, and by readers while they open files:
            so they know of what generation these are.
        finished: set on the event loop once every source has ended.
        dropped_bytes: output thrown away because the disk was full (mode non-blocking).
    """

    __slots__ = (
        "_changed",
        "_followers",
        "directory",
        "dropped_bytes",
        "finished",
        "generation",
        "index_fd",
        "log_fd",
        "on_rotate",
        "options",
        "rotating",
        "sources",
    )

    def __init__(
        self,
        directory: str,
        options: LogOptions,
        *,
        log_fd: int,
        index_fd: int,
        on_rotate: Callable[[LogSink], None] | None = None,
    ) -> None:
        self.directory = directory
        self.options = options
        self.log_fd = log_fd
        self.index_fd = index_fd
        self.on_rotate = on_rotate
        self.generation = 0
        self.rotating = threading.Lock()
        self.sources = 0
        self.dropped_bytes = 0
        self.finished = Announcement()
        self._changed: trio.Event | None = None
        self._followers = 0

    def close(self) -> None:
        """Close log and index; sources must have ended or been discarded."""
        for fd in (self.log_fd, self.index_fd):
            if fd >= 0:
                os.close(fd)
        self.log_fd = self.index_fd = -1
        self.wake()

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Announce a reader: only then does the pump wake the loop for each chunk."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def next_change(self) -> trio.Event:
        """Return what is set when the log grows, is rotated or ends from now on.

        A reader takes it before it reads: whatever comes while it hands on what it has read
        would otherwise wake nobody.
        """
        if self._changed is None:
            self._changed = trio.Event()
        return self._changed

    @property
    def has_followers(self) -> bool:
        """Whether somebody waits for growth (read by the pump thread)."""
        return self._followers > 0

    def finish(self) -> None:
        """Say that every source has ended (on the event loop only)."""
        self.finished.set()
        self.wake()

    def wake(self) -> None:
        """Let every waiting reader look again (on the event loop only)."""
        event, self._changed = self._changed, None
        if event is not None:
            event.set()


class Source:
    """One stream on its way into a log.

    A pty has two stages, master → private pipe → log, because bytes read from a terminal into
    user memory would die with this process; the pipe is held by the shim too.
    """

    __slots__ = ("enlarged", "fd", "master_fd", "pipe_write_fd", "sink", "stream")

    def __init__(
        self, sink: LogSink, fd: int, stream: int, *, master_fd: int = -1, pipe_write_fd: int = -1
    ) -> None:
        self.sink = sink
        self.fd = fd
        self.stream = stream
        self.master_fd = master_fd
        self.pipe_write_fd = pipe_write_fd
        self.enlarged = False

    @property
    def poll_fd(self) -> int:
        """The descriptor whose readiness starts a move."""
        return self.master_fd if self.master_fd >= 0 else self.fd

    def move(self) -> int:
        """Move one chunk; see :func:`aruntime.container.logfile.move_chunk`."""
        if self.master_fd < 0:
            return logfile.move_chunk(self.fd, self.sink.log_fd, self.sink.index_fd, self.stream)
        ended = False
        try:
            flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
            ended = not os.splice(self.master_fd, self.pipe_write_fd, logfile.CHUNK, flags=flags)
        except OSError as error:
            if error.errno in logfile.END_ERRNOS:
                ended = True
            elif error.errno not in logfile.EMPTY_ERRNOS:
                raise
        moved = -1
        if held_bytes(self.fd):
            moved = logfile.move_chunk(self.fd, self.sink.log_fd, self.sink.index_fd, self.stream)
        return 0 if ended and moved < 0 else moved

    def close(self) -> None:
        """Close what the pump owns; the pty's master stays with the container."""
        os.close(self.fd)
        if self.pipe_write_fd >= 0:
            os.close(self.pipe_write_fd)


def held_bytes(pipe_fd: int) -> int:
    """Return how many bytes wait in a pipe (FIONREAD)."""
    return int.from_bytes(fcntl.ioctl(pipe_fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)


class Pump:
    """The thread that moves output; :meth:`add` and :meth:`discard` are for the event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._sources: dict[int, Source] = {}
        self._stalled: list[tuple[float, Source]] = []
        self._discards: collections.deque[tuple[LogSink, trio.Event]] = collections.deque()
        self._null_fd = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self._stopping = False
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move output until cancelled. When this returns no byte is in flight any more."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._thread)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._stopping = True
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Close the pump's own descriptors and every source still open."""
        for source in [*self._sources.values(), *(item for _, item in self._stalled)]:
            source.close()
        self._sources.clear()
        self._stalled.clear()
        self._epoll.close()
        os.close(self._wake_fd)
        os.close(self._null_fd)

    def add(self, source: Source) -> None:
        """Take over a source; its descriptors belong to the pump from now on."""
        source.sink.sources += 1
        if source.master_fd >= 0:
            # Its private pipe may hold bytes from before: the first move is unconditional.
            self._stalled.append((0.0, source))
            os.eventfd_write(self._wake_fd, 1)
            return
        self._sources[source.poll_fd] = source
        self._epoll.register(source.poll_fd, select.EPOLLIN)

    async def discard(self, sink: LogSink) -> None:
        """Forget the sources of a sink whose container is gone but whose pipes are still held.

        That happens when a process outside the container's PID namespace inherited them.
        """
        done = trio.Event()
        self._discards.append((sink, done))
        os.eventfd_write(self._wake_fd, 1)
        await done.wait()

    async def _thread(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._loop)

    def _loop(self) -> None:
        while not self._stopping:
            timeout = FULL_DISK_RETRY_SECONDS if self._stalled else -1
            for fd, _ in self._epoll.poll(timeout):
                if fd == self._wake_fd:
                    self._read_requests()
                else:
                    source = self._sources.get(fd)
                    if source is not None:
                        self._move(source)
            if self._stalled:
                self._retry_stalled()

    def _read_requests(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        while self._discards:
            sink, done = self._discards.popleft()
            for source in [item for item in self._sources.values() if item.sink is sink]:
                self._end(source)
            for entry in [item for item in self._stalled if item[1].sink is sink]:
                self._stalled.remove(entry)
                self._finish(entry[1])
            self._soon(done.set)

    def _move(self, source: Source) -> None:
        sink = source.sink
        try:
            moved = source.move()
        except OSError as error:
            if error.errno not in logfile.FULL_ERRNOS:
                journal.error("log write failed", directory=sink.directory, error=str(error))
                self._end(source)
                return
            if sink.options.mode == "non-blocking":
                self._drop(source)
            else:
                self._stall(source, error)
            return
        if moved == 0:
            self._end(source)
            return
        if moved >= DEFAULT_PIPE_BYTES and not source.enlarged:
            source.enlarged = True
            with contextlib.suppress(OSError):  # the user's pipe quota is a wish, not a need
                fcntl.fcntl(source.fd, fcntl.F_SETPIPE_SZ, BUSY_PIPE_BYTES)
        limit = sink.options.max_size
        if limit and os.lseek(sink.log_fd, 0, os.SEEK_CUR) >= limit:
            self._rotate(sink)
        if sink.has_followers:
            self._soon(sink.wake)

    def _drop(self, source: Source) -> None:
        with contextlib.suppress(BlockingIOError):
            flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
            source.sink.dropped_bytes += os.splice(
                source.fd, self._null_fd, logfile.CHUNK, flags=flags
            )

    def _stall(self, source: Source, error: OSError) -> None:
        journal.error(
            "log is blocked: free space on the disk, its container waits meanwhile",
            directory=source.sink.directory,
            error=error.strerror,
        )
        self._epoll.unregister(source.poll_fd)
        del self._sources[source.poll_fd]
        self._stalled.append((time.monotonic() + FULL_DISK_RETRY_SECONDS, source))

    def _retry_stalled(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._stalled if entry[0] <= now]
        for entry in due:
            self._stalled.remove(entry)
            source = entry[1]
            self._sources[source.poll_fd] = source
            self._epoll.register(source.poll_fd, select.EPOLLIN)
            self._move(source)

    def _end(self, source: Source) -> None:
        self._epoll.unregister(source.poll_fd)
        del self._sources[source.poll_fd]
        self._finish(source)

    def _finish(self, source: Source) -> None:
        sink = source.sink
        source.close()
        sink.sources -= 1
        if not sink.sources:
            # A stream that ends before the other one is no news: what it said was told before.
            self._soon(sink.finish)

    def _rotate(self, sink: LogSink) -> None:
        with sink.rotating:
            try:
                logfile.rotate(sink.directory, sink.options.max_file)
                log_fd, index_fd = logfile.open_log(sink.directory)
            except OSError as error:
                journal.error("log rotation failed", directory=sink.directory, error=str(error))
                return
            old = (sink.log_fd, sink.index_fd)
            sink.log_fd, sink.index_fd = log_fd, index_fd
            sink.generation += 1
        for fd in old:
            os.close(fd)
        if sink.on_rotate is not None:
            self._soon(lambda: sink.on_rotate and sink.on_rotate(sink))

    def _soon(self, call: Callable[[], object]) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(call)
