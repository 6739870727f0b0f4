"""From a container's record to its OCI specification, with everything the host has to say to it.

The specification itself is built by :mod:`aruntime.spec`, which is pure; here is what it needs
from outside: device nodes, directories of volumes, generated files under /etc, namespaces of other
containers, the compiled seccomp filter. Synchronous; called in worker threads.
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
from aruntime.errors import InvalidParameter, VolumeNotFound
from aruntime.kernel import capabilities
from aruntime.kernel.mounts import mountinfo
from aruntime.network import files as network_files
from aruntime.rootfs import propagation
from aruntime.rootfs import volumes as rootfs_volumes

if TYPE_CHECKING:
    from aruntime.daemon.parts import Parts
    from aruntime.daemon.record import Container

SPEC_NAME = "spec.json"
ETC_NAMES = ("hostname", "hosts", "resolv.conf")
JOINED = "container:"
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
        AruntimeError, OSError: volumes, seccomp profile, generated files.
    """
    config = with_joined_names(parts, container.config)
    warnings: list[str] = []
    files = write_etc_files(parts, container)
    mask = capabilities.capget()[1]
    spec = oci.build(
        config,
        rootfs=f"{container.directory}/rootfs",
        etc_files=files,
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


def write_file(path: str, content: bytes) -> None:
    """Write a file that a restart makes anew.

    Raises:
        OSError: the disk refused; the file is named.
    """
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        error.filename = path  # write(2) knows none
        raise


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


def joined_network(parts: Parts, config: ContainerConfig) -> Container | None:
    """Return the running container whose network this one joins, None if it joins none.

    Raises:
        ContainerNotFound, Conflict: it is gone, or does not run.
    """
    if not config.network_mode.startswith(JOINED):
        return None
    reference = config.network_mode.removeprefix(JOINED)
    parts.pid_of(reference)
    return parts.find(reference)


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


def write_etc_files(parts: Parts, container: Container) -> dict[str, str]:
    """Write /etc/hosts, hostname and resolv.conf; return path inside to path on the host.

    Who joins a network shares the files of its owner: what one writes there the other reads.
    """
    config, directory = container.config, container.directory
    joined = joined_network(parts, config)
    if joined is not None:
        for name in ETC_NAMES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}")
            os.link(f"{joined.directory}/{name}", f"{directory}/{name}")
        return {f"/etc/{name}": f"{directory}/{name}" for name in ETC_NAMES}
    own_network = config.network_mode != "host"
    contents = {
        "hostname": network_files.hostname_file(config.hostname),
        "hosts": network_files.hosts(
            config.hostname,
            domainname=config.domainname,
            address=container.address,
            extra_hosts=config.extra_hosts,
            host_gateway=str(parts.network.gateway.ip),
            host_text="" if own_network else network_files.host_hosts(),
        ),
        "resolv.conf": network_files.resolv_conf(
            network_files.host_resolv_conf(),
            dns=config.dns,
            search=config.dns_search,
            options=config.dns_options,
            host_network=not own_network,
        ),
    }
    for name, content in contents.items():
        write_file(f"{directory}/{name}", content.encode(errors="surrogateescape"))
    return {f"/etc/{name}": f"{directory}/{name}" for name in contents}


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
