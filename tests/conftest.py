"""What all tests share: the leak check, probes for what a test needs, images, a real daemon."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Speeds are compared in tests/bench; an example that waits for another test's processes is right.
settings.register_profile("aruntime", deadline=None)
settings.load_profile("aruntime")

# A shell starts what it puts into the background with these ignored, and so would every command
# that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

pytest_plugins = ["tests.harness", "tests.registries"]

CGROUP_ROOT = Path("/sys/fs/cgroup")
NAMESPACE_END_SECONDS = 10

PACKAGES = {
    "busybox": "busybox-static",
    "nft": "nftables",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "debootstrap": "debootstrap",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "docker-registry": "docker-registry",
    "htpasswd": "apache2-utils",
    "systemd-analyze": "systemd",
    "openssl": "openssl",
    "buildah": "buildah",
    "zsh": "zsh",
    "bash": "bash",
    "curl": "curl",
    "iperf3": "iperf3",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "conmon": "conmon",
}


def require_program(name: str) -> str:
    """Return the path of a program a test needs.

    A missing one is loud: the test fails in CI, and elsewhere is skipped with the package to
    install.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/lib")
    if found is not None:
        return found
    advice = f"{name} is missing: apt-get install {PACKAGES.get(name, name)}"
    if os.environ.get("CI"):
        pytest.fail(advice)
    pytest.skip(advice)


@pytest.fixture(scope="session")
def busybox() -> str:
    """Return the path of a statically linked busybox."""
    return require_program("busybox")


def children() -> set[int]:
    """Return the pids of this process's children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread may end while it is listed
            found.update(map(int, (task / "children").read_text().split()))
    return found


def descriptors() -> dict[int, str]:
    """Return the open descriptors of this process and what they refer to."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def mounts() -> list[str]:
    """Return the mounts this process sees, without their changing numbers."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(" ".join(line.split()[3:5]) for line in lines)


def links() -> set[str]:
    """Return the network links of this network namespace."""
    return set(os.listdir("/sys/class/net"))


def own_cgroups() -> set[str]:
    """Return the cgroups that tests of this process made, in every hierarchy."""
    return {str(path) for path in CGROUP_ROOT.glob(f"*/aruntime-test-{os.getpid()}*")}


def nft_tables() -> str:
    """Return the nftables tables, or nothing where nft is missing."""
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    if nft is None or os.geteuid() != 0:
        return ""
    return subprocess.run([nft, "list", "tables"], capture_output=True, text=True).stdout


OWN_NAMES = (f"art{os.getpid() % 100000}x", f"aruntime-test-{os.getpid()}")


def footprint(place: Path, *, tables: bool) -> dict[str, set[str]]:
    """Return what a test could leave behind, by kind.

    In CI the tests are alone on the host and everything counts; elsewhere other programs, and
    other runs of the tests, make mounts and links of their own meanwhile, so only what bears our
    names does, or the place of our temporary files.
    """
    own_names = (*OWN_NAMES, str(place))
    shared = {
        "mounts": set(mounts()),
        "links": links(),
        "nftables": set(nft_tables().splitlines()) if tables else set(),
    }
    if not os.environ.get("CI"):
        for kind, names in shared.items():
            shared[kind] = {name for name in names if any(own in name for own in own_names)}
    return {
        **shared,
        "children": {str(pid) for pid in children()},
        "cgroups": own_cgroups(),
        "descriptors": {f"{fd} {target}" for fd, target in descriptors().items()},
    }


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail a test that leaves children, descriptors, mounts, links, cgroups or tables behind."""
    real = any(request.node.get_closest_marker(name) for name in ("kernel", "e2e"))
    place = tmp_path_factory.getbasetemp()
    before = footprint(place, tables=real)

    yield

    left = difference(before, footprint(place, tables=real))
    if left:
        gc.collect()  # slow, so only now: what waits for the collector is not left behind
        left = difference(before, footprint(place, tables=real))
    # A network namespace ends in a kernel worker, some time after its last process: its links last
    # until then (cleanup_net in net/core/net_namespace.c). What is really left behind stays.
    deadline = time.monotonic() + NAMESPACE_END_SECONDS
    while left.keys() == {"links"} and time.monotonic() < deadline:
        time.sleep(0.02)
        left = difference(before, footprint(place, tables=real))
    assert not left, f"left behind: {left}"


def difference(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return what is there after and was not before, by kind."""
    return {kind: sorted(now - before[kind]) for kind, now in after.items() if now - before[kind]}


@pytest.fixture(scope="session")
def interpreter() -> str:
    """Return the interpreter that runs the tests: its environment has aruntime installed."""
    return sys.executable
