"""exec: its output reaches the client whole, and ends with the process."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

MANY = 300_000
"""Bytes that fit into the buffers on the way, but not into those of client and socket alone."""


@pytest.fixture(scope="module")
def box(shared_daemon: RunningDaemon) -> str:
    """Return the name of a container to execute in."""
    return shared_daemon.out("run", "-d", "busybox", "sleep", "999")


def test_a_process_left_behind_does_not_hold_the_client(
    shared_daemon: RunningDaemon, box: str
) -> None:
    """A background process that inherited the pipes delays neither output nor exit code for long.

    The number of the exit code tells it from a failure of ours.
    """
    began = time.monotonic()
    done = shared_daemon.run("exec", box, "sh", "-c", "sleep 60 & echo out; exit 7", code=7)

    assert done.stdout == "out\n"
    assert done.stderr == ""
    assert time.monotonic() - began < 30


def test_a_slow_client_loses_nothing(shared_daemon: RunningDaemon, box: str) -> None:
    """What a client has not taken when the process ends is kept for it."""
    script = f"head -c {MANY} /dev/zero; touch /tmp/written"
    with shared_daemon.popen(
        "exec", box, "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        wait_until(lambda: "written" in shared_daemon.out("exec", box, "ls", "/tmp"))
        time.sleep(2.5)  # the client's pause is what is tested
        assert len(client.stdout.read()) == MANY
    assert client.returncode == 0


NOISE = "trap '' HUP PIPE; head -c 300000 /dev/zero; touch /tmp/{}; sleep 99"
"""Writes more than a pipe holds, then says so; it would be stopped if nobody read."""


def has_written(daemon: RunningDaemon, box: str, name: str) -> bool:
    """Whether the noise has come to its end."""
    return name in daemon.out("exec", box, "ls", "/tmp").split()


@pytest.mark.parametrize("options", [["-d"], ["-d", "-t"]])
def test_detached_noise_is_not_stopped(
    shared_daemon: RunningDaemon, box: str, options: list[str]
) -> None:
    """What exec -d writes is read to nowhere, from a pipe and from a pty."""
    name = "".join(options).replace("-", "d")
    shared_daemon.run("exec", *options, box, "sh", "-c", NOISE.format(name))

    wait_until(lambda: has_written(shared_daemon, box, name), what="the output is read")


def test_noise_outlives_its_client(shared_daemon: RunningDaemon, box: str) -> None:
    """A client that is killed takes nobody along: the rest is read to nowhere."""
    script = f"echo up; while ! [ -e /tmp/killed ]; do :; done; {NOISE.format('outlived')}"
    with shared_daemon.popen("exec", box, "sh", "-c", script, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.kill()
    shared_daemon.out("exec", box, "touch", "/tmp/killed")

    wait_until(lambda: has_written(shared_daemon, box, "outlived"), what="the output is read")


def test_noise_outlives_the_daemon(daemon: RunningDaemon) -> None:
    """The shim reads it while no daemon lives, the next daemon from then on."""
    box = daemon.out("run", "-d", "busybox", "sleep", "999")
    script = f"while ! [ -e /tmp/go ]; do sleep 0.1; done; {NOISE.format('adopted')}"
    daemon.run("exec", "-d", box, "sh", "-c", script)
    daemon.kill()
    daemon.start()
    daemon.out("exec", box, "touch", "/tmp/go")

    wait_until(lambda: has_written(daemon, box, "adopted"), what="the output is read")
