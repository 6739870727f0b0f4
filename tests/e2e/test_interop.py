"""What aruntime saves, others load and run; what others build and save, aruntime runs.

skopeo and umoci always; podman where the other tests of archives need it too. docker, and running
what podman and buildah make, take daemons and minutes: ARUNTIME_TEST_PEERS=1. docs/images.md says
with which versions that has passed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

PEERS = pytest.mark.skipif(
    not os.environ.get("ARUNTIME_TEST_PEERS"), reason="starts other engines: ARUNTIME_TEST_PEERS=1"
)
SCRIPT = "echo made >/made; rm /etc/group; rm -rf /home; mkdir /home; echo 1 >/home/x; ln /made /m"
CHECK = "cat /made /home/x; test -e /etc/group || echo gone; stat -c %h /m"
CHECKED = "made\n1\ngone\n2\n"
BUILD = 'FROM me/made:1\nRUN echo built >/built && rm /m\nENTRYPOINT ["cat"]\nCMD ["/built"]\n'

V1_ONLY = ("unshare", "-m", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>&-; exec "$@"', "sh")
"""crun refuses hosts that have a cgroup2 tree beside version 1."""

Shell = Callable[..., str]


@pytest.fixture(scope="module")
def made(shared_daemon: RunningDaemon) -> RunningDaemon:
    """Return a daemon with the image me/made:1: two layers, whiteouts, an opaque directory."""
    shared_daemon.run("run", "--name", "maker", "busybox", "sh", "-c", SCRIPT)
    shared_daemon.run("commit", "-c", f'CMD ["sh", "-c", "{CHECK}"]', "maker", "me/made:1")
    assert shared_daemon.out("run", "--rm", "me/made:1") + "\n" == CHECKED
    return shared_daemon


@pytest.fixture
def archive(made: RunningDaemon, tmp_path: Path) -> Path:
    """Return an archive of two images."""
    path = tmp_path / "saved.tar"
    made.run("save", "-o", str(path), "me/made:1", "busybox")
    return path


def output(*words: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a program that must succeed and return what it prints."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_finds_every_name(made: RunningDaemon, tmp_path: Path, form: str) -> None:
    """By docker's manifest or the OCI index; the image is the same one."""
    skopeo = require_program("skopeo")
    path = tmp_path / "saved.tar"
    made.run("save", "--format", form, "-o", str(path), "me/made:1", "busybox")
    for name in ("docker.io/me/made:1", "docker.io/library/busybox:latest"):
        found = json.loads(output(skopeo, "inspect", "--config", f"{form}:{path}:{name}"))
        shown = json.loads(made.out("inspect", name))[0]
        assert found["rootfs"]["diff_ids"] == shown["RootFS"]["Layers"]
        assert found["config"].get("Cmd") == shown["Config"]["Cmd"]


def test_umoci_unpacks_what_was_saved(made: RunningDaemon, archive: Path, tmp_path: Path) -> None:
    """Whiteouts, opaque directories and hard links mean to it what they mean to us."""
    layout = tmp_path / "layout"
    layout.mkdir()
    output("tar", "-C", layout, "-xf", archive)
    image = f"{layout}:docker.io/me/made:1"
    output(require_program("umoci"), "unpack", "--image", image, tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    assert (root / "made").read_text() == "made\n"
    assert not (root / "etc/group").exists()
    assert os.listdir(root / "home") == ["x"]
    assert os.path.samefile(root / "made", root / "m")


@pytest.fixture
def podman() -> Iterator[Shell]:
    """Yield a function that runs podman or buildah with storage of its own."""
    with tempfile.TemporaryDirectory(prefix="p") as short:  # podman's limit: 50 bytes
        # The limits it would set take CAP_SYS_RESOURCE.
        configuration = Path(short) / "containers.conf"
        limits = '["nofile=1000:1000", "nproc=1000:1000"]'
        configuration.write_text(f"[containers]\ndefault_ulimits = {limits}\n")
        env = {**os.environ, "CONTAINERS_CONF": str(configuration)}

        def run(program: str, *words: str | Path) -> str:
            own = [f"--root={short}/r", f"--runroot={short}/n", "--storage-driver=vfs"]
            own += [f"--tmpdir={short}/t", "--cgroup-manager=cgroupfs"] * (program == "podman")
            return output(*V1_ONLY, require_program(program), *own, *words, env=env)

        yield run


def test_podman_loads_what_was_saved(archive: Path, podman: Shell) -> None:
    """All names, as they are in full."""
    podman("podman", "load", "-i", archive)
    names = podman("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert sorted(names) == ["docker.io/library/busybox:latest", "docker.io/me/made:1"]


@PEERS
def test_podman_and_buildah_run_and_build(
    made: RunningDaemon, archive: Path, podman: Shell, tmp_path: Path
) -> None:
    """Both ways: they run and build upon our image, we run what they made."""
    own = ("--network=none", "--cgroups=disabled")
    podman("podman", "load", "-i", archive)
    assert podman("podman", "run", "--rm", *own, "me/made:1") == CHECKED
    (tmp_path / "Dockerfile").write_text(BUILD)
    for form in ("oci", "docker"):
        name = f"docker.io/me/built:{form}"
        options = ("--network=host", "--isolation=chroot", f"--format={form}", "-t", name)
        podman("buildah", "bud", *options, tmp_path)
        saved = tmp_path / f"{form}.tar"
        podman("podman", "save", f"--format={form}-archive", "-o", saved, name)
        made.run("load", "-i", str(saved))
        assert made.out("run", "--rm", name) == "built"


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Shell]:
    """Yield a function that runs docker's client against a dockerd of our own."""
    group = f"aruntime-test-{os.getpid()}-docker"
    base = tmp_path / "docker"
    base.mkdir()
    (base / "daemon.json").write_text("{}")
    words = [
        "unshare", "-m", "--propagation", "private", require_program("dockerd"),
        f"--config-file={base}/daemon.json", f"--data-root={base}/data",
        f"--exec-root={base}/exec", f"--pidfile={base}/pid", f"--host=unix://{base}/s",
        "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none",
        "--userland-proxy=false", "--oom-score-adjust=0", f"--cgroup-parent=/{group}",
    ]  # fmt: skip
    with (base / "log").open("wb") as log:
        daemon = subprocess.Popen(words, stdout=log, stderr=log)
    env = {
        "PATH": os.environ["PATH"], "HOME": str(base), "DOCKER_HOST": f"unix://{base}/s",
        "DOCKER_BUILDKIT": "0",
    }  # fmt: skip
    try:
        wait_until((base / "s").exists, 60, "dockerd listens")
        yield lambda *words: output(require_program("docker"), *words, env=env)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        for path in Path("/sys/fs/cgroup").glob(f"*/{group}"):
            for below in sorted(path.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()
            path.rmdir()
        shutil.rmtree(base)


@PEERS
def test_docker_runs_and_builds(
    made: RunningDaemon, archive: Path, docker: Shell, tmp_path: Path
) -> None:
    """Both ways: docker runs, builds upon and imports what is ours, we what is docker's."""
    own = ("--network", "none")
    docker("load", "-i", archive)
    ids = docker("images", "--no-trunc", "--format", "{{.ID}}").split()
    assert set(ids) <= set(made.out("images", "--no-trunc", "-q").split())
    assert docker("run", "--rm", *own, "me/made:1") == CHECKED
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(BUILD)
    docker("build", *own, "-q", "-t", "me/built:1", tmp_path / "context")
    docker("run", *own, "--name", "theirs", "me/made:1", "sh", "-c", "echo 2 >/two; rm /made")
    docker("commit", "theirs", "me/theirs:1")
    docker("save", "-o", tmp_path / "docker.tar", "me/built:1", "me/theirs:1")
    docker("export", "-o", tmp_path / "export.tar", "theirs")
    made.run("load", "-i", str(tmp_path / "docker.tar"))
    assert made.out("run", "--rm", "me/built:1") == "built"
    script = "cat /two; test -e /made || echo gone"
    assert made.out("run", "--rm", "me/theirs:1", "sh", "-c", script) == "2\ngone"
    made.run("import", str(tmp_path / "export.tar"), "exported")
    assert made.out("run", "--rm", "exported", "sh", "-c", script) == "2\ngone"
    made.run("export", "-o", str(tmp_path / "ours.tar"), "maker")
    docker("import", tmp_path / "ours.tar", "ours")
    assert docker("run", "--rm", *own, "ours", "cat", "/made") == "made\n"
