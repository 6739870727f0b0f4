"""``diff``, ``export``, ``commit``: what became of a container's files, and what to make of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from aruntime.daemon import committing, files
from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.session import Session
from aruntime.images import difference

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon
    from aruntime.daemon.record import Container


async def run_diff(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List what a container changed of its image's files."""
    container = daemon.supervisor.find(parsed.args[0])
    changes = await trio.to_thread.run_sync(changes_of, daemon, container)
    shown = parsed.string("format") or "{{.Kind}} {{.Path}}"
    rows = [
        {"Kind": change.kind, "Path": escape_controls(os.fsdecode(change.path))}
        for change in changes
    ]
    titles = {"Kind": "KIND", "Path": "PATH"}
    await session.out(render_rows(rows, format=shown, titles=titles, table=r"{{.Kind}}\t{{.Path}}"))
    return 0


def changes_of(daemon: Daemon, container: Container) -> list[difference.Change]:
    """Return what a container changed. Blocks."""
    layers = container.config.layers
    ours = difference.mount_points_of_ours(layers, committing.MADE_BY_A_START)
    return difference.changes(
        f"{container.directory}/upper",
        layers,
        [os.fsencode(path) for path in ours],
        files.shift_of(daemon.parts, container),
    )


async def run_export(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Write a container's files as a tar archive."""
    container = daemon.supervisor.find(parsed.args[0])
    path = parsed.string("output")
    outputs.check_terminal(session, path, "export")
    async with outputs.descriptor(session, path) as fd:
        await files.export(daemon.parts, container, fd)
    attributes = container.event_attributes()
    daemon.events.publish("container", "export", container.id, attributes)
    return 0


async def run_commit(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Make an image of a container's files."""
    container = daemon.supervisor.find(parsed.args[0])
    wish = committing.Wish(
        name="".join(parsed.args[1:]),
        message=parsed.string("message"),
        author=parsed.string("author"),
        change=tuple(parsed.strings("change")),
        pause=parsed.boolean("pause") and not parsed.boolean("no-pause"),
    )
    image = await committing.commit(daemon.parts, container, wish)
    attributes = container.event_attributes(comment=wish.message, imageID=image.id)
    daemon.events.publish("container", "commit", container.id, attributes)
    await session.out(f"{image.id}\n")
    return 0


COMMANDS = [
    Command(
        "diff", "Inspect changes to files or directories on a container's filesystem", run_diff,
        "CONTAINER",
        (Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),),
        minimum=1, maximum=1, completes="containers",
        description="A: added, C: changed, D: deleted.",
    ),
    Command(
        "export", "Export a container's filesystem as a tar archive", run_export, "CONTAINER",
        (Flag("output", "o", "string", None, "string", "Write to a file, instead of STDOUT"),),
        minimum=1, maximum=1, completes="containers",
        description="What is mounted in the container, volumes too, is not part of it.",
    ),
    Command(
        "commit", "Create a new image from a container's changes", run_commit,
        "CONTAINER [REPOSITORY[:TAG]]",
        (
            Flag("author", "a", "string", None, "string", "Author of the image"),
            Flag("change", "c", "list", None, "list", "Apply Dockerfile instruction to the image"),
            Flag("message", "m", "string", None, "string", "Commit message"),
            Flag("no-pause", "", "bool", help="Do not pause the container meanwhile"),
            Flag("pause", "p", "bool", True, help="Pause the container during commit"),
        ),
        minimum=1, maximum=2, completes="containers",
        description="The image has what the container changed as a layer on top of its image's,"
        " and starts\nas the container did.",
    ),
]  # fmt: skip
