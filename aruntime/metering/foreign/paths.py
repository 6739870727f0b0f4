"""What the path of a cgroup tells about the container in it. Pure functions.

The forms, with cgroupfs names first and systemd's second:

    docker       /docker/ID                          /system.slice/docker-ID.scope
    podman       /libpod_parent/libpod-ID            /machine.slice/libpod-ID.scope
    Kubernetes   /kubepods/QOS/podUID/ID             /kubepods.slice/…-podUID.slice/RUNTIME-ID.scope

ID is 64 hexadecimal digits. The parents can be configured, so they count only where the name
itself says nothing: a bare ID belongs to Kubernetes below ``kubepods`` and to docker below
``docker``; elsewhere the path cannot tell whose it is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DOCKER = "docker"
PODMAN = "podman"
KUBERNETES = "kubernetes"
CGROUP = "cgroup"
"""Of a cgroup that no known program's container is in."""

_ID = "[0-9a-f]{64}"
_BARE = re.compile(_ID)
_NAMED = re.compile(rf"(docker|libpod|cri-containerd|crio)-({_ID})(?:\.scope)?")
_MAKERS = {
    "docker": DOCKER,
    "libpod": PODMAN,
    "cri-containerd": KUBERNETES,
    "crio": KUBERNETES,
}
_POD = re.compile(r"(?:pod|kubepods(?:-[a-z]+)?-pod)([0-9A-Za-z_-]+?)(?:\.slice)?")
_QOS = re.compile(r"(?:kubepods-)?(besteffort|burstable|guaranteed)(?:\.slice)?")


class Origin(NamedTuple):
    """Whose container it is, as far as the path tells."""

    maker: str
    """``docker``, ``podman``, ``kubernetes``, or empty: a container's id of unknown origin."""
    id: str
    pod_uid: str = ""
    qos: str = ""
    """Kubernetes: ``guaranteed``, ``burstable`` or ``besteffort``."""


def parts_of(path: str) -> tuple[str, ...]:
    """The names on the way to a cgroup; none for the root."""
    return tuple(part for part in path.split("/") if part)


def origin(path: str) -> Origin | None:
    """Tell whose container is in a cgroup; None if the path is not of a container's form."""
    *above, name = parts_of(path) or ("",)
    in_kubernetes = any(part.startswith("kubepods") for part in above)
    named = _NAMED.fullmatch(name)
    if named is not None:
        maker = KUBERNETES if in_kubernetes else _MAKERS[named[1]]
        return _with_pod(Origin(maker, named[2]), above)
    if _BARE.fullmatch(name) is None:
        return None
    if in_kubernetes:
        return _with_pod(Origin(KUBERNETES, name), above)
    if "libpod_parent" in above:
        return None  # a pod of podman; its containers are below
    return Origin(DOCKER if "docker" in above else "", name)


def _with_pod(found: Origin, above: list[str]) -> Origin:
    """Add what the groups above a container of Kubernetes say."""
    if found.maker != KUBERNETES:
        return found
    uid, qos = "", "guaranteed"
    for part in above:
        if pod := _POD.fullmatch(part):
            # systemd's unit names cannot hold the hyphens of a uid.
            uid = pod[1].replace("_", "-")
        if (level := _QOS.fullmatch(part)) is not None:
            qos = level[1]
    return found._replace(pod_uid=uid, qos=qos)
