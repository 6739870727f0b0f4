"""What daemon, shim and init say to each other, and the launch payload they hand down.

Data only: names, the codec and the shape of each message. Who sends them is in
:mod:`aruntime.daemon.shim_client`, :mod:`aruntime.shim` and :mod:`aruntime.container.init`.
Standard library only, and of it only the C accelerator of json: ``json`` itself drags ``re`` and
``enum`` into every container's init.

1. Daemon and shim: RUN_DIR/shim.sock, SOCK_SEQPACKET, one JSON object per message (64 KiB at
most) with a key ``op``; ``fds`` names, in order, the descriptors that travel by SCM_RIGHTS.
Requests may be pipelined; answers carry ``id`` (and ``exec_id`` for an exec)::

    daemon                                              shim
      | hello {version}                                   |
      | ------------------------------------------------> |  stops moving output
      | welcome {version, pid, early}                     |
      | <------------------------------------------------ |
      | container {id, exec_id?, pid, state, tty, fds}    |  one per child it holds, zombies too;
      | <------------------------------------------------ |  state: created | running
      | handed_over {count}                               |  from here on the daemon moves output
      | <------------------------------------------------ |
      |                                                   |
      | launch {id, tty, start?, announce?, early?,       |  with start: true init does not wait,
      |   fds: payload, gate?, stdin?, stdout?, stderr?,  |  running follows created by itself
      |   stdout_read?, stderr_read?, stdin_write?, log?, |
      |   index?, join NAMES...}                          |
      | ------------------------------------------------> |  forks init (section 2)
      | spawned {id, pid, fds: pidfd}                     |  with announce: true only
      | <------------------------------------------------ |
      | created {id, pid, warnings?, fds: pidfd,          |
      |   netns?, master?, pty_read?, pty_write?}         |
      | <------------------------------------------------ |
      | start {id}                                        |  once, also before created: init goes
      | ------------------------------------------------> |  on then as soon as it is set up
      | running {id}                                      |  execve succeeded
      | <------------------------------------------------ |
      |                                                   |
      | exec {id, exec_id, tty, fds as for launch}        |
      | ------------------------------------------------> |  created, then running
      |                                                   |
      | close_stdin {id, exec_id?}      (no answer)       |  drops its copy of stdin_write
      | logs {id, exec_id?, fds: log, index} (no answer)  |  after a rotation
      | reap {id, exec_id?}                               |  waitid, then drops every descriptor,
      | ------------------------------------------------> |  those of namespaces a moment later
      | reaped {id, exec_id?, pid, code, status, ...}     |
      | <------------------------------------------------ |
      | goodbye {}                      (no answer)       |  moves output again
      | shutdown {}                                       |  ends, or refused while it holds
      | ------------------------------------------------> |  children

    With ``gate``, the read end of a pipe, the payload is still to come: init is forked with what
    ``early`` says of it, {clone, cgroups}, joins the cgroups, and reads the payload once it can
    read a byte from the gate. If that is closed instead, the launch has failed. A shim that knows
    no such thing does not say ``early: true`` in its welcome. Not for an init with an
    intermediate process, or one that joins a PID namespace.

    failed {id, exec_id?, step, errno, strerror, path} answers any of launch, exec, start and
    reap. After a failed launch, exec or start the shim has already reaped the child and forgotten
    it: there is nothing left to reap. A launch fails once: a start that comes while it is failing,
    or afterwards, is answered by that alone. With the step "read the request" (no such container,
    one of this id exists, it is started already, it still runs) nothing has changed at all.
    refused {message} answers hello (another daemon is connected, or the caller's user may not),
    shutdown, and what is no request.
    A hang-up of the daemon's end means goodbye. A launch or exec that is not set up when the next
    daemon says hello is killed and not handed over: whoever asked for it is gone.

    The init of a PID namespace becomes a zombie only when every exec in it has been reaped: the
    kernel waits for processes whose parent, the shim, is outside (zap_pid_ns_processes). So an
    exec that has ended must be reaped without waiting for its container's end.

    ``code`` is the exit code as docker shows it (128 + n when killed by signal n), ``status``
    is waitpid's raw status; ``utime_us stime_us maxrss_kb inblock oublock`` are the child's
    rusage.

2. Shim and init: a SOCK_SEQPACKET pair; every message is one letter and a JSON object::

    shim                         init (or the intermediate process before it)
      | clone3                      |
      | --------------------------> |
      |   P {pid} + pidfd           |  only with an intermediate process: here is the real init
      | <-------------------------- |
      |   R {warnings} + fds        |  set up: netns?, mntns?, master?; names are in "fds"
      | <-------------------------- |
      |   S                         |  start
      | --------------------------> |
      |                             |  execve
      |   (end of file)             |  execve closed init's end: the program runs
      | <-------------------------- |

    F {step, errno, strerror, path} at any time: this step failed and init exits. End of file
    before R means init was killed.

3. The launch payload, one JSON object in the descriptor ``payload`` (a memfd); every field that
is not marked optional is present::

    version          1
    kind             "launch" or "exec"
    id               the container's id
    unshare          CLONE_NEW* of the namespaces init makes itself (0 for exec)
    clone            CLONE_NEW* of those it is born into: pid, and time without offsets
    join             [[CLONE_NEW* mask, "path" or "fd:NAME"], ...]: namespaces that exist; NAME is
                     a descriptor of the request, a namespace or a pidfd. exec joins its target
                     with one pidfd
    user_namespace   optional: {uid_map: [[inside, outside, count], ...], gid_map: ...}; init is
                     then forked by an intermediate process that keeps the host's privileges
    time_offsets     optional: [["monotonic" | "boottime", seconds, nanoseconds], ...]
    cgroups          directories whose cgroup.procs init writes itself into, in this order
    netlink          [{host, inside, netns_fd, sysctls}, ...]: encoded batches as base64; ``host``
                     is sent from the host's network namespace and may refer to the new one by the
                     descriptor number netns_fd; ``inside`` is sent from the new one, once
                     sysctls (optional; path below /proc/sys to value) are set there
    hostname         optional
    domainname       optional
    mounts           operations of aruntime.rootfs.plan, done by init in the mount namespace
    host_mounts      optional, with user_namespace: the operations of the intermediate process
                     (plan.split)
    terminal         whether stdio is a pty of the container's own devpts
    console_size     optional: [rows, columns]
    oom_score_adj    optional: best effort, a failure to lower it is a warning
    rlimits          [["nofile", number, soft, hard], ...]
    user             {uid, gid, additional_gids: [...]} or, resolved in the rootfs's own
                     /etc/passwd and /etc/group, {name: "as typed", groups: ["as typed", ...]}
    umask            optional
    cwd              absolute path inside; a missing one is made (launch) or an error (exec)
    args             the program and its arguments, not empty
    env              ["NAME=value", ...]; HOME is added from /etc/passwd if it is missing
    capabilities     {bounding, effective, permitted, inheritable, ambient}: bit masks
    no_new_privileges
    seccomp          optional: base64 of struct sock_filter[]
    init             whether init stays as PID 1, reaps, and forwards signals
    warnings         texts that READY repeats (unknown capabilities and the like)
"""

from __future__ import annotations

import _json
import _socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

PAYLOAD_VERSION = 1
MAX_MESSAGE = 1 << 16
MAX_FDS = 16
RIGHTS_SPACE = _socket.CMSG_SPACE(MAX_FDS * 4)

# daemon -> shim
HELLO = "hello"
LAUNCH = "launch"
START = "start"
EXEC = "exec"
CLOSE_STDIN = "close_stdin"
LOGS = "logs"
REAP = "reap"
GOODBYE = "goodbye"
SHUTDOWN = "shutdown"

# shim -> daemon
WELCOME = "welcome"
CONTAINER = "container"
HANDED_OVER = "handed_over"
SPAWNED = "spawned"
CREATED = "created"
RUNNING = "running"
REAPED = "reaped"
FAILED = "failed"
REFUSED = "refused"

# init -> shim: the first byte of a message
INIT_SPAWNED = b"P"
INIT_READY = b"R"
INIT_FAILED = b"F"
# shim -> init
INIT_START = b"S"

STATE_CREATED = "created"
STATE_RUNNING = "running"

# Steps, in the order in which init takes them; ``failed`` names one of them.
STEP_REQUEST = "read the request"
STEP_PAYLOAD = "read the launch payload"
STEP_CLONE = "clone3"
STEP_INIT = "set up init"
STEP_OOM_SCORE = "set oom_score_adj"
STEP_CGROUP = "join the cgroup"
STEP_NETLINK_HOST = "configure the host side of the network"
STEP_NETLINK_INSIDE = "configure the network inside"
STEP_USER_NAMESPACE = "make the user namespace"
STEP_TIME_OFFSETS = "set the time offsets"
STEP_JOIN = "join a namespace"
STEP_UNSHARE = "make the namespaces"
STEP_HOSTNAME = "set the host name"
STEP_DOMAINNAME = "set the domain name"
STEP_ROOTFS = "set up the root file system"
STEP_CONSOLE = "open the console"
STEP_STDIO = "connect stdio"
STEP_USER = "find the user"
STEP_RLIMIT = "set ulimit"
STEP_CAPABILITIES = "set the capabilities"
STEP_SET_USER = "become the user"
STEP_CWD = "change to the working directory"
STEP_NO_NEW_PRIVILEGES = "set no_new_privs"
STEP_LOOKUP = "find the program"
STEP_READY = "report to the shim"
STEP_START = "start"
STEP_SECCOMP = "load the seccomp filter"
STEP_EXECVE = "execve"

PROGRAM_STEPS = frozenset({STEP_LOOKUP, STEP_EXECVE})
"""Failures of these concern the program, not the container: docker's exit codes 126 and 127."""


class _ScannerSettings:
    """What ``_json.make_scanner`` asks for: plain values, strict strings, no hooks."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _make_codec() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[Any, int], Any]]:
    settings: Any = _ScannerSettings()
    scan = _json.make_scanner(settings)
    escape = _json.encode_basestring_ascii
    return scan, _json.make_encoder(None, _refuse, escape, None, ":", ",", False, False, False)


def _refuse(value: object) -> None:
    raise TypeError(f"{type(value).__name__} cannot be part of a message")


_scan, _encode = _make_codec()


def encode(fields: dict[str, Any]) -> bytes:
    """Return one message as JSON without blanks, in ASCII.

    Strings with surrogates (file names that are not UTF-8) survive the way to :func:`decode`.

    Raises:
        TypeError, ValueError: a value is not JSON.
    """
    return "".join(_encode(fields, 0)).encode("ascii")


def decode(content: bytes) -> dict[str, Any]:
    """Return the object that :func:`encode` (or any JSON writer) wrote.

    Raises:
        ValueError: it is not one JSON object.
    """
    text = content.decode()
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):
        # The C scanner raises json.JSONDecodeError only where json is imported already.
        raise ValueError("not JSON") from None
    if end != len(text) or not isinstance(value, dict):
        raise ValueError("not one JSON object")
    return value


def rights(fds: Iterable[int]) -> tuple[int, int, bytes]:
    """Return the ancillary part of sendmsg(2) that carries descriptors (``array`` would drag in
    ``collections``)."""
    numbers = list(fds)
    return _socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(numbers)}i", *numbers)


def received_fds(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a message; the caller owns them."""
    found: list[int] = []
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found.extend(struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4]))
    return found


def failure(step: str, error: BaseException) -> dict[str, Any]:
    """Return the fields of ``failed`` that describe an exception."""
    if isinstance(error, OSError):
        return {
            "step": step,
            "errno": error.errno or 0,
            "strerror": error.strerror or str(error),
            "path": path_text(error.filename),
        }
    text = " ".join(str(error).split()) or type(error).__name__
    return {"step": step, "errno": 0, "strerror": text, "path": ""}


def path_text(filename: object) -> str:
    """Return ``OSError.filename``, which may be bytes, a number or missing, as text."""
    if isinstance(filename, bytes):
        return filename.decode(errors="surrogateescape")
    return "" if filename is None else str(filename)
