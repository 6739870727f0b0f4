"""Mount options as the OCI runtime-spec lists them (config.md, Mounts), sorted by who takes them.

Pure. A mount has per-mount attributes (MOUNT_ATTR_*, mount_setattr(2)), a propagation, and
options of its file system. The ``r`` forms (``rro``) apply to the submounts of a bind too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec

from aruntime.errors import InvalidSpec
from aruntime.kernel import mounts

# option: (attributes to set, attributes to clear)
ATTRIBUTES = {
    "ro": (mounts.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, mounts.MOUNT_ATTR_RDONLY),
    "nosuid": (mounts.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, mounts.MOUNT_ATTR_NOSUID),
    "nodev": (mounts.MOUNT_ATTR_NODEV, 0),
    "dev": (0, mounts.MOUNT_ATTR_NODEV),
    "noexec": (mounts.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, mounts.MOUNT_ATTR_NOEXEC),
    "nodiratime": (mounts.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, mounts.MOUNT_ATTR_NODIRATIME),
    # The access time modes are one field of mutually exclusive values, cleared as a whole.
    "relatime": (mounts.MOUNT_ATTR_RELATIME, mounts.MOUNT_ATTR__ATIME),
    "norelatime": (mounts.MOUNT_ATTR_STRICTATIME, mounts.MOUNT_ATTR__ATIME),
    "atime": (mounts.MOUNT_ATTR_RELATIME, mounts.MOUNT_ATTR__ATIME),
    "noatime": (mounts.MOUNT_ATTR_NOATIME, mounts.MOUNT_ATTR__ATIME),
    "strictatime": (mounts.MOUNT_ATTR_STRICTATIME, mounts.MOUNT_ATTR__ATIME),
    "nostrictatime": (mounts.MOUNT_ATTR_RELATIME, mounts.MOUNT_ATTR__ATIME),
    "nosymfollow": (mounts.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mounts.MOUNT_ATTR_NOSYMFOLLOW),
}
PROPAGATIONS = {
    "private": mounts.MS_PRIVATE,
    "slave": mounts.MS_SLAVE,
    "shared": mounts.MS_SHARED,
    "unbindable": mounts.MS_UNBINDABLE,
}
WITHOUT_EFFECT = frozenset({"defaults", "async", "diratime", "nomand", "nolazytime", "loud"})
"""Superblock defaults, and what mount(8) keeps to itself."""
UNSUPPORTED = frozenset({"remount", "move", "idmap", "ridmap"})


class MountOptions(msgspec.Struct, frozen=True):
    """The options of one mount."""

    attributes: tuple[int, int]
    """MOUNT_ATTR_* to set and to clear; a later option wins over an earlier one."""
    recursive: tuple[int, int]
    """The same for the mount and its submounts."""
    propagation: int
    """MS_PRIVATE, MS_SLAVE …; 0 when none was asked for."""
    propagation_recursive: bool
    bind: bool
    bind_recursive: bool
    parameters: tuple[tuple[str, str | None], ...]
    """What is left for the file system itself: (key, value), None for a flag."""
    copy_up: bool
    """``tmpcopyup``: a tmpfs begins with what the image has at its destination."""


def parse(options: Sequence[str]) -> MountOptions:
    """Sort a list of mount options.

    Raises:
        InvalidSpec: an option that this runtime does not honour.
    """
    return _parse(tuple(options))


@functools.lru_cache(maxsize=256)
def _parse(options: tuple[str, ...]) -> MountOptions:
    """Sort once: most containers have the same mounts."""
    plain, recursive = [0, 0], [0, 0]
    propagation, propagation_recursive = 0, False
    parameters: list[tuple[str, str | None]] = []
    for option in options:
        stripped = option[1:] if option.startswith("r") else ""
        if option in ATTRIBUTES:
            _add(plain, *ATTRIBUTES[option])
        elif stripped in ATTRIBUTES:
            _add(recursive, *ATTRIBUTES[stripped])
        elif option in PROPAGATIONS or stripped in PROPAGATIONS:
            propagation_recursive = option not in PROPAGATIONS
            propagation = PROPAGATIONS[stripped if propagation_recursive else option]
        elif option in UNSUPPORTED:
            raise InvalidSpec(f"mount option {option!r} is not supported: leave it out")
        elif option not in WITHOUT_EFFECT | {"bind", "rbind", "tmpcopyup"}:
            key, sign, value = option.partition("=")
            parameters.append((key, value if sign else None))
    return MountOptions(
        attributes=(plain[0], plain[1]),
        recursive=(recursive[0], recursive[1]),
        propagation=propagation,
        propagation_recursive=propagation_recursive,
        bind="bind" in options or "rbind" in options,
        bind_recursive="rbind" in options,
        parameters=tuple(parameters),
        copy_up="tmpcopyup" in options,
    )


def _add(masks: list[int], to_set: int, to_clear: int) -> None:
    """Let a later option win over an earlier one of the same attribute."""
    masks[0] = masks[0] & ~to_clear | to_set
    masks[1] = masks[1] & ~to_set | to_clear
