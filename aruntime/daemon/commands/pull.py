"""pull, and what run and create do about an image that is not here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.images import LIMITS, PLATFORM, limits_of
from aruntime.daemon.commands.transfers import Silence, Transfers
from aruntime.daemon.session import Session
from aruntime.errors import ImageNotFound, InvalidReference, UsageError
from aruntime.images import platform as platforms
from aruntime.images import reference
from aruntime.images.compression import Limits
from aruntime.images.image import Image
from aruntime.images.reference import Reference

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

Write = Callable[[str], Awaitable[None]]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody wants images pulled."""

    platform: str = ""
    quiet: bool = False
    limits: Limits = Limits()


async def run_pull(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Download an image from a registry."""
    text = parsed.args[0]
    quiet = parsed.boolean("quiet")
    wish = Wish(platform=parsed.string("platform"), quiet=quiet, limits=limits_of(parsed))
    name = as_typed(text)
    if parsed.boolean("all-tags"):
        if name.digest or name.familiar_name + ":" in text:
            raise UsageError("tag can't be used with --all-tags/-a")
        for tag in await all_tags(session, daemon, name):
            await pull(session, daemon, name._replace(tag=tag), wish, session.out)
        return 0
    if not name.digest and not text.endswith(f":{name.tag}") and not quiet:
        await session.out(f"Using default tag: {name.tag}\n")
    await pull(session, daemon, name, wish, session.out)
    await session.out(f"{name}\n")
    return 0


async def all_tags(session: Session, daemon: Daemon, name: Reference) -> list[str]:
    """Return the tags of a repository.

    Raises:
        ImageNotFound, AccessDenied, RegistryFailed: the registry has none, refuses, or fails.
    """
    from aruntime.daemon.registry.credentials import Credentials

    puller = await daemon.registries.puller()
    return await puller.tags(name, Credentials(session).find)


async def pull(
    session: Session, daemon: Daemon, name: Reference, wish: Wish, write: Write
) -> Image:
    """Pull one image and tell the client how it goes, in docker's words.

    Raises:
        AruntimeError: as :meth:`aruntime.daemon.pulling.Puller.pull`.
    """
    puller = await daemon.registries.puller()
    from aruntime.daemon.registry.credentials import Credentials

    chosen = platforms.parse(wish.platform) if wish.platform else platforms.host()
    find_login = Credentials(session).find
    if not wish.quiet:
        await write(f"{name.digest or name.tag}: Pulling from {name.path}\n")
    async with telling(session, wish, write) as progress:
        pulled = await puller.pull(name, chosen, find_login, progress, wish.limits)
    if not wish.quiet:
        news = "Downloaded newer image for" if pulled.newer else "Image is up to date for"
        await write(f"Digest: {pulled.digest}\nStatus: {news} {name.familiar}\n")
    daemon.events.publish("image", "pull", name.familiar, {"name": name.familiar_name})
    return pulled.image


@contextlib.asynccontextmanager
async def telling(session: Session, wish: Wish, write: Write) -> AsyncIterator[Transfers | Silence]:
    """Yield what hears of layers and tells the client."""
    if wish.quiet:
        yield Silence()
        return
    terminal = session.stdout_tty if write == session.out else session.stderr_tty
    async with Transfers(write, session.cols if terminal else 0).shown() as shown:
        yield shown


async def wanted_image(session: Session, parsed: Parsed, daemon: Daemon) -> Image:
    """Return the image that run or create names, pulled as ``--pull`` says.

    Raises:
        ImageNotFound: it is not here and must not be pulled; and others as :func:`pull`.
    """
    text, when = parsed.args[0], parsed.string("pull")
    if when != "always":
        try:
            return daemon.images.resolve(text)
        except ImageNotFound:
            if when == "never" or reference.is_sha256(text) or reference.is_identifier(text):
                raise
    name = as_typed(text)
    quiet = parsed.boolean("quiet")
    if when != "always" and not quiet:
        await session.err(f"Unable to find image '{name.familiar}' locally\n")
    return await pull(session, daemon, name, Wish(quiet=quiet), session.err)


def as_typed(text: str) -> Reference:
    """Read the name of an image to pull; with a digest, a tag beside it means nothing.

    Raises:
        InvalidReference: it is none, or its digest is of a kind that nothing here can check.
    """
    found = reference.parse(text)
    if found.digest and not reference.is_sha256(found.digest):
        raise InvalidReference(f"cannot pull {text}: a digest must be a sha256 one")
    return found._replace(tag="") if found.digest else found


COMMANDS = [
    Command(
        "pull", "Download an image from a registry", run_pull, "NAME[:TAG|@DIGEST]",
        (
            Flag("all-tags", "a", "bool", help="Download all tagged images in the repository"),
            PLATFORM,
            Flag("quiet", "q", "bool", help="Suppress verbose output"),
            *LIMITS,
        ),
        minimum=1, maximum=1, section="common",
    ),
]  # fmt: skip
