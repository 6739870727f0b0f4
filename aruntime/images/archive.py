"""``load``: from an archive of images to blobs and layers in an ingest directory.

Tells the kinds of archives apart and collects what they hold. A docker archive is read by
:mod:`aruntime.images.docker_archive`, an OCI layout by :mod:`aruntime.images.oci_archive`; one that
is both (docker from version 25 on writes such) is read as docker does, by its manifest.json.
Nothing is taken over here: the daemon commits what is returned. Standard library only.
"""

from __future__ import annotations

from typing import Any

from aruntime.errors import InvalidArchive
from aruntime.images import docker_archive, oci_archive
from aruntime.images.members import Members
from aruntime.images.platform import Platform
from aruntime.images.staging import Site


def load(site: Site, fd: int, platform: Platform) -> dict[str, Any]:
    """Stage every image of an archive.

    Args:
        site: where to work.
        fd: the archive, compressed or not, of any kind of descriptor; stays the caller's.
        platform: which image to take of one for several.

    Returns:
        ``{"images": [{"media_type", "digest", "size", "names"}]}``: the manifests, and the
        normalised references the archive gives them.

    Raises:
        InvalidArchive: the archive is broken, hostile, or none of images.
        Unavailable: the disk is full, or the host fails otherwise.
    """
    with Members(site, fd) as members:
        if members.has("manifest.json"):
            images = docker_archive.load(site, members)
        elif members.has("index.json"):
            images = oci_archive.load(site, members, platform)
        elif members.has("repositories"):
            images = docker_archive.load_legacy(site, members)
        else:
            raise InvalidArchive(
                "neither a docker nor an OCI archive: it has no manifest.json and no index.json;"
                " to make an image of a root file system use 'aruntime import'"
            )
    if not images:
        raise InvalidArchive("the archive holds no image")
    return {"images": [image._asdict() for image in images]}
