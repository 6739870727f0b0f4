"""Mounts of a container in the specification's form: docker's defaults and the user's own.

Source: docker's default mounts; OCI config.md, "Mounts", and config-linux.md, "Default
Filesystems".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aruntime.errors import InvalidSpec

if TYPE_CHECKING:
    from aruntime.container.config import ContainerConfig, Mount

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
PROC_FILES = frozenset(
    {
        "/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/net/dev",
        "/proc/slabinfo", "/proc/stat", "/proc/swaps", "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid", "/proc/uptime",
    }
)  # fmt: skip
"""What may be mounted over inside /proc: files that lxcfs and its like stand in for.

Anything else there could redirect the runtime's own writes (CVE-2019-16884, CVE-2019-19921).
"""

_Mount = dict[str, Any]

_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")
_OPPOSITES = {
    "noexec": "exec", "exec": "noexec", "nosuid": "suid", "suid": "nosuid", "nodev": "dev",
    "dev": "nodev", "ro": "rw", "rw": "ro",
}  # fmt: skip


def is_forbidden_target(target: str) -> bool:
    """Whether a mount there would cover part of /proc that must be the kernel's own."""
    return target == "/proc" or (target.startswith("/proc/") and target not in PROC_FILES)


def all_mounts(
    config: ContainerConfig,
    etc_files: Mapping[str, str],
    volumes: Mapping[str, str],
    id_rows: Sequence[Mapping[str, int]] = (),
) -> list[_Mount]:
    """Return every mount in the order it is made: parents before what lies in them.

    Args:
        config: the container.
        etc_files: path inside to generated file on the host (/etc/hosts and its like).
        volumes: name to directory on the host.
        id_rows: mapping of the container's user namespace. Volumes are mounted idmapped with it:
            their files belong to the ids the container sees, whatever range it has next time.
            Directories of the host are not, their owners stay the host's.

    Raises:
        InvalidSpec: a volume has no directory, or a target is not allowed.
    """
    asked = [user_mount(mount, volumes) for mount in config.mounts]
    if id_rows:
        for mount, made in zip(config.mounts, asked, strict=True):
            if mount.type == "volume":
                made |= {name: list(id_rows) for name in ("uidMappings", "gidMappings")}
    targets = {mount["destination"] for mount in asked}
    defaults = [
        mount
        for mount in default_mounts(config)
        if mount["destination"] not in targets
        and not ("/dev" in targets and mount["destination"].startswith("/dev/"))
    ]
    generated = [
        _bind(source, target, ["rbind", "rprivate", *(["ro"] if config.read_only else [])])
        for target, source in etc_files.items()
        if target not in targets
    ]
    return defaults + sorted(generated + asked, key=_depth)


def _depth(mount: _Mount) -> int:
    return len([part for part in mount["destination"].split("/") if part])


def default_mounts(config: ContainerConfig) -> list[_Mount]:
    """Return the kernel's file systems that every container has, as docker mounts them."""
    common = ["nosuid", "noexec", "nodev"]
    writable = config.privileged
    pts = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    mounts = [
        _mount("/proc", "proc", "proc", common),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", *pts]),
        _mount("/sys", "sysfs", "sysfs", [*common, "rw" if writable else "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*common, "rw" if writable else "ro"]),
    ]
    # In the host's IPC namespace this file system shows the host's queues.
    mounts.append(_mount("/dev/mqueue", "mqueue", "mqueue", common))
    if config.ipc_mode == "host":
        return [*mounts, _bind("/dev/shm", "/dev/shm", ["rbind", *common])]
    if config.ipc_mode != "none":
        size = [*common, "mode=1777", f"size={config.shm_size}"]
        mounts.append(_mount("/dev/shm", "tmpfs", "shm", size))
    return mounts


def user_mount(mount: Mount, volumes: Mapping[str, str]) -> _Mount:
    """Return one mount the user asked for.

    Raises:
        InvalidSpec: a volume has no directory, or the target is not allowed.
    """
    if is_forbidden_target(mount.target):
        raise InvalidSpec(
            f"mounts: {mount.target} cannot be mounted because it is inside /proc; "
            "choose another path"
        )
    if mount.type == "tmpfs":
        return _mount(mount.target, "tmpfs", "tmpfs", tmpfs_options(mount.options))
    source = mount.source
    if mount.type == "volume":
        if source not in volumes:
            raise InvalidSpec(f"mounts: volume {source} has no directory on this host")
        source = volumes[source]
    options = ["rbind" if mount.recursive else "bind"]
    if mount.read_only:
        deep = mount.recursive and not mount.submounts_writable
        options.append("rro" if deep and mount.type == "bind" else "ro")
    options.append(mount.propagation or "rprivate")
    return _bind(source, mount.target, options)


def tmpfs_options(asked: Sequence[str]) -> list[str]:
    """Return docker's defaults with the user's options over them."""
    options: dict[str, None] = dict.fromkeys(_TMPFS_DEFAULTS)
    for option in asked:
        options.pop(_OPPOSITES.get(option, ""), None)
        options[option] = None
    return list(options)


def rootfs_propagation(mounts: Sequence[_Mount]) -> str | None:
    """Return the propagation the root needs so that the mounts' own one has an effect."""
    wanted = {option for mount in mounts for option in mount["options"]}
    if wanted & {"shared", "rshared"}:
        return "shared"
    return "rslave" if wanted & {"slave", "rslave"} else None


def _mount(destination: str, kind: str, source: str, options: Sequence[str]) -> _Mount:
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": list(options),
    }


def _bind(source: str, destination: str, options: Sequence[str]) -> _Mount:
    return _mount(destination, "bind", source, options)
