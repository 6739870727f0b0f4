"""A real web server, Debian's nginx, served by published ports to real clients."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.e2e.test_ports import free_port, gateway
from tests.harness import RunningDaemon, wait_until
from tests.networks import elsewhere

pytestmark = pytest.mark.e2e

PACKAGES = ("nginx", "nginx-common", "libssl3", "libpcre2-8-0")
INSTALL = """
DEBIAN_FRONTEND=noninteractive dpkg --force-depends --install /debs/*.deb
exec nginx -g 'daemon off;'
"""
PAGE = "Welcome to nginx!"


@pytest.fixture(scope="session")
def nginx_packages() -> Path:
    """Return a directory with Debian's nginx and what the minimal system lacks for it, cached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "aruntime-tests"
    found = cache / "nginx-bookworm"
    if not found.exists():
        partial = cache / f"nginx-bookworm.{os.getpid()}"
        partial.mkdir(parents=True)
        apt = require_program("apt-get")
        subprocess.run([apt, "download", *PACKAGES], cwd=partial, check=True, capture_output=True)
        with contextlib.suppress(FileExistsError):
            partial.rename(found)
    return found


@pytest.fixture
def web(debian_daemon: RunningDaemon, nginx_packages: Path) -> Iterator[int]:
    """Yield the host's port of a container ``web`` in the network ``front`` that runs nginx."""
    port = free_port()
    debian_daemon.run("network", "create", "front")
    debian_daemon.run(
        "run", "-d", "--name", "web", "--network", "front", "-p", f"{port}:80",
        "-v", f"{nginx_packages}:/debs:ro", "debian", "sh", "-c", INSTALL,
    )  # fmt: skip
    wait_until(lambda: PAGE in curl(f"http://127.0.0.1:{port}/"), 180, "nginx answers")
    yield port
    debian_daemon.run("rm", "-f", "web")
    debian_daemon.run("network", "rm", "front")


def curl(url: str, *prefix: str) -> str:
    """Return a page, nothing if there is no answer."""
    done = subprocess.run(
        [*prefix, require_program("curl"), "-s", "--max-time", "10", url],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_nginx_is_served(debian_daemon: RunningDaemon, web: int) -> None:
    """To curl on the host, in another network namespace, and to containers, by name and port."""
    own = gateway(debian_daemon)
    assert PAGE in curl(f"http://localhost:{web}/")
    assert PAGE in curl(f"http://{own}:{web}/")
    with elsewhere() as (name, host):
        assert PAGE in curl(f"http://{host}:{web}/", "ip", "netns", "exec", name)
        assert "198.18." in debian_daemon.out("exec", "web", "cat", "/var/log/nginx/access.log")
    wget = ("busybox", "wget", "-q", "-O", "-")
    for flags, url in (
        (("--network", "front"), "http://web/"),
        (("--network", "front"), f"http://{own}:{web}/"),
        ((), f"http://{own}:{web}/"),
    ):
        assert PAGE in debian_daemon.out("run", "--rm", *flags, *wget, url)
