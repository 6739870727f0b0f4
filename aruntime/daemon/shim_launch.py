"""One launch of a container's init, as the daemon asks the shim for it and hears of it.

The messages are drawn in :mod:`aruntime.container.messages`, section 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from aruntime.container import messages
from aruntime.daemon.shim_client import Reply, ShimClient, expect
from aruntime.errors import InitFailed


class Launch:
    """A container's init on its way from the fork to its program.

    It may be forked before its payload is made, and allowed to run its program before it is set
    up, and goes on by itself then: what has to be done first is done meanwhile. Whatever of these
    raises InitFailed, the shim has already reaped the child.

    Whoever makes it closes it. Raises ShimUnavailable when made: the shim is gone, or another
    launch of this container is under way.

    Attributes:
        is_asked: the shim was asked for it.
        pid, pidfd: of init, once it is forked; the descriptor is this object's until it is taken.
        is_set_up: the container is.
        is_reaped: the launch has failed and the shim has nothing of it any more.
    """

    def __init__(self, client: ShimClient, container_id: str) -> None:
        self._client = client
        self._id = container_id
        self._call = contextlib.ExitStack()
        self._answers = self._call.enter_context(client.answers_to(self._named(messages.LAUNCH)))
        self.is_asked = False
        self.pid = 0
        self.pidfd = -1
        self.is_set_up = False
        self.is_reaped = False

    def close(self) -> None:
        """Hear no more of it; calling it again does nothing."""
        self._call.close()

    def ask_early(self, fds: Mapping[str, int], early: dict[str, Any], *, tty: bool) -> None:
        """Have init forked before its payload is made, if that can be done from this thread.

        Args:
            fds: with ``payload``, a file that is still empty, and ``gate``, the read end of a pipe
                through which a byte says that it is written.
            early: what ``messages`` says of it.
            tty: whether it opens a pty.
        """
        self.is_asked = self._client.sent_from_thread({**self._request(tty), "early": early}, fds)

    async def ask(self, fds: Mapping[str, int], *, tty: bool) -> None:
        """Have init forked, with its payload.

        Raises:
            ShimUnavailable: the shim is gone.
        """
        await self._client.send(self._request(tty), fds)
        self.is_asked = True

    def _named(self, op: str) -> dict[str, Any]:
        return {"op": op, "id": self._id}

    def _request(self, tty: bool) -> dict[str, Any]:
        return {**self._named(messages.LAUNCH), "tty": tty, "announce": True}

    async def forked(self) -> None:
        """Wait until init is forked; it sets the container up and waits then.

        Raises:
            InitFailed: it could not be forked.
        """
        if not self.pid:
            spawned = await self._expect(messages.SPAWNED)
            self.pid, self.pidfd = int(spawned.fields["pid"]), spawned.take("pidfd")
            spawned.close()

    async def allow(self) -> None:
        """Let init execute the program, now or as soon as the container is set up."""
        await self._client.send(self._named(messages.START), {})

    async def created(self) -> Reply:
        """Wait until the container is set up; the answer has a pty's descriptors and warnings.

        Raises:
            InitFailed: a step failed (CommandNotFound, CommandNotInvokable when that was to find
                the program).
        """
        created = await self._expect(messages.CREATED)
        self.is_set_up = True
        return created

    async def running(self) -> None:
        """Wait until the program has been executed.

        Raises:
            InitFailed: it could not be.
        """
        (await self._expect(messages.RUNNING)).close()

    async def _expect(self, op: str) -> Reply:
        try:
            return await expect(self._answers, op)
        except InitFailed:
            self.is_reaped = True
            raise

    def take_pidfd(self) -> int:
        """Return the descriptor, the caller's from now on."""
        taken, self.pidfd = self.pidfd, -1
        return taken
