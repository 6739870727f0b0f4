"""Containers launched through a real shim: what runs, as what, and how it ends."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
from pathlib import Path

import pytest

from aruntime.container import messages
from tests.kernel.shim.commander import TIMEOUT_SECONDS, Shim

pytestmark = pytest.mark.kernel


def test_streams_and_exit_code(shim: Shim) -> None:
    """Both streams arrive apart, the exit code as it was."""
    script = "echo out; echo err >&2; exit 3"
    assert shim.run("c1", ["sh", "-c", script]) == (3, "out\n", "err\n")


def test_stdin_reaches_the_program_and_ends(shim: Shim) -> None:
    """What is written arrives; end of file comes with close_stdin, not before."""
    shim.launch("c1", ["cat"], stdin=True)
    os.write(shim.fd("stdin_write", "c1"), b"through the pipe\n")
    os.close(shim.daemon.fds[("c1", "")].pop("stdin_write"))
    shim.daemon.send({"op": "close_stdin", "id": "c1"})
    assert shim.output("c1") == "through the pipe\n"
    assert shim.reap("c1")["code"] == 0


def test_missing_stdin_is_the_containers_null_device(shim: Shim) -> None:
    """Without stdin the program reads end of file from its own /dev/null."""
    script = "cat; stat -L -c %t:%T /proc/self/fd/0; [ /proc/self/fd/0 -ef /dev/null ] && echo own"
    code, out, _ = shim.run("c1", ["sh", "-c", script])
    assert (code, out) == (0, "1:3\nown\n")


def test_killed_by_signal(shim: Shim) -> None:
    """128 + n, with the raw status beside it."""
    shim.launch("c1", ["sleep", "1000"])
    shim.kill("c1", signal.SIGKILL)
    reaped = shim.reap("c1")
    assert (reaped["code"], reaped["status"]) == (137, 9)


def test_reaped_tells_the_usage(shim: Shim) -> None:
    """CPU time in microseconds of the whole process tree below init."""
    shim.launch("c1", ["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
    reaped = shim.reap("c1")
    assert reaped["utime_us"] > 10_000
    assert reaped["maxrss_kb"] > 100
    assert reaped["pid"] > 1


def test_program_waits_for_start(shim: Shim) -> None:
    """A created container has done nothing of its own yet."""
    created = shim.launch("c1", ["echo", "ran"], start=False)
    assert created["pid"] in shim.children()
    assert "aruntime-shim" in os.readlink(f"/proc/{created['pid']}/exe")
    shim.start("c1")
    assert shim.output("c1") == "ran\n"
    assert shim.reap("c1")["code"] == 0


def test_start_at_once(shim: Shim) -> None:
    """With start in the request no second message is needed."""
    shim.send_launch("c1", ["echo", "ran"], start=True)
    shim.daemon.expect("created", "c1")
    shim.daemon.expect("running", "c1")
    assert shim.output("c1") == "ran\n"
    shim.reap("c1")


def test_start_before_init_is_set_up(shim: Shim, tmp_path: Path) -> None:
    """A daemon that knows whom it will get may say so at once; init goes on when it is ready."""
    fifo = tmp_path / "cgroup.procs"
    os.mkfifo(fifo)  # init blocks as it "joins" this cgroup, until somebody reads
    shim.send_launch("c1", ["echo", "ran"], announce=True, cgroup_dirs=[str(tmp_path)])
    spawned = shim.daemon.expect("spawned", "c1")
    assert spawned["pid"] in shim.children()
    shim.daemon.send({"op": "start", "id": "c1"})
    shim.daemon.send({"op": "start", "id": "c1"})
    assert shim.daemon.expect("failed", "c1")["errno"] == errno.EALREADY
    assert fifo.read_bytes() == b"0"
    assert shim.daemon.expect("created", "c1")["pid"] == spawned["pid"]
    shim.daemon.expect("running", "c1")
    assert shim.output("c1") == "ran\n"
    assert shim.reap("c1")["code"] == 0


def test_start_of_an_init_that_fails(shim: Shim, tmp_path: Path) -> None:
    """The failure is told once, in its own words, and nothing is left."""
    before = shim.descriptors()
    fifo = tmp_path / "cgroup.procs"
    os.mkfifo(fifo)
    shim.send_launch("c1", ["no-such-program"], announce=True, cgroup_dirs=[str(tmp_path)])
    shim.daemon.expect("spawned", "c1")
    shim.daemon.send({"op": "start", "id": "c1"})
    assert fifo.read_bytes() == b"0"
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["errno"]) == (messages.STEP_LOOKUP, errno.ENOENT)
    assert shim.children() == []
    shim.daemon.forget("c1")
    shim.wait_descriptors(before)


def test_start_while_the_launch_is_failing(shim: Shim, tmp_path: Path) -> None:
    """Nothing but the failure is said, whatever of init's end the shim has seen by then."""
    fifo = tmp_path / "cgroup.procs"
    os.mkfifo(fifo)
    shim.send_launch("c1", ["no-such-program"], announce=True, cgroup_dirs=[str(tmp_path)])
    pidfd = os.pidfd_open(shim.daemon.expect("spawned", "c1")["pid"])
    os.kill(shim.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, shim.process.pid, os.WSTOPPED)
    assert fifo.read_bytes() == b"0"
    assert select.select([pidfd], [], [], TIMEOUT_SECONDS)[0]
    os.close(pidfd)
    # What init said, its end and our request are read in one turn, its death in the next.
    shim.daemon.send({"op": "start", "id": "c1"})
    os.kill(shim.process.pid, signal.SIGCONT)
    assert shim.daemon.expect("failed", "c1")["step"] == messages.STEP_LOOKUP
    shim.daemon.send({"op": "start", "id": "c1"})
    assert shim.run("c1", ["true"]) == (0, "", "")


def test_announcement_through_an_intermediate_process(shim: Shim) -> None:
    """It names the real init, not the process that forks it."""
    linux = {"timeOffsets": {"boottime": {"secs": 1_000_000}}}
    kinds = ("pid", "mount", "time")
    shim.send_launch("c1", ["sleep", "1000"], announce=True, namespaces=kinds, linux=linux)
    spawned = shim.daemon.expect("spawned", "c1")
    shim.daemon.send({"op": "start", "id": "c1"})
    assert shim.daemon.expect("created", "c1")["pid"] == spawned["pid"]
    shim.daemon.expect("running", "c1")
    shim.kill("c1")
    assert shim.reap("c1")["code"] == 137


def test_namespaces_outlive_the_reaping_for_a_moment(shim: Shim) -> None:
    """Who is told of the end waits for no unmounting; then they are gone."""
    before = shim.descriptors()
    shim.launch("c1", ["true"])
    shim.reap("c1")
    shim.daemon.forget("c1")
    shim.wait_descriptors(before)


def test_reap_leaves_nothing_in_the_shim(shim: Shim) -> None:
    """Every descriptor and every process of a container goes with its reap."""
    before = shim.descriptors()
    for number in range(5):
        shim.launch(f"c{number}", ["cat"], stdin=True)
    for number in range(5):
        shim.kill(f"c{number}")
        shim.reap(f"c{number}")
    shim.wait_descriptors(before)
    assert shim.children() == []


def test_descriptors_of_the_program(shim: Shim) -> None:
    """A container sees its three streams and nothing of the shim or of its neighbours."""
    shim.launch("c1", ["sleep", "1000"], stdin=True)
    _, out, _ = shim.run("c2", ["sh", "-c", "ls /proc/self/fd"])
    assert out.split() == ["0", "1", "2", "3"]  # 3 is the directory being listed
    shim.kill("c1")
    shim.reap("c1")


def test_namespaces_are_its_own(shim: Shim) -> None:
    """Each namespace of the specification differs from ours, the others are ours."""
    names = ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
    _, out, _ = shim.run("c1", ["sh", "-c", script])
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    same = [name for name, a, b in zip(names, ours, out.split(), strict=True) if a == b]
    assert same == ["user", "time"]


def test_host_names(shim: Shim) -> None:
    """Host name and domain name are set in the container, not here."""
    before = os.uname().nodename
    _, out, _ = shim.run(
        "c1",
        ["sh", "-c", "hostname; cat /proc/sys/kernel/domainname"],
        hostname="inside",
        spec={"domainname": "example.org"},
    )
    assert out == "inside\nexample.org\n"
    assert os.uname().nodename == before


def test_environment_is_what_was_given(shim: Shim) -> None:
    """Nothing of the shim's environment leaks; HOME comes from the container's passwd."""
    _, out, _ = shim.run("c1", ["env"], env=["PATH=/bin", "A=1", "A=2", "EMPTY=", "ODD"])
    assert sorted(out.splitlines()) == ["A=2", "EMPTY=", "HOME=/root", "PATH=/bin"]


def test_signals_are_at_their_defaults(shim: Shim) -> None:
    """Nothing is blocked or ignored, although the shim blocks everything."""
    _, out, _ = shim.run("c1", ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"])
    assert {line.split()[1] for line in out.splitlines()} == {"0" * 16}


def test_session_of_its_own(shim: Shim) -> None:
    """The container leads its session and has no terminal to push characters into."""
    script = "cut -d' ' -f5,6,7 /proc/1/stat; : < /dev/tty"
    code, out, _ = shim.run("c1", ["sh", "-c", script])
    assert out.split() == ["1", "1", "0"]
    assert code != 0


def test_working_directory_is_made(shim: Shim, rootfs: Path) -> None:
    """A missing one is made, owned by root."""
    _, out, _ = shim.run("c1", ["pwd"], cwd="/a/b/c")
    assert out == "/a/b/c\n"
    assert (rootfs / "a/b/c").stat().st_uid == 0


def test_umask_and_limits(shim: Shim) -> None:
    """The umask is 022 unless told otherwise, limits are those asked for."""
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    _, out, _ = shim.run("c1", ["sh", "-c", "umask; ulimit -Sn; ulimit -Hn"], rlimits=limits)
    assert out.split() == ["0022", "100", "200"]
    _, out, _ = shim.run("c2", ["sh", "-c", "umask"], user={"uid": 0, "gid": 0, "umask": 0o027})
    assert out.split() == ["0027"]


def test_open_files_limit_is_ours_not_the_shims(shim: Shim) -> None:
    """The shim raises its own limit; without a ulimit the container gets the original."""
    _, out, _ = shim.run("c1", ["sh", "-c", "ulimit -Sn"])
    assert int(out) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_oom_score(shim: Shim) -> None:
    """Raised as asked; the shim's own protection is not inherited."""
    script = ["cat", "/proc/self/oom_score_adj"]
    assert shim.run("c1", script)[1] == "0\n"
    assert shim.run("c2", script, oomScoreAdj=500)[1] == "500\n"
