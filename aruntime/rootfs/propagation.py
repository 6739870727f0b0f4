"""Whether a bind can have the propagation asked for: that depends on the host's own mount.

A private mount has no peers: bound as shared it would only be shared with itself, and the mounts
the user waits for would never arrive. Pure; the mounts come from kernel.mounts.mountinfo.
"""

from __future__ import annotations

from collections.abc import Sequence

from aruntime.errors import InvalidParameter
from aruntime.kernel.mounts import MountInfo

NEEDED = {
    "shared": ("shared:",),
    "rshared": ("shared:",),
    "slave": ("shared:", "master:"),
    "rslave": ("shared:", "master:"),
}
"""Optional fields of mountinfo of which the source's mount must have one."""


def check_source(source: str, propagation: str, mounts: Sequence[MountInfo]) -> None:
    """Refuse a propagation that would have no effect (docker's rule).

    Args:
        source: absolute path of the host without symbolic links.
        propagation: as in the specification; ``""`` and the private forms are always possible.
        mounts: the host's.

    Raises:
        InvalidParameter: the mount that holds the source is not shared.
    """
    needed = NEEDED.get(propagation)
    if needed is None:
        return
    mount = mount_of(source, mounts)
    if any(field.startswith(needed) for field in mount.propagation):
        return
    kind = propagation.removeprefix("r")
    raise InvalidParameter(
        f"path {source} is mounted on {mount.mount_point} but it is not a shared mount, so "
        f"{kind} propagation is impossible: run mount --make-shared {mount.mount_point} first"
    )


def mount_of(path: str, mounts: Sequence[MountInfo]) -> MountInfo:
    """Return the mount a path lies on: of the longest mount points above it, the topmost.

    Raises:
        LookupError: not even ``/`` is mounted.
    """
    found = None
    for mount in mounts:
        above = f"{path.rstrip('/')}/".startswith(f"{mount.mount_point.rstrip('/')}/")
        if above and (found is None or len(mount.mount_point) >= len(found.mount_point)):
            found = mount
    if found is None:
        raise LookupError(f"no mount holds {path}")
    return found
