"""kill -9 of the daemon and of the shim: containers, logs, exit codes and totals survive."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

IDLE = 17


def status(daemon: RunningDaemon, name: str) -> str:
    """Return a container's status."""
    return daemon.out("inspect", "-f", "{{.State.Status}}", name)


def has_ended(daemon: RunningDaemon, name: str) -> bool:
    """Whether a container's run is over."""
    return status(daemon, name) == "exited"


def start_all(daemon: RunningDaemon) -> None:
    """Start twenty containers: a talker, a paused one, one that will exit, idle ones."""
    talk = "i=0; while :; do i=$((i+1)); echo line $i; usleep 700; done"
    daemon.run("run", "-d", "--name", "talker", "busybox", "sh", "-c", talk)
    daemon.run("run", "-d", "--name", "frozen", "busybox", "sh", "-c", "while :; do :; done")
    leave = "trap 'exit 42' TERM; while :; do usleep 50000; done"
    daemon.run("run", "-d", "--name", "leaver", "busybox", "sh", "-c", leave)
    for number in range(IDLE):
        daemon.run("run", "-d", "--name", f"idle{number}", "busybox", "sleep", "999")
    daemon.run("pause", "frozen")


def lines_of(daemon: RunningDaemon) -> list[int]:
    """Return the talker's line numbers as logged."""
    text = daemon.out("logs", "talker")
    return [int(number) for number in re.findall(r"^line (\d+)$", text, re.MULTILINE)]


def test_daemon_killed(daemon: RunningDaemon) -> None:
    """After kill -9 and a new start all are there with the right state, nothing is lost."""
    start_all(daemon)
    total = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "leaver"))

    daemon.kill()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", what="an exit")
    time.sleep(0.5)  # the talker talks to nobody but the shim
    daemon.start()

    assert len(daemon.out("ps", "-aq").split()) == 3 + IDLE
    assert status(daemon, "talker") == "running"
    assert status(daemon, "frozen") == "paused"
    wait_until(lambda: status(daemon, "leaver") == "exited")
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "leaver") == "42"
    assert daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default") >= total
    before = len(lines_of(daemon))
    wait_until(lambda: len(lines_of(daemon)) > before + 100, what="the talker goes on")
    numbers = lines_of(daemon)
    assert numbers == list(range(1, len(numbers) + 1))
    daemon.run("resume", "frozen")
    assert daemon.out("exec", "idle0", "echo", "alive") == "alive"


def test_totals_are_exact_after_many_deaths(daemon: RunningDaemon) -> None:
    """Whatever instant the daemon dies at, the tenant's total ends as the kernel's count."""
    daemon.run("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do :; done")
    for delay in (0.0, 0.05, 0.3, 1.1):
        time.sleep(delay)
        daemon.kill()
        daemon.start()
        daemon.run(
            "run", "--rm", "busybox", "sh", "-c", "i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done"
        )
    daemon.run("rm", "-f", "busy")

    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    shown = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    assert round(shown * 1e9) == pytest.approx(kernel, abs=1000)


def test_shim_killed(daemon: RunningDaemon) -> None:
    """Without their shim containers run on; exit codes still come, later starts work."""
    daemon.run("run", "-d", "--name", "leaver", "busybox", "sh", "-c", "sleep 2; exit 42")
    daemon.run("run", "-d", "--name", "stayer", "busybox", "sleep", "999")
    os.kill(daemon.shim_pid, signal.SIGKILL)

    wait_until(lambda: status(daemon, "leaver") == "exited", 20)
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "leaver") == "42"
    assert status(daemon, "stayer") == "running"
    assert daemon.out("run", "--rm", "busybox", "echo", "new") == "new"
    daemon.run("stop", "-t", "0", "stayer")


def test_daemon_and_shim_killed(daemon: RunningDaemon) -> None:
    """With both gone a running container is adopted; what cannot be known is said."""
    leave = "trap 'exit 42' TERM; echo ready; while :; do usleep 50000; done"
    daemon.run("run", "-d", "--name", "leaver", "busybox", "sh", "-c", leave)
    daemon.run("run", "-d", "--name", "stayer", "busybox", "sleep", "999")
    wait_until(lambda: daemon.out("logs", "leaver") == "ready", what="the trap is set")
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "leaver"))
    os.kill(daemon.shim_pid, signal.SIGKILL)
    daemon.kill()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="an exit that nobody sees")
    daemon.start()

    assert status(daemon, "stayer") == "running"
    assert status(daemon, "leaver") == "exited"
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "leaver") == "<no value>"
    assert "unknown" in daemon.out("inspect", "-f", "{{.State.Error}}", "leaver")
    assert "unknown" in daemon.out("ps", "-a", "--filter", "name=leaver", "--format", "{{.Status}}")
    daemon.run("stop", "-t", "0", "stayer")


def test_daemon_stopped_leaves_containers(daemon: RunningDaemon) -> None:
    """SIGTERM ends the daemon only; --stop-containers would end them."""
    daemon.run("run", "-d", "--name", "stayer", "busybox", "sleep", "999")
    daemon.stop()
    daemon.start()

    assert status(daemon, "stayer") == "running"


@pytest.mark.parametrize("shim_dies", [False, True], ids=["shim lives", "shim dies"])
def test_daemon_killed_while_it_removed_a_cgroup(daemon: RunningDaemon, shim_dies: bool) -> None:
    """Whichever directories of a cgroup are gone already, the next daemon removes the rest."""
    daemon.run("run", "-d", "--name", "box0", "busybox", "sleep", "999")
    container = daemon.out("inspect", "-f", "{{.Id}}", "box0")
    groups = sorted(Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}/{container}"))
    assert len(groups) > 2
    for number in range(1, len(groups)):
        daemon.run("run", "-d", "--name", f"box{number}", "busybox", "sleep", "999")
    boxes = [f"box{number}" for number in range(len(groups))]
    shown = daemon.out("inspect", "-f", "{{.Id}} {{.State.Pid}}", *boxes).splitlines()
    daemon.kill()
    if shim_dies:
        os.kill(daemon.shim_pid, signal.SIGKILL)
    for number, line in enumerate(shown):
        container, pid = line.split()
        os.kill(int(pid), signal.SIGKILL)
        for gone in range(number + 1):
            wait_until(partial(is_empty, groups[gone].parent / container))
            (groups[gone].parent / container).rmdir()
    daemon.start()
    for name in boxes:
        wait_until(partial(has_ended, daemon, name))
        code = daemon.out("inspect", "-f", "{{.State.ExitCode}}", name)
        # The host's init may have reaped it before there was a daemon to ask.
        assert code == "137" or (shim_dies and code == "<no value>"), name
    daemon.run("rm", *boxes)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}/*/"))


def is_empty(group: Path) -> bool:
    """Whether no process runs in a cgroup."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # reaped meanwhile
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
    return True
