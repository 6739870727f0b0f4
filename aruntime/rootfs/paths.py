"""Paths as specifications write them, brought into the form that plans use. Pure text.

Nothing is looked up: that is :mod:`aruntime.rootfs.resolve`, inside the container's root.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Sequence

from aruntime.errors import InvalidSpec


@functools.lru_cache(maxsize=1024)
def normal_path(path: str) -> str:
    """Return a path inside the container in normal form.

    Raises:
        InvalidSpec: it is empty or the root itself.
    """
    normal = posixpath.normpath(f"/{path}")
    # POSIX lets exactly two leading slashes stand.
    normal = f"/{normal.lstrip('/')}"
    if normal == "/" or "\0" in normal:
        raise InvalidSpec(f"destination {path!r} is no path below the root")
    return normal


def absolute(path: str, field: str) -> str:
    """Return a path that is absolute.

    Raises:
        InvalidSpec: it is not; ``field`` is named.
    """
    if not path.startswith("/"):
        raise InvalidSpec(f"{field}: {path!r} is not an absolute path")
    return path


def from_bundle(path: str, bundle: str, field: str) -> str:
    """Return a path of the host; a relative one starts from the bundle.

    Raises:
        InvalidSpec: it is relative and there is no bundle.
    """
    joined = posixpath.join(bundle, path) if path else ""
    if not joined.startswith("/"):
        raise InvalidSpec(f"{field} {path!r} is no absolute path")
    return joined


def sysctl_path(name: str) -> str:
    """Return the file below /proc/sys; the first separator decides, as in sysctl(8).

    ``net.ipv4.conf.eth0/100.forwarding`` and ``net/ipv4/conf/eth0.100/forwarding`` are the same.

    Raises:
        InvalidSpec: it is no name of a parameter.
    """
    dot, slash = name.find("."), name.find("/")
    by_slash = slash >= 0 and (dot < 0 or slash < dot)
    path = name if by_slash else name.translate(str.maketrans("./", "/."))
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise InvalidSpec(f"linux.sysctl: {name!r} is no kernel parameter")
    return path


def cgroup_directory(controllers: Sequence[str]) -> str:
    """Return where hosts mount a v1 hierarchy below /sys/fs/cgroup: ``cpu,cpuacct``, ``systemd``.

    Raises:
        InvalidSpec: the name cannot be that of a directory.
    """
    name = ",".join(controllers).removeprefix("name=")
    if not name or "/" in name or name in (".", ".."):
        raise InvalidSpec(f"cgroup hierarchy {name!r} has no usable name")
    return name
