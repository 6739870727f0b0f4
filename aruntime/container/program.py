"""The last stretch of init and of exec: become the user, shed rights, execute the program.

Runs inside the container's namespaces, where every file belongs to a stranger: nothing is
imported and no library is consulted here. The order follows runc's (libcontainer
standard_init_linux.go, init_linux.go), except that the seccomp filter is loaded as late as its
privileges allow, so that as few of our own calls as possible must pass it.
"""

from __future__ import annotations

import binascii
import errno
import os
import resource
import stat

from aruntime.container import identity, messages, reaper, terminal
from aruntime.kernel import capabilities, process, seccomp, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from aruntime.container.channel import Channel

DEFAULT_UMASK = 0o022
CWD_MODE = 0o755


class Program:
    """What is known of the program once the container around it is set up.

    Attributes:
        path: the executable, found in the container's PATH.
        env: its environment.
        sets: capability masks, clamped to what can be granted.
        uid, gid, gids: who it runs as.
    """

    __slots__ = ("env", "gid", "gids", "path", "sets", "uid")

    def __init__(self, payload: dict[str, Any]) -> None:
        self.path = ""
        self.env = environment(payload["env"])
        self.sets = dict(payload["capabilities"])
        self.uid, self.gid = 0, 0
        self.gids: list[int] = []


def run(payload: dict[str, Any], channel: Channel, fds: dict[str, int], *, wait: bool) -> None:
    """Take every remaining step and execute the program; returns only by raising.

    Args:
        payload: the launch payload.
        channel: to the shim; its ``step`` says where a failure happened.
        fds: descriptors for READY (``netns``); ``master`` is added with a terminal.
        wait: hold before the program until the shim says start.

    Raises:
        OSError: the step in ``channel.step`` failed.
        LookupError: there is no such user or group.
    """
    program = Program(payload)
    channel.step = messages.STEP_USER
    find_identity(program, payload["user"])
    connect_streams(program, payload, channel, fds)
    channel.step = messages.STEP_RLIMIT
    raise_rlimits(payload["rlimits"])
    channel.step = messages.STEP_CAPABILITIES
    clamp_capabilities(program, channel)
    capabilities.drop_bounding(program.sets["bounding"])
    become(program, payload, channel)
    if payload["no_new_privileges"]:
        channel.step = messages.STEP_NO_NEW_PRIVILEGES
        process.set_no_new_privs()
    channel.step = messages.STEP_LOOKUP
    program.path = find_executable(payload["args"][0], program.env.get("PATH", ""))
    channel.step = messages.STEP_READY
    channel.send(messages.INIT_READY, {"warnings": channel.warnings}, fds)
    for fd in fds.values():
        os.close(fd)
    fds.clear()
    if wait:
        channel.step = messages.STEP_START
        channel.wait_for_start()
    if payload["init"]:
        channel.step = messages.STEP_INIT
        pid = reaper.fork_program(terminal=payload["terminal"])
        if pid:
            stay_as_reaper(program, payload, channel, pid)
    set_rlimits(payload, channel)
    # Their effects are at the defaults already: whoever forked us has seen to that.
    signals.unblock_all()
    filter_calls(program, payload, channel)
    channel.step = messages.STEP_EXECVE
    execute(program.path, payload["args"], program.env)


def environment(entries: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=value`` strings as a mapping; the last of a name wins."""
    env = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if name and equals:
            env[name] = value
    return env


def find_identity(program: Program, user: dict[str, Any]) -> None:
    """Find out uid, gid, groups and home; HOME is set unless the environment has it.

    Raises:
        OSError: /etc/passwd or /etc/group cannot be read.
        LookupError: there is no such user or group.
    """
    passwd = identity.read_account_file("/etc/passwd")
    if "name" in user:
        group = identity.read_account_file("/etc/group")
        found = identity.find_user(user["name"], user["groups"], passwd, group)
        program.uid, program.gid, program.gids, home = found
        if program.uid:
            # What execve leaves (and docker gives): execve itself must not use more either.
            program.sets["permitted"] = program.sets["effective"] = program.sets["ambient"]
    else:
        program.uid, program.gid = user["uid"], user["gid"]
        program.gids = user["additional_gids"]
        home = identity.home_of(program.uid, passwd)
    if not program.env.get("HOME"):
        program.env["HOME"] = os.fsdecode(home)


def connect_streams(
    program: Program, payload: dict[str, Any], channel: Channel, fds: dict[str, int]
) -> None:
    """Open the pty and put its slave on the standard streams, or settle the pipes.

    Raises:
        OSError: the container has no usable devpts, …
    """
    if not payload["terminal"]:
        channel.step = messages.STEP_STDIO
        terminal.settle_streams(program.uid)
        return
    channel.step = messages.STEP_CONSOLE
    fds["master"], slave = terminal.open_pty()
    if payload["kind"] == messages.LAUNCH:
        terminal.bind_console(slave)
    terminal.connect_slave(slave, payload.get("console_size"), program.uid)


def raise_rlimits(rows: Sequence[Sequence[Any]]) -> None:
    """Raise hard limits where asked; the rest is set right before execve, where it binds nobody
    but the program.

    Raises:
        OSError: EPERM without CAP_SYS_RESOURCE; the message names the ulimit.
    """
    for name, number, soft, hard in rows:
        soft_now, hard_now = resource.getrlimit(number)
        infinity = resource.RLIM_INFINITY
        if hard_now == infinity or (hard != infinity and hard <= hard_now):
            continue
        try:
            resource.setrlimit(number, (soft_now, hard))
        except (OSError, ValueError) as error:
            shown = "unlimited" if hard_now == infinity else str(hard_now)
            raise OSError(
                getattr(error, "errno", None) or errno.EPERM,
                f"cannot raise the hard limit of {name} ({soft}:{hard}) above {shown} without"
                " CAP_SYS_RESOURCE; lower --ulimit, or start the runtime with a higher limit",
            ) from None


def clamp_capabilities(program: Program, channel: Channel) -> None:
    """Take what this process itself lacks out of every set, with a warning (design.md §9.15)."""
    available = capabilities.bounding() & capabilities.capget()[1]
    wanted = 0
    for mask in program.sets.values():
        wanted |= mask
    missing = wanted & ~available
    if missing:
        names = [name for name, number in capabilities.NUMBERS.items() if missing >> number & 1]
        channel.warnings.append(
            f"{', '.join(names)} cannot be granted: the runtime itself runs without"
        )
    for kind in program.sets:
        program.sets[kind] &= available
    program.sets["ambient"] &= program.sets["permitted"] & program.sets["inheritable"]


def become(program: Program, payload: dict[str, Any], channel: Channel) -> None:
    """Change to the user and to the working directory; all capabilities stay permitted.

    Raises:
        OSError: as setgroups(2), setresuid(2), chdir(2), getcwd(2).
    """
    cwd = payload["cwd"]
    channel.step = messages.STEP_CWD
    entered = try_chdir(cwd)
    channel.step = messages.STEP_SET_USER
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    os.setgroups(program.gids)
    os.setresgid(program.gid, program.gid, program.gid)
    os.setresuid(program.uid, program.uid, program.uid)
    process.prctl(process.PR_SET_KEEPCAPS, 0)
    # A change of ids makes a process dumpable as /proc/sys/fs/suid_dumpable has it.
    process.set_dumpable(False)
    permitted = capabilities.capget()[1]
    # From here on files are opened with the program's rights, not with ours.
    capabilities.capset(program.sets["effective"], permitted, program.sets["inheritable"])
    channel.step = messages.STEP_CWD
    if not entered:
        os.chdir(cwd)
    # A directory outside of the container has no path inside (CVE-2024-21626).
    os.getcwd()
    os.umask(payload.get("umask", DEFAULT_UMASK))


def make_directories(path: str) -> None:
    """Make a working directory that is missing, as docker does; a read-only root has none.

    Raises:
        OSError: as mkdir(2).
    """
    os.umask(DEFAULT_UMASK)
    made = ""
    for name in path.split("/"):
        if not name:
            continue
        made += f"/{name}"
        try:
            os.mkdir(made, CWD_MODE)
        except FileExistsError:
            continue
        except OSError:
            if not os.path.isdir(made):
                raise


def try_chdir(path: str) -> bool:
    """Change the directory; False when only the program's user may.

    Raises:
        OSError: as chdir(2), but for EACCES.
    """
    try:
        os.chdir(path)
    except PermissionError:
        return False
    return True


def find_executable(name: str, search_path: str) -> str:
    """Return the path of the program, looked up as a shell would; by the program's own rights.

    Raises:
        OSError: ENOENT, EACCES or EISDIR, in the words of runc that engines look for.
    """
    if "/" in name:
        number = executable_errno(name)
        if number == 0:
            return name
        if number in (errno.ENOENT, errno.ENOTDIR):
            text = f'exec: "{name}": stat {name}: {os.strerror(number).lower()}'
        else:
            text = f'exec: "{name}": {os.strerror(number).lower()}'
        raise OSError(number, text, name)
    for directory in search_path.split(":"):
        path = f"{directory or '.'}/{name}"
        if executable_errno(path) == 0:
            return path
    raise OSError(errno.ENOENT, f'exec: "{name}": executable file not found in $PATH', name)


def executable_errno(path: str) -> int:
    """Return 0 if the file can be executed, else why not."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.EIO
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK, effective_ids=True):
        return errno.EACCES
    return 0


def stay_as_reaper(
    program: Program, payload: dict[str, Any], channel: Channel, program_pid: int
) -> None:
    """Be PID 1 beside the program, with its rights and no more; never returns.

    Raises:
        OSError: this process cannot be confined; then neither can the program, which has
            reported it and is gone.
    """
    # execve of the child alone shall end the conversation with the shim.
    channel.close()
    if program.uid:
        # What execve leaves the program of a user other than root; no execve happens here.
        program.sets["permitted"] = program.sets["effective"] = program.sets["ambient"]
    try:
        set_rlimits(payload, channel)
        filter_calls(program, payload, channel)
    except OSError:
        os.waitpid(program_pid, 0)
        raise
    reaper.reap_until_program_ends(program_pid)


def set_rlimits(payload: dict[str, Any], channel: Channel) -> None:
    """Set the limits, which would hinder ourselves before.

    Raises:
        OSError: as setrlimit(2).
    """
    channel.step = messages.STEP_RLIMIT
    for _, number, soft, hard in payload["rlimits"]:
        resource.setrlimit(number, (soft, hard))


def filter_calls(program: Program, payload: dict[str, Any], channel: Channel) -> None:
    """Load the seccomp filter and reduce the capabilities to the program's, in that order if
    loading needs a privilege: without no_new_privs it takes CAP_SYS_ADMIN.

    Raises:
        OSError: as seccomp(2), capset(2).
    """
    sets = program.sets
    bpf = binascii.a2b_base64(payload["seccomp"]) if "seccomp" in payload else b""
    early = bool(bpf) and not payload["no_new_privileges"]
    if early:
        channel.step = messages.STEP_SECCOMP
        permitted = capabilities.capget()[1]
        capabilities.capset(permitted, permitted, sets["inheritable"])
        seccomp.load_filter(bpf)
    channel.step = messages.STEP_CAPABILITIES
    capabilities.capset(sets["effective"], sets["permitted"], sets["inheritable"])
    capabilities.set_ambient(sets["ambient"])
    if bpf and not early:
        channel.step = messages.STEP_SECCOMP
        seccomp.load_filter(bpf)


def execute(path: str, args: list[str], env: dict[str, str]) -> None:
    """execve(2); returns only by raising.

    Raises:
        OSError: in the words of runc, with the program as filename.
    """
    try:
        os.execve(path, args, env)
    except OSError as error:
        text = f'exec: "{path}": {(error.strerror or "").lower()}'
        raise OSError(error.errno, text, path) from None
