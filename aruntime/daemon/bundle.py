"""From a container's record to its OCI specification, with everything the host has to say to it.

The specification itself is built by :mod:`aruntime.spec`, which is pure; here is what it needs
from outside: device nodes, directories of volumes, where the files under /etc are (etc_files),
namespaces of other containers, the compiled seccomp filter. Synchronous; called in worker threads.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

import msgspec

from aruntime import spec as oci
from aruntime.container import seccomp, seccomp_filter
from aruntime.container.config import ContainerConfig
from aruntime.daemon.etc_files import JOINED, etc_paths, joined_network, write_file
from aruntime.errors import InvalidParameter, VolumeNotFound
from aruntime.kernel import capabilities
from aruntime.kernel.mounts import mountinfo
from aruntime.rootfs import propagation
from aruntime.rootfs import volumes as rootfs_volumes

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

SPEC_NAME = "spec.json"
NOT_DEVICES = frozenset({"pts", "shm", "mqueue", "fd", "console"})
"""Entries of /dev that are not handed to privileged containers (runc's rule)."""


class Bundle(msgspec.Struct):
    """A specification and what belongs to it.

    Attributes:
        bpf: the compiled seccomp filter, None without one.
        warnings: what could not be done as asked.
    """

    spec: dict[str, Any]
    bpf: bytes | None
    warnings: list[str]


def make(parts: Parts, container: Container) -> Bundle:
    """Return the specification of a container's next run.

    Raises:
        InvalidParameter: a device or a bind source does not exist.
        AruntimeError, OSError: volumes, seccomp profile.
    """
    config = with_joined_names(parts, container.config)
    warnings: list[str] = []
    mask = capabilities.capget()[1]
    spec = oci.build(
        config,
        rootfs=f"{container.directory}/rootfs",
        etc_files=etc_paths(container),
        volumes=volume_directories(parts, config),
        capabilities=mask,
        devices={device.source: device_nodes(device.source) for device in config.devices},
        host_devices=host_devices() if config.privileged else (),
        id_range=parts.id_range(container) if config.userns_mode == "auto" else None,
        namespace_paths=namespace_paths(parts, config),
        cgroups_path=f"{parts.settings.cgroup_parent}/{config.id}",
        console_size=container.console_size if any(container.console_size) else None,
        warnings=warnings,
    )
    return Bundle(spec, compile_filter(parts, config, spec), warnings)


def save(container: Container, made: Bundle) -> None:
    """Keep the specification of the present run for execs (spec.json; made anew at each start)."""
    write_file(f"{container.directory}/{SPEC_NAME}", msgspec.json.encode(made.spec))


def load(parts: Parts, container: Container) -> Bundle:
    """Return the specification that the present run was started with.

    Raises:
        OSError: spec.json cannot be read.
    """
    spec = read_spec(container)
    return Bundle(spec, compile_filter(parts, container.config, spec), [])


def read_spec(container: Container) -> dict[str, Any]:
    """Return what :func:`save` wrote.

    Raises:
        OSError: spec.json cannot be read.
    """
    with open(f"{container.directory}/{SPEC_NAME}", "rb") as file:
        spec: dict[str, Any] = msgspec.json.decode(file.read())
    return spec


def compile_filter(parts: Parts, config: ContainerConfig, spec: dict[str, Any]) -> bytes | None:
    """Return the container's compiled seccomp filter, None where it has none."""
    profile = seccomp.seccomp_of(
        config.seccomp,
        privileged=config.privileged,
        capabilities=spec["process"]["capabilities"]["bounding"],
    )
    if profile is None:
        return None
    directory = str(parts.settings.root / "seccomp")
    return seccomp_filter.compile_filter(profile, directory=directory)


def with_joined_names(parts: Parts, config: ContainerConfig) -> ContainerConfig:
    """Return the configuration with the host name of the network it joins (docker's rule).

    Raises:
        ContainerNotFound, Conflict, OSError: the container of that network does not run.
    """
    other = joined_network(parts, config)
    if other is None or config.uts_mode == "host":
        return config
    names = read_spec(other)
    return msgspec.structs.replace(
        config,
        hostname=names.get("hostname", os.uname().nodename),
        domainname=names.get("domainname", ""),
    )


def volume_directories(parts: Parts, config: ContainerConfig) -> dict[str, str]:
    """Return the directory of each named volume a container mounts; one that is gone is remade.

    Bind sources are checked: what they need may have changed since the container was created.

    Raises:
        InvalidParameter: a bind source does not exist, or cannot propagate as asked.
    """
    root = str(parts.settings.root / "volumes")
    found: dict[str, str] = {}
    mounts = mountinfo() if any(mount.propagation for mount in config.mounts) else []
    for mount in config.mounts:
        if mount.type == "volume":
            found[mount.source] = rootfs_volumes.ensure(root, mount.source).path
        elif mount.type == "bind":
            check_bind_source(mount.source, create=mount.create_source)
            if mount.propagation:
                propagation.check_source(mount.source, mount.propagation, mounts)
    return found


def fill_volumes(parts: Parts, config: ContainerConfig) -> None:
    """Make the volumes of a new container and fill empty ones from its image (docker's copy-up).

    Raises:
        OSError: the disk refused.
    """
    for mount in config.mounts:
        if mount.type == "volume" and not mount.no_copy:
            made = rootfs_volumes.ensure(str(parts.settings.root / "volumes"), mount.source)
            rootfs_volumes.populate(made.path, config.layers, mount.target)


def remove_anonymous_volumes(parts: Parts, config: ContainerConfig) -> None:
    """Remove the volumes that were made without a name for this container alone."""
    root = str(parts.settings.root / "volumes")
    for mount in config.mounts:
        if mount.type == "volume" and rootfs_volumes.is_anonymous(mount.source):
            with contextlib.suppress(VolumeNotFound):  # a removal or creation that was cut off
                rootfs_volumes.remove(root, mount.source)


def check_bind_source(path: str, *, create: bool) -> None:
    """Make a missing bind source (``-v``), or refuse it (``--mount``).

    Raises:
        InvalidParameter: it does not exist.
    """
    if os.path.lexists(path):
        return
    if not create:
        raise InvalidParameter(f"bind source path does not exist: {path}; make it first")
    os.makedirs(path, mode=0o755)


def device_nodes(source: str) -> list[dict[str, Any]]:
    """Return the device nodes at a path of the host; a directory is searched.

    Raises:
        InvalidParameter: there is none.
    """
    found = [source]
    if os.path.isdir(source):
        found = [f"{base}/{name}" for base, _, names in os.walk(source) for name in names]
    nodes = [node for path in sorted(found) if (node := device_node(path)) is not None]
    if not nodes:
        raise InvalidParameter(
            f"error gathering device information while adding custom device {source!r}:"
            " no such device"
        )
    return nodes


def device_node(path: str) -> dict[str, Any] | None:
    """Return one node as a member of ``linux.devices``, None if the path is no device."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def host_devices() -> list[dict[str, Any]]:
    """Return every device node below /dev, for privileged containers."""
    found = []
    for base, directories, names in os.walk("/dev"):
        directories[:] = [name for name in directories if name not in NOT_DEVICES]
        for name in names:
            if name not in NOT_DEVICES:
                node = device_node(f"{base}/{name}")
                if node is not None and not os.path.islink(f"{base}/{name}"):
                    found.append(node)
    return found


def namespace_paths(parts: Parts, config: ContainerConfig) -> dict[str, str]:
    """Return the namespaces of other containers that this one joins (``container:ID``).

    Raises:
        Conflict: the other container does not run.
    """
    modes = {
        "pid": config.pid_mode,
        "network": config.network_mode,
        "ipc": config.ipc_mode,
        "uts": config.uts_mode,
    }
    names = {"network": "net"}
    found = {}
    for kind, mode in modes.items():
        if mode.startswith(JOINED):
            pid = parts.pid_of(mode.removeprefix(JOINED))
            found[kind] = f"/proc/{pid}/ns/{names.get(kind, kind)}"
    return found
