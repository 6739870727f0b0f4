"""inspect: everything known about containers and images, as docker's JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from aruntime.container.config import ContainerConfig, Mount
from aruntime.container.state import Status
from aruntime.daemon import disk_use
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.inspect_image import image_object, moment
from aruntime.daemon.commands.inspect_network import bindings_object, network_settings
from aruntime.daemon.commands.listing import render_objects
from aruntime.daemon.commands.network_rows import find_shown, network_object
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.commands.volume import find_volume
from aruntime.daemon.health import HealthState, check_object
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import InvalidReference, NotFound

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon


def container_object(daemon: Daemon, container: Container) -> dict[str, Any]:
    """Return a container as ``docker inspect`` shows it, and our own members after it."""
    config = container.config
    return {
        "Id": container.id,
        "Created": moment(config.created_ns),
        "Path": config.args[0] if config.args else "",
        "Args": config.args[1:],
        "State": state_object(container),
        "Image": config.image_id,
        "ResolvConfPath": f"{container.directory}/resolv.conf",
        "HostnamePath": f"{container.directory}/hostname",
        "HostsPath": f"{container.directory}/hosts",
        "LogPath": f"{container.directory}/log",
        "Name": f"/{config.name}",
        "RestartCount": container.state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "ExecIDs": list(container.execs) or None,
        "HostConfig": host_config_object(config),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "LowerDir": ":".join(reversed(config.layers)),
                "UpperDir": f"{container.directory}/upper",
                "WorkDir": f"{container.directory}/work",
            },
        },
        "Mounts": [mount_object(daemon, mount) for mount in config.mounts],
        "Config": config_object(config),
        "NetworkSettings": network_settings(daemon, container),
        "Usage": usage_object(daemon, container),
    }


def state_object(container: Container) -> dict[str, Any]:
    """Return the member State; ExitCode is null when nobody knows it."""
    state = container.state
    status = state.status
    shown: dict[str, Any] = {
        "Status": status.value,
        "Running": container.is_running,
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": exit_code(container),
        "Error": state.error,
        "StartedAt": moment(state.started_ns),
        "FinishedAt": moment(state.finished_ns),
    }
    if container.health is not None:
        shown["Health"] = health_object(container.health)
    return shown


def exit_code(container: Container) -> int | None:
    """Return the exit code, 0 while there is none yet, None when it is lost."""
    state = container.state
    ended = state.status in (Status.EXITED, Status.RESTARTING, Status.DEAD)
    return state.exit_code if ended or state.exit_code is not None else 0


def health_object(health: HealthState) -> dict[str, Any]:
    """Return the member State.Health."""
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": moment(result.start_ns),
                "End": moment(result.end_ns),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.results
        ],
    }


def config_object(config: ContainerConfig) -> dict[str, Any]:
    """Return the member Config: what is independent of the host."""
    shown: dict[str, Any] = {
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": config.stdin_once,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": config.env,
        "Cmd": config.cmd or None,
        "Image": config.image,
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint or None,
        "Labels": config.labels,
        "ExposedPorts": {port: {} for port in config.exposed_ports} or None,
        "StopSignal": config.stop_signal,
        "StopTimeout": config.stop_timeout,
    }
    if config.health is not None:
        shown["Healthcheck"] = check_object(config.health)
    return shown


def host_config_object(config: ContainerConfig) -> dict[str, Any]:
    """Return the member HostConfig: limits and what concerns this host."""
    return {
        "Binds": [bind_text(mount) for mount in config.mounts if mount.type != "tmpfs"] or None,
        "LogConfig": {
            "Type": "json-file",
            "Config": {
                "max-size": str(config.log.max_size),
                "max-file": str(config.log.max_file),
                "mode": config.log.mode,
            },
        },
        "NetworkMode": config.network_mode,
        "PortBindings": bindings_object(config),
        "PublishAllPorts": config.publish_all,
        "RestartPolicy": {
            "Name": config.restart.name,
            "MaximumRetryCount": config.restart.max_retries,
        },
        "AutoRemove": config.auto_remove,
        "Dns": config.dns,
        "DnsOptions": config.dns_options,
        "DnsSearch": config.dns_search,
        "ExtraHosts": config.extra_hosts or None,
        "Annotations": config.annotations,
        "Init": config.init,
        "ShmSize": config.shm_size,
        **isolation_members(config),
        **limit_members(config),
    }


def isolation_members(config: ContainerConfig) -> dict[str, Any]:
    """Return the members of HostConfig about namespaces and rights."""
    return {
        "CapAdd": config.cap_add or None,
        "CapDrop": config.cap_drop or None,
        "CgroupnsMode": config.cgroupns_mode,
        "GroupAdd": config.group_add or None,
        "IpcMode": config.ipc_mode or "private",
        "OomScoreAdj": config.oom_score_adj,
        "PidMode": config.pid_mode,
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "UTSMode": config.uts_mode,
        "UsernsMode": "" if config.userns_mode == "host" else config.userns_mode,
        "Sysctls": config.sysctls or None,
        "DeviceCgroupRules": config.device_cgroup_rules or None,
        "Devices": [
            {
                "PathOnHost": device.source,
                "PathInContainer": device.target,
                "CgroupPermissions": device.permissions,
            }
            for device in config.devices
        ],
    }


def limit_members(config: ContainerConfig) -> dict[str, Any]:
    """Return the members of HostConfig that limit what a container may use."""
    resources = config.resources
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    block = resources.get("blockIO", {})
    return {
        "Ulimits": [
            {"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in config.ulimits
        ],
        "Memory": memory.get("limit", 0),
        "MemorySwap": memory.get("swap", 0),
        "MemoryReservation": memory.get("reservation", 0),
        "MemorySwappiness": memory.get("swappiness"),
        "OomKillDisable": memory.get("disableOOMKiller", False),
        "CpuShares": cpu.get("shares", 0),
        "CpuPeriod": cpu.get("period", 0),
        "CpuQuota": cpu.get("quota", 0),
        "CpuRealtimePeriod": cpu.get("realtimePeriod", 0),
        "CpuRealtimeRuntime": cpu.get("realtimeRuntime", 0),
        "CpusetCpus": cpu.get("cpus", ""),
        "CpusetMems": cpu.get("mems", ""),
        "PidsLimit": resources.get("pids", {}).get("limit"),
        "NetworkRate": config.network_rate_bits,
        "BlkioWeight": block.get("weight", 0),
        "BlkioWeightDevice": block.get("weightDevice"),
        "BlkioDeviceReadBps": block.get("throttleReadBpsDevice"),
        "BlkioDeviceWriteBps": block.get("throttleWriteBpsDevice"),
        "BlkioDeviceReadIOps": block.get("throttleReadIOPSDevice"),
        "BlkioDeviceWriteIOps": block.get("throttleWriteIOPSDevice"),
    }


def bind_text(mount: Mount) -> str:
    """Return a mount as ``-v`` writes it."""
    return f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")


def mount_object(daemon: Daemon, mount: Mount) -> dict[str, Any]:
    """Return one entry of Mounts."""
    shown: dict[str, Any] = {
        "Type": mount.type,
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": "ro" if mount.read_only else "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation or ("rprivate" if mount.type == "bind" else ""),
    }
    if mount.type == "volume":
        shown["Name"] = mount.source
        shown["Source"] = str(daemon.settings.root / "volumes" / mount.source / "_data")
        shown["Driver"] = "local"
    return shown


def usage_object(daemon: Daemon, container: Container) -> dict[str, Any] | None:
    """Return what the container has used so far, in base units (ours, not docker's)."""
    snapshot = daemon.meter.snapshot(container.id)
    if snapshot is None:
        return None
    totals = snapshot.totals
    return {
        "Tenant": container.config.tenant,
        "CpuNanoseconds": totals.cpu_ns,
        "MemoryByteNanoseconds": totals.memory_bytens2 // 2,
        "RunningNanoseconds": totals.running_ns,
        "PausedNanoseconds": totals.paused_ns,
        "Pauses": totals.pauses,
    }


def find_container(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return a container by name, id or beginning of an id."""
    return container_object(daemon, daemon.supervisor.find(name))


def find_image(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return an image by reference, id or beginning of an id."""
    return image_object(daemon.images.resolve(name))


def find_network(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return a network by name, id or beginning of an id."""
    return network_object(find_shown(daemon.networks, name))


KINDS: dict[str, Callable[[Daemon, str], dict[str, Any]]] = {
    "container": find_container,
    "image": find_image,
    "network": find_network,
    "volume": find_volume,
}
"""What can be inspected, in the order it is looked for; each raises NotFound, or InvalidReference
for a name that nothing of its kind can have."""


async def run_inspect(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show objects by name or id: containers first, then images and networks."""
    return await inspect(session, parsed, daemon, parsed.string("type"))


async def inspect(session: Session, parsed: Parsed, daemon: Daemon, kind: str) -> int:
    """Show objects of one kind, or of any if kind is empty."""
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    kinds = [KINDS[kind]] if kind else list(KINDS.values())
    for name in parsed.args:
        one = find_one(daemon, kinds, name)
        if one is None:
            missing.append(name)
            continue
        if parsed.values.get("size") and "HostConfig" in one:
            one |= await trio.to_thread.run_sync(size_members, daemon, one["Id"])
        found.append(one)
    await session.out(render_objects(found, parsed.string("format")))
    for name in missing:
        await session.err(f"{PROGRAM}: no such {kind or 'object'}: {escape_controls(name)}\n")
    return 1 if missing else 0


def size_members(daemon: Daemon, container_id: str) -> dict[str, int]:
    """Return what a container wrote, and that with its image, in bytes. Blocks."""
    container = daemon.supervisor.find(container_id)
    written, whole = disk_use.container_bytes(daemon.images, container)
    return {"SizeRw": written, "SizeRootFs": whole}


def find_one(
    daemon: Daemon, kinds: Sequence[Callable[[Daemon, str], dict[str, Any]]], name: str
) -> dict[str, Any] | None:
    """Return the first object of this name; None if there is none."""
    for find in kinds:
        try:
            return find(daemon, name)
        except (NotFound, InvalidReference):
            continue
    return None


def inspect_command(kind: str) -> Command:
    """Return the command of a group that shows its own kind only."""

    async def run(session: Session, parsed: Parsed, daemon: Daemon) -> int:
        return await inspect(session, parsed, daemon, kind)

    return Command(
        f"{kind} inspect", f"Display detailed information on one or more {kind}s", run,
        f"{kind.upper()} [{kind.upper()}...]",
        (FORMAT, SIZE) if kind == "container" else (FORMAT,),
        minimum=1, completes=f"{kind}s",
    )  # fmt: skip


FORMAT = Flag("format", "f", "string", None, "string", "'json' or a Go template")

SIZE = Flag("size", "s", "bool", help="Display total file sizes of containers")

COMMANDS = [
    Command(
        "inspect", "Return low-level information on containers, images and networks", run_inspect,
        "NAME|ID [NAME|ID...]",
        (
            FORMAT,
            SIZE,
            Flag("type", "", "choice", None, "string", "Only " + " or ".join(KINDS),
                 choices=tuple(KINDS)),
        ),
        minimum=1, section="common", completes="containers",
    ),
    *(inspect_command(kind) for kind in KINDS),
]  # fmt: skip
