"""import, load, images, rmi, tag: images by docker's commands and flags.

Files are opened by the client at its own rights; what is in them is unpacked by a child process
(:mod:`aruntime.daemon.unpacking`). There is no builder here: docker and buildah build images, and
``load`` takes what they save.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING

import trio

from aruntime.daemon import disk_use, unpacking
from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.image_rows import (
    TABLE,
    TABLE_DIGESTS,
    TITLES,
    filtered,
    image_rows,
    with_names,
)
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, ImageNotFound, InvalidArchive, UsageError
from aruntime.images import reference
from aruntime.images.compression import Limits

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

STDIN = "-"
PIPE_BYTES = 1 << 20
FAILED = 1


@contextlib.asynccontextmanager
async def archive_source(session: Session, path: str) -> AsyncIterator[int]:
    """Yield a descriptor of an archive: a file of the client's, or its standard input.

    Raises:
        OSError: the client cannot open the file.
    """
    if path != STDIN:
        fd = await session.open(path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # more than one user's share of pipe memory
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed, session, writing)
            yield reading
            nursery.cancel_scope.cancel()
    finally:
        os.close(reading)


async def _feed(session: Session, fd: int) -> None:
    """Copy the client's standard input into a pipe until either ends; closes the pipe."""
    async with trio.lowlevel.FdStream(fd) as pipe:
        async for chunk in await session.stdin():
            try:
                await pipe.send_all(chunk)
            except trio.BrokenResourceError:
                return  # the child has seen enough and says why


def limits_of(parsed: Parsed) -> Limits:
    """Return what an archive may unpack to, as the flags say."""
    found = Limits()
    return found._replace(
        stream_bytes=parsed.integer("max-size") or found.stream_bytes,
        entries=parsed.integer("max-entries") or found.entries,
    )


@contextlib.contextmanager
def naming(action: str, path: str) -> Iterator[None]:
    """Say in the error which archive it is that is broken."""
    try:
        yield
    except InvalidArchive as error:
        shown = "standard input" if path == STDIN else path
        raise InvalidArchive(f"cannot {action} {shown}: {error.message}") from error


async def run_import(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Make an image of the tar archive of a root file system."""
    path, *names = parsed.args
    if path.startswith(("http://", "https://")):
        raise UsageError(
            f"cannot import from {path}: fetch it yourself,"
            f" as in 'curl -fsSL {path} | {PROGRAM} import - NAME'"
        )
    async with archive_source(session, path) as source:
        with naming("import", path):
            image = await unpacking.import_image(
                daemon.images,
                source,
                name=names[0] if names else "",
                change=parsed.strings("change"),
                message=parsed.string("message"),
                platform=parsed.string("platform"),
                limits=limits_of(parsed),
            )
    daemon.events.publish("image", "import", image.id, {"name": names[0] if names else image.id})
    await session.out(f"{image.id}\n")
    return 0


async def run_load(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Bring in the images of a docker or OCI archive."""
    path = parsed.string("input") or STDIN
    if path == STDIN and session.stdin_tty:
        raise UsageError(
            f"{PROGRAM} load reads an archive, not a terminal: give it a file with -i, or a pipe"
        )
    async with archive_source(session, path) as source:
        with naming("load", path):
            loaded = await unpacking.load_images(
                daemon.images,
                source,
                platform=parsed.string("platform"),
                limits=limits_of(parsed),
            )
    for one in loaded:
        for name, old in one.displaced.items():
            await session.out(
                f"The image {reference.parse(name).familiar} already exists,"
                f" renaming the old one with ID {old} to empty string\n"
            )
        for name in one.names:
            daemon.events.publish("image", "load", one.image.id, {"name": name})
            await session.out(f"Loaded image: {reference.parse(name).familiar}\n")
        if not one.names:
            daemon.events.publish("image", "load", one.image.id, {"name": one.image.id})
            await session.out(f"Loaded image ID: {one.image.id}\n")
    return 0


async def run_images(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List images."""
    now_ns = time.time_ns()
    every = daemon.images.list()
    images = filtered(every, parsed.filters(), daemon.images.resolve, now_ns)
    if parsed.args:
        images = [one for image in images if (one := with_names(image, parsed.args)) is not None]
    digests = parsed.boolean("digests")
    shown = parsed.string("format")
    rows = image_rows(
        images,
        now_ns=now_ns,
        digests=digests or ".Digest" in shown,
        full_ids=parsed.boolean("no-trunc"),
        containers=Counter(container.config.image_id for container in daemon.supervisor),
        shares=disk_use.shares(every),
    )
    if parsed.boolean("quiet") and not shown:
        shown = "{{.ID}}"
    table = TABLE_DIGESTS if digests else TABLE
    await session.out(render_rows(rows, format=shown, titles=TITLES, table=table))
    return 0


async def run_rmi(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove names of images, and the images that have no more."""
    force = parsed.boolean("force")
    failed = False
    for text in parsed.args:
        try:
            removals = await trio.to_thread.run_sync(
                daemon.images.remove, text, force, partial(unpacking.holders, daemon.supervisor)
            )
        except AruntimeError as error:
            await session.err(f"{PROGRAM}: {error.message}\n")
            failed = failed or not (force and isinstance(error, ImageNotFound))
            continue
        for removal in removals:
            action = "untag" if removal.action == "Untagged" else "delete"
            daemon.events.publish("image", action, removal.subject, {"name": removal.subject})
            await session.out(f"{removal}\n")
    await trio.to_thread.run_sync(
        daemon.images.collect, partial(unpacking.holders, daemon.supervisor)
    )
    return FAILED if failed else 0


async def run_tag(_session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Give an image another name."""
    source, target = parsed.args
    image = await trio.to_thread.run_sync(daemon.images.tag, source, target)
    daemon.events.publish("image", "tag", image.id, {"name": reference.parse(target).familiar})
    return 0


LIMITS = (
    Flag("max-size", "", "bytes", None, "bytes", "Refuse what unpacks to more (default 256g)"),
    Flag("max-entries", "", "int", None, "int", "Refuse more files in a layer (default 2000000)"),
)
PLATFORM = Flag("platform", "", "string", None, "string", "linux[/ARCHITECTURE[/VARIANT]]")

COMMANDS = [
    Command(
        "import", "Import the contents from a tarball to create an image", run_import,
        "FILE|- [REPOSITORY[:TAG]]",
        (
            Flag("change", "c", "list", None, "list", "Apply Dockerfile instruction to the image"),
            Flag("message", "m", "string", None, "string", "Set commit message for the image"),
            PLATFORM,
            *LIMITS,
        ),
        minimum=1, maximum=2,
    ),
    Command(
        "load", "Load images from a tar archive or STDIN", run_load, "",
        (
            Flag("input", "i", "string", None, "string", "Read from tar archive file"),
            Flag("quiet", "q", "bool", help="Suppress the load output"),
            PLATFORM,
            *LIMITS,
        ),
        maximum=0,
        description="Takes what docker save, podman save, skopeo and buildah write: docker and"
        " OCI archives, compressed or not.",
    ),
    Command(
        "images", "List images", run_images, "[REPOSITORY[:TAG]]",
        (
            Flag("all", "a", "bool", help="Show all images (there are no intermediate ones here)"),
            Flag("digests", "", "bool", help="Show digests"),
            Flag("filter", "f", "filter", None, "filter", "Filter output based on conditions"),
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("no-trunc", "", "bool", help="Don't truncate output"),
            Flag("quiet", "q", "bool", help="Only show image IDs"),
        ),
        maximum=1, section="common", completes="images",
    ),
    Command(
        "rmi", "Remove one or more images", run_rmi, "IMAGE [IMAGE...]",
        (
            Flag("force", "f", "bool", help="Force removal of the image"),
            Flag("no-prune", "", "bool", help="Accepted and ignored: there are no parent images"),
        ),
        minimum=1, completes="images",
    ),
    Command(
        "tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", run_tag,
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", minimum=2, maximum=2, completes="images",
    ),
]  # fmt: skip
