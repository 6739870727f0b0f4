"""ps: the containers of this daemon, in docker's columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import trio

from aruntime.container.state import Status
from aruntime.daemon import disk_use
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.commands.values import format_age, format_size, quote
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter
from aruntime.network.ports import ports_column

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

COLUMNS = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
TITLES = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED", "Status": "STATUS", "State": "STATE", "Ports": "PORTS",
    "Names": "NAMES", "Labels": "LABELS", "Label": "LABEL", "Mounts": "MOUNTS",
    "Networks": "NETWORKS", "Tenant": "TENANT", "Size": "SIZE", "LocalVolumes": "LOCAL VOLUMES",
}  # fmt: skip
SHOWN_COMMAND = 20


def age(nanoseconds: int) -> str:
    """Return a span of time in words."""
    return format_age(nanoseconds / 1_000_000_000)


def status_text(container: Container) -> str:
    """Return docker's STATUS column: ``Up 2 minutes (Paused)``, ``Exited (0) 5 seconds ago``."""
    state = container.state
    now = time.time_ns()
    match state.status:
        case Status.CREATED:
            return "Created"
        case Status.DEAD:
            return "Dead"
        case Status.EXITED | Status.RESTARTING:
            code = "unknown" if state.exit_code is None else state.exit_code
            verb = "Exited" if state.status is Status.EXITED else "Restarting"
            return f"{verb} ({code}) {age(now - state.finished_ns)} ago"
    shown = f"Up {age(now - state.started_ns)}"
    if state.status in (Status.PAUSED, Status.PAUSING):
        return f"{shown} (Paused)"
    if container.health is not None:
        health = container.health.status
        return f"{shown} ({'health: starting' if health == 'starting' else health})"
    return shown


def row(container: Container, *, truncate: bool) -> dict[str, Any]:
    """Return the fields of one line."""
    config = container.config
    command = " ".join(config.args)
    if truncate and len(command) > SHOWN_COMMAND:
        command = command[: SHOWN_COMMAND - 1] + "…"
    created = datetime.fromtimestamp(config.created_ns // 1_000_000_000).astimezone()
    mounts = [mount.source or mount.target for mount in config.mounts]
    return {
        "ID": container.short_id if truncate else container.id,
        "Image": config.image,
        "Command": quote(command),
        "CreatedAt": f"{created:%Y-%m-%d %H:%M:%S %z %Z}",
        "RunningFor": f"{age(time.time_ns() - config.created_ns)} ago",
        "Status": status_text(container),
        "State": container.state.status.value,
        "Ports": ports_text(container),
        "Names": config.name,
        "Labels": ",".join(f"{key}={value}" for key, value in config.labels.items()),
        "Label": lambda key: config.labels.get(key, ""),
        "Mounts": ",".join(mounts),
        "LocalVolumes": str(sum(mount.type == "volume" for mount in config.mounts)),
        "Networks": ",".join(network_names(container)),
        "Tenant": config.tenant,
        "Size": "",
    }


def ports_text(container: Container) -> str:
    """Return docker's PORTS column; nothing is reached in a container that does not run."""
    if not container.is_running:
        return ""
    return ports_column(container.state.ports, container.config.exposed_ports)


def network_names(container: Container) -> list[str]:
    """Return the networks a container is in; the mode where it has no link of its own."""
    config = container.config
    return [connection.network for connection in config.networks] or [config.network_mode]


def by_label(container: Container, value: str) -> bool:
    """``label=key`` or ``label=key=value``."""
    key, equals, wanted = value.partition("=")
    found = container.config.labels.get(key)
    return found is not None and (not equals or found == wanted)


def by_ancestor(container: Container, value: str) -> bool:
    """``ancestor=image``, by name with or without tag, or by id."""
    config = container.config
    identity = config.image_id.removeprefix("sha256:")
    asked = value.removeprefix("sha256:")
    return value in (config.image, config.image.partition(":")[0]) or identity.startswith(asked)


FILTERS: Mapping[str, Callable[[Container, str], bool]] = {
    "id": lambda item, value: item.id.startswith(value),
    "name": lambda item, value: value.removeprefix("/") in item.config.name,
    "status": lambda item, value: item.state.status.value == value,
    "exited": lambda item, value: (
        item.state.status is Status.EXITED and str(item.state.exit_code) == value
    ),
    "label": by_label,
    "ancestor": by_ancestor,
    "tenant": lambda item, value: item.config.tenant == value,
    "network": lambda item, value: value in network_names(item),
    "health": lambda item, value: (
        (item.health.status if item.health is not None else "none") == value
    ),
    "volume": lambda item, value: any(
        value in (mount.source, mount.target) for mount in item.config.mounts
    ),
}


def selected(containers: list[Container], filters: Mapping[str, list[str]]) -> list[Container]:
    """Return the containers that fit: one value of each filter must hold (all labels must).

    Raises:
        InvalidParameter: an unknown filter.
    """
    for key in filters:
        if key not in (*FILTERS, "before", "since"):
            raise InvalidParameter(
                f"invalid filter '{key}'; known are {', '.join(sorted(FILTERS))}"
            )
    return [
        item
        for item in containers
        if all(
            (all if key == "label" else any)(FILTERS[key](item, value) for value in values)
            for key, values in filters.items()
            if key in FILTERS
        )
    ]


def bounded(
    daemon: Daemon, found: list[Container], filters: Mapping[str, list[str]]
) -> list[Container]:
    """Apply ``before=`` and ``since=``, which name other containers."""
    for value in filters.get("before", []):
        limit = daemon.supervisor.find(value).config.created_ns
        found = [item for item in found if item.config.created_ns < limit]
    for value in filters.get("since", []):
        limit = daemon.supervisor.find(value).config.created_ns
        found = [item for item in found if item.config.created_ns > limit]
    return found


async def run_ps(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List containers, newest first."""
    filters = parsed.filters()
    last = 1 if parsed.boolean("latest") else parsed.integer("last")
    everything = parsed.boolean("all") or last >= 0 or "status" in filters or "exited" in filters
    containers = sorted(daemon.supervisor, key=lambda item: item.config.created_ns, reverse=True)
    if not everything:
        containers = [item for item in containers if item.is_running]
    containers = bounded(daemon, selected(containers, filters), filters)
    if last >= 0:
        containers = containers[:last]
    truncate = not parsed.boolean("no-trunc")
    if parsed.boolean("quiet"):
        ids = (item.short_id if truncate else item.id for item in containers)
        await session.out("".join(f"{item}\n" for item in ids))
        return 0
    rows = [row(item, truncate=truncate) for item in containers]
    shown, columns = parsed.string("format"), COLUMNS
    if parsed.boolean("size"):
        columns += r"\t{{.Size}}"
    if parsed.boolean("size") or ".Size" in shown:
        for fields, item in zip(rows, containers, strict=True):
            fields["Size"] = await trio.to_thread.run_sync(size_text, daemon, item)
    await session.out(render_rows(rows, format=shown, titles=TITLES, table=columns))
    return 0


def size_text(daemon: Daemon, container: Container) -> str:
    """Return docker's SIZE column: what the container wrote, and that with its image. Blocks."""
    written, whole = disk_use.container_bytes(daemon.images, container)
    return f"{format_size(written)} (virtual {format_size(whole)})"


COMMANDS = [
    Command(
        "ps", "List containers", run_ps, "",
        (
            Flag("all", "a", "bool", help="Show all containers (default shows just running)"),
            Flag("filter", "f", "filter", None, "filter", "Filter output based on conditions"),
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("last", "n", "int", -1, "int", "Show n last created containers (all states)"),
            Flag("latest", "l", "bool", help="Show the latest created container (all states)"),
            Flag("no-trunc", "", "bool", help="Don't truncate output"),
            Flag("quiet", "q", "bool", help="Only display container IDs"),
            Flag("size", "s", "bool", help="Display total file sizes"),
        ),
        maximum=0, section="common",
    ),
]  # fmt: skip
