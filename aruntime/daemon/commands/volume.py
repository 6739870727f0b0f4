"""volume: directories that outlive containers, by docker's commands.

There is one driver, ``local``, and it has no options: a volume is a directory of the daemon's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from aruntime.daemon import disk_use
from aruntime.daemon.commands import values
from aruntime.daemon.commands.confirmation import FORCE, confirmed
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.inspect_image import moment
from aruntime.daemon.commands.listing import Row, render_rows
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, Conflict, InvalidParameter, UsageError, VolumeNotFound
from aruntime.rootfs import volumes
from aruntime.rootfs.volumes import Volume

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

DRIVER = "local"
TABLE = r"{{.Driver}}\t{{.Name}}"
TITLES = {
    "Availability": "AVAILABILITY", "Driver": "DRIVER", "Group": "GROUP", "Label": "LABEL",
    "Labels": "LABELS", "Links": "LINKS", "Mountpoint": "MOUNTPOINT", "Name": "VOLUME NAME",
    "Scope": "SCOPE", "Size": "SIZE", "Status": "STATUS",
}  # fmt: skip
FAILED = 1


def root_of(daemon: Daemon) -> str:
    """Return the directory of all volumes."""
    return str(daemon.settings.root / "volumes")


def users(daemon: Daemon) -> dict[str, list[str]]:
    """Return the containers that mount each volume, by short id."""
    found: dict[str, list[str]] = {}
    for container in daemon.supervisor:
        for mount in container.config.mounts:
            if mount.type == "volume":
                found.setdefault(mount.source, []).append(container.short_id)
    return found


def volume_object(volume: Volume) -> dict[str, Any]:
    """Return a volume as ``docker volume inspect`` shows it."""
    return {
        "CreatedAt": moment(volume.created_ns),
        "Driver": DRIVER,
        "Labels": volume.labels or None,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": None,
        "Scope": DRIVER,
    }


def find_volume(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return a volume by name.

    Raises:
        VolumeNotFound: there is none.
    """
    try:
        return volume_object(volumes.get(root_of(daemon), name))
    except InvalidParameter:
        raise VolumeNotFound(f"no such volume: {name}") from None


def row(volume: Volume, used: Mapping[str, Sequence[str]], size: str = "N/A") -> Row:
    """Return the fields of one line."""
    return {
        "Availability": "N/A",
        "Driver": DRIVER,
        "Group": "N/A",
        "Label": lambda key: volume.labels.get(key, ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items())),
        "Links": str(len(used.get(volume.name, ()))),
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Scope": DRIVER,
        "Size": size,
        "Status": "N/A",
    }


def has_label(volume: Volume, text: str) -> bool:
    """Whether a volume has a label, ``key`` or ``key=value``."""
    key, equals, wanted = text.partition("=")
    found = volume.labels.get(key)
    return found is not None and (not equals or found == wanted)


def selected(
    found: Iterable[Volume], filters: Mapping[str, Sequence[str]], used: Mapping[str, object]
) -> list[Volume]:
    """Keep the volumes that ``--filter`` lets through. Pure.

    Raises:
        UsageError: an unknown key, or a malformed value.
    """
    kept = list(found)
    for key, texts in filters.items():
        if key not in FILTERS:
            raise UsageError(f"invalid filter '{key}': there are {', '.join(sorted(FILTERS))}")
        combine = all if key == "label" else any
        test = FILTERS[key]
        kept = [one for one in kept if combine([test(one, text, used) for text in texts])]
    return kept


def _is_dangling(volume: Volume, text: str, used: Mapping[str, object]) -> bool:
    try:
        wanted = values.parse_bool(text)
    except ValueError:
        raise UsageError(f"invalid filter 'dangling={text}': must be true or false") from None
    return (volume.name not in used) is wanted


FILTERS: dict[str, Callable[[Volume, str, Mapping[str, object]], bool]] = {
    "dangling": _is_dangling,
    "driver": lambda _volume, text, _used: text == DRIVER,
    "label": lambda volume, text, _used: has_label(volume, text),
    "name": lambda volume, text, _used: text in volume.name,
}


async def run_create(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Make a volume, or find it made, and print its name."""
    if parsed.string("driver") != DRIVER:
        raise InvalidParameter(f"there is no volume driver {parsed.string('driver')!r}, only local")
    if parsed.args and "name" in parsed.given:
        raise UsageError("conflicting options: give the name as an argument or as a flag, not both")
    name = "".join(parsed.args) or parsed.string("name") or volumes.new_name()
    labels = parsed.mapping("label")
    made = await trio.to_thread.run_sync(volumes.ensure, root_of(daemon), name, labels)
    daemon.events.publish("volume", "create", made.name, {"driver": DRIVER})
    await session.out(f"{made.name}\n")
    return 0


async def run_ls(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List volumes by name."""
    used = users(daemon)
    found = await trio.to_thread.run_sync(volumes.list_volumes, root_of(daemon))
    rows = [row(volume, used) for volume in selected(found, parsed.filters(), used)]
    shown = parsed.string("format") or ("{{.Name}}" if parsed.boolean("quiet") else "")
    await session.out(render_rows(rows, format=shown, titles=TITLES, table=TABLE))
    return 0


async def remove(daemon: Daemon, name: str) -> None:
    """Remove a volume that no container mounts.

    Raises:
        VolumeNotFound: there is none.
        Conflict: a container mounts it.
    """
    holding = users(daemon).get(name)
    if holding:
        raise Conflict(
            f"cannot remove volume {name}: it is in use by {', '.join(holding)}; remove"
            f" {'them' if len(holding) > 1 else 'it'} first"
        )
    await trio.to_thread.run_sync(volumes.remove, root_of(daemon), name)
    daemon.events.publish("volume", "destroy", name, {"driver": DRIVER})


async def run_rm(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove volumes; with -f a missing one is no failure."""
    failed = False
    for name in parsed.args:
        try:
            await remove(daemon, name)
            await session.out(f"{name}\n")
        except AruntimeError as error:
            if parsed.boolean("force") and isinstance(error, VolumeNotFound):
                continue
            failed = True
            await session.err(f"{PROGRAM}: {error.message}\n")
    return FAILED if failed else 0


QUESTION = (
    "WARNING! This will remove %s local volumes not used by at least one container.\n"
    "Are you sure you want to continue?"
)


async def run_prune(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove the volumes that no container mounts, those without a name only unless -a is given."""
    every = parsed.boolean("all")
    question = QUESTION % ("all" if every else "anonymous")
    if not parsed.boolean("force") and not await confirmed(session, question):
        return 0
    names, size = await prune(daemon, parsed.filters(), every=every)
    text = "Deleted Volumes:\n" + "".join(f"{name}\n" for name in names) + "\n" if names else ""
    await session.out(f"{text}Total reclaimed space: {values.format_size(size)}\n")
    return 0


async def prune(
    daemon: Daemon, filters: Mapping[str, Sequence[str]], *, every: bool
) -> tuple[list[str], int]:
    """Remove volumes nobody mounts; returns their names and how much they took."""
    for key in filters:
        if key not in ("label", "label!"):
            raise UsageError(f"invalid filter '{key}': there are label, label!")
    found = await trio.to_thread.run_sync(volumes.list_volumes, root_of(daemon))
    used = users(daemon)
    chosen = [
        one
        for one in found
        if one.name not in used
        and (every or volumes.is_anonymous(one.name))
        and all(has_label(one, text) for text in filters.get("label", ()))
        and not any(has_label(one, text) for text in filters.get("label!", ()))
    ]
    removed: list[str] = []
    total = 0
    for one in chosen:
        size = await trio.to_thread.run_sync(disk_use.tree_bytes, one.path)
        try:
            await remove(daemon, one.name)
        except (Conflict, VolumeNotFound):
            continue  # a container came, or somebody else removed it, meanwhile
        removed.append(one.name)
        total += size
    return removed, total


COMMANDS = [
    Command(
        "volume create", "Create a volume", run_create, "[VOLUME]",
        (
            Flag("driver", "d", "string", DRIVER, "string", "Specify volume driver name"),
            Flag("label", "", "map", help="Set metadata for a volume"),
            Flag("name", "", "string", None, "string", "Volume name", hidden=True),
            Flag("opt", "o", "map", refused="the local driver mounts nothing; use a bind mount"),
        ),
        maximum=1,
    ),
    Command(
        "volume ls", "List volumes", run_ls, "",
        (
            Flag("filter", "f", "filter", None, "filter", "dangling, driver, label, name"),
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("quiet", "q", "bool", help="Only display volume names"),
        ),
        aliases=("volume list",), maximum=0,
    ),
    Command(
        "volume prune", "Remove unused local volumes", run_prune, "",
        (
            Flag("all", "a", "bool", help="Remove all unused volumes, not just anonymous ones"),
            Flag("filter", "", "filter", None, "filter", "Provide filter values (label=<label>)"),
            FORCE,
        ),
        maximum=0,
    ),
    Command(
        "volume rm", "Remove one or more volumes", run_rm, "VOLUME [VOLUME...]",
        (Flag("force", "f", "bool", help="Do not fail if a volume does not exist"),),
        aliases=("volume remove",), minimum=1, completes="volumes",
    ),
]  # fmt: skip
