"""The images of the source document under a daemon that all tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import archives
from tests.harness import RunningDaemon

IMAGES = ("centos:latest", "centos:7", "ubuntu:latest")


def saved_images(debian_tar: Path) -> bytes:
    """Return the archive ``docker save`` would make of an image with all three names."""
    layer = debian_tar.read_bytes()
    config = archives.image_config([layer], Cmd=["/bin/bash"])
    return archives.docker_archive([layer], *IMAGES, config=config)


@pytest.fixture(scope="module")
def host(debian_tar: Path) -> Iterator[RunningDaemon]:
    """Yield a daemon whose images centos, centos:7 and ubuntu are a small Debian with bash."""
    daemon = RunningDaemon()
    try:
        daemon.start()
        daemon.run("load", stdin=saved_images(debian_tar))
        daemon.run("run", "--rm", "centos", "true")  # makes the bridge and the cgroups' parent
        yield daemon
    finally:
        daemon.destroy()


@pytest.fixture(autouse=True)
def no_containers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the containers that a test leaves to a daemon it shares with others."""
    if "host" not in request.fixturenames:
        yield
        return
    daemon: RunningDaemon = request.getfixturevalue("host")
    before = daemon.container_ids()
    yield
    left = daemon.container_ids() - before
    if left:
        daemon.run("rm", "-f", "-v", *left)
