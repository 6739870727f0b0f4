"""cp, diff, export, commit: the files of containers, running, stopped and never started."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import archives
from tests.harness import RunningDaemon, wait_until
from tests.terminal import Terminal
from tests.traces import children_of

pytestmark = pytest.mark.e2e


@pytest.fixture(params=["running", "created", "paused"])
def box(request: pytest.FixtureRequest, shared_daemon: RunningDaemon) -> Iterator[str]:
    """Yield the name of a container with a volume, in each state that it can be copied in."""
    name, state = f"box-{request.param}", request.param
    daemon = shared_daemon
    own = ("--name", name, "-v", f"{name}:/data", "--network", "none", "busybox")
    if state == "created":
        daemon.run("create", *own, "sleep", "999")
    else:
        daemon.run("run", "-d", *own, "sleep", "999")
    if state == "paused":
        daemon.run("pause", name)
    yield name
    daemon.run("rm", "-f", name)
    daemon.run("run", "--rm", "-v", f"{name}:/data", "busybox", "sh", "-c", "rm -rf /data/*")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory of the host to copy."""
    root = tmp_path / "source"
    (root / "sub").mkdir(parents=True)
    (root / "sub/x").write_text("content")
    (root / "sub/x").chmod(0o640)
    (root / "link").symlink_to("sub/x")
    os.link(root / "sub/x", root / "hard")
    return root


def copying_children(daemon: RunningDaemon) -> list[int]:
    """Return the processes that read or write files of containers for a daemon."""
    assert daemon.process is not None
    found: list[int] = []
    for child in children_of(daemon.process.pid):
        with contextlib.suppress(OSError):  # it has ended
            if b"transfer.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def tree(path: Path) -> list[tuple[str, int, str]]:
    """Describe what is below a directory: path, mode, content or target."""
    return [
        (
            str(one.relative_to(path)),
            one.lstat().st_mode,
            os.readlink(one) if one.is_symlink() else one.read_text() if one.is_file() else "",
        )
        for one in sorted(path.rglob("*"))
    ]


def test_in_and_out(shared_daemon: RunningDaemon, box: str, source: Path, tmp_path: Path) -> None:
    """What goes in comes out as it was, volumes too; errors are one line and change nothing."""
    daemon = shared_daemon
    daemon.run("cp", str(source), f"{box}:/root/new")
    daemon.run("cp", f"{box}:/root/new", str(tmp_path / "back"))
    assert tree(tmp_path / "back") == tree(source)
    daemon.run("cp", str(source / "sub/x"), f"{box}:/data/")
    daemon.run("cp", f"{box}:data/x", str(tmp_path / "x"))
    assert (tmp_path / "x").read_text() == "content"

    missing = daemon.run("cp", f"{box}:/no/such", str(tmp_path / "no"), code=125)
    assert missing.stderr == "aruntime: cannot read /no/such: no such file or directory\n"
    assert not (tmp_path / "no").exists()
    local = daemon.run("cp", str(tmp_path / "no"), f"{box}:/root", code=125)
    assert local.stderr == f"aruntime: cannot read {tmp_path}/no: no such file or directory\n"
    nowhere = daemon.run("cp", f"{box}:/root/new", str(tmp_path / "no/x"), code=125)
    assert nowhere.stderr.count("\n") == 1
    assert "is no existing directory" in nowhere.stderr
    over = daemon.run("cp", str(source), f"{box}:/etc/passwd", code=125)
    assert over.stderr == "aruntime: cannot copy a directory to /etc/passwd: that is no directory\n"
    assert not (daemon.root / "containers" / daemon.out("ps", "-aqf", f"name={box}", "--no-trunc")
                / "copying").exists()  # fmt: skip


def test_archives_on_standard_streams(shared_daemon: RunningDaemon, box: str) -> None:
    """cp - unpacks a tar, compressed or not; cp … - prints one."""
    daemon = shared_daemon
    content = archives.tar(archives.file("one", b"1", uid=5), archives.directory("two"))
    done = subprocess.run(
        ["gzip", "-c"], input=content, capture_output=True, check=True
    ).stdout  # fmt: skip
    daemon.run("cp", "-", f"{box}:/mnt", stdin=done)
    printed = subprocess.run(
        [daemon.client, "cp", f"{box}:/mnt", "-"], env=daemon.env, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(printed)) as tar:
        assert tar.getnames() == ["mnt", "mnt/one", "mnt/two"]
        assert tar.getmember("mnt/one").uid == 5
    cut = daemon.run("cp", "-", f"{box}:/mnt", stdin=content[:600], code=125)
    assert "the archive ends" in cut.stderr
    refused = daemon.run("cp", "-", f"{box}:/etc/passwd", stdin=content, code=125)
    assert "it must be a directory" in refused.stderr


def test_files_of_the_host_are_the_callers(shared_daemon: RunningDaemon, tmp_path: Path) -> None:
    """They are read and written at the client's rights, whatever the daemon's are."""
    daemon = shared_daemon
    daemon.run("create", "--name", "rights", "busybox", "true")
    secret, closed, own = tmp_path / "secret", tmp_path / "closed", tmp_path / "own"
    secret.write_text("secret")
    secret.chmod(0o600)
    closed.mkdir(mode=0o755)
    own.mkdir()
    for path in (secret, closed):
        os.chown(path, 65534, 65534)
    without_privileges = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", daemon.client]

    def run(*args: str) -> str:
        return subprocess.run(
            [*without_privileges, *args], env=daemon.env, stderr=subprocess.PIPE, text=True,
            cwd=own, check=False,
        ).stderr  # fmt: skip

    denied = "permission denied\n"
    assert run("cp", str(secret), "rights:/root/stolen") == f"aruntime: {secret}: {denied}"
    assert (
        run("cp", "rights:/etc/passwd", str(closed)) == f"aruntime: cannot write 'passwd': {denied}"
    )
    assert run("cp", "rights:/etc/passwd", ".") == run("cp", "passwd", "rights:/tmp") == ""
    assert daemon.out("diff", "rights").split("\n") == ["C /tmp", "A /tmp/passwd"]


def test_which_side_is_which(shared_daemon: RunningDaemon, tmp_path: Path) -> None:
    """A path of the host begins with / or ., or has no colon."""
    daemon = shared_daemon
    daemon.run("create", "--name", "sides", "busybox", "true")
    (tmp_path / "a:b").write_text("1")
    daemon.run("cp", f"{tmp_path}/a:b", "sides:/tmp/")
    for args, message in (
        (("/a", "/b"), "one of source and destination must be in a container"),
        (("sides:/a", "sides:/b"), "copying between containers is not supported"),
        (("sides:", "/b"), "a path is missing"),
        (("missing:/a", "/b"), "No such container: missing"),
    ):
        assert message in daemon.run("cp", *args, code=125).stderr
    with Terminal(daemon, "cp", "sides:/tmp/a:b", str(tmp_path / "c")) as terminal:
        terminal.expect(f"Successfully copied 2.05kB to {tmp_path}/c")
        assert terminal.wait() == 0


def test_a_client_that_goes_in_mid_copy(shared_daemon: RunningDaemon, tmp_path: Path) -> None:
    """Nothing hangs, and no process or directory is left."""
    daemon = shared_daemon
    daemon.run("run", "-d", "--name", "slow", "--network", "none", "busybox", "sleep", "999")
    reading, writing = os.pipe()
    client = daemon.popen("cp", "-", "slow:/tmp", stdin=reading)
    os.close(reading)
    os.write(writing, archives.tar(archives.file("half", b"x" * 100_000))[:50_000])

    def copying() -> list[int]:
        return copying_children(daemon)

    wait_until(copying, what="the child copies")
    client.kill()
    client.wait()
    os.close(writing)
    wait_until(lambda: not copying(), what="the child ends")
    assert daemon.out("exec", "slow", "ls", "-A", "/tmp") == ""


CHANGES = """
rm /etc/group; echo x >> /etc/passwd; mkdir -p /new/deep; echo hi > /new/deep/f
rm -rf /home; mkdir /home; echo 1 > /home/z; ln /new/deep/f /new/h; chmod 4755 /new/h
ln -s /etc/passwd /new/l; mkfifo /new/p; dd if=/dev/zero of=/new/sparse bs=1 count=1 seek=4G
chmod 700 /mnt
"""


@pytest.fixture(scope="module")
def changed(shared_daemon: RunningDaemon) -> str:
    """Return a container that changed, added and deleted files; it has ended."""
    script = f"{CHANGES} 2>/dev/null"
    shared_daemon.run("run", "--name", "changed", "-e", "A=1", "busybox", "sh", "-c", script)
    return "changed"


def test_diff(shared_daemon: RunningDaemon, changed: str) -> None:
    """docker's letters; mount points that a start makes are nobody's change."""
    assert shared_daemon.out("diff", changed).split("\n") == [
        "C /etc", "D /etc/group", "C /etc/passwd", "C /home", "A /home/z", "C /mnt", "A /new",
        "A /new/deep", "A /new/deep/f", "A /new/h", "A /new/l", "A /new/p", "A /new/sparse",
    ]  # fmt: skip
    shared_daemon.run("run", "--name", "quiet", "busybox", "true")
    assert shared_daemon.out("diff", "quiet") == ""
    shared_daemon.run("rm", "quiet")


def test_export_and_import(shared_daemon: RunningDaemon, changed: str, tmp_path: Path) -> None:
    """The whole tree as one archive, sparse files and all; the image made of it has it."""
    file = tmp_path / "exported.tar"
    shared_daemon.run("export", "-o", str(file), changed)
    assert file.stat().st_size < 16 << 20
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        found = {member.name: member for member in tar}
    assert "etc/group" not in found
    assert (found["new/h"].mode, found["new/h"].islnk()) == (0o4755, True)
    assert found["new/sparse"].size == (4 << 30) + 1
    piped = subprocess.run(
        [shared_daemon.client, "export", changed], env=shared_daemon.env, capture_output=True
    )
    assert piped.stdout == file.read_bytes()
    full = shared_daemon.run("export", "-o", "/dev/full", changed, code=125)
    assert full.stderr == "aruntime: cannot write the archive: no space left on device\n"
    shared_daemon.run("import", str(file), "exported")
    script = "cat /new/deep/f; stat -c %s,%b /new/sparse; ls /home"
    out = shared_daemon.out("run", "--rm", "exported", "sh", "-c", script).split("\n")
    assert out[::2] == ["hi", "z"]
    size, blocks = map(int, out[1].split(","))
    assert size == (4 << 30) + 1
    assert blocks < 64
    shared_daemon.run("rmi", "exported")


def test_commit(shared_daemon: RunningDaemon, changed: str) -> None:
    """A layer on top: what was deleted is, links are one file, and it starts as the container."""
    daemon = shared_daemon
    change = ("-c", "LABEL a=b", "-m", "by hand", "-a", "me")
    image = daemon.out("commit", *change, changed, "me/made:1")

    described = json.loads(daemon.out("inspect", "me/made:1"))[0]
    assert (described["Id"], described["Author"], described["Comment"]) == (image, "me", "by hand")
    assert described["Config"]["Labels"] == {"a": "b"}
    assert described["Config"]["Env"] == ["A=1"]
    base = json.loads(daemon.out("inspect", "busybox:latest"))[0]
    assert described["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    first, second = daemon.out("history", "--format", "{{.Comment}}|{{.Size}}", image).split("\n")
    assert first.startswith("by hand|")
    assert second.startswith("Imported from -|")
    script = "ls /etc /home /new; stat -c %h,%a /new/h; cat /new/deep/f"
    listed = daemon.out("run", "--rm", "me/made:1", "sh", "-c", script).split()
    assert "group" not in listed
    assert listed[-9:] == ["z", "/new:", "deep", "h", "l", "p", "sparse", "2,4755", "hi"]
    daemon.run("rmi", "me/made:1")


def test_commit_of_a_running_container(shared_daemon: RunningDaemon) -> None:
    """It is paused meanwhile and goes on after; --pause=false lets it run."""
    daemon = shared_daemon
    daemon.run("run", "-d", "--name", "busy", "busybox", "sh", "-c", "echo 1 >/f; sleep 999")
    wait_until(lambda: "/f" in daemon.out("diff", "busy"), what="it has written")
    usage = ("inspect", "-f", "{{.State.Status}} {{.Usage.Pauses}}", "busy")

    daemon.run("commit", "busy", "busy:1")
    assert daemon.out(*usage) == "running 1"
    daemon.run("commit", "--pause=false", "busy", "busy:2")
    assert daemon.out(*usage) == "running 1"
    daemon.run("pause", "busy")
    daemon.run("commit", "busy", "busy:3")
    assert daemon.out(*usage) == "paused 2"
    assert daemon.out("run", "--rm", "busy:3", "cat", "/f") == "1"
    daemon.run("rm", "-f", "busy")
    daemon.run("rmi", "busy:1", "busy:2", "busy:3")


def test_commit_that_cannot_be(shared_daemon: RunningDaemon) -> None:
    """One line, and the store is as it was."""
    daemon = shared_daemon
    daemon.run("run", "--name", "hiding", "busybox", "touch", "/etc/.wh.x")
    before = daemon.out("images", "-aq"), sorted(os.listdir(daemon.root / "images/layers"))
    refused = daemon.run("commit", "hiding", code=125)
    assert refused.stderr.startswith("aruntime: 'etc/.wh.x' cannot be part of an image")
    assert "must be lowercase" in daemon.run("commit", "hiding", "UPPER", code=125).stderr
    assert "RUN is not" in daemon.run("commit", "-c", "RUN x", "hiding", code=125).stderr
    after = daemon.out("images", "-aq"), sorted(os.listdir(daemon.root / "images/layers"))
    assert after == before


def test_files_in_a_user_namespace(shared_daemon: RunningDaemon, source: Path) -> None:
    """Ids are those inside, whichever way files go."""
    daemon = shared_daemon
    flags = ("--userns", "auto", "--network", "none")
    daemon.run("run", "-d", "--name", "mapped", *flags, "busybox", "sleep", "999")
    daemon.run("cp", str(source), "mapped:/root/new")
    daemon.run("exec", "mapped", "sh", "-c", "echo 1 >/own; chown 7:8 /own /etc/passwd")
    assert daemon.out("exec", "mapped", "stat", "-c", "%u:%g", "/root/new/sub/x") == "0:0"
    daemon.run("stop", "-t", "0", "mapped")
    daemon.run("cp", str(source / "hard"), "mapped:/root/late")
    assert "A /own" in daemon.out("diff", "mapped").split("\n")
    printed = subprocess.run(
        [daemon.client, "export", "mapped"], env=daemon.env, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(printed)) as tar:
        owners = {one.name: (one.uid, one.gid) for one in tar}
    assert owners["own"] == owners["etc/passwd"] == (7, 8)
    assert owners["root/late"] == owners["bin/busybox"] == (0, 0)
    daemon.run("commit", "mapped", "mapped:1")
    show = ("stat", "-c", "%u:%g", "/own", "/root/late", "/etc/passwd")
    for own in ((), flags):
        assert daemon.out("run", "--rm", *own, "mapped:1", *show).split() == ["7:8", "0:0", "7:8"]
    daemon.run("rmi", "mapped:1")


def test_a_read_only_root_stays_so(shared_daemon: RunningDaemon, source: Path) -> None:
    """But its volumes can be written."""
    daemon = shared_daemon
    own = ("--read-only", "-v", "/data", "--network", "none", "busybox", "sleep", "999")
    daemon.run("create", "--name", "sealed", *own)
    for _ in range(2):
        refused = daemon.run("cp", str(source), "sealed:/root", code=125)
        assert "read-only file system" in refused.stderr
        daemon.run("cp", f"{source}/.", "sealed:/data")
        daemon.run("start", "sealed")
    assert daemon.out("exec", "sealed", "cat", "/data/hard") == "content"


@pytest.fixture
def committing(daemon: RunningDaemon) -> Iterator[tuple[RunningDaemon, int]]:
    """Yield a daemon in mid-commit of a running container, its reading child stopped."""
    daemon.run("run", "-d", "--name", "busy", "--network", "none", "busybox", "sleep", "999")
    # Something to read for a while.
    daemon.run("exec", "busy", "sh", "-c", "head -c 60000000 /dev/zero >/f")
    client = daemon.popen("commit", "busy", "busy:1", stderr=subprocess.DEVNULL)
    found: list[int] = []

    def reading() -> bool:
        found.extend(copying_children(daemon))
        return bool(found)

    wait_until(reading, what="the commit reads")
    os.kill(found[0], signal.SIGSTOP)
    yield daemon, client.pid
    client.kill()
    client.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(found[0], signal.SIGKILL)


def status_of(daemon: RunningDaemon) -> str:
    """Return docker's status of the container that is committed."""
    return daemon.out("inspect", "-f", "{{.State.Status}}", "busy")


def test_a_commit_whose_client_goes(committing: tuple[RunningDaemon, int]) -> None:
    """The container runs on, and nothing is left in the store."""
    daemon, client = committing
    assert status_of(daemon) == "paused"
    os.kill(client, signal.SIGKILL)
    wait_until(lambda: status_of(daemon) == "running", 20, "it runs again")
    wait_until(lambda: not os.listdir(daemon.root / "images/ingest"), 20, "the store is clean")
    assert daemon.out("images", "--format", "{{.Repository}}") == "busybox"


def test_a_commit_whose_daemon_is_killed(committing: tuple[RunningDaemon, int]) -> None:
    """The next daemon lets the container go on; a container that its user paused stays so."""
    daemon, _ = committing
    daemon.kill()
    daemon.start()
    assert status_of(daemon) == "running"
    assert os.listdir(daemon.root / "images/ingest") == []
    daemon.run("pause", "busy")
    daemon.kill()
    daemon.start()
    assert status_of(daemon) == "paused"
