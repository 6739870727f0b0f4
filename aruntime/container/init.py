"""What the child of clone3 does until it becomes the container's program.

It is a fork of the shim: everything it needs is imported already, every signal is blocked, it is
not dumpable, and nobody but the shim hears it. The steps and their order are those of
:mod:`aruntime.container.messages`; whatever fails is reported with its step and ends it.
"""

from __future__ import annotations

import errno
import os

from aruntime.container import exec as container_exec
from aruntime.container import intermediate, joining, messages, payloads, program, wiring
from aruntime.container.channel import Channel, close_others
from aruntime.kernel import keyrings, namespaces, process
from aruntime.rootfs import apply

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, NoReturn

STREAMS = ("stdin", "stdout", "stderr")
NULL_PATH = "/dev/null"
MNTNS_PATH = "/proc/self/ns/mnt"
PIVOT = "pivot"
"""The operation after which paths are the container's."""

KEYS_REFUSED = frozenset({errno.ENOSYS, errno.EPERM})
LOWERING_REFUSED = frozenset({errno.EACCES, errno.EPERM})


CMDLINE = b"aruntime-init"
"""What ps shows inside: until the program is executed, and for good with ``--init``."""


def run(payload: dict[str, Any], fds: dict[str, int], sock: _socket.socket) -> NoReturn:
    """Be the child: set the container up, execute its program, or report why not.

    Args:
        payload: the decoded launch payload, or what :func:`await_payload` needs until it comes.
        fds: the request's descriptors: stdin, stdout, stderr, those that ``join`` names, or
            ``gate`` and ``payload``.
        sock: this end of the socket pair to the shim.
    """
    channel = Channel(sock)
    try:
        detach(fds, channel)
        if "gate" in fds:
            payload = await_payload(payload, fds, channel)
        begin(payload, channel)
        if payload["kind"] == messages.EXEC:
            container_exec.enter_container(payload, fds, channel)
        else:
            set_up_container(payload, fds, channel)
    except BaseException as error:
        channel.fail(error)
    finally:
        # Whatever happens, this copy of the shim must not go on as one.
        os._exit(1)


def detach(fds: dict[str, int], channel: Channel) -> None:
    """Detach from the shim: session, keys, descriptors, standard streams.

    Raises:
        OSError: a system call failed.
    """
    process.set_dumpable(False)
    process.set_cmdline(CMDLINE)  # paths of the host are not the container's business
    os.setsid()
    leave_keys()
    for number, name in enumerate(STREAMS):
        fd = fds.pop(name, -1)
        if fd < 0:
            fd = os.open(NULL_PATH, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(fd, number, inheritable=True)
    close_others([channel.fd, *fds.values()])
    channel.renumber()
    for name, fd in fds.items():
        fds[name] = os.dup(fd)
        os.close(fd)


def await_payload(early: dict[str, Any], fds: dict[str, int], channel: Channel) -> dict[str, Any]:
    """Wait for the payload of a child that was forked before it was made; return it, completed.

    The cgroups are joined meanwhile. A gate that is closed means that there will be none, and
    whoever closed it knows why: the child exits without a word.

    Args:
        early: of ``payloads.to_come``.
        fds: the payload's memfd, and the gate, from which a byte can be read once the payload is
            in it. Both are closed and taken out.
        channel: to the shim.

    Raises:
        OSError: a cgroup cannot be joined, a descriptor cannot be read.
        ValueError: as ``payloads.read``.
    """
    joining.join_cgroups(early["cgroups"], channel)
    channel.step = messages.STEP_PAYLOAD
    gate, place = fds.pop("gate"), fds.pop("payload")
    if not os.read(gate, 1):
        os._exit(1)
    os.close(gate)
    payload = payloads.read(place, messages.LAUNCH)
    os.close(place)
    payloads.complete(payload, early["defaults"])
    return {**payload, "cgroups": [], "start": early["start"]}


def begin(payload: dict[str, Any], channel: Channel) -> None:
    """Do what concerns the process itself: its OOM score.

    Raises:
        OSError: as :func:`set_oom_score`.
    """
    if "oom_score_adj" in payload:
        channel.step = messages.STEP_OOM_SCORE
        set_oom_score(payload["oom_score_adj"], channel)
    channel.warnings.extend(payload["warnings"])


def leave_keys() -> None:
    """Leave the session keyring of who started the shim, which may be a person's own.

    Docker's seccomp profile keeps keyctl(2) from a container; this is for those without it.

    Raises:
        OSError: as keyctl(2), but for kernels and surroundings without keys.
    """
    try:
        keyrings.join_session_keyring()
    except OSError as error:
        if error.errno not in KEYS_REFUSED:
            raise


def set_oom_score(score: int, channel: Channel) -> None:
    """Set oom_score_adj; lowering it takes CAP_SYS_RESOURCE, without which it is a warning.

    Raises:
        OSError: as write(2), but for a refusal to lower it.
    """
    try:
        joining.write_file("/proc/self/oom_score_adj", b"%d" % score)
    except OSError as error:
        if error.errno not in LOWERING_REFUSED:
            raise
        channel.warnings.append(
            f"oom_score_adj {score} is not set: lowering it needs CAP_SYS_RESOURCE"
        )


def set_up_container(payload: dict[str, Any], fds: dict[str, int], channel: Channel) -> None:
    """Everything from a fresh child to execve; returns only by raising.

    Raises:
        OSError, StepFailed, LookupError: the step in ``channel.step`` failed.
    """
    joining.join_cgroups(payload["cgroups"], channel)
    peer, held = None, dict[str, int]()
    if intermediate.is_needed(payload):
        peer, held = intermediate.fork_init(payload, fds, channel)
    network = wiring.HostNetwork(payload["netlink"], peer, channel)
    joining.join_namespaces(payload["join"], fds, channel)
    channel.step = messages.STEP_UNSHARE
    namespaces.unshare(payload["unshare"])
    ready: dict[str, int] = {}
    if payload["unshare"] & namespaces.CLONE_NEWNET:
        ready["netns"] = os.open(wiring.NETNS_PATH, os.O_RDONLY | os.O_CLOEXEC)
    if payload["unshare"] & namespaces.CLONE_NEWNS:
        ready["mntns"] = os.open(MNTNS_PATH, os.O_RDONLY | os.O_CLOEXEC)
    network.connect()
    name_host(payload, channel)
    build_rootfs(payload, held, channel)
    program.run(payload, channel, ready, wait=not payload.get("start"))


def build_rootfs(payload: dict[str, Any], held: dict[str, int], channel: Channel) -> None:
    """Do the mounts; the working directory is made before a root turns read-only.

    Raises:
        StepFailed, OSError: a mount, or the directory, cannot be made.
    """
    channel.step = messages.STEP_ROOTFS
    ops = payload["mounts"]
    inside = next((place for place, op in enumerate(ops, 1) if op[0] == PIVOT), len(ops))
    apply.apply(ops[:inside], held)
    channel.step = messages.STEP_CWD
    program.make_directories(payload["cwd"])
    channel.step = messages.STEP_ROOTFS
    apply.apply(ops[inside:])


def name_host(payload: dict[str, Any], channel: Channel) -> None:
    """Set host name and domain name.

    Raises:
        OSError: as sethostname(2); EINVAL for a name above 64 bytes.
    """
    if "hostname" in payload:
        channel.step = messages.STEP_HOSTNAME
        process.sethostname(payload["hostname"])
    if "domainname" in payload:
        channel.step = messages.STEP_DOMAINNAME
        process.setdomainname(payload["domainname"])
