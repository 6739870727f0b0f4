"""A real shim as a process, and the few lines of a daemon that tests need to command it."""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aruntime.container import launch, logfile
from aruntime.shim import boot
from tests.kernel.shim.specs import payload_of, spec_of

TIMEOUT_SECONDS = 20
LET_GO_SECONDS = TIMEOUT_SECONDS
MAX_MESSAGE = 1 << 16
MAX_FDS = 16

Message = dict[str, Any]


class Peer:
    """One connection to a shim, as a daemon has it; owns every descriptor it was sent."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(TIMEOUT_SECONDS)
        self.socket.connect(path)
        self.fds: dict[tuple[str, str], dict[str, int]] = {}
        self.pending: list[Message] = []

    def send(self, fields: Message, fds: Mapping[str, int] | None = None) -> None:
        """Send one message."""
        rights = []
        if fds:
            fields = {**fields, "fds": list(fds)}
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds.values()))]
        self.socket.sendmsg([json.dumps(fields).encode()], rights)

    def receive(self) -> Message:
        """Return the next message, or {} at end of file."""
        content, ancillary, _, _ = self.socket.recvmsg(
            MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
        if not content:
            return {}
        numbers = array.array("i")
        for _, _, raw in ancillary:
            numbers.frombytes(raw)
        fields: Message = json.loads(content)
        names = fields.pop("fds", [])
        assert len(names) == len(numbers)
        key = (fields.get("id", ""), fields.get("exec_id", ""))
        if names:
            held = self.fds.setdefault(key, {})
            for name, fd in zip(names, numbers, strict=True):
                if name in held:
                    os.close(held[name])
                held[name] = fd
        return fields

    def expect(self, op: str, container_id: str = "", exec_id: str = "") -> Message:
        """Return the next message about this child (others are kept); it must be ``op``."""
        return self.expect_one_of((op,), container_id, exec_id)

    def expect_one_of(
        self, ops: Sequence[str], container_id: str = "", exec_id: str = ""
    ) -> Message:
        """Return the next message about this child; its ``op`` must be one of these."""
        for place, message in enumerate(self.pending):
            if message.get("id", "") == container_id and message.get("exec_id", "") == exec_id:
                del self.pending[place]
                assert message["op"] in ops, message
                return message
        while True:
            message = self.receive()
            assert message, "the shim hung up"
            if message.get("id", "") == container_id and message.get("exec_id", "") == exec_id:
                assert message["op"] in ops, message
                return message
            self.pending.append(message)

    def hello(self) -> list[Message]:
        """Introduce ourselves; return the children handed over."""
        self.send({"op": "hello", "version": "test"})
        self.expect("welcome")
        held = []
        while (message := self.receive())["op"] == "container":
            held.append(message)
        assert message == {"op": "handed_over", "count": len(held)}
        return held

    def close(self) -> None:
        """Hang up and close what was received."""
        self.socket.close()
        for held in self.fds.values():
            for fd in held.values():
                os.close(fd)
        self.fds.clear()

    def forget(self, container_id: str, exec_id: str = "") -> None:
        """Close the descriptors of one child."""
        for fd in self.fds.pop((container_id, exec_id), {}).values():
            os.close(fd)


class Shim:
    """A shim process of its own, and containers made of busybox."""

    def __init__(self, run_dir: Path, rootfs: Path, *, prefix: Sequence[str] = ()) -> None:
        self.run_dir = run_dir
        self.rootfs = rootfs
        self.path = str(run_dir / "shim.sock")
        self.log = open(run_dir / "shim.log", "ab")  # noqa: SIM115 - close() closes it
        command = [*prefix, *boot.argv(str(run_dir))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        self.peers: list[Peer] = []
        self.wait_for(lambda: os.path.exists(self.path) or self.process.poll() is not None)
        assert self.process.poll() is None, (run_dir / "shim.log").read_text()
        self.daemon = self.connect()
        self.daemon.hello()

    @staticmethod
    def wait_for(condition: Callable[[], object], seconds: float = TIMEOUT_SECONDS) -> None:
        """Poll a condition that has no descriptor to wait for."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.002)

    def connect(self) -> Peer:
        """Return a new connection, closed at the end of the test."""
        peer = Peer(self.path)
        self.peers.append(peer)
        return peer

    def reconnect(self) -> list[Message]:
        """Replace the daemon by a new one; return the children handed over."""
        self.daemon.close()
        self.daemon = self.connect()
        return self.daemon.hello()

    def launch(
        self,
        container_id: str,
        args: Sequence[str],
        *,
        log_dir: Path | None = None,
        stdin: bool = False,
        start: bool = True,
        fds: Mapping[str, int] | None = None,
        **options: Any,
    ) -> Message:
        """Launch a container; return ``created``. Its output goes to pipes of the peer.

        ``options`` are those of :func:`spec_of`, ``payload_of`` gets ``init``, ``user`` ….
        """
        self.send_launch(container_id, args, log_dir=log_dir, stdin=stdin, fds=fds, **options)
        created = self.daemon.expect("created", container_id)
        if start:
            self.start(container_id)
        return created

    def send_launch(
        self,
        container_id: str,
        args: Sequence[str],
        *,
        log_dir: Path | None = None,
        stdin: bool = False,
        start: bool = False,
        announce: bool = False,
        fds: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        """Ask for a container."""
        content = payload_of(container_id, self.rootfs, args, **options)
        asked = {name: True for name, on in (("start", start), ("announce", announce)) if on}
        fields = {"op": "launch", "id": container_id, **asked}
        tty = bool(options.get("tty"))
        self.request(fields, content, tty=tty, log_dir=log_dir, stdin=stdin, fds=fds)

    def start(self, container_id: str) -> None:
        """Let the program run."""
        self.daemon.send({"op": "start", "id": container_id})
        self.daemon.expect("running", container_id)

    def request(
        self,
        fields: Message,
        content: bytes,
        *,
        tty: bool = False,
        log_dir: Path | None = None,
        stdin: bool = False,
        fds: Mapping[str, int] | None = None,
    ) -> None:
        """Send a launch or exec with fresh pipes; their ends on our side are the peer's."""
        ours: dict[str, int] = {}
        child: dict[str, int] = {"payload": memfd(content)}
        if not tty:
            for stream in ("stdout", "stderr"):
                ours[f"{stream}_read"], child[stream] = os.pipe2(os.O_CLOEXEC)
            if stdin:
                child["stdin"], ours["stdin_write"] = os.pipe2(os.O_CLOEXEC)
        if log_dir is not None:
            log_dir.mkdir(exist_ok=True)
            ours["log"], ours["index"] = logfile.open_log(str(log_dir))
        key = (fields["id"], fields.get("exec_id", ""))
        self.daemon.send({**fields, "tty": tty}, {**child, **ours, **(fds or {})})
        for fd in child.values():
            os.close(fd)
        self.daemon.forget(*key)
        self.daemon.fds[key] = ours

    def execute(
        self, container_id: str, exec_id: str, args: Sequence[str], **options: Any
    ) -> Message:
        """Run one more process; returns once its program runs."""
        self.request_exec(container_id, exec_id, args, **options)
        created = self.daemon.expect("created", container_id, exec_id)
        self.daemon.expect("running", container_id, exec_id)
        return created

    def request_exec(
        self,
        container_id: str,
        exec_id: str,
        args: Sequence[str],
        *,
        stdin: bool = False,
        login: str | None = None,
        cgroup_dirs: Sequence[str] = (),
        bpf: bytes | None = None,
        **options: Any,
    ) -> None:
        """Ask for one more process."""
        spec = spec_of(args, **options)
        content = launch.exec_payload(
            spec,
            spec["process"],
            container_id=container_id,
            cgroup_dirs=cgroup_dirs,
            user=login,
            bpf=bpf,
        )
        fields = {"op": "exec", "id": container_id, "exec_id": exec_id}
        self.request(fields, content, tty=bool(options.get("tty")), stdin=stdin)

    def fd(self, name: str, container_id: str, exec_id: str = "") -> int:
        """Return a descriptor of a child; it stays the peer's."""
        return self.daemon.fds[(container_id, exec_id)][name]

    def wait_exit(self, container_id: str, exec_id: str = "") -> None:
        """Wait until a child is a zombie."""
        readable, _, _ = select.select(
            [self.fd("pidfd", container_id, exec_id)], [], [], TIMEOUT_SECONDS
        )
        assert readable, f"{container_id} {exec_id} does not end"

    def reap(self, container_id: str, exec_id: str = "") -> Message:
        """Wait for the end of a child and reap it."""
        self.wait_exit(container_id, exec_id)
        fields = {"op": "reap", "id": container_id}
        self.daemon.send({**fields, "exec_id": exec_id} if exec_id else fields)
        reaped = self.daemon.expect("reaped", container_id, exec_id)
        return reaped

    def output(self, container_id: str, exec_id: str = "", stream: str = "stdout") -> str:
        """Return a stream up to its end; EIO is the end of a terminal."""
        tty = "master" in self.daemon.fds[(container_id, exec_id)]
        return read_all(self.fd("master" if tty else f"{stream}_read", container_id, exec_id))

    def run(self, container_id: str, args: Sequence[str], **options: Any) -> tuple[int, str, str]:
        """Run a container to its end; return exit code, stdout and stderr."""
        self.launch(container_id, args, **options)
        out = self.output(container_id)
        err = "" if options.get("tty") else self.output(container_id, stream="stderr")
        code = self.reap(container_id)["code"]
        self.daemon.forget(container_id)
        return code, out, err

    def kill(self, container_id: str, number: int = signal.SIGKILL) -> None:
        """Signal a container's init."""
        signal.pidfd_send_signal(self.fd("pidfd", container_id), number)

    def children(self) -> list[int]:
        """Return the pids of the shim's children."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def descriptors(self) -> list[str]:
        """Return what the shim has open."""
        directory = f"/proc/{self.process.pid}/fd"
        found = []
        for entry in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{directory}/{entry}"))
        return sorted(found)

    def wait_descriptors(self, expected: list[str], what: object = "") -> None:
        """Wait until just this is open; namespaces of what was reaped go a moment later."""
        with contextlib.suppress(AssertionError):
            self.wait_for(lambda: self.descriptors() == expected, LET_GO_SECONDS)
        assert self.descriptors() == expected, what

    def close(self) -> None:
        """Kill what is left and end the shim."""
        for peer in self.peers:
            peer.close()
        if self.process.poll() is None:
            for pid in self.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.log.close()


def read_all(fd: int) -> str:
    """Read a pipe or a pty's master to its end."""
    chunks = []
    while True:
        readable, _, _ = select.select([fd], [], [], TIMEOUT_SECONDS)
        assert readable, "the stream does not end"
        try:
            chunk = os.read(fd, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode(errors="surrogateescape")


def memfd(content: bytes) -> int:
    """Return a memfd with this content."""
    fd = os.memfd_create("payload", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd
