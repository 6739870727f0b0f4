"""Pulls that are killed, run out of disk or find the store damaged; and what check says after."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import proxies
from tests.harness import RunningDaemon, wait_until
from tests.images import made
from tests.registries import RunningRegistry

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("ARUNTIME_KILLS", "4"))
SEED = int(os.environ.get("ARUNTIME_SEED", "6"))
DISK_BYTES = 24 << 20


def blobs(daemon: RunningDaemon) -> Path:
    """Return the directory of a store's blobs."""
    return daemon.root / "images/blobs/sha256"


def test_a_pull_killed_at_any_point(
    bare_daemon: RunningDaemon, registry: RunningRegistry, busybox_tar: bytes, tmp_path: Path
) -> None:
    """kill -9 anywhere between the first request and the end: check is content, pull completes."""
    image = made(tmp_path, below=[busybox_tar])
    registry.push(image.path, "killed:1")
    name = f"{registry.host}/killed:1"
    start = time.monotonic()
    bare_daemon.run("pull", name)
    taken = time.monotonic() - start
    dice = random.Random(SEED)
    completed = 0
    for number in range(KILLS):
        if completed or not number:
            bare_daemon.run("rmi", "-f", name)
        with bare_daemon.popen(
            "pull", name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as pull:
            time.sleep(dice.random() * taken)  # the instant of the crash
            bare_daemon.kill()
            pull.wait(20)
        bare_daemon.start()
        assert bare_daemon.out("check", "-q") == "", f"kill {number} of seed {SEED}"
        completed = name in bare_daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}")
    bare_daemon.run("pull", name)
    assert bare_daemon.out("check", "-q") == ""
    assert bare_daemon.out("run", "--rm", name, "ls", "/random").split() == ["0", "1", "2"]


def test_killed_while_a_layer_comes_and_while_one_is_unpacked(
    bare_daemon: RunningDaemon, registry: RunningRegistry, busybox_tar: bytes, tmp_path: Path
) -> None:
    """Two points that time alone might miss; the client says in one line what happened."""
    image = made(tmp_path, below=[busybox_tar])
    registry.push(image.path, "killed:1")
    ingest = daemon_ingest(bare_daemon)
    with proxies.running(registry.host) as proxy:
        name = f"{proxy.host}/killed:1"
        for part in (image.parts[1], image.parts[-1]):
            fault = proxy.spoil(part, cut=1 << 20, gate=threading.Event())
            with bare_daemon.popen(
                "pull", name, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as pull:
                assert fault.reached.wait(30)
                if part == image.parts[-1]:
                    wait_until(lambda: any(ingest.glob("*/layers/*/bin")), what="a layer is there")
                bare_daemon.kill()
                _, err = pull.communicate(timeout=20)
            assert pull.returncode == 125
            assert len(err.splitlines()) == 1
            assert fault.gate is not None
            fault.gate.set()
            bare_daemon.start()
            assert bare_daemon.out("check", "-q") == ""
            assert not list(blobs(bare_daemon).iterdir())
        bare_daemon.run("pull", name)
    assert bare_daemon.out("run", "--rm", name, "ls", "/random").split() == ["0", "1", "2"]


def daemon_ingest(daemon: RunningDaemon) -> Path:
    """Return the directory in which pulls are under way."""
    return daemon.root / "images/ingest"


def test_a_client_that_goes_ends_its_pull(
    shared_daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """ctrl-c leaves nothing behind."""
    image = made(tmp_path)
    registry.push(image.path, "gone:1")
    with proxies.running(registry.host) as proxy:
        fault = proxy.spoil(image.parts[0], cut=1 << 20, gate=threading.Event())
        with shared_daemon.popen(
            "pull", f"{proxy.host}/gone:1", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as pull:
            assert fault.reached.wait(30)
            pull.terminate()
            pull.wait(20)
        wait_until(lambda: not list(daemon_ingest(shared_daemon).iterdir()), what="all is gone")
    assert shared_daemon.out("check", "-q", "--fast") == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[RunningDaemon]:
    """Yield a daemon whose root is on a small disk of its own."""
    daemon = RunningDaemon()
    daemon.root = tmp_path / "disk"
    daemon.root.mkdir()
    daemon.env["ARUNTIME_ROOT"] = str(daemon.root)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(daemon.root)]
    subprocess.run(mount, check=True)
    try:
        daemon.start()
        yield daemon
        daemon.destroy()
    finally:
        with contextlib.suppress(ProcessLookupError):
            daemon.stop()
        subprocess.run(["umount", str(daemon.root)], check=True)


@pytest.mark.parametrize("free", [2 << 20, 11 << 20], ids=["mid-download", "mid-unpack"])
def test_a_full_disk(
    small_disk: RunningDaemon, registry: RunningRegistry, tmp_path: Path, free: int
) -> None:
    """One line that says so; nothing stays of the image, and the pull works once there is room."""
    registry.push(made(tmp_path).path, "large:1")
    name = f"{registry.host}/large:1"
    ballast = small_disk.root / "ballast"
    used = shutil.disk_usage(small_disk.root)
    ballast.write_bytes(b"\1" * (used.free - free))

    failed = small_disk.run("pull", "-q", name, code=125)

    [line] = failed.stderr.splitlines()
    assert "is full" in line
    assert "free some, with 'aruntime rmi' for instance, and try again" in line
    assert small_disk.out("check", "-q") == ""
    assert not list(daemon_ingest(small_disk).iterdir())
    assert not list(blobs(small_disk).iterdir())
    ballast.unlink()
    small_disk.run("pull", name)
    assert small_disk.out("check", "-q") == ""


def rot(path: Path) -> None:
    """Change one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_damage_is_found_and_fetched_anew(
    shared_daemon: RunningDaemon, registry: RunningRegistry, busybox_tar: bytes, tmp_path: Path
) -> None:
    """By digest; what is unpacked goes on working, and only what was damaged comes again."""
    image = made(tmp_path, below=[busybox_tar])
    registry.push(image.path, "rotten:1")
    with proxies.running(registry.host) as proxy:
        name = f"{proxy.host}/rotten:1"
        shared_daemon.run("pull", name)
        assert shared_daemon.out("check").startswith("images: clean (")
        rot(blobs(shared_daemon) / image.blobs[2][7:])
        assert shared_daemon.out("check", "-q", "--fast") == ""

        found = shared_daemon.run("check", code=1).stdout.splitlines()

        assert found[0].startswith(f"images: layer {image.blobs[2]} of {name} is damaged: its cont")
        assert found[0].endswith(f"forgets it; then pull or load {name} again")
        assert found[1].startswith("images: 1 problem (")
        repaired = shared_daemon.run("check", "--repair", code=1).stdout.splitlines()
        assert repaired[0] == f"images: forgot blob {image.blobs[2]}"
        assert repaired[1].startswith(f"images: layer {image.blobs[2]} of {name} is missing")
        assert shared_daemon.out("run", "--rm", name, "ls", "/random").split() == ["0", "1", "2"]
        proxy.seen.clear()
        shared_daemon.run("pull", name)
        fetched = [one.path.rpartition("/")[2] for one in proxy.requests("GET", "/blobs/")]
        assert fetched == [image.blobs[2]]
        assert shared_daemon.out("check", "-q") == ""


def test_a_damaged_blob_that_is_to_be_unpacked_is_fetched_anew(
    daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """The layer's directory is lost and its archive rotten: a pull alone repairs both."""
    image = made(tmp_path)
    registry.push(image.path, "lost:1")
    with proxies.running(registry.host) as proxy:
        name = f"{proxy.host}/lost:1"
        daemon.run("pull", name)
        lost = next((daemon.root / "images/layers").glob("*/random/1")).parents[1]
        shutil.rmtree(lost)
        lost.with_suffix(".json").unlink()
        rot(blobs(daemon) / image.blobs[1][7:])
        proxy.seen.clear()

        daemon.run("pull", name)

        fetched = [one.path.rpartition("/")[2] for one in proxy.requests("GET", "/blobs/")]
        assert fetched == [image.blobs[1]]
    assert (lost / "random/1").exists()
    assert daemon.out("check", "-q") == ""


def test_a_damaged_document_is_fetched_anew(
    bare_daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """A pull alone repairs it, whether the daemon has noticed or not."""
    registry.push(made(tmp_path).path, "rotten:1")
    name = f"{registry.host}/rotten:1"
    bare_daemon.run("pull", name)
    documents = {
        "configuration": bare_daemon.out("inspect", "-f", "{{.Id}}", name),
        "manifest": registry.digest_of("rotten", "1"),
    }
    for kind, digest in documents.items():
        for restart in (False, True):
            rot(blobs(bare_daemon) / digest[7:])
            if restart:
                bare_daemon.stop()
                bare_daemon.start()
            assert f"{kind} {digest}" in bare_daemon.run("check", code=1).stdout
            bare_daemon.run("pull", name)
            assert bare_daemon.out("check", "-q") == ""
            assert bare_daemon.out("images", "-q", name)


def test_a_lost_layer_is_unpacked_from_its_blob(daemon: RunningDaemon, busybox_tar: bytes) -> None:
    """check --repair needs no registry for that; a container keeps what it stands on."""
    layers = daemon.root / "images/layers"
    daemon.run("run", "-d", "--name", "stands", "busybox", "sleep", "100")
    [record] = layers.glob("*.json")
    spoils: list[Callable[[], object]] = [lambda: record.write_bytes(b"{"), record.unlink]
    for spoil in spoils:
        daemon.stop()
        spoil()
        daemon.start()
        assert "is not unpacked, or its record is damaged" in daemon.run("check", code=1).stdout
        repaired = daemon.out("check", "--repair").splitlines()
        assert repaired[0].startswith("images: unpacked layer sha256:")
        assert repaired[1].startswith("images: clean (")
        assert daemon.out("run", "--rm", "busybox", "echo", "whole") == "whole"
        daemon.run("rm", "-f", "stands", code=None)


def test_what_a_container_holds_is_never_collected(
    daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """Not by rmi -f, a restart, a pull or a repair; it goes with the container."""
    daemon.run("run", "-d", "--name", "stands", "busybox", "sleep", "100")
    daemon.run("rmi", "-f", "busybox")
    daemon.run("kill", "stands")
    registry.push(made(tmp_path).path, "other:1")
    daemon.run("pull", f"{registry.host}/other:1")
    daemon.run("rmi", f"{registry.host}/other:1")
    daemon.kill()
    daemon.start()
    daemon.run("check", "--repair")

    daemon.run("start", "stands")

    assert daemon.out("exec", "stands", "echo", "here") == "here"
    assert daemon.out("check", "-q") == ""


def test_a_second_container_costs_no_copy(
    shared_daemon: RunningDaemon, registry: RunningRegistry, busybox_tar: bytes, tmp_path: Path
) -> None:
    """Layers are shared: 64 KiB of disk or less for one more container, however large the image."""
    registry.push(made(tmp_path, below=[busybox_tar]).path, "large:1")
    name = f"{registry.host}/large:1"
    shared_daemon.run("pull", name)
    shared_daemon.run("run", "-d", "--name", "first", name, "sleep", "100")
    before = disk_bytes(shared_daemon.root)

    shared_daemon.run("run", "-d", "--name", "second", name, "sleep", "100")

    assert disk_bytes(shared_daemon.root / "containers") > 0
    assert disk_bytes(shared_daemon.root) - before <= 64 << 10


def disk_bytes(directory: Path) -> int:
    """Bytes that the files of a tree take on the disk; the ledger, which has its own growth, not.

    Files with several names count once.
    """
    seen: dict[tuple[int, int], int] = {}
    for path, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            if name.startswith(("ledger", "aruntimed")):
                continue
            status = os.lstat(os.path.join(path, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
