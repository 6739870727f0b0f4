"""Keeps the daemon connected to a shim: starts one, finds a running one, replaces a dead one.

There is one shim per RUN_DIR. It is started detached (a session of its own, stdio on /dev/null)
so that it outlives this daemon; under systemd it is a unit of its own and is only found here.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from aruntime.daemon.shim_client import Reply, ShimClient, ShimGone
from aruntime.errors import ShimUnavailable
from aruntime.shim import boot

journal = structlog.get_logger()

START_SECONDS = 10.0
POLL_SECONDS = 0.005
RETRY_MOST_SECONDS = 5.0


class ShimLink:
    """The present connection to the shim, and how to get another one."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._client: ShimClient | None = None
        self._child = 0

    @property
    def pid(self) -> int:
        """Process id of the connected shim, 0 if there is none."""
        return self._client.pid if self._client is not None else 0

    async def open(self) -> list[Reply]:
        """Connect, starting a shim if none answers; return the children it holds.

        Raises:
            ShimUnavailable: it cannot be started, or serves another daemon.
        """
        deadline = trio.current_time() + START_SECONDS
        while True:
            client = await self._connect()
            try:
                held = await client.hello()
            except ShimGone:
                # A dying shim accepts until its last descriptor is closed.
                client.close()
                if trio.current_time() > deadline:
                    raise
                await trio.sleep(POLL_SECONDS)
                continue
            except BaseException:
                client.close()
                raise
            self._client = client
            return held

    async def run(self, on_lost: Callable[[list[Reply]], Awaitable[None]]) -> None:
        """Dispatch answers; when the connection ends get another, to a new shim if this one died.

        ``on_lost`` then gets the children that the shim holds. It must not wait for answers:
        they are dispatched again when it has returned.
        """
        while True:
            client = self._client
            assert client is not None
            await client.run()
            journal.error("lost the shim; its containers run on, connecting again", pid=client.pid)
            client.close()
            self._collect()
            await on_lost(await self._open_again())

    async def _open_again(self) -> list[Reply]:
        """Get another shim however long it takes; starts fail with a clear error meanwhile."""
        pause = POLL_SECONDS
        while True:
            try:
                return await self.open()
            except (ShimUnavailable, OSError) as error:
                journal.error("no shim: containers cannot be started", reason=str(error))
                pause = min(2 * pause, RETRY_MOST_SECONDS)
                await trio.sleep(pause)

    async def leave(self) -> None:
        """Say goodbye and disconnect: the shim moves the containers' output from now on."""
        if self._client is not None:
            try:
                await self._client.goodbye()
            except ShimUnavailable:
                pass  # nobody is left to take over; the next daemon re-adopts by pid
            self._client.close()

    def _collect(self) -> None:
        """Reap a dead shim that this daemon started; another daemon's is not its child."""
        if self._child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._child, os.WNOHANG)
            self._child = 0

    async def _connect(self) -> ShimClient:
        path = str(self._run_dir / "shim.sock")
        try:
            return await ShimClient.connect(path)
        except OSError:
            pass  # none runs: start one
        pid = self._child = start_shim(self._run_dir)
        with trio.move_on_after(START_SECONDS):
            while True:
                try:
                    return await ShimClient.connect(path)
                except OSError:
                    await trio.sleep(POLL_SECONDS)
        raise ShimUnavailable(
            f"the shim (pid {pid}) was started but does not answer on {path}; see its messages in"
            f" {self._run_dir / 'shim.log'}"
        )

    @property
    def client(self) -> ShimClient:
        """The present connection.

        Raises:
            ShimUnavailable: there is none at the moment.
        """
        if self._client is None:
            raise ShimUnavailable("the daemon is not connected to its shim yet; try again")
        return self._client


def start_shim(run_dir: Path) -> int:
    """Start a detached shim for a run directory and return its pid.

    It gets a session of its own and no terminal; what it has to say goes to RUN_DIR/shim.log.
    """
    null, log = os.devnull, str(run_dir / "shim.log")
    argv = boot.argv(str(run_dir))
    return os.posix_spawn(
        argv[0],
        argv,
        {"PATH": os.environ.get("PATH", os.defpath)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals(),
    )
