"""Everything a start needs that blocks: directories, files, cgroup, address, launch payload.

Synchronous; called in worker threads. Where nothing speaks against it (a user namespace, time
offsets, namespaces of others), the shim is asked for init as soon as there is a cgroup for it to be
born in: forking takes about as long as what is left to do here, at the end of which it gets its
payload. Undoing is the life's (child, cgroup, address) or the supervisor's (directories).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from aruntime.cgroups.driver import Cgroup
from aruntime.container import launch
from aruntime.daemon import bundle, connections, directories, sinks
from aruntime.daemon.commands.run_env import merge_env
from aruntime.daemon.commands.run_values import parse_signal
from aruntime.daemon.etc_files import write_etc_files
from aruntime.daemon.record import Streams, open_streams
from aruntime.daemon.shim_launch import Launch
from aruntime.errors import AruntimeError, InvalidParameter
from aruntime.kernel import capabilities
from aruntime.network import without_network
from aruntime.rootfs import plan

journal = structlog.get_logger()

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.pump import LogSink
    from aruntime.daemon.record import Container


class ExecRequest(msgspec.Struct, kw_only=True):
    """What an ``exec`` asks for."""

    args: list[str]
    env: list[str] = []
    """``NAME=value``; a NAME alone takes the caller's value, or is removed."""
    caller_env: dict[str, str] = {}
    working_dir: str = ""
    user: str = ""
    privileged: bool = False
    tty: bool = False
    stdin: bool = False
    console_size: tuple[int, int] = (0, 0)


class Prepared(msgspec.Struct):
    """What a start takes along, or why it will fail. Whoever has it closes it.

    Attributes:
        child: init's launch, which the shim may have been asked for already.
        cgroup: None as long as there is none.
        streams: both ends of init's standard streams.
        payload, gate: the payload's memfd, and the end of a pipe on which an init that was forked
            early waits for it; -1 without.
        warnings: what could not be done as asked.
        error: why the start will fail.
    """

    child: Launch
    cgroup: Cgroup | None = None
    streams: Streams = msgspec.field(default_factory=Streams)
    payload: int = -1
    gate: int = -1
    warnings: list[str] = []
    error: AruntimeError | OSError | None = None

    def fds(self, sink: LogSink) -> dict[str, int]:
        """Return what goes to the shim, by name."""
        return {
            "payload": self.payload,
            **self.streams.child_ends(),
            **self.streams.daemon_ends(),
            "log": sink.log_fd,
            "index": sink.index_fd,
        }

    def close_gate(self) -> None:
        """Let go of an init that waits: it goes on with its payload, or ends without one."""
        self.gate = closed(self.gate)

    def close_sent(self) -> None:
        """Close what the shim has duplicates of."""
        self.payload = closed(self.payload)
        self.streams.close_child_ends()

    def close(self) -> None:
        """Close everything that nobody took over; nothing more is heard of the child."""
        self.close_gate()
        self.payload = closed(self.payload)
        self.streams.close()
        self.child.close()


def closed(fd: int) -> int:
    """Close a descriptor, if it is one; return -1."""
    if fd >= 0:
        os.close(fd)
    return -1


def signal_number(text: str) -> int:
    """Return the number of a signal as users write it (see ``parse_signal``).

    Raises:
        InvalidParameter: there is no such signal.
    """
    try:
        return parse_signal(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None


def begin(parts: Parts, container: Container) -> Prepared:
    """Return what :func:`prepare` fills; on the event loop.

    Raises:
        ShimUnavailable: there is no shim to launch with.
    """
    return Prepared(Launch(parts.shim.client, container.id))


def make_and_prepare(parts: Parts, container: Container) -> None:
    """Make a container's directory and, in one go, what its start needs.

    Raises:
        AruntimeError, OSError: of the directory; nothing stays. What fails later is kept for the
            start, in ``container.prepared``.
    """
    assert container.prepared is not None
    directories.make(parts, container)
    prepare(parts, container, container.prepared)


def prepare(parts: Parts, container: Container, ready: Prepared) -> None:
    """Make everything that a run of the container needs, and have init forked meanwhile.

    What fails is kept as ``ready.error``; an init that was forked ends then. What there is by then
    the life gives back.
    """
    try:
        _prepare(parts, container, ready)
    except (AruntimeError, OSError) as error:
        ready.error = error
    finally:
        ready.close_gate()


def _prepare(parts: Parts, container: Container, ready: Prepared) -> None:
    config = container.config
    made = bundle.make(parts, container)
    ready.warnings = made.warnings
    ready.cgroup = cgroup = parts.driver.create(config.id, made.spec["linux"]["resources"])
    ready.streams = open_streams(tty=config.tty, stdin=config.open_stdin)
    sink = sinks.open_sink(parts, container)
    ready.payload = os.memfd_create("payload", os.MFD_CLOEXEC)
    cgroup_dirs = parts.driver.procs_paths(cgroup)
    born = launch.born_into(made.spec)
    if born is not None:
        ask_early(ready, sink, {"clone": born, "cgroups": cgroup_dirs}, tty=config.tty)
    # From here on both processors have something to do.
    netlink, container.address = attach_network(parts, container)
    write_etc_files(parts, container)
    content = launch.payload(
        made.spec,
        container_id=config.id,
        cgroup_dirs=cgroup_dirs,
        mounts=mount_operations(container, made, cgroup),
        netlink=netlink,
        bpf=made.bpf,
        init=config.init,
        user=config.user,
        groups=config.group_add,
    )
    bundle.save(container, made)
    write_all(ready.payload, content)
    if ready.gate >= 0:
        with contextlib.suppress(BrokenPipeError):  # the shim knows why it is gone
            os.write(ready.gate, b"!")


def ask_early(ready: Prepared, sink: LogSink, early: dict[str, Any], *, tty: bool) -> None:
    """Have init forked before its payload is made, if the shim can do that and has a moment.

    Raises:
        OSError: no descriptor is left.
    """
    reading, ready.gate = os.pipe2(os.O_CLOEXEC)
    try:
        ready.child.ask_early({"gate": reading, **ready.fds(sink)}, early, tty=tty)
    finally:
        os.close(reading)
    if not ready.child.is_asked:
        ready.close_gate()


def attach_network(parts: Parts, container: Container) -> tuple[list[dict[str, Any]], str]:
    """Return the netlink batches of a container and its first address, if any; publish its ports.

    Raises:
        NetworkNotFound: a network of the container is gone.
        AddressPoolExhausted, Conflict, Unavailable, OSError: as Network.attach.
    """
    requests = connections.requests(parts, container)
    if not requests:
        return ([] if connections.is_shared(container) else [without_network()]), ""
    attachments = parts.networks.attach(requests)
    container.state.interfaces = len(requests)
    for attachment in attachments:
        for repair in attachment.repairs:
            journal.warning("network repaired", network=attachment.network, change=repair)
    connections.publish(parts, container)
    return [attachment.netlink for attachment in attachments], attachments[0].ip


def prepare_exec(parts: Parts, container: Container, request: ExecRequest) -> int:
    """Return the payload of an exec as a descriptor that the caller owns.

    Raises:
        AruntimeError, OSError: it cannot be made.
    """
    assert container.cgroup is not None
    made = bundle.load(parts, container)
    process = exec_process(container, made, request)
    payload = launch.exec_payload(
        made.spec,
        process,
        container_id=container.id,
        cgroup_dirs=parts.driver.procs_paths(container.cgroup),
        bpf=None if request.privileged else made.bpf,
        user=request.user or container.config.user,
        groups=container.config.group_add,
    )
    return memory_file("payload", payload)


def exec_process(container: Container, made: bundle.Bundle, request: ExecRequest) -> dict[str, Any]:
    """Return the OCI process of an exec: the container's own with what was asked over it."""
    own = made.spec["process"]
    env = own["env"]
    if request.tty and not any(item.startswith("TERM=") for item in env):
        env = [*env, "TERM=xterm"]
    process = {
        **own,
        "args": request.args,
        "env": merge_env(env, request.env, request.caller_env),
        "cwd": request.working_dir or container.config.working_dir or "/",
        "terminal": request.tty,
    }
    process.pop("consoleSize", None)
    if request.tty and any(request.console_size):
        rows, columns = request.console_size
        process["consoleSize"] = {"height": rows, "width": columns}
    if request.privileged:
        mask = capabilities.capget()[1]
        names = [name for name, bit in capabilities.NUMBERS.items() if mask >> bit & 1]
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    return process


def mount_operations(container: Container, made: bundle.Bundle, cgroup: Cgroup) -> list[Any]:
    """Return the operations that build the container's file tree."""
    directory, volatile = container.directory, container.config.auto_remove
    if volatile and os.listdir(f"{directory}/work"):
        directories.reset_work(directory)
    by_mount: dict[str, list[str]] = {}
    for controller, path in cgroup.directories.items():
        by_mount.setdefault(path, []).append(controller)
    unified = cgroup.directories.get("unified")
    return plan.plan(
        made.spec,
        lower=container.config.layers,
        upper=f"{directory}/upper",
        work=f"{directory}/work",
        staging=f"{directory}/rootfs",
        cgroups=[(names, path) for path, names in by_mount.items() if path != unified],
        unified=unified,
        # Its writes need not survive the host: no waiting for the disk when it ends.
        volatile=volatile,
    )


def memory_file(name: str, content: bytes) -> int:
    """Return an anonymous file with this content, read from its start; the caller owns it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        write_all(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_all(fd: int, content: bytes) -> None:
    """Write all of it.

    Raises:
        OSError: as write(2).
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
