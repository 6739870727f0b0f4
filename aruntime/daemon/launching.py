"""Everything a start needs that blocks: directories, files, cgroup, address, launch payload.

Synchronous; called in worker threads. What it makes is undone here on failure; after success the
undoing is the life's (cgroup, address) or the supervisor's (directories).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from aruntime.cgroups.driver import Cgroup
from aruntime.container import launch
from aruntime.daemon import bundle, connections, directories
from aruntime.daemon.commands.run_env import merge_env
from aruntime.daemon.commands.run_values import parse_signal
from aruntime.errors import AruntimeError, InvalidParameter
from aruntime.kernel import capabilities
from aruntime.network import without_network
from aruntime.rootfs import plan

journal = structlog.get_logger()

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
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
    """What a launch takes along; the caller closes it once the shim has answered."""

    cgroup: Cgroup
    fds: dict[str, int]
    warnings: list[str] = []

    def close(self) -> None:
        """Close the descriptors; the shim has duplicates."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


def signal_number(text: str) -> int:
    """Return the number of a signal as users write it (see ``parse_signal``).

    Raises:
        InvalidParameter: there is no such signal.
    """
    try:
        return parse_signal(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None


def make_and_prepare(parts: Parts, container: Container) -> None:
    """Make a container's directory and, in one go, what its start needs.

    Raises:
        AruntimeError, OSError: of the directory; nothing stays. What fails later is kept for the
            start, as ``container.prepared``.
    """
    directories.make(parts, container)
    try:
        container.prepared = prepare(parts, container)
    except (AruntimeError, OSError) as error:
        container.prepared = error


def prepare(parts: Parts, container: Container) -> Prepared:
    """Make everything that a run of the container needs before its init is forked.

    Raises:
        AruntimeError, OSError: nothing of it is left.
    """
    config = container.config
    with contextlib.ExitStack() as undo:
        undo.callback(connections.release, parts, container)
        netlink, container.address = attach_network(parts, container)
        made = bundle.make(parts, container)
        bundle.save(container, made)
        cgroup = parts.driver.create(config.id, made.spec["linux"]["resources"])
        undo.callback(parts.driver.destroy, cgroup)
        payload = launch.payload(
            made.spec,
            container_id=config.id,
            cgroup_dirs=parts.driver.procs_paths(cgroup),
            mounts=mount_operations(container, made, cgroup),
            netlink=netlink,
            bpf=made.bpf,
            init=config.init,
            user=config.user,
            groups=config.group_add,
        )
        fds = {"payload": memory_file("payload", payload)}
        undo.pop_all()
    return Prepared(cgroup, fds, made.warnings)


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
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd
