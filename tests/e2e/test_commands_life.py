"""The commands that change containers: docker's rules, states and exit codes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until
from tests.traces import assert_no_more_than, assert_one_line, traces

pytestmark = pytest.mark.e2e

IDLE = ("busybox", "sleep", "999")


@pytest.fixture(scope="module")
def shared(busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield one daemon for the tests of this file that do not stop it."""
    daemon = RunningDaemon()
    daemon.start()
    daemon.load_busybox(busybox_tar)
    daemon.run("run", "--rm", "busybox", "true")
    yield daemon
    daemon.destroy()


@pytest.fixture
def served(shared: RunningDaemon) -> Iterator[RunningDaemon]:
    """Yield the daemon of this file without any container, and remove those of the test."""
    before = traces(shared)
    yield shared
    ids = shared.out("ps", "-aq").split()
    if ids:
        shared.run("rm", "-f", "-v", *ids)
    assert_no_more_than(before, shared)


def state(daemon: RunningDaemon, name: str, field: str = "Status") -> str:
    """Return a field of a container's state."""
    return daemon.out("inspect", "-f", f"{{{{.State.{field}}}}}", name)


def test_pause_and_what_a_paused_container_refuses(served: RunningDaemon) -> None:
    """Pause twice, start, exec, attach and rm are refused in one line; resume twice as well."""
    served.run("run", "-d", "--name", "box", *IDLE)
    assert served.out("pause", "box") == "box"
    assert (state(served, "box"), state(served, "box", "Paused")) == ("paused", "true")
    for argv, said in (
        (["pause", "box"], "already paused"),
        (["start", "box"], "paused"),
        (["exec", "box", "true"], "paused"),
        (["attach", "box"], "paused"),
        (["rm", "box"], "paused"),
    ):
        assert_one_line(served.run(*argv, code=None), (1, 125), said)
    assert "(Paused)" in served.out("ps", "--format", "{{.Status}}")
    assert served.out("unpause", "box") == "box"
    assert_one_line(served.run("resume", "box", code=None), 1, "not paused")
    assert served.out("exec", "box", "echo", "well") == "well"
    assert served.out("start", "box") == "box"  # of a running one: nothing happens


@pytest.mark.parametrize(
    "argv", [["stop", "-t", "1"], ["kill"], ["rm", "-f"], ["restart", "-t", "0"]]
)
def test_ends_of_a_paused_container(served: RunningDaemon, argv: list[str]) -> None:
    """stop, kill, rm -f and restart reach a frozen container."""
    served.run("run", "-d", "--name", "box", *IDLE)
    pid = state(served, "box", "Pid")
    served.run("pause", "box")
    assert served.out(*argv, "box", timeout=15) == "box"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="its end")
    if argv[0] == "rm":
        assert served.out("ps", "-aq") == ""
    elif argv[0] == "restart":
        assert state(served, "box") == "running"
    else:
        assert served.out("wait", "box") == "137"
        assert state(served, "box") == "exited"


def test_kill_sends_the_signal(served: RunningDaemon) -> None:
    """kill -s by name and number; unknown signals and stopped containers are refused."""
    script = (
        "trap 'echo got usr1' USR1; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    )
    served.run("run", "-d", "--name", "box", "busybox", "sh", "-c", script)
    wait_until(lambda: served.out("logs", "box") == "ready")
    for name in ("USR1", "SIGUSR1", "10"):
        served.run("kill", "-s", name, "box")
    wait_until(lambda: "got usr1" in served.out("logs", "box"))
    assert_one_line(served.run("kill", "-s", "NONSENSE", "box", code=None), (1, 125), "NONSENSE")
    served.run("kill", "--signal", "TERM", "box")
    assert served.out("wait", "box") == "3"
    assert_one_line(served.run("kill", "box", code=None), 1, "not running")


def test_stop_waits_for_its_signal(served: RunningDaemon) -> None:
    """--stop-signal and --stop-timeout rule; a program that obeys is not killed."""
    script = "trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done"
    served.run("run", "-d", "--name", "box", "--stop-signal", "INT", "busybox", "sh", "-c", script)
    wait_until(lambda: served.out("logs", "box") == "ready")
    served.run("stop", "box")
    assert state(served, "box", "ExitCode") == "7"
    served.run("stop", "box")  # again: nothing happens
    served.run("run", "-d", "--name", "deaf", "--stop-timeout", "0", *IDLE)
    began = time.monotonic()
    served.run("stop", "deaf")
    assert time.monotonic() - began < 3
    assert state(served, "deaf", "ExitCode") == "137"


def test_restart_and_start_again(served: RunningDaemon) -> None:
    """restart gives a new process and keeps the writable layer; start -a shows the new run only."""
    served.run("run", "--name", "box", "busybox", "sh", "-c", "echo run >> /runs; cat /runs")
    assert served.out("start", "-a", "box") == "run\nrun"
    served.run("restart", "-t", "0", "box")
    assert served.out("wait", "box") == "0"
    wait_until(lambda: served.out("logs", "box").count("run") == 6)
    served.run("run", "-d", "--name", "idle", *IDLE)
    pid = state(served, "idle", "Pid")
    served.run("restart", "-t", "0", "idle")
    assert state(served, "idle") == "running"
    assert state(served, "idle", "Pid") != pid


def test_rename(served: RunningDaemon) -> None:
    """Both names are right at once, for running and stopped containers; the old one is free."""
    served.run("run", "-d", "--name", "old", *IDLE)
    served.run("rename", "old", "new")
    assert served.out("ps", "--format", "{{.Names}}") == "new"
    assert served.out("inspect", "-f", "{{.Name}}", "new") == "/new"
    assert served.metric("aruntime_container_cpu_usage_seconds_total", name="new") >= 0
    served.run("create", "--name", "old", *IDLE)
    assert_one_line(served.run("rename", "new", "old", code=None), (1, 125), "in use")


def test_update(served: RunningDaemon) -> None:
    """Limits of running, stopped and created containers change; refused values change nothing."""
    served.run("create", "--name", "box", "-m", "64m", "busybox", "cat",
               "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # fmt: skip
    served.run("update", "-m", "32m", "--memory-swap", "64m", "box")
    assert served.out("start", "-a", "box") == str(32 << 20)
    served.run("update", "-m", "48m", "box")
    assert served.out("start", "-a", "box") == str(48 << 20)
    done = served.run("update", "-m", "128m", "box", code=None)  # above memory-swap
    assert_one_line(done, (1, 125), "memory")
    assert served.out("start", "-a", "box") == str(48 << 20)
    served.run("update", "--restart", "on-failure:3", "box")
    policy = "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}"
    assert served.out("inspect", "-f", policy, "box") == "on-failure 3"
    assert_one_line(served.run("update", "--cpuset-cpus", "77", "box", code=None), (1, 125), "77")


def test_wait(served: RunningDaemon) -> None:
    """wait prints the codes of several, in order; of a stopped one at once."""
    served.run("run", "-d", "--name", "slow", "busybox", "sh", "-c", "sleep 0.4; exit 4")
    served.run("run", "-d", "--name", "quick", "busybox", "sh", "-c", "exit 5")
    assert served.out("wait", "slow", "quick") == "4\n5"
    assert served.out("wait", "quick") == "5"


def test_rm(served: RunningDaemon) -> None:
    """rm refuses what runs, goes on with the rest, and -f of a missing one is no failure."""
    served.run("run", "-d", "--name", "runs", *IDLE)
    served.run("create", "--name", "made", *IDLE)
    done = served.run("rm", "runs", "made", "missing", code=1)
    assert done.stdout == "made\n"
    assert len(done.stderr.splitlines()) == 2
    assert served.run("rm", "-f", "missing", "runs").stdout == "runs\n"


def test_rm_flag_of_run(served: RunningDaemon) -> None:
    """--rm removes also what could not start, and anonymous volumes with it."""
    before = traces(served)
    served.run("run", "--rm", "-v", "/data", "busybox", "nonsense", code=127)
    served.run("run", "--rm", "-d", "-v", "/data", "busybox", "nonsense", code=127)
    served.run("run", "--rm", "-v", "/data", "busybox", "true")
    assert served.out("ps", "-aq") == ""
    assert_no_more_than(before, served)


def test_cidfile(served: RunningDaemon, tmp_path: Path) -> None:
    """The id is in the file, relative to the client's directory as well."""
    path = tmp_path / "cid"
    container = served.out("run", "-d", "--cidfile", str(path), *IDLE)
    assert path.read_text() == container


def test_many_at_once(served: RunningDaemon) -> None:
    """One command on many containers: all are done, output in the order given."""
    names = [f"box{number}" for number in range(6)]
    for name in names:
        served.run("create", "--name", name, *IDLE)
    for command in ("start", "pause", "resume", "kill", "rm"):
        if command == "rm":
            served.run("wait", *names)
        assert served.out(command, *names).split() == names


def run_count(daemon: RunningDaemon, name: str) -> int:
    """Return how often a container was started again by its policy."""
    return int(daemon.out("inspect", "-f", "{{.RestartCount}}", name))


def test_restart_policies_over_a_daemon(daemon: RunningDaemon) -> None:
    """always and unless-stopped come back with the daemon, but for what the user has stopped."""
    for policy in ("always", "unless-stopped", "no", "on-failure"):
        daemon.run("run", "-d", "--name", policy, "--restart", policy, *IDLE)
        daemon.run("run", "-d", "--name", f"stopped-{policy}", "--restart", policy, *IDLE)
        daemon.run("stop", "-t", "0", f"stopped-{policy}")
    daemon.stop()
    daemon.start()
    for policy in ("always", "unless-stopped", "no", "on-failure"):
        assert state(daemon, policy) == "running", policy  # they ran on
    wait_until(lambda: state(daemon, "stopped-always") == "running", what="always is always")
    assert state(daemon, "stopped-unless-stopped") == "exited"
    assert state(daemon, "stopped-no") == "exited"
    assert state(daemon, "stopped-on-failure") == "exited"


def test_restart_backs_off(daemon: RunningDaemon) -> None:
    """Restarts come at growing intervals, end with stop, and go on under the next daemon."""
    daemon.run("run", "-d", "--name", "flaky", "--restart", "always", "busybox", "sh", "-c", "date")
    wait_until(lambda: run_count(daemon, "flaky") >= 3)
    began = time.monotonic()
    count = run_count(daemon, "flaky")
    wait_until(lambda: run_count(daemon, "flaky") > count + 1)
    assert time.monotonic() - began > 0.4
    daemon.kill()
    daemon.start()
    count = run_count(daemon, "flaky")
    wait_until(lambda: run_count(daemon, "flaky") > count, what="another restart")
    daemon.run("stop", "flaky")
    assert state(daemon, "flaky") == "exited"
    count = run_count(daemon, "flaky")
    time.sleep(0.5)  # no restart comes
    assert (state(daemon, "flaky"), run_count(daemon, "flaky")) == ("exited", count)
    daemon.run("rm", "flaky")
