"""Whatever is wrong is one line on stderr that begins with our name, and nothing is left behind.

One daemon serves all of these tests: it has to survive each of them.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import archives
from tests.harness import RunningDaemon
from tests.traces import assert_no_more_than, assert_one_line, traces

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def served(busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield one daemon for all tests of this file."""
    daemon = RunningDaemon()
    daemon.start()
    daemon.load_busybox(busybox_tar)
    daemon.run("run", "--rm", "busybox", "true")  # bridge and seccomp cache are there from now on
    yield daemon
    daemon.destroy()


BAD_VALUES: list[tuple[list[str], str]] = [
    (["--memory", "nonsense"], "nonsense"),
    (["--memory", "-5m"], "-5m"),
    (["--memory", "1k"], "minimum memory limit"),
    (["-m", "64m", "--memory-swap", "32m"], "memoryswap"),
    (["--memory-swap", "64m"], "memory"),
    (["--memory-reservation", "lots"], "lots"),
    (["-m", "64m", "--memory-reservation", "128m"], "reservation"),
    (["--memory-swappiness", "101"], "swappiness"),
    (["--cpus", "fast"], "fast"),
    (["--cpus", "10000"], "CPUs"),
    (["--cpus", "1", "--cpu-quota", "5000"], "cpus"),
    (["--cpu-period", "1"], "period"),
    (["--cpu-quota", "1"], "quota"),
    (["--cpu-shares", "many"], "many"),
    (["--cpuset-cpus", "900"], "CPUs"),
    (["--cpuset-cpus", "a-b"], "a-b"),
    (["--cpuset-mems", "77"], "mem"),
    (["--pids-limit", "some"], "some"),
    (["--blkio-weight", "5"], "weight"),
    (["--blkio-weight-device", "/dev/missing:500"], "/dev/missing"),
    (["--device-write-bps", "/dev/missing:1mb"], "/dev/missing"),
    (["--device-read-bps", "/dev/null"], "/dev/null"),
    (["--device-read-iops", "/dev/null:-3"], "-3"),
    (["--device", "/dev/missing"], "/dev/missing"),
    (["--device", "/dev/null:/x:rwz"], "rwz"),
    (["--device-cgroup-rule", "x 1:2 rwm"], "x 1:2 rwm"),
    (["--ulimit", "nofile"], "nofile"),
    (["--ulimit", "nothing=5"], "nothing"),
    (["--ulimit", "nofile=9:3"], "nofile"),
    (["--sysctl", "kernel.nonsense"], "kernel.nonsense"),
    (["--sysctl", "vm.swappiness=1"], "vm.swappiness"),
    (["--cap-add", "NONSENSE"], "NONSENSE"),
    (["--cap-drop", "CAP_OF_WOOL"], "CAP_OF_WOOL"),
    (["--security-opt", "seccomp=/missing.json"], "/missing.json"),
    (["--security-opt", "sandbox=yes"], "sandbox"),
    (["--network", "container:missing"], "missing"),
    (["--network", "ether"], "ether"),
    (["--pid", "container:missing"], "missing"),
    (["--ipc", "shared"], "shared"),
    (["--userns", "many"], "many"),
    (["--uts", "private"], "private"),
    (["--cgroupns", "none"], "none"),
    (["--restart", "often"], "often"),
    (["--restart", "on-failure:x"], "on-failure"),
    (["--rm", "--restart", "always"], "--rm"),
    (["--name", "a b"], "a b"),
    (["--name", "-x"], "-x"),
    (["--hostname", "x" * 80], "host"),
    (["--hostname", "a b"], "a b"),
    (["--env-file", "/missing"], "/missing"),
    (["--label-file", "/missing"], "/missing"),
    (["--user", "nosuchuser"], "nosuchuser"),
    (["--user", "0:nosuchgroup"], "nosuchgroup"),
    (["--group-add", "nosuchgroup"], "nosuchgroup"),
    (["--workdir", "relative"], "relative"),
    (["--workdir", "/etc/passwd"], "/etc/passwd"),
    (["-v", "relative/path:/x"], "relative/path"),
    (["-v", "/tmp:relative"], "relative"),
    (["-v", "/tmp:/x:nonsense"], "nonsense"),
    (["-v", "/tmp:/"], "/"),
    (["-v", "/tmp:/x", "-v", "/etc:/x"], "/x"),
    (["--mount", "type=nonsense,dst=/x"], "nonsense"),
    (["--mount", "type=bind,src=/missing,dst=/x"], "/missing"),
    (["--mount", "type=bind,dst=/x"], "Source"),
    (["--tmpfs", "relative"], "relative"),
    (["--tmpfs", "/x:size=lots"], "size"),
    (["--shm-size", "big"], "big"),
    (["--add-host", "nameonly"], "nameonly"),
    (["--dns", "not-an-address"], "not-an-address"),
    (["--stop-signal", "SIGNONSENSE"], "SIGNONSENSE"),
    (["--stop-timeout", "soon"], "soon"),
    (["--health-interval", "often"], "often"),
    (["--health-cmd", "true", "--health-interval", "1us"], "interval"),
    (["--health-cmd", "true", "--no-healthcheck"], "healthcheck"),
    (["--log-driver", "syslog"], "syslog"),
    (["--log-opt", "max-size=lots"], "lots"),
    (["--log-opt", "nonsense=1"], "nonsense"),
    (["--oom-score-adj", "5000"], "oom"),
    (["--detach-keys", "ctrl-"], "ctrl-"),
    (["--attach", "stdmiddle"], "stdmiddle"),
    (["--cidfile", "/missing/file"], "/missing/file"),
    (["--cidfile", "/etc/passwd"], "/etc/passwd"),
    (["--tenant", "a\nb"], "tenant"),
    (["--memory", ""], "memory"),
    (["--pull", "sometimes"], "sometimes"),
    (["--rm=perhaps"], "perhaps"),
    (["--nonsense"], "unknown flag"),
    (["-Z"], "unknown shorthand flag"),
    (["-p", "99999:80"], "99999"),
    (["--gpus", "all"], "gpus"),
]


def test_bad_values_of_flags(served: RunningDaemon) -> None:
    """Each is refused in one line that names what is wrong; no container is made of it."""
    before = traces(served)
    wrong = []
    for flags, said in BAD_VALUES:
        done = served.run("run", *flags, "busybox", "true", code=None)
        try:
            assert_one_line(done, 125, said)
        except AssertionError as error:
            wrong.append(str(error))
        for container in traces(served)["directories"] - before["directories"]:
            # Known only at the start, as with docker: run leaves a container that did not start.
            state = served.out("inspect", "-f", "{{.State.Status}} {{.State.Error}}", container)
            if not (state.startswith("created ") and len(state) > 10):
                wrong.append(f"{flags}: {state}")
            served.run("rm", "-f", container)
        assert_no_more_than(before, served, flags)
    assert not wrong, "\n".join(wrong)


def test_programs_that_cannot_run(served: RunningDaemon, tmp_path: Path) -> None:
    """127 for what is missing, 126 for what cannot be executed, for run, start and exec."""
    garbage, script = tmp_path / "garbage", tmp_path / "script"
    garbage.write_bytes(b"\x00\x01 no program")
    script.write_text("#!/no/such/shell\n")
    garbage.chmod(0o755)
    script.chmod(0o755)
    before = traces(served)
    cases = [
        (127, "nonsense"),
        (127, "/no/such/program"),
        (127, "/etc/passwd/x"),
        (127, "/given/script"),
        (126, "/etc/passwd"),
        (126, "/etc"),
        (126, "/given/garbage"),
    ]
    volume = ["-v", f"{tmp_path}:/given"]
    for code, program in cases:
        done = served.run("run", "--rm", *volume, "busybox", program, code=None)
        assert_one_line(done, code, program)
        assert_no_more_than(before, served, program)
    served.run("run", "-d", *volume, "--name", "box", "busybox", "sleep", "99")
    running = traces(served)
    for code, program in cases:
        assert_one_line(served.run("exec", "box", program, code=None), code, program)
        assert_no_more_than(running, served, program)
    served.run("rm", "-f", "box")
    served.run("create", "--name", "box", "busybox", "nonsense")
    assert_one_line(served.run("start", "-a", "box", code=None), 127, "nonsense")
    assert served.out("inspect", "-f", "{{.State.ExitCode}}", "box") == "127"
    served.run("rm", "box")
    assert_no_more_than(before, served)


def test_unknown_names(served: RunningDaemon) -> None:
    """Every command that takes a container or an image says which one there is not."""
    commands = "start stop kill restart pause resume unpause rm logs attach wait inspect top"
    for command in [*commands.split(), "update"]:
        flags = ["-c", "512"] if command == "update" else []
        done = served.run(command, *flags, "missing", code=None)
        assert_one_line(done, (1, 125), "missing")
    assert_one_line(served.run("exec", "missing", "true", code=None), (1, 125), "missing")
    assert_one_line(served.run("rename", "missing", "x", code=None), (1, 125), "missing")
    assert_one_line(served.run("stats", "--no-stream", "missing", code=None), (1, 125), "missing")
    for image in ("missing", "missing:tag", "registry.example/missing@sha256:" + "0" * 64):
        never = served.run("run", "--pull", "never", image, "true", code=None)
        assert_one_line(never, 125, "missing")
        assert_one_line(served.run("rmi", image, code=None), (1, 125), "missing")
    done = served.run("run", "127.0.0.1:1/missing", "true", code=None)
    tried, _, error = done.stderr.partition("aruntime: ")
    assert tried.startswith("Unable to find image '127.0.0.1:1/missing:latest' locally\n")
    assert done.returncode == 125
    assert "127.0.0.1:1/missing" in error
    assert error.count("\n") == 1
    assert_one_line(served.run("run", "case/UPPER", "true", code=None), 125, "case/UPPER")
    assert_one_line(served.run("nonsense", code=None), 1, "nonsense")


def test_names_that_are_taken(served: RunningDaemon, tmp_path: Path) -> None:
    """create, run and rename refuse a taken name; not even the id file of the loser is made."""
    served.run("create", "--name", "first", "busybox", "true")
    served.run("create", "--name", "second", "busybox", "true")
    before = traces(served)
    cidfile = tmp_path / "cid"
    for command in ("create", "run"):
        done = served.run(
            command, "--cidfile", str(cidfile), "--name", "first", "busybox", "true", code=None
        )
        assert_one_line(done, 125, '"first" is already in use')
        assert not cidfile.exists()
    assert_one_line(served.run("rename", "second", "first", code=None), (1, 125), "first")
    assert_one_line(served.run("rename", "second", "a b", code=None), (1, 125), "a b")
    cidfile.write_text("mine")
    done = served.run("run", "--cidfile", str(cidfile), "busybox", "true", code=None)
    assert_one_line(done, 125, "cid")
    assert cidfile.read_text() == "mine"
    assert_no_more_than(before, served)
    served.run("rm", "first", "second")


def test_read_only_volumes(served: RunningDaemon, tmp_path: Path) -> None:
    """Binds, named volumes and the root that are read-only stay so, whoever asks inside."""
    (tmp_path / "deep").mkdir()
    served.run("run", "--rm", "-v", "kept:/v", "busybox", "touch", "/v/file")
    mounts = {
        "/b": ["-v", f"{tmp_path}:/b:ro"],
        "/b/deep": ["--mount", f"type=bind,src={tmp_path},dst=/b,readonly"],
        "/v": ["-v", "kept:/v:ro"],
        "/": ["--read-only"],
        "/etc": ["--read-only", "-v", "kept:/v"],
    }
    for place, flags in mounts.items():
        script = f"touch {place}/new; mount -o remount,rw {place}; touch {place}/again"
        done = served.run(
            "run", "--rm", "--cap-add", "SYS_ADMIN", *flags, "busybox", "sh", "-c",
            f"touch {place}/new", code=1,
        )  # fmt: skip
        assert "Read-only file system" in done.stderr, (place, done.stderr)
        served.run("run", "--rm", *flags, "busybox", "sh", "-c", script, code=1)
    assert os.listdir(tmp_path) == ["deep"]
    assert os.listdir(tmp_path / "deep") == []
    assert os.listdir(served.root / "volumes/kept/_data") == ["file"]
    subprocess.run(["rm", "-r", str(served.root / "volumes/kept")], check=True)


def test_archives_that_are_broken_or_hostile(served: RunningDaemon, tmp_path: Path) -> None:
    """Cut, garbled and escaping archives are refused whole; nothing of them is anywhere."""
    ingest = served.root / "images/ingest"
    good = archives.tar(archives.file("a", os.urandom(200_000)))
    outside = str(tmp_path / "evil")
    hostile = {
        "cut": good[:100_000],
        "garbage": b"\x00garbage" * 4000,
        "cut gzip": gzip.compress(good)[:-40],
        "cut zstd": b"\x28\xb5\x2f\xfd" + os.urandom(500),
        "parent": archives.tar(archives.file("../evil", b"x")),
        "many parents": archives.tar(archives.file("a/../../../../.." + outside, b"x")),
        "hard link": archives.tar(archives.hard_link("link", "../../../../etc/passwd")),
    }
    before, known = traces(served), served.out("images", "-q")
    for what, content in hostile.items():
        done = served.run("import", "-", "evil:latest", stdin=content, code=None)
        assert_one_line(done, 125, "standard input")
        path = tmp_path / "archive.tar"
        path.write_bytes(content)
        assert_one_line(served.run("load", "-i", str(path), code=None), 125, "archive.tar")
        path.unlink()
        assert served.out("images", "-q") == known, what
        assert os.listdir(ingest) == [], what
    assert_no_more_than(before, served)
    assert os.listdir(tmp_path) == []


def test_links_in_archives_stay_inside(served: RunningDaemon, tmp_path: Path) -> None:
    """Absolute names and links mean the image's own root, never the host's."""
    evil = tmp_path / "evil"
    content = archives.tar(
        archives.symlink("out", str(tmp_path)),
        archives.file("out/evil", b"x"),
        archives.file(f"{evil}", b"x"),
        archives.symlink("up", "../../../../../../../../" + str(tmp_path)[1:]),
        archives.file("up/evil", b"x"),
    )
    served.run("import", "-", "linked:latest", stdin=content, code=None)
    assert os.listdir(tmp_path) == []
    served.run("rmi", "linked:latest", code=None)


def test_an_ordinary_user(served: RunningDaemon) -> None:
    """An ordinary user is refused in one line whatever the command."""
    os.chmod(served.base, 0o755)
    drop = "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
    client = (
        "import os, sys, encodings.idna; from aruntime.cli import client, autostart;"
        f"autostart.dispatch.load_registry(); {drop} client.main()"
    )
    for argv in (["ps"], ["run", "busybox", "true"], ["rm", "-f", "x"]):
        done = subprocess.run(
            [sys.executable, "-c", client, *argv],
            env=served.env, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert_one_line(done, 125, "permission denied")
