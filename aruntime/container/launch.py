"""From an OCI specification to the launch payload: every decision made before anything runs.

Pure: no file is read, nothing is forked. :func:`payload` is for a container's init,
:func:`exec_payload` for one more process in a running container; both return the bytes that go
into the memfd named ``payload``. The fields are documented in
:mod:`aruntime.container.messages`, section 3; fields of the specification are those of the OCI
runtime-spec 1.1 (config.md, config-linux.md).

Out of scope: mounts (rootfs.plan encodes them), limits (cgroups), netlink batches (network) and
the compilation of seccomp profiles: all four come in ready-made.
"""

from __future__ import annotations

import binascii
import resource

from aruntime.container import messages
from aruntime.errors import InvalidSpec
from aruntime.kernel import capabilities, namespaces
from aruntime.rootfs import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

NAMESPACE_FLAGS = {
    "mount": namespaces.CLONE_NEWNS,
    "uts": namespaces.CLONE_NEWUTS,
    "ipc": namespaces.CLONE_NEWIPC,
    "pid": namespaces.CLONE_NEWPID,
    "network": namespaces.CLONE_NEWNET,
    "cgroup": namespaces.CLONE_NEWCGROUP,
    "user": namespaces.CLONE_NEWUSER,
    "time": namespaces.CLONE_NEWTIME,
}
"""OCI's namespace types (config-linux.md, Namespaces) and their flags."""

# RLIMIT_LOCKS, 10 on every architecture, is the one that Python's resource module leaves out.
RLIMIT_LOCKS = 10
RLIMITS = {
    name: int(getattr(resource, f"RLIMIT_{name.upper()}", RLIMIT_LOCKS))
    for name in (
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    )
}
"""Names of ``--ulimit`` and the numbers of setrlimit(2)."""

CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def payload(
    spec: Mapping[str, Any],
    *,
    container_id: str,
    cgroup_dirs: Sequence[str],
    mounts: Sequence[Any],
    netlink: Sequence[Mapping[str, Any]] | None = None,
    bpf: bytes | None = None,
    init: bool = False,
    join: Mapping[str, str] | None = None,
    user: str | None = None,
    groups: Sequence[str] = (),
) -> bytes:
    """Return the launch payload of a container.

    Args:
        spec: the OCI specification; ``linux.seccomp``, ``linux.resources`` and ``mounts`` are
            not read here.
        container_id: for messages only.
        cgroup_dirs: absolute cgroup directories that init joins.
        mounts: the operations of ``rootfs.plan``, whole; with a user namespace they are split
            here between the two processes that execute them.
        netlink: ``{host, inside, netns_fd, sysctls}`` entries, batches as base64 text.
        bpf: the compiled seccomp filter, or None for no filter.
        init: keep our own reaper as PID 1.
        join: namespace type to path or ``fd:NAME``, on top of the paths in the specification.
        user: as typed by the user (``uid[:gid]``, ``name[:group]``), resolved inside the
            rootfs; overrides ``process.user``.
        groups: ``--group-add``, as typed; only with ``user``.

    Raises:
        InvalidSpec: a field is wrong; the message names it.
    """
    linux = spec.get("linux", {})
    joined = {**spec_paths(linux), **(join or {})}
    own = own_namespaces(linux, joined)
    outside, inside = plan.split(mounts)
    fields: dict[str, Any] = {
        "version": messages.PAYLOAD_VERSION,
        "kind": messages.LAUNCH,
        "id": container_id,
        "join": [[namespace_flag(kind), place] for kind, place in joined.items()],
        "cgroups": list(cgroup_dirs),
        "netlink": [dict(entry) for entry in netlink or ()],
        "mounts": inside,
        "init": init,
        **process_fields(spec["process"], bpf=bpf, user=user, groups=groups),
        **namespace_fields(linux, own, outside),
    }
    add_names(fields, spec, own)
    return messages.encode(fields)


def exec_payload(
    spec: Mapping[str, Any],
    process: Mapping[str, Any],
    *,
    container_id: str,
    cgroup_dirs: Sequence[str],
    bpf: bytes | None = None,
    join: Mapping[str, str] | None = None,
    user: str | None = None,
    groups: Sequence[str] = (),
) -> bytes:
    """Return the payload of one more process in the container that ``spec`` describes.

    It enters every namespace that the container does not share with the host, through the
    pidfd of the container's init, which the shim holds under the name ``target``.

    Args:
        spec: the specification the container was started with.
        process: an OCI ``process`` object.
        join: as for :func:`payload`; what counts is which types it names.
        container_id, cgroup_dirs, bpf, user, groups: as for :func:`payload`.

    Raises:
        InvalidSpec: a field is wrong; the message names it.
    """
    linux = spec.get("linux", {})
    joined = {**spec_paths(linux), **(join or {})}
    entered = own_namespaces(linux, joined)
    for kind in joined:
        entered |= namespace_flag(kind)
    fields = {
        "version": messages.PAYLOAD_VERSION,
        "kind": messages.EXEC,
        "id": container_id,
        "clone": 0,
        "unshare": 0,
        "join": [[entered, "fd:target"]],
        "cgroups": list(cgroup_dirs),
        "netlink": [],
        "mounts": [],
        "init": False,
        **process_fields(process, bpf=bpf, user=user, groups=groups),
    }
    return messages.encode(fields)


def process_fields(
    process: Mapping[str, Any], *, bpf: bytes | None, user: str | None, groups: Sequence[str]
) -> dict[str, Any]:
    """Return the payload's fields that come from an OCI ``process`` object.

    Raises:
        InvalidSpec: args is empty, cwd is not absolute, a string holds a NUL, …
    """
    args = list(process.get("args") or ())
    if not args or not args[0]:
        raise InvalidSpec("process.args is empty: no command to run was given")
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise InvalidSpec(f"process.cwd {cwd!r} is not an absolute path")
    env = list(process.get("env") or ())
    for text in (*args, *env, cwd):
        if "\0" in text:
            raise InvalidSpec("process has a NUL byte in args, env or cwd")
    masks, warnings = capability_masks(process.get("capabilities"))
    fields: dict[str, Any] = {
        "args": args,
        "env": env,
        "cwd": cwd,
        "terminal": bool(process.get("terminal")),
        "rlimits": rlimit_rows(process.get("rlimits") or ()),
        "capabilities": masks,
        "no_new_privileges": bool(process.get("noNewPrivileges")),
        "user": user_fields(process.get("user") or {}, user, groups),
        "warnings": warnings,
    }
    optional = {
        "oom_score_adj": process.get("oomScoreAdj"),
        "umask": (process.get("user") or {}).get("umask"),
        "console_size": console_size(process.get("consoleSize")),
        "seccomp": binascii.b2a_base64(bpf, newline=False).decode() if bpf else None,
    }
    fields.update({name: value for name, value in optional.items() if value is not None})
    return fields


def namespace_flag(kind: str) -> int:
    """Return the CLONE_NEW* flag of an OCI namespace type.

    Raises:
        InvalidSpec: there is no such type.
    """
    try:
        return NAMESPACE_FLAGS[kind]
    except KeyError:
        known = ", ".join(NAMESPACE_FLAGS)
        raise InvalidSpec(f"namespace type {kind!r} is unknown: use one of {known}") from None


def spec_paths(linux: Mapping[str, Any]) -> dict[str, str]:
    """Return the namespaces of the specification that exist already: type to path."""
    entries = linux.get("namespaces") or ()
    return {entry["type"]: entry["path"] for entry in entries if entry.get("path")}


def own_namespaces(linux: Mapping[str, Any], joined: Mapping[str, str]) -> int:
    """Return the flags of the namespaces that are made anew for the container.

    Raises:
        InvalidSpec: a type is unknown, named twice, or there is no mount namespace.
    """
    kinds = [entry["type"] for entry in linux.get("namespaces") or ()]
    if len(set(kinds)) != len(kinds):
        raise InvalidSpec("linux.namespaces names a type twice")
    if "mount" not in kinds or "mount" in joined:
        raise InvalidSpec("linux.namespaces needs a mount namespace of the container's own")
    own = 0
    for kind in kinds:
        if kind not in joined:
            own |= namespace_flag(kind)
    return own


def born_into(spec: Mapping[str, Any]) -> int | None:
    """Return the CLONE_NEW* of what init is born into, None if that is not all it has to be told.

    With a user namespace or time offsets an intermediate process has much to do first, and a
    namespace that is joined may be one to be forked into.

    Raises:
        InvalidSpec: as :func:`payload`.
    """
    linux = spec.get("linux", {})
    joined = spec_paths(linux)
    fields = namespace_fields(linux, own_namespaces(linux, joined), ())
    if joined or "user_namespace" in fields or "time_offsets" in fields:
        return None
    return int(fields["clone"])


def namespace_fields(
    linux: Mapping[str, Any], own: int, host_mounts: Sequence[Any]
) -> dict[str, Any]:
    """Return how the container's own namespaces come about.

    Raises:
        InvalidSpec: id mappings or time offsets are wrong.
    """
    offsets = time_offsets(linux) if own & namespaces.CLONE_NEWTIME else []
    born = namespaces.CLONE_NEWPID | (0 if offsets else namespaces.CLONE_NEWTIME)
    from_outside = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWTIME | namespaces.CLONE_NEWUSER
    fields: dict[str, Any] = {"clone": own & born, "unshare": own & ~from_outside}
    if offsets:
        fields["time_offsets"] = offsets
    if own & namespaces.CLONE_NEWUSER:
        fields["user_namespace"] = id_maps(linux)
        fields["host_mounts"] = list(host_mounts)
        # Born together, the user namespace owns the mount namespace, and the working directory
        # that the host's operations chose comes along.
        fields["clone"] |= namespaces.CLONE_NEWNS
        fields["unshare"] &= ~namespaces.CLONE_NEWNS
    return fields


def id_maps(linux: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Return ``uid_map`` and ``gid_map`` rows of (inside, outside, count).

    Raises:
        InvalidSpec: a user namespace without mappings.
    """
    maps = {}
    for name, key in (("uid_map", "uidMappings"), ("gid_map", "gidMappings")):
        rows = [[row["containerID"], row["hostID"], row["size"]] for row in linux.get(key) or ()]
        if not rows:
            raise InvalidSpec(f"linux.{key} is empty: a user namespace needs mappings")
        maps[name] = rows
    return maps


def time_offsets(linux: Mapping[str, Any]) -> list[list[Any]]:
    """Return rows of (clock, seconds, nanoseconds), the format of timens_offsets.

    Raises:
        InvalidSpec: a clock other than monotonic and boottime.
    """
    rows: list[list[Any]] = []
    for clock, offset in (linux.get("timeOffsets") or {}).items():
        if clock not in ("monotonic", "boottime"):
            raise InvalidSpec(f"linux.timeOffsets: no clock {clock!r} in a time namespace")
        rows.append([clock, int(offset.get("secs", 0)), int(offset.get("nanosecs", 0))])
    return rows


def add_names(fields: dict[str, Any], spec: Mapping[str, Any], own: int) -> None:
    """Add host name and domain name, which need a UTS namespace of the container's own.

    Raises:
        InvalidSpec: a name would change the host's.
    """
    for name in ("hostname", "domainname"):
        if not spec.get(name):
            continue
        if not own & namespaces.CLONE_NEWUTS:
            raise InvalidSpec(f"{name} is set but the container has no UTS namespace of its own")
        fields[name] = spec[name]


def rlimit_rows(rlimits: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return rows of (name, number, soft, hard); -1 is unlimited.

    Raises:
        InvalidSpec: an unknown or repeated type, or a soft limit above the hard one.
    """
    rows: dict[str, list[Any]] = {}
    for entry in rlimits:
        name = str(entry["type"]).removeprefix("RLIMIT_").lower()
        if name not in RLIMITS:
            raise InvalidSpec(f"ulimit {name!r} is unknown: use one of {', '.join(RLIMITS)}")
        if name in rows:
            raise InvalidSpec(f"ulimit {name} is given twice")
        soft, hard = (limit_value(entry[key]) for key in ("soft", "hard"))
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            raise InvalidSpec(f"ulimit {name}: the soft limit {soft} exceeds the hard one {hard}")
        rows[name] = [name, RLIMITS[name], soft, hard]
    return list(rows.values())


def limit_value(value: int) -> int:
    """Return a limit as setrlimit of Python takes it: what exceeds 63 bits is unlimited."""
    return resource.RLIM_INFINITY if value < 0 or value >= 1 << 63 else value


def capability_masks(sets: Mapping[str, Any] | None) -> tuple[dict[str, int], list[str]]:
    """Return the five sets as bit masks, and a warning for each unknown name.

    The runtime-spec (1.1) wants unknown capabilities to be warned about, not refused.
    """
    masks = dict.fromkeys(CAPABILITY_SETS, 0)
    unknown: list[str] = []
    for kind in CAPABILITY_SETS:
        for name in (sets or {}).get(kind) or ():
            number = capabilities.NUMBERS.get(name)
            if number is None:
                unknown.append(name)
            else:
                masks[kind] |= 1 << number
    names = list(dict.fromkeys(unknown))
    return masks, [f"capability {name} is unknown to this runtime, ignored" for name in names]


def console_size(size: Mapping[str, int] | None) -> list[int] | None:
    """Return ``[rows, columns]``, or None where the pty's own default stays."""
    if not size or not (size.get("height") or size.get("width")):
        return None
    return [int(size.get("height", 0)), int(size.get("width", 0))]


def user_fields(
    numeric: Mapping[str, Any], user: str | None, groups: Sequence[str]
) -> dict[str, Any]:
    """Return who the process runs as: a name to resolve inside, or numbers.

    Raises:
        InvalidSpec: a number is outside 0 … 2^31 - 1.
    """
    if user is not None:
        return {"name": user, "groups": list(groups)}
    uid, gid = int(numeric.get("uid", 0)), int(numeric.get("gid", 0))
    gids = [int(number) for number in numeric.get("additionalGids") or ()]
    for number in (uid, gid, *gids):
        if not 0 <= number < 1 << 31:
            raise InvalidSpec(f"process.user: id {number} is outside 0 … 2147483647")
    return {"uid": uid, "gid": gid, "additional_gids": gids}
