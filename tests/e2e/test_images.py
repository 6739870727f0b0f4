"""import, load, images, tag, rmi as users type them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import archives
from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e


@pytest.fixture(name="rootfs")
def _rootfs(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(archives.tar(archives.file("bin/x", b"#!/bin/sh", mode=0o755)))
    return path


def test_import_from_file_and_stdin(bare_daemon: RunningDaemon, rootfs: Path) -> None:
    """Both print the id; the changes are in the image; the list shows it as docker's does."""
    from_file = bare_daemon.out(
        "import", "-c", 'CMD ["/bin/x"]', "--change", "ENV A=1", "-m", "by hand", str(rootfs),
        "me/tool:1",
    )  # fmt: skip
    from_stdin = bare_daemon.out("import", "-", stdin=gzip.compress(rootfs.read_bytes()))

    assert from_file.startswith("sha256:")
    config = json.loads(bare_daemon.out("inspect", from_file))[0]["Config"]
    assert (config["Cmd"], config["Env"]) == (["/bin/x"], ["A=1"])
    lines = [line.split() for line in bare_daemon.out("images").splitlines()]
    assert lines[0] == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert lines[1][:3] == ["<none>", "<none>", from_stdin[7:19]]
    assert lines[2][:3] == ["me/tool", "1", from_file[7:19]]
    assert lines[2][-1] == "9B"
    assert bare_daemon.out("images", "-q", "--no-trunc").split() == [from_stdin, from_file]
    assert bare_daemon.out("images", "me/tool", "--format", "{{.ID}}") == from_file[7:19]
    assert bare_daemon.out("images", "-f", "dangling=true", "-q") == from_stdin[7:19]


def test_a_relative_path_is_the_clients(bare_daemon: RunningDaemon, rootfs: Path) -> None:
    """The file is opened by the client, in its directory and at its rights."""
    done = subprocess.run(
        [bare_daemon.client, "import", rootfs.name, "x"],
        cwd=rootfs.parent,
        env=bare_daemon.env,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")


FAILURES = [
    (["import", "/nonexistent.tar", "x"], "/nonexistent.tar: no such file or directory"),
    (["import", "http://host/x.tar"], "fetch it yourself, as in 'curl -fsSL http://host/x.tar"),
    (["import", "-", "UPPER"], "must be lowercase"),
    (["import", "-c", "RUN x", "-"], "RUN is not a valid change"),
    (["import", "-", "x"], "cannot import standard input: the input is not a tar archive"),
    (["load", "-i", "/etc/passwd"], "cannot load /etc/passwd: the input is not a tar archive"),
    (["load", "-i", "/etc"], "cannot load /etc: the archive cannot be read: is a directory"),
    (["load"], "cannot load standard input: the input is not a tar archive"),
    (["images", "-f", "x=y"], "invalid filter 'x'"),
    (["tag", "missing", "x"], "no such image: missing"),
    (["import"], "requires at least 1"),
]


def test_failures_are_one_line(bare_daemon: RunningDaemon) -> None:
    """What, why, and what to do; the exit code is 125 and nothing is left."""
    for args, message in FAILURES:
        done = bare_daemon.run(*args, stdin=b"", code=125)

        assert done.stderr.startswith("aruntime: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert bare_daemon.out("images", "-q") == ""
        assert os.listdir(bare_daemon.root / "images/ingest") == []


def test_load_prints_what_docker_prints(bare_daemon: RunningDaemon, tmp_path: Path) -> None:
    """One line for each name, or the id; a name taken from another image is told."""
    layer = archives.tar(archives.file("a", b"1"))
    path = tmp_path / "saved.tar"
    path.write_bytes(archives.docker_archive([layer], "me/tool:1", "tool:2"))
    image_id = archives.digest(archives.image_config([layer]))

    assert bare_daemon.out("load", "-q", "-i", str(path)).splitlines() == [
        "Loaded image: me/tool:1",
        "Loaded image: tool:2",
    ]
    other = archives.docker_archive([archives.tar(archives.file("b"))], "tool:2")
    assert bare_daemon.out("load", stdin=gzip.compress(other)).splitlines() == [
        f"The image tool:2 already exists, renaming the old one with ID {image_id} to empty string",
        "Loaded image: tool:2",
    ]
    nameless = archives.tar(*archives.docker_members([layer], []))
    assert bare_daemon.out("load", stdin=nameless) == f"Loaded image ID: {image_id}"


def test_tag_and_rmi(daemon: RunningDaemon) -> None:
    """Names go one by one, the image with the last; a container in the way is named."""
    image_id = daemon.out("images", "-q", "--no-trunc")
    daemon.run("tag", "busybox", "me/box:1")
    container = daemon.out("create", "--name", "holder", "busybox", "true")

    assert daemon.out("rmi", "me/box:1") == "Untagged: me/box:1"
    refused = daemon.run("rmi", "busybox", code=1)
    assert f"container holder ({container[:12]}) uses its image" in refused.stderr
    assert daemon.run("rmi", image_id[7:19], code=1).stdout == ""
    daemon.run("rm", "holder")
    lines = daemon.out("rmi", "busybox").splitlines()
    assert lines[:2] == ["Untagged: busybox:latest", f"Deleted: {image_id}"]
    assert daemon.run("rmi", "busybox", code=1).stderr.startswith("aruntime: no such image")
    assert daemon.run("rmi", "-f", "busybox", code=0).stderr != ""
    for name in ("layers", "blobs/sha256", "ingest"):
        assert os.listdir(daemon.root / "images" / name) == []


def test_a_container_outlives_its_image(daemon: RunningDaemon) -> None:
    """rmi -f of an image in use leaves what its containers stand on."""
    daemon.run("create", "--name", "box", "busybox", "echo", "still here")

    daemon.run("rmi", "-f", "busybox")

    assert daemon.out("images", "-q") == ""
    assert daemon.out("start", "-a", "box") == "still here"


def test_images_outlive_the_daemon(daemon: RunningDaemon) -> None:
    """A killed daemon's images are there for the next."""
    shown = "{{.ID}} {{.Repository}}:{{.Tag}} {{.CreatedAt}} {{.Size}} {{.Digest}}"
    before = daemon.out("images", "--format", shown)
    daemon.kill()
    daemon.start()

    assert daemon.out("images", "--format", shown) == before
    assert daemon.out("run", "--rm", "busybox", "echo", "works") == "works"


def test_groups_are_the_plain_commands(daemon: RunningDaemon) -> None:
    """image ls is images; a group alone shows what it has; inspect knows its kind only."""
    shown = ("--format", "{{.ID}} {{.Repository}}:{{.Tag}} {{.CreatedAt}} {{.Size}}")
    assert daemon.out("image", "ls", *shown) == daemon.out("images", *shown)
    assert "\n  history  Show the history" in daemon.out("image")
    assert daemon.out("image", "history", "-q", "busybox") == daemon.out("images", "-q")
    daemon.run("container", "create", "--name", "box", "busybox", "true")
    assert daemon.out("container", "ls", "-a", "--format", "{{.Names}}") == "box"
    assert daemon.out("image", "inspect", "-f", "{{.RepoTags}}", "busybox") == "[busybox:latest]"
    assert "no such image: box" in daemon.run("image", "inspect", "box", code=1).stderr
    assert "is not a command of" in daemon.run("image", "nothing", code=1).stderr


def test_save_to_a_file_and_to_a_pipe(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Both write the same; a missing image leaves the file that is there alone."""
    file = tmp_path / "saved.tar"
    daemon.run("save", "-o", str(file), "busybox")
    assert file.stat().st_mode & 0o777 == 0o600
    piped = subprocess.run(
        [daemon.client, "save", "busybox"], env=daemon.env, capture_output=True, check=True
    )
    assert piped.stdout == file.read_bytes()

    assert "no such image" in daemon.run("save", "-o", str(file), "busybox", "no", code=125).stderr
    assert piped.stdout == file.read_bytes()
    before = daemon.out("inspect", "busybox")
    daemon.run("rmi", "busybox")
    assert daemon.out("load", "-i", str(file)) == "Loaded image: busybox:latest"
    assert daemon.out("inspect", "busybox") == before
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with daemon.popen("save", "-o", str(fifo), "busybox"), fifo.open("rb") as reader:
        assert reader.read() == piped.stdout
    full = daemon.run("save", "-o", "/dev/full", "busybox", code=125)
    assert full.stderr.startswith("aruntime: /dev/full: no space left on device; ")
    refused = daemon.run("save", "-o", str(tmp_path / "no/such"), "busybox", code=125)
    assert refused.stderr.endswith("no such file or directory\n")


def test_a_second_container_copies_nothing(daemon: RunningDaemon) -> None:
    """It has the image's layers below it, and takes 64 KiB of the disk at most."""
    daemon.run("run", "--name", "first", "busybox", "true")
    daemon.run("run", "--name", "second", "busybox", "true")
    shown = "{{.Id}} {{.GraphDriver.Data.LowerDir}}"
    first, second = (
        daemon.out("inspect", "-f", shown, name).split() for name in ("first", "second")
    )
    assert first[1] == second[1]
    paths = [daemon.root / "containers" / second[0]]
    paths += paths[0].rglob("*")
    assert sum(path.lstat().st_blocks * 512 for path in paths) <= 64 << 10
