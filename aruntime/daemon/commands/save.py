"""``save``: images as an archive, by docker's command and podman's ``--format``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.session import Session
from aruntime.images import saving

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon


async def run_save(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Write images to an archive; nothing is written unless all of them are here."""
    path = parsed.string("output")
    outputs.check_terminal(session, path, "save")
    saver = await trio.to_thread.run_sync(open_saver, daemon, parsed)
    with saver:
        async with outputs.opened(session, path) as write:
            await outputs.copy(saver.chunks(), write)
    for one in saver.images:
        daemon.events.publish("image", "save", one.id, {"name": one.id})
    return 0


def open_saver(daemon: Daemon, parsed: Parsed) -> saving.Saver:
    """Hold what is to be saved. Blocks."""
    chosen = saving.choose(daemon.images, parsed.args)
    return saving.Saver(daemon.images, chosen, parsed.string("format"))


COMMANDS = [
    Command(
        "save", "Save one or more images to a tar archive (streamed to STDOUT by default)",
        run_save, "IMAGE [IMAGE...]",
        (
            Flag("format", "", "choice", saving.DOCKER_ARCHIVE, "string",
                 "docker-archive or oci-archive", choices=saving.FORMATS),
            Flag("output", "o", "string", None, "string", "Write to a file, instead of STDOUT"),
        ),
        minimum=1, completes="images",
        description="A docker-archive is an OCI image layout with docker's manifest.json: docker,"
        " podman, skopeo and containerd load it. Layers go in as they are kept.",
    ),
]  # fmt: skip
