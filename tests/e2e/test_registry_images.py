"""Images of other tools through a registry, and ours to other tools: umoci and buildah.

An image of debootstrap is pulled by ``tests/seeds/test_registry.py``. podman and docker are tried
too if ARUNTIME_TEST_PEERS is set: starting them takes half a minute.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import docker, image, podman
from tests.bench.engine import Engine, find
from tests.bench.place import Place, kill
from tests.bench.pulling import WAIT
from tests.conftest import require_program
from tests.harness import RunningDaemon
from tests.registries import CONFIG, RunningRegistry, free_port

pytestmark = pytest.mark.e2e


def run(*words: str | Path, **env: str) -> str:
    """Run a program that must succeed."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture
def rootfs(busybox_tar: bytes, tmp_path: Path) -> Path:
    """Return a directory with a root file system."""
    path = tmp_path / "rootfs"
    path.mkdir()
    subprocess.run(["tar", "-C", str(path), "-xf", "-"], input=busybox_tar, check=True)
    (path / "etc/motd").write_text("made elsewhere\n")
    return path


def test_an_image_of_umoci(
    shared_daemon: RunningDaemon, registry: RunningRegistry, rootfs: Path, tmp_path: Path
) -> None:
    """umoci makes it, skopeo brings it to the registry, we pull and run it as it says."""
    umoci = require_program("umoci")
    layout = tmp_path / "layout"
    run(umoci, "init", "--layout", layout)
    run(umoci, "new", "--image", f"{layout}:1")
    run(umoci, "insert", "--image", f"{layout}:1", rootfs, "/")
    run(
        umoci, "config", "--image", f"{layout}:1", "--config.cmd", "cat", "--config.cmd", "motd",
        "--config.workingdir", "/etc",
    )  # fmt: skip
    run(
        require_program("skopeo"), "copy", "--dest-tls-verify=false", f"oci:{layout}:1",
        f"docker://{registry.host}/umoci:1",
    )  # fmt: skip

    assert shared_daemon.run("run", "--rm", f"{registry.host}/umoci:1").stdout == "made elsewhere\n"


def test_an_image_of_buildah_and_back(
    shared_daemon: RunningDaemon, registry: RunningRegistry, rootfs: Path, tmp_path: Path
) -> None:
    """buildah builds on what we pushed, pushes it, and we run that: one layer is known already."""
    buildah = require_program("buildah")
    base = f"{registry.host}/base:1"
    shared_daemon.run("tag", "busybox", base)
    shared_daemon.run("push", base)
    storage = [f"--root={tmp_path}/root", f"--runroot={tmp_path}/run", "--storage-driver=vfs"]
    own = f"{registry.host}/buildah:1"

    container = run(buildah, *storage, "from", "--tls-verify=false", base).strip()
    run(buildah, *storage, "copy", container, rootfs / "etc/motd", "/etc/motd")
    run(buildah, *storage, "config", "--cmd", "cat /etc/motd", container)
    run(buildah, *storage, "commit", "--tls-verify=false", container, f"docker://{own}")

    out = shared_daemon.out("pull", own)
    assert out.count(": Already exists") == 1
    assert shared_daemon.out("run", "--rm", own) == "made elsewhere"


@contextlib.contextmanager
def peer(place: Place, name: str) -> Iterator[Engine]:
    """Yield docker or podman, running."""
    module = {"docker": docker, "podman": podman}[name]
    lacking = module.missing()
    if lacking:
        pytest.skip(f"{name} needs {lacking}")
    tar = place.base / "image.tar"
    image.write_tar(str(find("busybox")), tar)
    yield module.opened(place, tar)


@pytest.mark.skipif(
    not os.environ.get("ARUNTIME_TEST_PEERS"), reason="ARUNTIME_TEST_PEERS is not set"
)
@pytest.mark.parametrize("name", ["podman", "docker"])
def test_peers_run_what_we_push_and_we_what_they_push(
    shared_daemon: RunningDaemon, registry: RunningRegistry, name: str
) -> None:
    """Pulled, run and pushed by the other engine, through one registry's storage."""
    shared_daemon.run("tag", "busybox", f"{registry.host}/ours:1")
    shared_daemon.run("push", f"{registry.host}/ours:1")
    with Place() as place, peer(place, name) as other:
        # podman has a network namespace of its own, so a registry of its own on the same files.
        port = free_port()
        config = place.base / "registry.yml"
        config.write_text(CONFIG.format(storage=registry.storage, port=port, more=""))
        program = require_program("docker-registry")
        pid = other.runner.launch([program, "serve", str(config)], place.base / "registry.log")
        try:
            other.runner.measure([["/bin/bash", "-c", WAIT.format(port=port)]])
            host = f"127.0.0.1:{port}"
            insecure = ["--tls-verify=false"] if name == "podman" else []
            other.runner.measure([other.command("pull", f"{host}/ours:1")])
            ran = other.run("none", "echo", "from the registry")
            ran[ran.index(image.NAME)] = f"{host}/ours:1"
            assert other.runner.output(ran) == b"from the registry\n"
            other.runner.measure(
                [
                    other.command("tag", image.NAME, f"{host}/theirs:1"),
                    other.command("push", *insecure, f"{host}/theirs:1"),
                ]
            )
        finally:
            kill([pid])
    theirs = f"{registry.host}/theirs:1"
    assert shared_daemon.run("run", "--rm", theirs, "echo", "pulled").stdout == "pulled\n"
