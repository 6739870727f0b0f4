"""What the shim does for its daemon: launch, start, exec, reap, hand over; and what without one.

The protocol is drawn in :mod:`aruntime.container.messages`. The keeper is the parent of every
container's init: it never waits for one, never reads their output into its own memory, and
forgets a child only when the daemon has reaped it or its launch has failed.
"""

from __future__ import annotations

import _socket
import errno
import os

from aruntime import __version__
from aruntime.container import messages, payloads, spawn
from aruntime.kernel import process
from aruntime.shim import children as states
from aruntime.shim.children import Child
from aruntime.shim.link import GONE_ERRNOS
from aruntime.shim.pump import Pump
from aruntime.shim.remains import Remains

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable
    from typing import Any

    from aruntime.shim.link import Connection
    from aruntime.shim.loop import Loop
else:
    import _signal  # signal itself drags enum in

MICROSECONDS = 1_000_000
INIT_MESSAGES_PER_TURN = 4


class Keeper:
    """All children of the shim.

    Attributes:
        defaults: for ``payloads.complete``, so that what the shim changed about itself (open
            files, OOM score) does not become its children's.
    """

    def __init__(self, loop: Loop, log: Callable[[str], None], defaults: dict[str, Any]) -> None:
        self._loop = loop
        self._log = log
        self._defaults = defaults
        self._children: dict[tuple[str, str], Child] = {}
        self._daemon: Connection | None = None
        self._remains = Remains(loop)
        self.pump = Pump(loop, log)
        self.pump.start(())

    def __len__(self) -> int:
        return len(self._children)

    @property
    def has_daemon(self) -> bool:
        """Whether a daemon has said hello and is still there."""
        return self._daemon is not None

    def strangers(self, pids: Iterable[int]) -> list[int]:
        """Return those of our children's pids that no launch of ours accounts for.

        None while an intermediate process is about to tell us the pid of an init.
        """
        known: set[int] = set()
        for child in self._children.values():
            if child.intermediate is not None:
                known.add(child.intermediate[0])
                if not child.pid:
                    return []
            known.add(child.pid)
        return [pid for pid in pids if pid not in known]

    # --- the daemon comes and goes

    def hello(self, daemon: Connection) -> None:
        """Stop moving output and hand everything over."""
        self._daemon = daemon
        self.pump.stop(self._children.values())
        daemon.send(
            {"op": messages.WELCOME, "version": __version__, "pid": os.getpid(), "early": True}
        )
        count = 0
        for child in self._children.values():
            if child.is_set_up:
                running = child.state != states.CREATED
                fields = {
                    **child.fields(messages.CONTAINER),
                    "pid": child.pid,
                    "state": messages.STATE_RUNNING if running else messages.STATE_CREATED,
                    "tty": child.tty,
                }
                daemon.send(fields, child, states.HELD_NAMES)
                count += 1
            elif child.state == states.SPAWNING:
                self._kill(child)
        daemon.send({"op": messages.HANDED_OVER, "count": count})

    def goodbye(self) -> None:
        """The daemon is gone or about to go: move output again.

        The clients of its execs are gone with it: nobody will write to them any more.
        """
        self._daemon = None
        for child in self._children.values():
            if child.exec_id:
                child.drop("stdin_write")
        self.pump.start(self._children.values())

    def request(self, fields: dict[str, Any], fds: dict[str, int]) -> None:
        """Do what the daemon asks; consumes the descriptors."""
        calls: dict[object, Callable[[Child, dict[str, Any], dict[str, int]], None]] = {
            messages.START: self._start,
            messages.CLOSE_STDIN: self._close_stdin,
            messages.LOGS: self._replace_logs,
            messages.REAP: self._reap,
        }
        op = fields.get("op")
        try:
            if op in (messages.LAUNCH, messages.EXEC):
                self._launch(str(op), fields, fds)
            elif op in calls:
                child = self._children.get(states.key_of(fields))
                if child is not None:
                    calls[op](child, fields, fds)
                elif op != messages.START:  # of which its launch's failure was the answer
                    self._refuse(fields, errno.ESRCH, "the shim holds no such child")
            else:
                reason = fields.get("reason", f"unknown request {op!r}")
                self._send({"op": messages.REFUSED, "message": str(reason)})
        finally:
            for fd in fds.values():
                os.close(fd)

    # --- launch

    def _launch(self, op: str, fields: dict[str, Any], fds: dict[str, int]) -> None:
        container_id, exec_id = states.key_of(fields)
        if not container_id or bool(exec_id) != (op == messages.EXEC):
            self._refuse(fields, errno.EINVAL, "the request lacks an id")
            return
        if (container_id, exec_id) in self._children:
            self._refuse(fields, errno.EEXIST, "the shim holds a child of this id already")
            return
        child = Child(container_id, exec_id, tty=bool(fields.get("tty")))
        child.start_at_once = bool(fields.get("start")) or op == messages.EXEC
        step = messages.STEP_PAYLOAD
        try:
            payload = self._payload(op, child, fields, fds)
            step = messages.STEP_CLONE
            self._spawn(child, payload, fds)
        except (OSError, ValueError, KeyError, TypeError) as error:
            child.close()
            failure = messages.failure(step, error)
            self._send({**child.fields(messages.FAILED), **failure})
            return
        self._children[child.key] = child
        child.announced = bool(fields.get("announce"))
        self._announce(child)

    def _announce(self, child: Child) -> None:
        """Tell the daemon that asked for it whom it will get, as soon as that is known."""
        if child.announced and child.pid and self._daemon is not None:
            self._daemon.send({**child.fields(messages.SPAWNED), "pid": child.pid}, child)

    def _payload(
        self, op: str, child: Child, fields: dict[str, Any], fds: dict[str, int]
    ) -> dict[str, Any]:
        """Return the payload of a request, completed, or what stands for one that is to come.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is none, or it is malformed.
        """
        payload = payloads.requested(op, fields, fds, self._defaults)
        if op == messages.EXEC:
            target = self._children.get((child.id, ""))
            if target is None:
                raise OSError(errno.ESRCH, "the shim holds no such container")
            if process.is_dead(target.pidfd):
                raise OSError(errno.ESRCH, "the container is not running")
            fds["target"] = os.dup(target.pidfd)
        payload["start"] = child.start_at_once
        return payload

    def _spawn(self, child: Child, payload: dict[str, Any], fds: dict[str, int]) -> None:
        """Fork, keep what outlives the launch; the rest is closed by the request's end.

        Raises:
            OSError: nothing was forked, or no descriptor is left.
        """
        for name in states.HELD_NAMES:
            if name in fds:
                child.fds[name] = fds.pop(name)
        if child.tty and "log" in child.fds:
            child.fds["pty_read"], child.fds["pty_write"] = os.pipe2(os.O_CLOEXEC)
        spawned = spawn.spawn(payload, fds)
        child.pid, child.pidfd = spawned.pid, spawned.pidfd
        child.channel = spawned.channel
        if spawned.is_intermediate:
            child.intermediate = (spawned.pid, spawned.pidfd)
            child.pid, child.pidfd = 0, -1
            self._loop.watch(spawned.pidfd, lambda: self._reap_intermediate(child))
        self._loop.watch(spawned.channel.fileno(), lambda: self._hear(child))

    def _hear(self, child: Child) -> None:
        """Take what init says."""
        for _ in range(INIT_MESSAGES_PER_TURN):
            if child.channel is None:
                return
            try:
                content, ancillary, _, _ = child.channel.recvmsg(
                    messages.MAX_MESSAGE, messages.RIGHTS_SPACE, _socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended with its start unread (unix(7)); what it said comes now
            except OSError as error:
                self._log(f"channel of {child.id[:12]}: {error}")
                content, ancillary = b"", []
            if not content:
                self._channel_ended(child)
                return
            self._obey_init(child, content, messages.received_fds(ancillary))

    def _obey_init(self, child: Child, content: bytes, numbers: list[int]) -> None:
        kind = content[:1]
        fields = messages.decode(content[1:])
        fds = dict(zip(fields.pop("fds", ()), numbers, strict=True))
        if kind == messages.INIT_SPAWNED:
            child.pid, child.pidfd = int(fields["pid"]), fds["pidfd"]
            self._announce(child)
        elif kind == messages.INIT_READY:
            child.fds.update(fds)
            self._set_up(child, fields.get("warnings", []))
        elif kind == messages.INIT_FAILED and child.failure is None:
            child.failure = fields

    def _set_up(self, child: Child, warnings: list[str]) -> None:
        """Init is ready: tell the daemon, let the program run if that was asked for."""
        child.state = states.CREATED
        fields = {**child.fields(messages.CREATED), "pid": child.pid, "warnings": warnings}
        if self._daemon is not None:
            self._daemon.send(fields, child, states.MADE_NAMES)
        if child.start_at_once:
            # Init was told so by its payload and does not wait.
            child.state = states.STARTING
        self.pump.add(child)

    def _channel_ended(self, child: Child) -> None:
        """Init's end is closed: by execve, or by its death."""
        if child.channel is not None:
            self._loop.forget(child.channel.fileno())
            child.channel.close()
            child.channel = None
        if child.failure is None and child.state == states.STARTING:
            child.state = states.RUNNING
            self._send(child.fields(messages.RUNNING))
        elif child.failure is not None or child.state == states.SPAWNING:
            self._fail(child)
        # A created init that died without a word waits for start, or for its reap.

    def _fail(self, child: Child) -> None:
        """The launch has failed: reap the child as soon as it is a zombie, then say so."""
        self.pump.remove(child)
        child.state = states.FAILING
        if child.pidfd >= 0:
            self._loop.watch(child.pidfd, lambda: self._finish_failure(child))
        elif child.intermediate is None:
            self._report_failure(child, 0)

    def _finish_failure(self, child: Child) -> None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = child.pid, 0
        if pid:
            self._loop.forget(child.pidfd)
            os.close(child.pidfd)
            child.pid, child.pidfd = 0, -1
            if child.intermediate is None:
                self._report_failure(child, status)

    def _report_failure(self, child: Child, status: int) -> None:
        failure = child.failure or states.death(status)
        del self._children[child.key]
        child.close()
        self._send({**child.fields(messages.FAILED), **failure})

    def _reap_intermediate(self, child: Child) -> None:
        if child.intermediate is None:
            return
        pid, pidfd = child.intermediate
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended, status = pid, 0
        if not ended:
            return
        self._loop.forget(pidfd)
        os.close(pidfd)
        child.intermediate = None
        if child.state == states.FAILING and child.pidfd < 0:
            self._report_failure(child, status)

    # --- requests about one child

    def _start(self, child: Child, fields: dict[str, Any], fds: dict[str, int]) -> None:
        if child.state == states.FAILING:
            return  # why, is said as soon as it is a zombie
        early = child.state == states.SPAWNING and not child.start_at_once
        if not early and child.state != states.CREATED:
            self._refuse(fields, errno.EALREADY, f"the child is {child.state}")
            return
        child.start_at_once = True
        child.state = states.SPAWNING if early else states.STARTING
        try:
            if child.channel is None:
                raise OSError(errno.ESRCH, "init died before it was started")
            child.channel.sendmsg([messages.INIT_START], [], _socket.MSG_NOSIGNAL)
        except OSError as error:
            if not early:
                child.failure = messages.failure(messages.STEP_START, error)
                self._channel_ended(child)
                return
            if error.errno not in GONE_ERRNOS:  # else init's own last words are still to be heard
                child.failure = messages.failure(messages.STEP_START, error)
            self._kill(child)

    def _close_stdin(self, child: Child, fields: dict[str, Any], fds: dict[str, int]) -> None:
        child.drop("stdin_write")

    def _replace_logs(self, child: Child, fields: dict[str, Any], fds: dict[str, int]) -> None:
        for name in ("log", "index"):
            if name in fds:
                child.drop(name)
                child.fds[name] = fds.pop(name)

    def _reap(self, child: Child, fields: dict[str, Any], fds: dict[str, int]) -> None:
        if not child.is_set_up:
            self._refuse(fields, errno.EBUSY, f"the child is {child.state}")
            return
        try:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        except ChildProcessError as error:
            self._refuse(fields, error.errno or errno.ECHILD, "somebody else reaped it")
            self._forget(child)
            return
        if not pid:
            self._refuse(fields, errno.EBUSY, "the child is running")
            return
        self._remains.take(child.take_namespaces())
        self._forget(child)
        answer = {
            "pid": pid,
            "code": process.shell_code(status),
            "status": status,
            "utime_us": round(usage.ru_utime * MICROSECONDS),
            "stime_us": round(usage.ru_stime * MICROSECONDS),
            "maxrss_kb": usage.ru_maxrss,
            "inblock": usage.ru_inblock,
            "oublock": usage.ru_oublock,
        }
        self._send({**child.fields(messages.REAPED), **answer})

    def _forget(self, child: Child) -> None:
        """Drop a reaped child and every descriptor of it."""
        self.pump.remove(child)
        if child.channel is not None:
            self._loop.forget(child.channel.fileno())
        if child.intermediate is not None:
            self._loop.forget(child.intermediate[1])
        del self._children[child.key]
        child.close()

    def _kill(self, child: Child) -> None:
        for pidfd in (child.pidfd, child.intermediate[1] if child.intermediate else -1):
            if pidfd >= 0:
                try:
                    _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has ended by itself

    def _refuse(self, fields: dict[str, Any], number: int, reason: str) -> None:
        """Answer a request that changed nothing."""
        container_id, exec_id = states.key_of(fields)
        failure = messages.failure(messages.STEP_REQUEST, OSError(number, reason))
        answer = {"op": messages.FAILED, "id": container_id, **failure}
        self._send({**answer, "exec_id": exec_id} if exec_id else answer)

    def _send(self, fields: dict[str, Any]) -> None:
        if self._daemon is not None:
            self._daemon.send(fields)
