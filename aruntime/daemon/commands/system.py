"""`version`, `info` and `daemon`: about the runtime itself, not about containers.

Field names are docker's where docker has the field; ours stand beside them.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from aruntime import __version__
from aruntime.container.state import Status
from aruntime.daemon import settings
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import line_template
from aruntime.daemon.commands.template_values import render
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.errors import UsageError
from aruntime.kernel import capabilities
from aruntime.metering.export import ExportState
from aruntime.metering.host import memory_bytes

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon
    from aruntime.daemon.session import Session

FORMAT = Flag("format", "f", "string", None, "string", "'json' or a Go template")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""uname's names of machines as Go and docker spell them."""
OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))


def formatted(value: dict[str, Any], chosen: str) -> str:
    """A value as ``--format`` wants it: lines of text without, JSON, or a template's output.

    Raises:
        UsageError: the template is wrong.
    """
    if not chosen:
        return text_block(value)
    if chosen == "json":
        return json.dumps(value, separators=(",", ":")) + "\n"
    return render(line_template(chosen), value) + "\n"


def text_block(fields: dict[str, Any], indent: str = "") -> str:
    """``Name: value`` lines, nested dicts indented; lists on one line."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:\n{text_block(value, indent + ' ')}")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}".rstrip() + "\n")
    return "".join(lines)


def architecture() -> str:
    """This machine's architecture as docker spells it."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def operating_system() -> str:
    """The host's name for itself, by os-release(5)."""
    for path in OS_RELEASE:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip("\"'")
    return "Linux"


def version_fields(daemon: Daemon) -> dict[str, Any]:
    """What `aruntime version` shows; client and server have the same version by construction."""
    started = datetime.fromtimestamp(daemon.started_ns / 1e9, UTC)
    common = {"Version": __version__, "Os": "linux", "Arch": architecture()}
    server = {
        "KernelVersion": os.uname().release,
        "PythonVersion": platform.python_version(),
        "Pid": os.getpid(),
        "StartedAt": started.isoformat(timespec="seconds"),
    }
    return {"Client": common, "Server": common | server}


def info_fields(daemon: Daemon) -> dict[str, Any]:
    """What `aruntime info` shows; reads files, so call it off the event loop."""
    counts = Counter(container.state.status for container in daemon.supervisor)
    paused = counts[Status.PAUSED] + counts[Status.PAUSING]
    running = counts[Status.RUNNING] + counts[Status.RESTARTING]
    return {
        "Containers": counts.total(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": counts.total() - running - paused,
        "Images": len(daemon.images.list()),
        "ServerVersion": __version__,
        "Driver": "overlay",
        **host_fields(),
        **cgroup_fields(daemon),
        **daemon_fields(daemon),
        "Exporters": {state.name: export_fields(state) for state in daemon.exports.states()},
        "Warnings": warnings(daemon),
    }


def host_fields() -> dict[str, Any]:
    """The host: kernel, system, size."""
    return {
        "KernelVersion": os.uname().release,
        "OperatingSystem": operating_system(),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": os.cpu_count() or 1,
        "MemTotal": memory_bytes(),
        "Name": os.uname().nodename,
    }


def cgroup_fields(daemon: Daemon) -> dict[str, Any]:
    """What limits and counters this host offers."""
    hierarchy = daemon.parts.hierarchy
    unified = hierarchy.mode == "unified"
    controllers = hierarchy.unified_controllers if unified else hierarchy.v1
    return {
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if unified else "1",
        "CgroupMode": hierarchy.mode,
        "CgroupParent": daemon.settings.cgroup_parent,
        "CgroupControllers": sorted(controllers),
        "BlockCounters": {source.disk.name: source.source for source in daemon.meter.block_sources},
    }


def export_fields(state: ExportState) -> dict[str, Any]:
    """How far a push exporter has come."""
    return {
        "Type": state.type,
        "Target": state.target,
        "Sequence": state.sequence,
        "Pending": state.pending,
        "Delivered": state.delivered,
        "Rejected": state.rejected,
        "Failures": state.failures,
        "LastSuccess": rfc3339_nano(state.last_success_ns) if state.last_success_ns else "",
        "Error": state.error,
    }


def daemon_fields(daemon: Daemon) -> dict[str, Any]:
    """How this daemon is set up."""
    chosen = daemon.settings
    return {
        "RootDir": str(chosen.root),
        "RunDir": str(chosen.run_dir),
        "Socket": str(chosen.socket),
        "ConfigFile": str(chosen.config),
        "MetricsAddress": metrics_address(chosen.run_dir),
        "Bridge": chosen.bridge,
        "Subnet": chosen.subnet,
        "PollIntervalSeconds": chosen.poll_interval,
        "SlowIntervalSeconds": chosen.slow_interval,
        "MeterCgroups": [pattern.text for pattern in chosen.meter_cgroups],
        "DaemonPid": os.getpid(),
        "ShimPid": daemon.parts.shim.pid,
    }


def metrics_address(run_dir: Path) -> str:
    """Where /metrics is served in fact; ``none`` when it is not."""
    try:
        return (run_dir / "metrics.addr").read_text().strip()
    except FileNotFoundError:
        return "none"


def warnings(daemon: Daemon) -> list[str]:
    """What this host lacks, one line each."""
    found = []
    if not daemon.network.ready:
        found.append("there is no bridge: containers can use the networks host and none only")
    _effective, permitted, _inheritable = capabilities.capget()
    if not permitted >> capabilities.NUMBERS["CAP_SYS_RESOURCE"] & 1:
        found.append("CAP_SYS_RESOURCE is missing: limits can be lowered but not raised")
    found += [
        f"I/O of disk {source.disk.name} is not counted: {source.error or 'no counter'}"
        for source in daemon.meter.block_sources
        if source.source == "none"
    ]
    return found


async def version(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Run `aruntime version`."""
    await session.out(formatted(version_fields(daemon), parsed.string("format")))
    return 0


async def info(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Run `aruntime info`."""
    fields = await trio.to_thread.run_sync(info_fields, daemon)
    await session.out(formatted(fields, parsed.string("format")))
    return 0


async def daemon_in_foreground(_session: Session, _parsed: Parsed, _daemon: Daemon) -> int:
    """Refuse: the client runs this command itself, and only as its first word."""
    raise UsageError("write 'aruntime daemon' without global options; see 'aruntime daemon --help'")


VERSION = Command(
    "version", "Show the versions of client and daemon", version, flags=(FORMAT,), maximum=0
)
INFO = Command("info", "Show what this host and daemon offer", info, flags=(FORMAT,), maximum=0)
DAEMON = Command(
    "daemon",
    "Run the daemon in the foreground (also installed as aruntimed)",
    daemon_in_foreground,
    flags=settings.FLAGS,
    maximum=0,
)
COMMANDS = [VERSION, INFO, DAEMON]
