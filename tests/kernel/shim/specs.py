"""Small OCI specifications of busybox containers, and their payloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aruntime.container import launch
from aruntime.rootfs import plan

DOCKER_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]

MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
]


def spec_of(
    args: Sequence[str],
    *,
    namespaces: Sequence[str] = ("pid", "mount", "uts", "ipc", "network", "cgroup"),
    tty: bool = False,
    capabilities: Sequence[str] = DOCKER_CAPABILITIES,
    capability_sets: Mapping[str, Any] | None = None,
    linux: Mapping[str, Any] | None = None,
    hostname: str | None = "box",
    spec: Mapping[str, Any] | None = None,
    **process: Any,
) -> dict[str, Any]:
    """Return a small OCI specification; more keywords are fields of ``process``."""
    uts = "uts" in namespaces
    kinds = [{"type": kind} for kind in namespaces]
    sets = {name: list(capabilities) for name in ("bounding", "effective", "permitted")}
    return {
        "ociVersion": "1.1.0",
        "process": {
            "args": list(args),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "terminal": tty,
            "capabilities": capability_sets or sets,
            **process,
        },
        "mounts": [dict(mount) for mount in MOUNTS],
        **({"hostname": hostname} if uts and hostname else {}),
        "linux": {"namespaces": kinds, **(linux or {})},
        **(spec or {}),
    }


def payload_of(
    container_id: str,
    rootfs: Path,
    args: Sequence[str],
    *,
    mounts: list[Any] | None = None,
    cgroup_dirs: Sequence[str] = (),
    netlink: Sequence[Mapping[str, Any]] = (),
    bpf: bytes | None = None,
    init: bool = False,
    join: Mapping[str, str] | None = None,
    login: str | None = None,
    groups: Sequence[str] = (),
    **options: Any,
) -> bytes:
    """Return the launch payload of a busybox container on a plain directory."""
    spec = spec_of(args, **options)
    return launch.payload(
        spec,
        container_id=container_id,
        cgroup_dirs=cgroup_dirs,
        mounts=plan_of(spec, rootfs) if mounts is None else mounts,
        netlink=netlink,
        bpf=bpf,
        init=init,
        join=join,
        user=login,
        groups=groups,
    )


def plan_of(spec: dict[str, Any], rootfs: Path) -> list[Any]:
    """Return the mount operations for a directory as root."""
    staging = rootfs.parent / "staging"
    staging.mkdir(exist_ok=True)
    whole = {**spec, "root": {"path": str(rootfs), **spec.get("root", {})}}
    return plan.plan(whole, lower=[], upper="", work="", staging=str(staging))
