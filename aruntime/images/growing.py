"""Read a file that another process still writes, as it comes.

Its end is known from elsewhere; until then what is not there yet is waited for. Standard library
only.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from aruntime.errors import Unavailable
from aruntime.images.compression import ALIVE_MILLISECONDS, Input
from aruntime.kernel import inotify

LOOK_SECONDS = 0.05
"""Between two looks where the kernel has no queue left to tell us."""


class Watch:
    """Tells when an open file changes. Owns a queue of events; close it.

    Made while /proc can be seen: only by a name can a file be watched.
    """

    def __init__(self, fd: int) -> None:
        self._fd = -1
        try:
            self._fd = inotify.inotify_init()
            inotify.add_watch(self._fd, f"/proc/self/fd/{fd}", inotify.IN_MODIFY)
        except OSError:  # the user's queues or watches are used up: we look from time to time
            self.close()
            return
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def close(self) -> None:
        """Give the queue back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def wait(self) -> None:
        """Wait until the file has changed since the last time, or for a while."""
        if self._fd < 0:
            time.sleep(LOOK_SECONDS)
        elif self._poll.poll(ALIVE_MILLISECONDS):
            inotify.read_events(self._fd)


class Growing(Input):
    """An input that is complete with so many bytes.

    Args:
        fd: of the file, at its beginning; stays the caller's.
        size: bytes it will have.
        watch: tells when it changes.
        alive: called now and then; raises to end the work.

    Raises:
        Unavailable: from any method, when it was given up.
    """

    def __init__(
        self, fd: int, size: int, watch: Watch, alive: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(fd, alive)
        self._expected = size
        self._watch = watch
        self._given_up = False

    def give_up(self) -> None:
        """See :class:`Input`."""
        self._given_up = True

    def _read_some(self, count: int) -> bytes:
        while self.size < self._expected:
            piece = super()._read_some(min(count, self._expected - self.size))
            if piece:
                return piece
            if self._given_up:
                raise Unavailable("the archive is not wanted any more")
            self._watch.wait()
        return b""
