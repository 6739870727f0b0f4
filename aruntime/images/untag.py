"""What removing an image means: docker's rules for ``rmi``, as a decision.

Pure: an image, the containers and the request in; which names go, and whether the image goes,
out. Carrying it out is :mod:`aruntime.images.store`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from aruntime.errors import Conflict, ImageInUse
from aruntime.images import layout, reference
from aruntime.images.image import Image


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A container, as far as images are concerned."""

    id: str
    name: str
    image_id: str
    layers: tuple[str, ...]
    """Directories it has as lowerdirs, whether its image still exists or not."""
    running: bool


class Removal(msgspec.Struct, frozen=True):
    """One line of what ``rmi`` prints."""

    action: str
    """``Untagged`` or ``Deleted``."""
    subject: str

    def __str__(self) -> str:
        return f"{self.action}: {self.subject}"


class Plan(msgspec.Struct, frozen=True):
    """What is to be done."""

    names: tuple[str, ...]
    """Normalised references to forget."""
    delete: bool
    """Whether the image itself goes."""


def plan_removal(image: Image, name: str, force: bool, holders: Sequence[Holder]) -> Plan:
    """Decide about one argument of ``rmi``.

    Args:
        image: what it stands for.
        name: the normalised reference it is, or empty if it is an id.
        force: as ``rmi -f``.
        holders: all containers.

    Raises:
        ImageInUse: a container uses the image, and force is not given or does not help.
        Conflict: an id with names in several repositories, without force.
    """
    using = [holder for holder in holders if holder.image_id == image.id]
    names = image.names + image.digests
    if name:
        left = tuple(other for other in names if other != name)
        if not any("@" not in other for other in left) and _same_repository((name, *left)):
            # The last tag takes the digests of its repository along.
            if using and not force:
                raise ImageInUse(
                    f"cannot remove {familiar(name)}: {_uses(using)} its image"
                    f" {reference.short_id(image.id)}; remove {_them(using)} first or use -f"
                )
            return Plan((name, *left), not any(holder.running for holder in using))
        return Plan((name,), False)
    if not _same_repository(names) and not force:
        raise Conflict(
            f"cannot delete {reference.short_id(image.id)}: it has names in several"
            f" repositories ({', '.join(map(familiar, names))}); use -f to remove them all"
        )
    running = [holder for holder in using if holder.running]
    if running or (using and not force):
        blocking = running or using
        hint = (
            f"stop and remove {_them(blocking)} first"
            if running
            else (f"remove {_them(blocking)} first or use -f")
        )
        raise ImageInUse(
            f"cannot delete {reference.short_id(image.id)}: {_uses(blocking)} it; {hint}"
        )
    return Plan(names, True)


def deletions(image: Image, others: Iterable[Image], holders: Iterable[Holder]) -> list[Removal]:
    """List what goes with an image: its id, then the chain ids no one else needs, top first."""
    needed = {layer for other in others for layer in other.layers}
    needed |= {layer for holder in holders for layer in holder.layers}
    chain = layout.chain_ids(image.diff_ids)
    gone = [
        chain_id for chain_id, layer in zip(chain, image.layers, strict=True) if layer not in needed
    ]
    return [Removal("Deleted", image.id), *(Removal("Deleted", one) for one in reversed(gone))]


def familiar(name: str) -> str:
    """Return the familiar form of a normalised reference."""
    return reference.parse(name).familiar


def _same_repository(names: Sequence[str]) -> bool:
    return len({reference.parse(name).name for name in names}) <= 1


def _uses(holders: Sequence[Holder]) -> str:
    listed = ", ".join(f"{holder.name} ({holder.id[:12]})" for holder in holders)
    if len(holders) == 1:
        return f"container {listed} uses"
    return f"containers {listed} use"


def _them(holders: Sequence[Holder]) -> str:
    return "it" if len(holders) == 1 else "them"
