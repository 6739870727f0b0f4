"""``cp``: files between a container and the host, or an archive on standard input or output.

The container's end is a child of the daemon, confined to the container
(:mod:`aruntime.daemon.files`); the host's end is a program of the client, at the caller's rights
(:mod:`aruntime.cli.copying`). A pipe joins them; the daemon looks at nothing that goes through it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from aruntime.daemon import files
from aruntime.daemon.commands import outputs
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.images import STDIN, archive_source
from aruntime.daemon.commands.values import format_size
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, UsageError

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

TAKE, PLACE = "take", "place"
FOLLOW, OWNERS = "L", "a"


def split_argument(text: str) -> tuple[str, str]:
    """Return container and path of an argument; the container is empty for a path of the host.

    What begins with ``/`` or ``.`` is a path (docker's rule), and so is what has no colon.

    Raises:
        UsageError: there is no path.
    """
    container, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        container, path = "", text
    if not path:
        raise UsageError(f"invalid argument {text!r}: a path is missing")
    return container, path


async def run_cp(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Copy files or folders between a container and the local filesystem."""
    (source, source_path), (target, target_path) = map(split_argument, parsed.args)
    if source and target:
        raise UsageError(
            "copying between containers is not supported; join two commands with a pipe, as in"
            f" '{PROGRAM} cp {source}:{source_path} - | {PROGRAM} cp - {target}:DIR'"
        )
    if source:
        container = daemon.supervisor.find(source)
        tell(daemon, container, "archive-path", source_path)
        size, code = await copy_out(session, parsed, daemon, container, source_path, target_path)
    elif target:
        container = daemon.supervisor.find(target)
        tell(daemon, container, "extract-to-dir", target_path)
        size, code = await copy_in(session, parsed, daemon, container, source_path, target_path)
    else:
        raise UsageError("one of source and destination must be in a container: CONTAINER:PATH")
    if not code and session.stderr_tty and not parsed.boolean("quiet"):
        await session.err(f"Successfully copied {format_size(size)} to {parsed.args[1]}\n")
    return code


def tell(daemon: Daemon, container: Container, action: str, path: str) -> None:
    """Publish docker's event for what is about to happen."""
    attributes = container.event_attributes(path=path)
    daemon.events.publish("container", action, container.id, attributes)


async def copy_out(
    session: Session, parsed: Parsed, daemon: Daemon, container: Container, path: str, target: str
) -> tuple[int, int]:
    """Copy from a container; returns bytes of the archive and the exit code."""
    follow = parsed.boolean("follow-link")
    if target == STDIN:
        outputs.check_terminal(session, "", "cp")
        async with outputs.piped(session) as fd:
            return await files.take(daemon.parts, container, path, fd, follow=follow), 0
    flags = OWNERS if parsed.boolean("archive") else ""
    fd = await session.copy(PLACE, flags, target)
    return await joined(session, fd, files.take(daemon.parts, container, path, fd, follow=follow))


async def copy_in(
    session: Session, parsed: Parsed, daemon: Daemon, container: Container, path: str, target: str
) -> tuple[int, int]:
    """Copy into a container; returns bytes of files and the exit code."""
    keep = parsed.boolean("archive")
    if path == STDIN:
        if session.stdin_tty:
            raise UsageError(f"{PROGRAM} cp - reads an archive, not a terminal: give it a pipe")
        async with archive_source(session, STDIN) as source:
            size = await files.place(
                # Owners are those of the archive, as with docker.
                daemon.parts, container, target, source,
                whole=True, keep_owners=True, adjusts=keep,
            )  # fmt: skip
            return size, 0
    fd = await session.copy(TAKE, FOLLOW if parsed.boolean("follow-link") else "", path)
    placing = files.place(
        daemon.parts, container, target, fd, whole=False, keep_owners=keep, adjusts=keep
    )
    return await joined(session, fd, placing)


async def joined(session: Session, fd: int, copying: Awaitable[int]) -> tuple[int, int]:
    """Wait for both ends of a copy; returns what ours counted and the client's exit code.

    The descriptor is closed in every case: the client's end stops when ours is gone. It is waited
    for when ours fails, not when we are cancelled.
    """
    try:
        size = await copying
    except AruntimeError:
        os.close(fd)
        await session.copied()
        raise
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return size, await session.copied()


COMMANDS = [
    Command(
        "cp", "Copy files/folders between a container and the local filesystem", run_cp,
        "CONTAINER:SRC_PATH DEST_PATH|- or SRC_PATH|- CONTAINER:DEST_PATH",
        (
            Flag("archive", "a", "bool", help="Archive mode (copy all uid/gid information)"),
            Flag("follow-link", "L", "bool", help="Always follow symbol link in SRC_PATH"),
            Flag("quiet", "q", "bool", help="Suppress progress output during copy"),
        ),
        minimum=2, maximum=2, completes="cp",
        description="Use '-' as the source to read a tar archive from stdin and extract it to a"
        " directory\ndestination in a container. Use '-' as the destination to stream a tar"
        " archive of a\ncontainer source to stdout.",
    ),
]  # fmt: skip
