"""``system df``: what images, containers and volumes take, and what a prune would give back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from aruntime.daemon import disk_use
from aruntime.daemon.commands import image_rows, ps, volume
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import Row, render_rows
from aruntime.daemon.commands.system import formatted
from aruntime.daemon.commands.values import format_size
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import UsageError
from aruntime.images.image import Image
from aruntime.rootfs import volumes
from aruntime.rootfs.volumes import Volume

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

TABLE = r"{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
TITLES = {
    "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}  # fmt: skip
IMAGES = (
    r"{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}"
    r"\t{{.UniqueSize}}\t{{.Containers}}"
)
CONTAINERS = (
    r"{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}"
    r"\t{{.Status}}\t{{.Names}}"
)
VOLUMES = r"{{.Name}}\t{{.Links}}\t{{.Size}}"


class Taken(msgspec.Struct):
    """What there is, with its bytes."""

    images: list[Image]
    containers: list[tuple[Container, int]]
    volumes: list[tuple[Volume, int]]


def measure(daemon: Daemon, containers: Sequence[Container]) -> Taken:
    """Look at the disk. Blocks, for as long as it takes to look at every file."""
    found = volumes.list_volumes(volume.root_of(daemon))
    return Taken(
        daemon.images.list(),
        [(one, disk_use.tree_bytes(f"{one.directory}/upper")) for one in containers],
        [(one, disk_use.tree_bytes(one.path)) for one in found],
    )


def summary(taken: Taken, used_volumes: dict[str, list[str]]) -> list[Row]:
    """Return docker's three lines. Pure."""
    used = {container.config.image_id for container, _ in taken.containers}
    size = disk_use.layer_bytes(taken.images)
    kept = disk_use.layer_bytes(image for image in taken.images if image.id in used)
    in_use = sum(image.id in used for image in taken.images)
    running = [bytes_ for one, bytes_ in taken.containers if one.is_running]
    mounted = [bytes_ for one, bytes_ in taken.volumes if one.name in used_volumes]
    return [
        _line("Images", len(taken.images), in_use, size, size - kept),
        _sum_line("Containers", [bytes_ for _, bytes_ in taken.containers], running),
        _sum_line("Local Volumes", [bytes_ for _, bytes_ in taken.volumes], mounted),
    ]


def _sum_line(kind: str, sizes: Sequence[int], active: Sequence[int]) -> Row:
    return _line(kind, len(sizes), len(active), sum(sizes), sum(sizes) - sum(active))


def _line(kind: str, total: int, active: int, size: int, free: int) -> Row:
    share = f" ({100 * free // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": format_size(size),
        "Reclaimable": f"{format_size(free)}{share}",
    }


def detailed(daemon: Daemon, taken: Taken) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every image, container and volume."""
    images = image_rows.image_rows(
        taken.images,
        now_ns=time.time_ns(),
        digests=False,
        full_ids=False,
        containers=Counter(container.config.image_id for container, _ in taken.containers),
        shares=disk_use.shares(taken.images),
    )
    used = volume.users(daemon)
    return {
        "Images": [dict(row) for row in images],
        "Containers": [
            {**ps.row(one, truncate=True), "Size": format_size(size)}
            for one, size in taken.containers
        ],
        "Volumes": [dict(volume.row(one, used, format_size(size))) for one, size in taken.volumes],
    }


async def run_df(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show what the disk is taken by."""
    taken = await trio.to_thread.run_sync(measure, daemon, list(daemon.supervisor))
    shown = parsed.string("format")
    if not parsed.boolean("verbose"):
        rows = summary(taken, volume.users(daemon))
        await session.out(render_rows(rows, format=shown, titles=TITLES, table=TABLE))
        return 0
    found = detailed(daemon, taken)
    if shown:
        if shown.startswith("table"):
            raise UsageError("a table format cannot be used with -v: leave one of them out")
        await session.out(formatted(without_methods(found), shown))
        return 0
    tables = (
        ("Images", "Images space usage", image_rows.TITLES, IMAGES),
        ("Containers", "Containers space usage", ps.TITLES, CONTAINERS),
        ("Volumes", "Local Volumes space usage", volume.TITLES, VOLUMES),
    )
    for kind, title, titles, table in tables:
        text = render_rows(found[kind], format="", titles=titles, table=table)
        await session.out(f"{title}:\n\n{text}\n")
    return 0


def without_methods(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Leave out what only templates of rows can call (``.Label "key"``)."""
    return {
        kind: [{name: value for name, value in row.items() if not callable(value)} for row in rows]
        for kind, rows in found.items()
    }


COMMANDS = [
    Command(
        "system df", "Show disk usage", run_df, "",
        (
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("verbose", "v", "bool", help="Show detailed information on space usage"),
        ),
        maximum=0,
        description="Bytes of files, holes left out. A layer that several images have counts once.",
    ),
]  # fmt: skip
