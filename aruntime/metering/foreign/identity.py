"""Who a foreign cgroup is to the meter: id, name, tenant, image and labels.

The path gives the id; the files of the program that made it give the rest, where it keeps any. A
cgroup of no known program is known by its path: its id is a hash of it, so that the same path is
the same container again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping

import msgspec

from aruntime.cgroups.driver import Cgroup
from aruntime.errors import InvalidParameter
from aruntime.metering.foreign import docker, kubernetes, podman
from aruntime.metering.foreign.known import TENANT_LABEL, Known, clean
from aruntime.metering.foreign.paths import (
    CGROUP,
    DOCKER,
    KUBERNETES,
    PODMAN,
    Origin,
    origin,
)
from aruntime.metering.subject import MeterSubject

DEFAULT_TENANT = "default"
MAKER_LABEL = "aruntime.engine"
"""In every record of a foreign cgroup: docker, podman, kubernetes or cgroup."""
PATH_LABEL = "aruntime.cgroup"
"""In every record of a foreign cgroup: its path."""
SHORT_ID = 12
MAKERS = (DOCKER, PODMAN, KUBERNETES)
_TENANT_CHARACTERS = 128


class States(msgspec.Struct, frozen=True):
    """Where each program keeps its files."""

    docker: str = docker.DEFAULT_ROOT
    podman: str = podman.DEFAULT_ROOT
    kubernetes: str = kubernetes.DEFAULT_ROOT


def checked(given: Mapping[str, str]) -> dict[str, str]:
    """Check directories that a user named, by program.

    Raises:
        InvalidParameter: a program is unknown, or a directory is no absolute path.
    """
    for maker, directory in given.items():
        if maker not in MAKERS or not directory.startswith("/"):
            raise InvalidParameter(
                f"invalid state directory {maker}={directory}, use one of "
                f"{', '.join(MAKERS)} with an absolute path, such as docker=/var/lib/docker"
            )
    return dict(given)


def states(given: Mapping[str, str]) -> States:
    """Find the files of each program: as given, else by its own configuration on this host.

    A configuration that cannot be read counts as absent. Blocks.
    """
    return States(
        docker=given.get(DOCKER) or _configured(docker.root, docker.DEFAULT_ROOT),
        podman=given.get(PODMAN) or _configured(podman.root, podman.DEFAULT_ROOT),
        kubernetes=given.get(KUBERNETES) or kubernetes.DEFAULT_ROOT,
    )


def _configured(read: Callable[[], str], otherwise: str) -> str:
    try:
        return read()
    except OSError:
        return otherwise


def identify(path: str, cgroup: Cgroup, where: States) -> MeterSubject:
    """Return what the meter is told about a foreign cgroup. Reads files; blocks.

    What cannot be read leaves its fields empty and the name to the path.
    """
    found = origin(path)
    if found is None:
        return plain(path, cgroup)
    known = _ask(found, where)
    maker = found.maker or (DOCKER if known is not None else CGROUP)
    known = known or Known()
    labels = dict(known.labels)
    if found.pod_uid:
        labels.setdefault(kubernetes.POD_UID, found.pod_uid)
        labels.setdefault(kubernetes.QOS, found.qos)
    return MeterSubject(
        id=found.id,
        name=known.name or found.id[:SHORT_ID],
        tenant=tenant_of(labels),
        image=known.image,
        image_digest=known.image_digest,
        labels=labels | {MAKER_LABEL: maker, PATH_LABEL: clean(path)},
        created_ns=known.created_ns,
        cgroup=cgroup,
    )


def tenant_of(labels: Mapping[str, str]) -> str:
    """Return who pays by the labels; the default tenant if they do not say, or no valid name."""
    tenant = labels.get(TENANT_LABEL, "")
    valid = 0 < len(tenant) <= _TENANT_CHARACTERS and tenant.isprintable()
    return tenant if valid and tenant == tenant.strip() else DEFAULT_TENANT


def signature(subject: MeterSubject, where: States) -> tuple[int, ...] | None:
    """Return a value that changes when docker's file of a container does; None for others.

    A container of podman or Kubernetes is renamed so rarely that nobody looks. Blocks.
    """
    if subject.labels.get(MAKER_LABEL) != DOCKER:
        return None
    try:
        found = os.stat(docker.state_file(where.docker, subject.id))
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def is_kept(subject: MeterSubject, where: States) -> bool:
    """Whether its program still has the container and may start it again under the same id.

    Kubernetes makes a new container each time, and nobody says so of other cgroups. Blocks.
    """
    maker = subject.labels.get(MAKER_LABEL)
    try:
        if maker == DOCKER:
            return docker.is_known(where.docker, subject.id)
        return maker == PODMAN and podman.is_known(where.podman, subject.id)
    except OSError:
        return False


def _ask(found: Origin, where: States) -> Known | None:
    """Look into the files of the program that made it, by the form of its name."""
    try:
        if found.maker == PODMAN:
            return podman.read(where.podman, found.id)
        if found.maker == KUBERNETES:
            return kubernetes.read(where.kubernetes, found.id)
        return docker.read(where.docker, found.id)
    except OSError:
        return None


def plain(path: str, cgroup: Cgroup | None) -> MeterSubject:
    """Return what the meter is told of a cgroup that is known by its path alone."""
    digest = hashlib.sha256(b"cgroup:" + path.encode(errors="surrogateescape")).hexdigest()
    return MeterSubject(
        id=digest,
        name=clean(path.strip("/")),
        labels={MAKER_LABEL: CGROUP, PATH_LABEL: clean(path)},
        cgroup=cgroup,
    )
