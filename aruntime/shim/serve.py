"""The shim as a process: its own state, its signals, its socket, its end.

Everything is imported here before the first fork. The process blocks every signal and reads them
from a descriptor; it is not dumpable, and so is no child of it before its execve; it works in the
run directory. It ends by ``shutdown`` or SIGTERM when it holds no child, and by itself some time
after its daemon has left it with none.
"""

from __future__ import annotations

import os
import resource

from aruntime.container import messages
from aruntime.kernel import process, signals
from aruntime.shim import link
from aruntime.shim.keeper import Keeper
from aruntime.shim.link import Connection
from aruntime.shim.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any
else:
    import _signal  # signal itself drags enum in

SOCKET_NAME = "shim.sock"
PROCESS_NAME = b"aruntime-shim"
OOM_SCORE_ADJ = b"-1000"
OOM_PATH = "/proc/self/oom_score_adj"
IDLE_SECONDS = 10.0
"""How long a shim without children waits for its next daemon."""
SWEEP_SECONDS = 1.0
"""How often, at most, dead children are looked for that nobody asked us to launch."""


class Shim:
    """Owns the listening socket, the loop and all that hangs on it."""

    def __init__(self, run_dir: str, *, stay: bool) -> None:
        self._path = f"{run_dir}/{SOCKET_NAME}"
        self._stay = stay
        self._loop = Loop()
        # What this process is about to change about itself is not to be its children's.
        own_limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        defaults = {
            "rlimits": [["nofile", resource.RLIMIT_NOFILE, *own_limits]],
            "oom_score_adj": read_number(OOM_PATH),
        }
        self._keeper = Keeper(self._loop, log, defaults)
        self._daemon: Connection | None = None
        self._guests: set[Connection] = set()
        self._signal_fd = signals.signalfd(int(number) for number in _signal.valid_signals())
        self._listener = link.listen(self._path)

    def run(self) -> None:
        """Serve until told to end."""
        raise_file_limit()
        write_best_effort(OOM_PATH, OOM_SCORE_ADJ)
        self._loop.watch(self._signal_fd, self._read_signals)
        self._loop.watch(self._listener.fileno(), self._accept)
        self._wait_idle()
        self._loop.run()

    # --- connections

    def _accept(self) -> None:
        sock = link.accept(self._listener)
        if sock is not None:
            self._guests.add(Connection(self._loop, sock, self._receive, self._hung_up))

    def _receive(self, peer: Connection, fields: dict[str, Any], fds: dict[str, int]) -> None:
        op = fields.get("op")
        if peer is self._daemon and op not in (messages.GOODBYE, messages.SHUTDOWN):
            self._keeper.request(fields, fds)
            return
        for fd in fds.values():
            os.close(fd)
        if op == messages.SHUTDOWN:
            self._shut_down(peer)
        elif peer is self._daemon:
            self._leave(peer)
        elif op == messages.HELLO:
            self._welcome(peer)
        else:
            self._turn_away(peer, "say hello first")

    def _welcome(self, peer: Connection) -> None:
        if self._daemon is not None:
            self._turn_away(
                peer, f"another daemon (pid {self._daemon.pid}) is connected to this shim; stop it"
            )
            return
        if peer.uid not in (0, os.geteuid()):
            self._turn_away(peer, f"user {peer.uid} may not command this shim")
            return
        self._guests.discard(peer)
        self._daemon = peer
        self._loop.cancel("idle")
        log(f"serving the daemon with pid {peer.pid} and user {peer.uid}")
        self._keeper.hello(peer)

    def _turn_away(self, peer: Connection, reason: str) -> None:
        peer.send({"op": messages.REFUSED, "message": reason})
        self._guests.discard(peer)
        peer.close()

    def _leave(self, daemon: Connection) -> None:
        """The daemon said goodbye; it may say hello again on this connection."""
        self._daemon = None
        self._guests.add(daemon)
        self._keeper.goodbye()
        self._wait_idle()

    def _hung_up(self, peer: Connection) -> None:
        self._guests.discard(peer)
        if peer is self._daemon:
            self._daemon = None
            self._keeper.goodbye()
            self._wait_idle()

    # --- the end

    def _shut_down(self, peer: Connection) -> None:
        if len(self._keeper):
            held = len(self._keeper)
            peer.send({"op": messages.REFUSED, "message": f"the shim holds {held} children"})
            return
        self._end()

    def _wait_idle(self) -> None:
        if not self._stay:
            self._loop.call_later("idle", IDLE_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        if len(self._keeper) or self._daemon is not None:
            return
        self._end()

    def _end(self) -> None:
        """End, unless somebody has just connected."""
        os.unlink(self._path)
        sock = link.accept(self._listener)
        if sock is not None:
            self._listener.close()
            self._listener = link.listen(self._path)
            self._loop.watch(self._listener.fileno(), self._accept)
            self._guests.add(Connection(self._loop, sock, self._receive, self._hung_up))
            return
        self._loop.stop()

    def _read_signals(self) -> None:
        for number in signals.read_signals(self._signal_fd):
            if number == _signal.SIGCHLD:
                self._loop.call_later("sweep", SWEEP_SECONDS, self._sweep)
            elif number in (_signal.SIGTERM, _signal.SIGINT):
                self._terminate(number)

    def _terminate(self, number: int) -> None:
        if len(self._keeper):
            log(f"signal {number} ignored: {len(self._keeper)} children depend on this process")
            return
        self._end()

    def _sweep(self) -> None:
        """Reap dead children that no launch made.

        A process in a container whose parent we are (an exec'd one) can make siblings of itself,
        children of ours, with CLONE_PARENT.
        """
        for pid in self._keeper.strangers(child_pids()):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        self._end_if_idle_later()

    def _end_if_idle_later(self) -> None:
        if self._daemon is None and not len(self._keeper):
            self._wait_idle()


def run(run_dir: str, *, stay: bool) -> None:
    """Become the shim of a run directory; returns when it has ended in order.

    Raises:
        OSError: the run directory cannot be used, or another shim serves it (EADDRINUSE).
    """
    os.chdir(run_dir)
    os.umask(0o077)
    signals.block_all()
    signals.reset_all()
    open_standard_streams()
    process.set_dumpable(False)
    Shim(run_dir, stay=stay).run()


def open_standard_streams() -> None:
    """Make sure that descriptors 0, 1 and 2 are open, so that nothing else takes their place."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: up to ten per container."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def child_pids() -> list[int]:
    """Return the pids of this process's children."""
    with open("/proc/thread-self/children", "rb") as file:
        return [int(word) for word in file.read().split()]


def read_number(path: str) -> int:
    """Return the number in a file of /proc."""
    with open(path, "rb") as file:
        return int(file.read())


def write_best_effort(path: str, content: bytes) -> None:
    """Write a file of /proc if the kernel lets us."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, content)
    except OSError:
        pass  # without CAP_SYS_RESOURCE the score cannot be lowered
    finally:
        os.close(fd)


def log(text: str) -> None:
    """Write one line to stderr, which the daemon keeps in RUN_DIR/shim.log."""
    try:
        os.write(2, f"aruntime-shim: {text}\n".encode(errors="surrogateescape"))
    except OSError:
        pass  # a full disk must not stop the shim
