"""push: images of this store into registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.pull import Wish, telling
from aruntime.daemon.session import Session
from aruntime.errors import ImageNotFound, UsageError
from aruntime.images import reference
from aruntime.images.reference import Reference

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon


async def run_push(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Upload an image to a registry."""
    text = parsed.args[0]
    name = reference.parse(text)
    if name.digest:
        raise UsageError(f"cannot push {text}: a digest is what a registry answers, give a tag")
    names = [name]
    quiet = parsed.boolean("quiet")
    if parsed.boolean("all-tags"):
        if name.familiar_name + ":" in text:
            raise UsageError("tag can't be used with --all-tags/-a")
        names = all_tags(daemon, name)
    elif not quiet and not text.endswith(f":{name.tag}"):
        await session.out(f"Using default tag: {name.tag}\n")
    if not quiet:
        await session.out(f"The push refers to repository [{name.name}]\n")
    for one in names:
        await push(session, daemon, one, quiet=quiet)
    return 0


def all_tags(daemon: Daemon, name: Reference) -> list[Reference]:
    """Return the names this store has in a repository.

    Raises:
        ImageNotFound: it has none.
    """
    parsed = [reference.parse(text) for text in sorted(daemon.images.names())]
    found = [one for one in parsed if one.tag and one.name == name.name]
    if not found:
        raise ImageNotFound(f"an image does not exist locally with the tag: {name.familiar_name}")
    return found


async def push(session: Session, daemon: Daemon, name: Reference, *, quiet: bool) -> None:
    """Push one image and tell the client how it goes, in docker's words.

    Raises:
        AruntimeError: as :meth:`aruntime.daemon.pushing.Pusher.push`.
    """
    image = await trio.to_thread.run_sync(daemon.images.resolve, str(name))
    puller = await daemon.registries.puller()
    from aruntime.daemon.pushing import Pusher
    from aruntime.daemon.registry.credentials import Credentials

    find_login = Credentials(session).find
    async with telling(session, Wish(quiet=quiet), session.out) as progress:
        pushed = await Pusher(puller).push(image, name, find_login, progress)
    daemon.events.publish("image", "push", name.familiar, {"name": name.familiar_name})
    if quiet:
        await session.out(f"{name}\n")
    else:
        await session.out(f"{name.tag}: digest: {pushed.digest} size: {pushed.size}\n")


COMMANDS = [
    Command(
        "push", "Upload an image to a registry", run_push, "NAME[:TAG]",
        (
            Flag("all-tags", "a", "bool", help="Push all tags of an image to the repository"),
            Flag("quiet", "q", "bool", help="Suppress verbose output"),
        ),
        minimum=1, maximum=1, section="common", completes="images",
    ),
]  # fmt: skip
