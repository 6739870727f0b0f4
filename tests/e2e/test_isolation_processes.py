"""Who runs in a container, where and how: users, directories, environment, PID 1."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests import archives, programs
from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), "uid=0(root) gid=0(root) groups=0(root)"),
        (("-u", "user"), "uid=1000(user) gid=1000(user) groups=1000(user),1001(extra)"),
        (("-u", "1000"), "uid=1000(user) gid=1000(user) groups=1000(user),1001(extra)"),
        (("-u", "user:extra"), "uid=1000(user) gid=1001(extra) groups=1001(extra)"),
        (("-u", "12345"), "uid=12345 gid=0(root) groups=0(root)"),
        (("-u", "12345:54321"), "uid=12345 gid=54321 groups=54321"),
        (("-u", "2147483647"), "uid=2147483647 gid=0(root) groups=0(root)"),
        (("--group-add", "extra"), "uid=0(root) gid=0(root) groups=0(root),1001(extra)"),
        (("-u", "7:7", "--group-add", "99"), "uid=7 gid=7 groups=7,99"),
    ],
)
def test_users_and_groups(
    shared_daemon: RunningDaemon, flags: tuple[str, ...], expected: str
) -> None:
    """Names are the image's, numbers need no entry, groups are only those asked for."""
    assert shared_daemon.out("run", "--rm", *flags, "busybox", "id") == expected


@pytest.mark.parametrize(
    "user",
    [
        "nobody", "1x", "0x0", "-1", "+0", " ", "0 ", "1:2:3", "0:nogroup", "4294967296",
        "4294967297", "2147483648:0", "0:4294967296", "18446744073709551616", "root\n",
    ],
)  # fmt: skip
def test_users_that_are_refused(shared_daemon: RunningDaemon, user: str) -> None:
    """CVE-2024-40635: an unknown name or a number out of range never becomes root."""
    done = shared_daemon.run("run", "--rm", "-u", user, "busybox", "id", code=None)

    assert done.returncode in (125, 126), done.stdout
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("user", ["nobody", "1x", "4294967296", "2147483648", "root:nogroup"])
def test_users_that_exec_refuses(shared_daemon: RunningDaemon, user: str) -> None:
    """The same for exec."""
    name = shared_daemon.out("run", "-d", "busybox", "sleep", "999")
    done = shared_daemon.run("exec", "-u", user, name, "id", code=None)
    shared_daemon.run("rm", "-f", name)

    assert done.returncode in (125, 126), done.stdout
    assert done.stdout == ""


@pytest.mark.parametrize("user", ["user", "1000", "1000:1000", "user:extra"])
def test_a_program_of_root_alone_cannot_be_executed(
    shared_daemon: RunningDaemon, busybox_tar: bytes, user: str
) -> None:
    """The program is looked up and executed with the user's rights, not with root's."""
    layers = [busybox_tar, archives.tar(archives.file("bin/private", b"#!/bin/sh\n", mode=0o700))]
    shared_daemon.run("load", stdin=archives.docker_archive(layers, "private:1"))
    name = shared_daemon.out("run", "-d", "private:1", "sleep", "999")
    for program in ("private", "/bin/private"):
        for args in (("run", "--rm", "-u", user, "private:1"), ("exec", "-u", user, name)):
            done = shared_daemon.run(*args, program, code=None)
            assert done.returncode in (126, 127), args
        shared_daemon.run("exec", name, program)
    shared_daemon.run("rm", "-f", name)


def test_home_is_that_of_the_user(shared_daemon: RunningDaemon) -> None:
    """HOME comes from the image's /etc/passwd, and is / for who is not in it."""
    for user, home in (("0", "/root"), ("user", "/home"), ("7", "/")):
        assert shared_daemon.out(
            "run", "--rm", "-u", user, "busybox", "sh", "-c", "echo $HOME"
        ) == (home)


def test_nothing_of_the_callers_environment(shared_daemon: RunningDaemon) -> None:
    """The environment is docker's defaults and what was asked for, in init and in exec."""
    name = shared_daemon.out("run", "-d", "-e", "OWN=1", "-h", "box", "busybox", "sleep", "999")
    expected = {"PATH", "HOSTNAME", "HOME", "OWN"}

    listed = shared_daemon.out("exec", name, "env").splitlines()
    assert {line.partition("=")[0] for line in listed} - {"PWD", "SHLVL"} == expected
    own = shared_daemon.out("exec", name, "cat", "/proc/1/environ").split("\0")
    assert {line.partition("=")[0] for line in own if line} == expected
    shared_daemon.run("rm", "-f", name)


def test_variables_from_files_and_the_caller(shared_daemon: RunningDaemon, tmp_path: Path) -> None:
    """``--env-file`` and ``-e``: comments skipped, the line wins over the file."""
    file = tmp_path / "env"
    file.write_text("# comment\nONE=1\nTWO=two words\nTHREE=3\n")
    flags = ("--env-file", str(file), "-e", "THREE=three", "-e", "EMPTY=")
    script = 'echo "$ONE|$TWO|$THREE|${EMPTY-unset}"'

    assert shared_daemon.out("run", "--rm", *flags, "busybox", "sh", "-c", script) == (
        "1|two words|three|"
    )


def test_working_directory(shared_daemon: RunningDaemon) -> None:
    """``-w`` is made when it is missing, and refused when it is relative or a file."""
    assert shared_daemon.out("run", "--rm", "-w", "/a/b/../c", "busybox", "pwd") == "/a/c"
    assert (
        "absolute" in shared_daemon.run("run", "--rm", "-w", "a", "busybox", "pwd", code=125).stderr
    )
    done = shared_daemon.run("run", "--rm", "-w", "/etc/passwd", "busybox", "pwd", code=None)
    assert done.returncode in (125, 126)
    assert done.stdout == ""


def test_entrypoint(shared_daemon: RunningDaemon) -> None:
    """``--entrypoint`` stands before the arguments; an empty one is none."""
    flags = ("run", "--rm", "--entrypoint")

    assert shared_daemon.out(*flags, "echo", "busybox", "a", "b") == "a b"
    assert shared_daemon.out(*flags, "", "busybox", "echo", "c") == "c"


def test_init_reaps_orphans(shared_daemon: RunningDaemon) -> None:
    """``--init``: processes whose parents died do not stay as zombies."""
    name = shared_daemon.out("run", "-d", "--init", "busybox", "sleep", "999")
    shared_daemon.run("exec", name, "sh", "-c", "for i in 1 2 3 4 5; do (true & ) ; done")

    def states() -> str:
        return shared_daemon.out("exec", name, "ps", "-o", "stat,args")

    wait_until(lambda: "Z" not in states())
    assert "aruntime-init" in states()
    assert "sleep 999" in states()
    shared_daemon.run("rm", "-f", name)


def test_without_init_the_program_is_pid_1(shared_daemon: RunningDaemon) -> None:
    """By default nothing stands between the container and its program."""
    name = shared_daemon.out("run", "-d", "busybox", "sleep", "999")

    assert shared_daemon.out("exec", name, "readlink", "/proc/1/exe") == "/bin/busybox"
    shared_daemon.run("rm", "-f", name)


@pytest.mark.parametrize(("signal", "code"), [("TERM", "143"), ("HUP", "129"), ("USR1", "138")])
def test_init_forwards_signals(shared_daemon: RunningDaemon, signal: str, code: str) -> None:
    """``--init``: a signal that PID 1 would ignore ends a program without a handler."""
    name = shared_daemon.out("run", "-d", "--init", "busybox", "sleep", "999")
    shared_daemon.run("kill", "-s", signal, name)

    assert shared_daemon.out("wait", name) == code


def test_init_ends_with_its_program(shared_daemon: RunningDaemon) -> None:
    """``--init``: exit code and end are the program's, whatever else still runs."""
    began = time.monotonic()
    shared_daemon.run("run", "--rm", "--init", "busybox", "sh", "-c", "sleep 60 & exit 9", code=9)

    assert time.monotonic() - began < 30


@pytest.mark.parametrize("flags", [("-u", "user"), ("-u", "1000:1000"), ()])
def test_init_has_no_more_rights_than_its_program(
    shared_daemon: RunningDaemon, flags: tuple[str, ...]
) -> None:
    """``--init``: PID 1 becomes the user, with the program's capabilities and its filter."""
    name = shared_daemon.out("run", "-d", "--init", *flags, "busybox", "sleep", "999")
    show = ("grep", "-E", "^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):")

    def rights(pid: int) -> str:
        return shared_daemon.out("exec", name, *show, f"/proc/{pid}/status")

    # The program starts while PID 1 is still confining itself.
    wait_until(lambda: "Seccomp:\t2" in rights(1) and rights(1) == rights(2))
    shared_daemon.run("rm", "-f", name)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
def test_init_outlives_a_program_it_may_not_signal(
    shared_daemon: RunningDaemon, busybox_tar: bytes
) -> None:
    """A signal that a setuid program refuses its own PID 1 is lost, and nothing else."""
    layers = [busybox_tar, archives.tar(archives.file("wait", programs.WAIT_AS_ROOT, mode=0o4755))]
    shared_daemon.run("load", stdin=archives.docker_archive(layers, "setuid:1"))
    name = shared_daemon.out("run", "-d", "--init", "-u", "user", "setuid:1", "/wait")

    def who() -> list[str]:
        listing = shared_daemon.out("exec", name, "ps", "-o", "user,args").splitlines()
        return [" ".join(line.split()) for line in listing]

    wait_until(lambda: "root /wait" in who())
    shared_daemon.run("kill", "-s", "TERM", name)
    assert "root /wait" in who()
    shared_daemon.run("rm", "-f", name)


def test_own_session_and_no_terminal_of_the_host(shared_daemon: RunningDaemon) -> None:
    """A session of its own without controlling terminal: TIOCSTI has nothing to push into."""
    script = "cut -d' ' -f6,7 /proc/self/stat; : < /dev/tty"
    with subprocess.Popen(
        [shared_daemon.client, "run", "--rm", "busybox", "sh", "-c", script],
        env=shared_daemon.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        output, errors = client.communicate(timeout=30)

    assert output.split() == ["1", "0"]
    assert "No such device or address" in errors
    assert client.returncode == 1
