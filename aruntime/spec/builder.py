"""From a container's configuration to an OCI config.json with docker's defaults. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aruntime.errors import InvalidSpec
from aruntime.spec.capabilities import effective_capabilities
from aruntime.spec.devices import ACCESS, default_device_rules, device_rule, node_rule
from aruntime.spec.mounts import MASKED_PATHS, READONLY_PATHS, all_mounts, rootfs_propagation

if TYPE_CHECKING:
    from aruntime.container.config import ContainerConfig

OCI_VERSION = "1.1.0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY as the specification writes it."""

_PING_GROUPS = "net.ipv4.ping_group_range"
_FIRST_PORT = "net.ipv4.ip_unprivileged_port_start"


def build(
    config: ContainerConfig,
    *,
    rootfs: str,
    etc_files: Mapping[str, str],
    volumes: Mapping[str, str],
    capabilities: int,
    devices: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    host_devices: Sequence[Mapping[str, Any]] = (),
    id_range: tuple[int, int] | None = None,
    namespace_paths: Mapping[str, str] | None = None,
    cgroups_path: str = "",
    seccomp: Mapping[str, Any] | None = None,
    console_size: tuple[int, int] | None = None,
    warnings: list[str] | None = None,
) -> dict[str, Any]:
    """Return the specification of a container.

    Args:
        config: what the user asked for.
        rootfs: the directory that becomes the root (``root.path``).
        etc_files: path inside to generated file on the host, e.g. /etc/hosts.
        volumes: directory on the host of each named volume.
        capabilities: mask of the daemon's own; a container gets no others.
        devices: for each ``--device`` source the nodes found there, as members of
            ``linux.devices`` (path on the host, type, major, minor, fileMode, uid, gid).
        host_devices: all nodes of the host, given to a privileged container.
        id_range: first host id and count for ``--userns auto``.
        namespace_paths: namespace type to path, where ``container:ID`` modes lead to.
        cgroups_path: ``linux.cgroupsPath``.
        seccomp: ``linux.seccomp``, kept by reference; None: no filter.
        console_size: rows and columns of the terminal at start.
        warnings: what could not be done as asked is appended here.

    Raises:
        InvalidSpec: something the configuration refers to was not handed in.
    """
    paths = namespace_paths or {}
    caps, lacking = effective_capabilities(
        config.cap_add, config.cap_drop, privileged=config.privileged, available=capabilities
    )
    if warnings is not None:
        warnings += lacking
    rows = _id_rows(config, id_range)
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(config, caps, console_size),
        "root": {"path": rootfs, "readonly": config.read_only},
        "mounts": all_mounts(config, etc_files, volumes, rows),
        "annotations": dict(config.annotations),
        "linux": _linux(config, devices or {}, host_devices, rows, paths),
    }
    _add_optional(spec, config, cgroups_path, seccomp)
    return spec


def _add_optional(
    spec: dict[str, Any],
    config: ContainerConfig,
    cgroups_path: str,
    seccomp: Mapping[str, Any] | None,
) -> None:
    """Add the members that stand only where they say something."""
    if config.uts_mode != "host":
        spec["hostname"] = config.hostname
        if config.domainname:
            spec["domainname"] = config.domainname
    linux = {
        "cgroupsPath": cgroups_path or None,
        "seccomp": seccomp,
        "rootfsPropagation": rootfs_propagation(spec["mounts"]),
    }
    spec["linux"] |= {name: value for name, value in linux.items() if value is not None}


def _process(
    config: ContainerConfig, caps: list[str], console_size: tuple[int, int] | None
) -> dict[str, Any]:
    user = numeric_user(config.user)
    # What execve leaves to a user other than root; a name is resolved inside, by init.
    held = caps if user["uid"] == 0 else []
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": user,
        "args": list(config.args),
        "env": process_env(config),
        "cwd": config.working_dir or "/",
        "capabilities": {"bounding": caps, "effective": held, "permitted": held},
        "rlimits": [
            {"type": f"RLIMIT_{u.name.upper()}", "soft": _rlimit(u.soft), "hard": _rlimit(u.hard)}
            for u in config.ulimits
        ],
        "noNewPrivileges": config.no_new_privileges,
        "oomScoreAdj": config.oom_score_adj,
    }
    if config.tty and console_size:
        process["consoleSize"] = {"height": console_size[0], "width": console_size[1]}
    return process


def _rlimit(value: int) -> int:
    return UNLIMITED if value < 0 else value


def numeric_user(user: str) -> dict[str, int]:
    """Return ``uid`` and ``gid`` where the user was typed as numbers, zeros elsewhere."""
    uid, _, gid = user.partition(":")
    return {
        "uid": int(uid) if uid.isascii() and uid.isdecimal() else 0,
        "gid": int(gid) if gid.isascii() and gid.isdecimal() else 0,
    }


def process_env(config: ContainerConfig) -> list[str]:
    """Return the environment: docker's defaults with the configuration's own over them."""
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": config.hostname}
    if config.tty:
        env["TERM"] = "xterm"
    env |= dict(entry.split("=", 1) for entry in config.env if "=" in entry)
    return [f"{name}={value}" for name, value in env.items()]


def _linux(
    config: ContainerConfig,
    devices: Mapping[str, Sequence[Mapping[str, Any]]],
    host_devices: Sequence[Mapping[str, Any]],
    id_rows: Sequence[Mapping[str, int]],
    paths: Mapping[str, str],
) -> dict[str, Any]:
    nodes, rules = _devices(config, devices, host_devices)
    linux: dict[str, Any] = {
        "namespaces": namespaces(config, paths),
        "resources": {**config.resources, "devices": rules},
        "devices": nodes,
        "sysctl": _sysctls(config),
    }
    if not config.privileged and not config.systempaths_unconfined:
        linux["maskedPaths"] = list(MASKED_PATHS)
        linux["readonlyPaths"] = list(READONLY_PATHS)
    if id_rows:
        linux["uidMappings"] = [dict(row) for row in id_rows]
        linux["gidMappings"] = [dict(row) for row in id_rows]
    return linux


def _id_rows(config: ContainerConfig, id_range: tuple[int, int] | None) -> list[dict[str, int]]:
    """Return the mapping of the container's own user namespace, empty if it has none."""
    if config.userns_mode != "auto":
        return []
    if id_range is None:
        raise InvalidSpec("linux.uidMappings: --userns auto has got no range of ids")
    return [{"containerID": 0, "hostID": id_range[0], "size": id_range[1]}]


def namespaces(config: ContainerConfig, paths: Mapping[str, str]) -> list[dict[str, str]]:
    """Return ``linux.namespaces``: own ones, and those of other containers by their path.

    Raises:
        InvalidSpec: the mode is ``container:ID`` and there is no path.
    """
    modes = {
        "pid": config.pid_mode,
        "network": config.network_mode,
        "ipc": config.ipc_mode,
        "uts": config.uts_mode,
        "cgroup": config.cgroupns_mode,
        "user": "host" if config.userns_mode != "auto" else "",
    }
    found: list[dict[str, str]] = [{"type": "mount"}, {"type": "time"}]
    for kind, mode in modes.items():
        if mode == "host":
            continue
        entry = {"type": kind}
        if mode.startswith("container:"):
            if kind not in paths:
                raise InvalidSpec(f"linux.namespaces: no path of the {kind} namespace of {mode}")
            entry["path"] = paths[kind]
        found.append(entry)
    return found


def _sysctls(config: ContainerConfig) -> dict[str, str]:
    """Return the settings; in a network of its own any user may ping and use any port."""
    found: dict[str, str] = {}
    if config.network_mode != "host" and not config.network_mode.startswith("container:"):
        if config.userns_mode != "auto":
            found[_PING_GROUPS] = "0 2147483647"
        found[_FIRST_PORT] = "0"
    return found | config.sysctls


def _devices(
    config: ContainerConfig,
    devices: Mapping[str, Sequence[Mapping[str, Any]]],
    host_devices: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the device nodes and the access rules."""
    if config.privileged:
        nodes = {node["path"]: dict(node) for node in host_devices}
        nodes |= {n["path"]: n for d in config.devices for n in _moved(d.source, d.target, devices)}
        return list(nodes.values()), [{"allow": True, "access": ACCESS}]
    found: dict[str, dict[str, Any]] = {}
    rules = default_device_rules()
    for device in config.devices:
        for node in _moved(device.source, device.target, devices):
            found[node["path"]] = node
            rules.append(node_rule(node, device.permissions))
    rules += [device_rule(text) for text in config.device_cgroup_rules]
    return list(found.values()), rules


def _moved(
    source: str, target: str, devices: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the nodes found at a source with their paths inside; it may be a directory."""
    if source not in devices:
        raise InvalidSpec(f"linux.devices: {source} was not looked up on this host")
    return [
        {**node, "path": target + node["path"].removeprefix(source)} for node in devices[source]
    ]
