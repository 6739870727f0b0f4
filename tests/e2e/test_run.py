"""run, exec, attach, logs: what a container prints, reads, and how it ends."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e


def test_output_and_exit_code_are_the_programs(daemon: RunningDaemon) -> None:
    """Stdout, stderr and the exit code of the program are those of the client."""
    done = daemon.run("run", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)

    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_rm_leaves_nothing(daemon: RunningDaemon) -> None:
    """With --rm nothing of the container is left on disk, in cgroups or in ps."""
    daemon.run("run", "--rm", "busybox", "true")

    assert daemon.out("ps", "-aq") == ""
    wait_until(lambda: not list((daemon.root / "containers").iterdir()), what="files are deleted")
    groups = Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}/*/")
    assert list(groups) == []


def test_stdin_reaches_the_program_and_ends(daemon: RunningDaemon) -> None:
    """With -i the client's stdin is the program's, end of file included."""
    done = daemon.run("run", "--rm", "-i", "busybox", "cat", stdin=b"one\ntwo\n" * 5000)

    assert done.stdout == "one\ntwo\n" * 5000


def test_without_i_stdin_is_empty(daemon: RunningDaemon) -> None:
    """Without -i the program reads end of file at once."""
    assert daemon.run("run", "--rm", "busybox", "cat", stdin=b"unread").stdout == ""


def test_detached_prints_the_id_and_goes_on(daemon: RunningDaemon) -> None:
    """run -d prints the id; exec, logs, stop and rm find it by id, prefix and name."""
    container = daemon.out("run", "-d", "--name", "web", "busybox", "sh", "-c", "echo hi; sleep 99")

    assert len(container) == 64
    assert daemon.out("exec", "web", "echo", "inside") == "inside"
    assert daemon.out("exec", container[:6], "sh", "-c", "echo $$") != ""
    wait_until(lambda: daemon.out("logs", "web") == "hi")
    assert daemon.out("stop", "-t", "0", "web") == "web"
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "web") == "137"
    assert daemon.out("rm", "web") == "web"


def test_pid_one_and_small_exec_pid(daemon: RunningDaemon) -> None:
    """The program is PID 1 of its own PID namespace, an exec has a small number."""
    daemon.run("run", "-d", "--name", "box", "busybox", "sleep", "99")

    assert daemon.out("run", "--rm", "busybox", "sh", "-c", "echo $$") == "1"
    assert int(daemon.out("exec", "box", "sh", "-c", "echo $$")) < 20
    assert daemon.out("exec", "box", "cat", "/proc/1/cmdline").startswith("sleep")


def test_exec_exit_codes(daemon: RunningDaemon) -> None:
    """exec passes the exit code on; 127 and 126 when the program is missing or not executable."""
    daemon.run("run", "-d", "--name", "box", "busybox", "sleep", "99")

    daemon.run("exec", "box", "sh", "-c", "exit 9", code=9)
    assert "not found" in daemon.run("exec", "box", "nonsense", code=127).stderr
    daemon.run("exec", "box", "/etc/passwd", code=126)
    assert daemon.run("exec", "-i", "box", "wc", "-c", stdin=b"12345").stdout.strip() == "5"


def test_exit_codes_of_what_cannot_run(daemon: RunningDaemon) -> None:
    """127 for a missing program, 126 for one that is not executable, 125 for our own failures."""
    missing = daemon.run("run", "--rm", "busybox", "nonsense", code=127)
    assert 'exec: "nonsense": executable file not found in $PATH' in missing.stderr
    daemon.run("run", "--rm", "busybox", "/etc/passwd", code=126)
    assert "nosuchimage" in daemon.run("run", "--rm", "nosuchimage", "true", code=125).stderr
    daemon.run("run", "--rm", "--memory", "nonsense", "busybox", "true", code=125)
    assert daemon.out("ps", "-aq") == ""


def test_signals_become_128_plus_n(daemon: RunningDaemon) -> None:
    """A program that dies by a signal gives 128 + its number."""
    daemon.run("run", "--rm", "--init", "busybox", "sh", "-c", "kill -TERM $$", code=143)
    daemon.run("run", "-d", "--name", "victim", "busybox", "sleep", "99")
    daemon.run("kill", "victim")
    assert daemon.out("wait", "victim") == "137"


def test_client_signal_is_proxied(daemon: RunningDaemon) -> None:
    """A signal to an attached client reaches the program."""
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    client = daemon.popen("run", "--rm", "busybox", "sh", "-c", script, stdout=subprocess.PIPE)
    assert client.stdout is not None
    with client.stdout as output:
        assert output.readline() == b"ready\n"
        client.terminate()
        assert output.read() == b"caught\n"
    assert client.wait(10) == 5


def test_logs_survive_and_can_be_cut(daemon: RunningDaemon) -> None:
    """logs shows both streams, --tail, --since and -t as docker does."""
    script = "for i in 1 2 3 4 5; do echo line $i; done; echo problem >&2"
    daemon.run("run", "--name", "talker", "busybox", "sh", "-c", script)

    everything = daemon.run("logs", "talker")
    assert everything.stdout == "".join(f"line {number}\n" for number in range(1, 6))
    assert everything.stderr == "problem\n"
    assert daemon.run("logs", "--tail", "2", "talker").stdout == "line 5\n"
    stamped = daemon.out("logs", "-t", "talker").splitlines()[0]
    assert stamped.endswith(" line 1")
    assert stamped[:2] == "20"
    assert daemon.out("logs", "--since", "2000-01-01T00:00:00Z", "talker").count("line") == 5
    assert daemon.out("logs", "--since", "0s", "talker") == ""


def test_logs_follow_ends_with_the_container(daemon: RunningDaemon) -> None:
    """logs -f shows what is written later and ends when the container does."""
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    daemon.run("run", "-d", "--name", "slow", "busybox", "sh", "-c", script)

    assert daemon.run("logs", "-f", "slow", timeout=20).stdout == "1\n2\n3\n"


def test_terminal_size_keys_and_detach(daemon: RunningDaemon) -> None:
    """-it gives a real pty with the client's size; ctrl-p ctrl-q detaches, the shell goes on."""
    pid, master = pty.fork()
    if pid == 0:
        os.execve(
            daemon.client,
            ["aruntime", "run", "-it", "--name", "shell", "busybox", "sh"],
            daemon.env,
        )
    seen = bytearray()

    def read_until(text: bytes) -> None:
        while text not in seen:
            seen.extend(os.read(master, 4096))

    os.set_blocking(master, True)
    os.write(master, b"tty; echo do''ne\n")
    read_until(b"done")
    assert b"/dev/pts/0" in seen or b"/dev/console" in seen
    os.write(master, b"\x10\x11")
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 0
    assert daemon.out("ps", "--filter", "name=shell", "--format", "{{.State}}") == "running"


def test_hostname_namespaces_and_defaults(daemon: RunningDaemon) -> None:
    """Host name, working directory, environment and user are those asked for."""
    assert daemon.out("run", "--rm", "-h", "box", "busybox", "hostname") == "box"
    assert daemon.out("run", "--rm", "-w", "/mnt/new", "busybox", "pwd") == "/mnt/new"
    assert daemon.out("run", "--rm", "-e", "A=b", "busybox", "sh", "-c", "echo $A") == "b"
    assert daemon.out("run", "--rm", "-u", "user", "busybox", "id") == (
        "uid=1000(user) gid=1000(user) groups=1000(user),1001(extra)"
    )
    assert daemon.out("run", "--rm", "busybox", "uname", "-r") == os.uname().release


def test_restart_on_failure_counts(daemon: RunningDaemon) -> None:
    """--restart on-failure:2 runs a failing program three times in all."""
    daemon.run("run", "-d", "--name", "flaky", "--restart", "on-failure:2", "busybox", "false")

    wait_until(lambda: daemon.out("inspect", "-f", "{{.RestartCount}}", "flaky") == "2")
    wait_until(lambda: daemon.out("inspect", "-f", "{{.State.Status}}", "flaky") == "exited")


def test_health_check_turns_healthy(daemon: RunningDaemon) -> None:
    """A probe that succeeds makes the container healthy."""
    daemon.run(
        "run", "-d", "--name", "well", "--health-cmd", "true", "--health-interval", "100ms",
        "busybox", "sleep", "99",
    )  # fmt: skip

    wait_until(lambda: "healthy" in daemon.out("ps", "--format", "{{.Status}}"))


def test_root_is_read_only_and_volumes_keep(daemon: RunningDaemon, tmp_path: Path) -> None:
    """--read-only refuses writes, -v binds, :ro binds refuse, named volumes keep content."""
    bind = f"{tmp_path}:/mnt"
    daemon.run("run", "--rm", "--read-only", "busybox", "touch", "/x", code=1)
    daemon.run("run", "--rm", "-v", bind, "busybox", "sh", "-c", "echo kept > /mnt/file")
    assert (tmp_path / "file").read_text() == "kept\n"
    daemon.run("run", "--rm", "-v", f"{bind}:ro", "busybox", "touch", "/mnt/x", code=1)
    daemon.run("run", "--rm", "-v", "data:/mnt", "busybox", "sh", "-c", "echo 1 > /mnt/one")
    assert daemon.out("run", "--rm", "-v", "data:/mnt", "busybox", "cat", "/mnt/one") == "1"
