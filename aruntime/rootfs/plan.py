"""From an OCI specification to the operations that build a container's file tree.

Pure: nothing is looked at but the arguments, so that a plan can be made in the daemon, printed
with ``--debug``, and compared in tests. Operations are JSON: a list that begins with the name in
:data:`aruntime.rootfs.apply.OPERATIONS`, then that function's arguments.

The order: copies of what comes from the host are opened; the namespace is cut off; the root is
mounted at the staging directory; then, inside it, the specification's mounts in their order,
devices, links, kernel parameters, masks, read-only paths; pivot_root; the root's own attributes.
Source: runtime-spec 1.1, config.md "Mounts" and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aruntime.errors import InvalidSpec
from aruntime.kernel import mounts
from aruntime.rootfs import options, paths
from aruntime.spec.mounts import PROC_FILES

Op = list[Any]
Row = list[int]

DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
"""config-linux.md, Default Devices; /dev/console and /dev/ptmx come with the devpts."""
LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/core": "/proc/kcore",
    "/dev/ptmx": "pts/ptmx",
}
"""config-linux.md, Dev symbolic links."""
VIEWS = {"proc": ("pid", "/proc"), "sysfs": ("network", "/sys"), "mqueue": ("ipc", "/dev/mqueue")}
"""File systems that show a namespace, and the host's instance. In a user namespace one can be
mounted only if it shows a namespace that belongs to it."""
ROOT_PROPAGATIONS = {
    "shared": mounts.MS_SHARED,
    "rshared": mounts.MS_SHARED | mounts.MS_REC,
    "unbindable": mounts.MS_UNBINDABLE,
    "runbindable": mounts.MS_UNBINDABLE | mounts.MS_REC,
}
DEVICE_MODE = 0o666


class _Plan:
    """Collects operations by phase: before ``private``, before the root is mounted, inside it."""

    def __init__(self, spec: Mapping[str, Any], staging: str) -> None:
        linux = spec.get("linux") or {}
        entries = linux.get("namespaces") or ()
        self.namespaces = {entry["type"] for entry in entries}
        self.staging = staging
        self.early: list[Op] = []
        self.before: list[Op] = []
        self.inside: list[Op] = []
        self.uid_map: list[Row] = []
        self.gid_map: list[Row] = []
        if any(entry["type"] == "user" and not entry.get("path") for entry in entries):
            self.uid_map = _rows(linux.get("uidMappings"), "linux.uidMappings")
            self.gid_map = _rows(linux.get("gidMappings"), "linux.gidMappings")

    @property
    def user_namespace(self) -> bool:
        return bool(self.uid_map)

    def add_source(self, path: str, *rest: Any) -> None:
        """Open a source where it is needed, so that the mounts are listed in a natural order.

        Earlier with a user namespace, where only the host's root can reach it, and for a tree
        that holds the staging directory: the new root must not be part of the copy.
        """
        holds_staging = f"{self.staging}/".startswith(f"{path.rstrip('/')}/")
        where = self.before if self.user_namespace or holds_staging else self.inside
        where.append(["source", path, *rest])


def plan(
    spec: Mapping[str, Any],
    *,
    lower: Sequence[str],
    upper: str,
    work: str,
    staging: str,
    cgroups: Sequence[tuple[Sequence[str], str]] = (),
    unified: str | None = None,
    bundle: str = "",
    volatile: bool = False,
) -> list[Op]:
    """Return the operations that build the file tree of a container.

    Args:
        spec: the specification, valid.
        lower: directories of the image's layers, lowest first; empty: ``root.path`` of the
            specification is used as it is.
        upper, work: directories on one file system, for what the container writes.
        staging: an existing empty directory; several containers may use one at the same time,
            since each has a mount namespace.
        cgroups: (controllers, the container's directory) of every v1 hierarchy, as mounted:
            ``(["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct/…")``, ``(["name=systemd"], …)``.
        unified: the container's directory in the cgroup2 tree, if one is mounted.
        bundle: what relative paths of the specification start from.
        volatile: the upper directory need not survive a crash of the host (overlayfs.rst,
            "Volatile mount"); it can then be used for one start only.

    Raises:
        InvalidSpec: a field is wrong; the message names it.
    """
    made = _Plan(spec, staging)
    linux = spec.get("linux") or {}
    for index, mount in enumerate(spec.get("mounts") or ()):
        try:
            _add_mount(made, f"mount {index}", mount, cgroups, unified, bundle)
        except InvalidSpec as error:
            raise InvalidSpec(f"mounts[{index}]: {error}") from None
    root = _root_ops(made, spec, lower, upper, work, staging, bundle, volatile)
    _add_devices(made, spec, staging)
    if (spec.get("process") or {}).get("terminal"):
        made.inside.append(["files", ["/dev/console"]])
    final: list[Op] = []
    if linux.get("sysctl"):
        values = {paths.sysctl_path(name): value for name, value in linux["sysctl"].items()}
        final.append(["sysctls", values])
    for name, field in (("mask", "maskedPaths"), ("readonly", "readonlyPaths")):
        if linux.get(field):
            final.append([name, [paths.absolute(path, f"linux.{field}") for path in linux[field]]])
    final.append(["pivot"])
    propagation = ROOT_PROPAGATIONS.get(linux.get("rootfsPropagation") or "")
    if propagation:
        final.append(["propagate", propagation])
    if (spec.get("root") or {}).get("readonly"):
        final.append(["readonly root"])
    return [*made.early, ["private"], *made.before, *root, *made.inside, *final]


def split(ops: Sequence[Op]) -> tuple[list[Op], list[Op]]:
    """Return the operations for a process with the host's privileges, and those for init.

    The first list is empty without a user namespace.
    """
    names = [op[0] for op in ops]
    end = names.index("enter") + 1 if "enter" in names else 0
    return list(ops[:end]), list(ops[end:])


def _root_ops(
    made: _Plan,
    spec: Mapping[str, Any],
    lower: Sequence[str],
    upper: str,
    work: str,
    staging: str,
    bundle: str,
    volatile: bool,
) -> list[Op]:
    ops: list[Op] = []
    if lower:
        if made.user_namespace:
            ops.append(["idmap", list(lower), made.uid_map, made.gid_map])
            ops.append(["own", upper, _host_id(0, made.uid_map), _host_id(0, made.gid_map)])
        flags = ["volatile"] if volatile else []
        ops.append(["overlay", staging, list(lower), upper, work, flags])
    else:
        path = paths.from_bundle((spec.get("root") or {}).get("path") or "", bundle, "root.path")
        slave = "slave" in ((spec.get("linux") or {}).get("rootfsPropagation") or "")
        # Never shared with the host: each mount made inside would appear there.
        kind = mounts.MS_SLAVE if slave else mounts.MS_PRIVATE
        # Every mount below has to be cut off, or it would remain a peer of the host's.
        everywhere = [kind, mounts.AT_RECURSIVE]
        made.early.insert(0, ["source", path, "root", True, everywhere, [0, 0, 0, 0], None])
        ops.append(["rootfs", staging])
    if made.user_namespace:
        ops.append(["enter"])
        made.inside.insert(0, ["rebind"])
    return ops


def _add_mount(
    made: _Plan,
    key: str,
    mount: Mapping[str, Any],
    cgroups: Sequence[tuple[Sequence[str], str]],
    unified: str | None,
    bundle: str,
) -> None:
    destination = paths.normal_path(mount.get("destination") or "")
    parsed = options.parse(mount.get("options") or ())
    fstype = str(mount.get("type") or "")
    if not parsed.bind and fstype in ("cgroup", "cgroup2"):
        _add_cgroups(made, key, destination, parsed, cgroups, unified)
        return
    in_proc = destination.startswith("/proc/")
    if in_proc and destination not in PROC_FILES:
        raise InvalidSpec(f"{destination} is inside /proc: nothing may be mounted there")
    if not parsed.bind and fstype != "bind":
        shown, host_path = VIEWS.get(fstype, ("", ""))
        if not (made.user_namespace and shown and shown not in made.namespaces):
            made.inside.append(_filesystem(made, destination, fstype, mount, parsed))
            return
        source, recursive = host_path, True
    else:
        source = paths.from_bundle(str(mount.get("source") or ""), bundle, "source")
        recursive = parsed.bind_recursive
    _add_source(made, key, source, recursive, parsed, mount)
    made.inside.append(["bind", destination, key, in_proc])


def _add_source(
    made: _Plan,
    key: str,
    path: str,
    recursive: bool,
    parsed: options.MountOptions,
    mount: Mapping[str, Any],
) -> None:
    maps = None
    if mount.get("uidMappings") or mount.get("gidMappings"):
        maps = [_rows(mount.get(field), field) for field in ("uidMappings", "gidMappings")]
    attributes = [*parsed.attributes, *parsed.recursive]
    everywhere = mounts.AT_RECURSIVE if parsed.propagation_recursive else 0
    propagation = [parsed.propagation, everywhere] if parsed.propagation else []
    if parsed.propagation in (mounts.MS_SHARED, mounts.MS_SLAVE):
        made.early.append(["source", path, key, recursive, propagation, attributes, maps])
        return
    if parsed.propagation == mounts.MS_PRIVATE:
        propagation = []  # what is copied after ``private`` is private already
    made.add_source(path, key, recursive, propagation, attributes, maps)


def _filesystem(
    made: _Plan,
    destination: str,
    fstype: str,
    mount: Mapping[str, Any],
    parsed: options.MountOptions,
) -> Op:
    if not fstype or fstype == "none":
        raise InvalidSpec(f"{destination} has no type and is no bind mount")
    parameters = [list(pair) for pair in parsed.parameters]
    if made.user_namespace and fstype == "devpts":
        parameters = [pair for pair in parameters if not _is_unmapped_gid(pair, made.gid_map)]
    attributes = parsed.attributes[0] | parsed.recursive[0]
    device = str(mount.get("source") or fstype)
    propagation = parsed.propagation if parsed.propagation != mounts.MS_PRIVATE else 0
    copy_up = parsed.copy_up and fstype == "tmpfs"
    return ["mount", destination, fstype, device, attributes, parameters, propagation, copy_up]


def _is_unmapped_gid(pair: Sequence[str | None], gid_map: Sequence[Row]) -> bool:
    """Tell whether a devpts would be refused for a group that does not exist inside."""
    return pair[0] == "gid" and not any(
        row[0] <= int(pair[1] or 0) < row[0] + row[2] for row in gid_map
    )


def _add_cgroups(
    made: _Plan,
    key: str,
    destination: str,
    parsed: options.MountOptions,
    cgroups: Sequence[tuple[Sequence[str], str]],
    unified: str | None,
) -> None:
    """Show the container's own cgroups: one directory per hierarchy, or the cgroup2 one alone."""
    attributes = [*parsed.attributes, *parsed.recursive]
    if not cgroups and unified is not None:
        made.add_source(unified, key, False, [], attributes, None)
        made.inside.append(["bind", destination, key, False])
        return
    directories = [[paths.cgroup_directory(names), path] for names, path in cgroups]
    if unified is not None:
        directories.append(["unified", unified])
    links = [
        [controller, paths.cgroup_directory(names)]
        for names, _ in cgroups
        for controller in names
        if len(names) > 1 and "=" not in controller
    ]
    if made.user_namespace:
        for _, path in directories:
            made.add_source(path, path, False, [], attributes, None)
    if directories:
        made.inside.append(["cgroups", destination, attributes, directories, links])


def _add_devices(made: _Plan, spec: Mapping[str, Any], staging: str) -> None:
    """Add device nodes and the links of /dev, unless the host's /dev is bound there."""
    covered = {paths.normal_path(mount["destination"]) for mount in spec.get("mounts") or ()}
    if any(op[0] == "bind" and op[1] == "/dev" for op in made.inside):
        return
    nodes: dict[str, Op] = {
        path: [path, "c", major, minor, DEVICE_MODE, 0, 0] for path, major, minor in DEFAULT_DEVICES
    }
    for device in (spec.get("linux") or {}).get("devices") or ():
        path = paths.normal_path(device["path"])
        mode = DEVICE_MODE if device.get("fileMode") is None else device["fileMode"] & 0o7777
        numbers = (device.get("major") or 0, device.get("minor") or 0)
        ids = (device.get("uid") or 0, device.get("gid") or 0)
        nodes[path] = [path, device["type"], *numbers, mode, *ids]
    wanted = [node for path, node in nodes.items() if path not in covered and path not in LINKS]
    if made.user_namespace:
        _bind_devices(made, wanted, staging)
    else:
        made.inside.append(["devices", wanted])
    made.inside.append(["links", [[path, target] for path, target in LINKS.items()]])


def _bind_devices(made: _Plan, nodes: Sequence[Op], staging: str) -> None:
    """Have nodes made with the host's privileges and bind each inside the user namespace."""
    entries = []
    for index, node in enumerate(nodes):
        ids = (_host_id(node[5], made.uid_map), _host_id(node[6], made.gid_map))
        entries.append([f"device {index}", [*node[:5], *ids]])
        made.inside.append(["bind", node[0], f"device {index}", False])
    made.before.append(["nodes", staging, entries])


def _rows(mappings: Sequence[Mapping[str, int]] | None, field: str) -> list[Row]:
    """Return OCI id mappings as the kernel takes them.

    Raises:
        InvalidSpec: there are none.
    """
    if not mappings:
        raise InvalidSpec(f"{field} is missing: give at least one mapping")
    return [[row["containerID"], row["hostID"], row["size"]] for row in mappings]


def _host_id(inside: int, rows: Sequence[Row]) -> int:
    """Return what an id inside is on the host; the container's root for one that is not mapped.

    Raises:
        InvalidSpec: the container has no root.
    """
    for wanted in (inside, 0):
        for first, outside, count in rows:
            if first <= wanted < first + count:
                return outside + wanted - first
    raise InvalidSpec("linux.uidMappings: id 0 is not mapped")
