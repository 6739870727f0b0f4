"""``image prune``, ``container prune``, ``system prune``: removing what nobody uses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from aruntime.daemon import disk_use, networking, unpacking
from aruntime.daemon.commands import network, values, volume
from aruntime.daemon.commands.confirmation import FORCE, confirmed
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, Conflict, NetworkNotFound, UsageError
from aruntime.images.image import Image
from aruntime.images.untag import Removal

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon
    from aruntime.daemon.record import Container

SURE = "Are you sure you want to continue?"
Filters = Mapping[str, Sequence[str]]


class Wanted(msgspec.Struct, frozen=True):
    """What ``--filter`` of a prune lets through."""

    before_ns: int
    """Unix time that a thing must have been made before."""
    labels: tuple[str, ...]
    other_labels: tuple[str, ...]
    """Labels that it must not have."""

    def lets(self, created_ns: int, labels: Mapping[str, str]) -> bool:
        """Whether a thing may go."""
        return (
            created_ns < self.before_ns
            and all(_has(labels, text) for text in self.labels)
            and not any(_has(labels, text) for text in self.other_labels)
        )


def _has(labels: Mapping[str, str], text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def wanted(filters: Filters, now_ns: int) -> Wanted:
    """Read the filters of a prune. Pure.

    Raises:
        UsageError: an unknown key, or a time that is none.
    """
    before_ns = now_ns
    for key, texts in filters.items():
        if key not in ("label", "label!", "until"):
            raise UsageError(f"invalid filter '{key}': there are label, label!, until")
        try:
            if key == "until":
                before_ns = min(before_ns, *(values.parse_moment(text, now_ns) for text in texts))
        except ValueError as error:
            raise UsageError(f"invalid filter 'until': {error}") from None
    return Wanted(before_ns, tuple(filters.get("label", ())), tuple(filters.get("label!", ())))


async def prune_containers(daemon: Daemon, filters: Filters) -> tuple[list[str], int]:
    """Remove containers that do not run; returns their ids and how much they took."""
    rule = wanted(filters, time.time_ns())
    removed: list[str] = []
    total = 0
    for container in daemon.supervisor:
        config = container.config
        if _is_active(container) or not rule.lets(config.created_ns, config.labels):
            continue
        size = await trio.to_thread.run_sync(disk_use.tree_bytes, f"{container.directory}/upper")
        try:
            await daemon.supervisor.remove(container)
        except Conflict:
            continue  # it has been started meanwhile
        removed.append(container.id)
        total += size
    return removed, total


def _is_active(container: Container) -> bool:
    return container.supervised is not None or container.launching is not None


async def prune_images(
    daemon: Daemon, filters: Filters, *, every: bool
) -> tuple[list[Removal], int]:
    """Remove images without a name, or all that no container uses.

    Returns:
        What ``rmi`` would have said, and the bytes of layers that went.
    """
    now_ns = time.time_ns()
    filters = dict(filters)
    for text in filters.pop("dangling", ()):
        try:
            every = every or not values.parse_bool(text)
        except ValueError:
            raise UsageError(f"invalid filter 'dangling={text}': must be true or false") from None
    rule = wanted(filters, now_ns)
    before = await trio.to_thread.run_sync(daemon.images.list)
    used = {container.config.image_id for container in daemon.supervisor}
    removals: list[Removal] = []
    for image in before:
        named = bool(image.names or image.digests)
        if image.id in used or (named and not every):
            continue
        if rule.lets(image.created_ns, image.config.labels):
            removals += await _remove_image(daemon, image)
    after = await trio.to_thread.run_sync(daemon.images.list)
    holders = partial(unpacking.holders, daemon.supervisor)
    await trio.to_thread.run_sync(daemon.images.collect, holders)
    return removals, disk_use.layer_bytes(before) - disk_use.layer_bytes(after)


async def _remove_image(daemon: Daemon, image: Image) -> list[Removal]:
    """Remove an image name by name: one that a container has come to use meanwhile stays."""
    removals: list[Removal] = []
    holders = partial(unpacking.holders, daemon.supervisor)
    for text in [*image.names, *image.digests] or [image.id]:
        try:
            removals += await trio.to_thread.run_sync(daemon.images.remove, text, False, holders)
        except AruntimeError:
            break  # in use, or gone with its last tag
    return removals


def _told(title: str, lines: Sequence[str]) -> str:
    return f"{title}:\n" + "".join(f"{line}\n" for line in lines) + "\n" if lines else ""


def _removal_lines(removals: Sequence[Removal]) -> list[str]:
    return [f"{one.action.lower()}: {one.subject}" for one in removals]


async def run_container_prune(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove all containers that do not run."""
    question = f"WARNING! This will remove all stopped containers.\n{SURE}"
    if not parsed.boolean("force") and not await confirmed(session, question):
        return 0
    ids, size = await prune_containers(daemon, parsed.filters())
    text = _told("Deleted Containers", ids)
    await session.out(f"{text}Total reclaimed space: {values.format_size(size)}\n")
    return 0


async def run_image_prune(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove images that nobody needs."""
    every = parsed.boolean("all")
    which = "all images without at least one container associated to them" if every else (
        "all dangling images"
    )  # fmt: skip
    question = f"WARNING! This will remove {which}.\n{SURE}"
    if not parsed.boolean("force") and not await confirmed(session, question):
        return 0
    removals, size = await prune_images(daemon, parsed.filters(), every=every)
    text = _told("Deleted Images", _removal_lines(removals))
    await session.out(f"{text}Total reclaimed space: {values.format_size(size)}\n")
    return 0


async def run_system_prune(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Remove everything that nobody uses; volumes only if asked."""
    every, with_volumes = parsed.boolean("all"), parsed.boolean("volumes")
    filters = parsed.filters()
    wanted(filters, time.time_ns())
    if with_volumes and "until" in filters:
        raise UsageError("the 'until' filter is not supported with --volumes")
    question = system_question(every, with_volumes)
    if not parsed.boolean("force") and not await confirmed(session, question):
        return 0
    ids, total = await prune_containers(daemon, filters)
    text = _told("Deleted Containers", ids)
    text += _told("Deleted Networks", await _prune_networks(daemon, filters))
    if with_volumes:
        names, size = await volume.prune(daemon, filters, every=False)
        text += _told("Deleted Volumes", names)
        total += size
    removals, size = await prune_images(daemon, filters, every=every)
    text += _told("Deleted Images", _removal_lines(removals))
    await session.out(f"{text}Total reclaimed space: {values.format_size(total + size)}\n")
    return 0


def system_question(every: bool, with_volumes: bool) -> str:
    """Return what ``system prune`` asks. Pure."""
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if with_volumes:
        lines.append("all anonymous volumes not used by at least one container")
    if every:
        lines.append("all images without at least one container associated to them")
    else:
        lines.append("all dangling images")
    listed = "".join(f"  - {line}\n" for line in lines)
    return f"WARNING! This will remove:\n{listed}\n{SURE}"


async def _prune_networks(daemon: Daemon, filters: Filters) -> list[str]:
    removed: list[str] = []
    unused = network.unused(daemon, {key: list(texts) for key, texts in filters.items()})
    for one in unused:
        try:
            await networking.remove(daemon.parts, one)
        except (Conflict, NetworkNotFound):
            continue  # a container came, or somebody else removed it, meanwhile
        removed.append(one.name)
    return removed


FILTER = Flag("filter", "", "filter", None, "filter", "label, label!, until")
COMMANDS = [
    Command(
        "container prune", "Remove all stopped containers", run_container_prune, "",
        (FILTER, FORCE), maximum=0,
    ),
    Command(
        "image prune", "Remove unused images", run_image_prune, "",
        (
            Flag("all", "a", "bool", help="Remove all unused images, not just dangling ones"),
            FILTER,
            FORCE,
        ),
        maximum=0,
    ),
    Command(
        "system prune", "Remove unused data", run_system_prune, "",
        (
            Flag("all", "a", "bool", help="Remove all unused images not just dangling ones"),
            FILTER,
            FORCE,
            Flag("volumes", "", "bool", help="Prune anonymous volumes"),
        ),
        maximum=0,
    ),
]  # fmt: skip
