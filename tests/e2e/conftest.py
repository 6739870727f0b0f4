"""Daemons that the tests of a module share, where starting one per test would say nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon


@pytest.fixture(scope="module")
def shared_daemon(busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield a daemon with the image busybox; bridge, tables and cgroups' parent exist already."""
    daemon = RunningDaemon()
    try:
        daemon.start()
        daemon.load_busybox(busybox_tar)
        daemon.run("run", "--rm", "-P", "--expose", "9", "busybox", "true")
        yield daemon
    finally:
        daemon.destroy()


@pytest.fixture(scope="module")
def debian_daemon(shared_daemon: RunningDaemon, debian_tar: Path) -> RunningDaemon:
    """Return the shared daemon with the image debian, which has perl and util-linux."""
    shared_daemon.run("import", str(debian_tar), "debian")
    return shared_daemon


@pytest.fixture(autouse=True)
def no_containers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the containers and networks that a test leaves to a daemon it shares with others."""
    if "shared_daemon" not in request.fixturenames:
        yield
        return
    daemon: RunningDaemon = request.getfixturevalue("shared_daemon")
    before = daemon.container_ids()
    yield
    left = daemon.container_ids() - before
    if left:
        daemon.run("rm", "-f", "-v", *left)
    if daemon.process is not None and daemon.out("network", "ls", "-qf", "type=custom"):
        daemon.run("network", "prune", "-f")
