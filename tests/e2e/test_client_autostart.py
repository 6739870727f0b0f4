"""The client without a daemon: help, explanations, and starting one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

CONFIG = """\
bridge = "{0.bridge}"
subnet = "{0.subnet}"
cgroup-parent = "{0.cgroup_parent}"
metrics-address = "127.0.0.1:0"
log-format = "json"
"""


@pytest.fixture
def nobody_there() -> Iterator[RunningDaemon]:
    """Yield directories where a client may start a daemon; whatever was started is ended."""
    made = RunningDaemon()
    config = made.base / "config.toml"
    config.write_text(CONFIG.format(made))
    del made.env["ARUNTIME_HOST"]
    made.env["ARUNTIME_CONFIG"] = str(config)
    yield made
    if (pid := daemon_pid(made)) is not None:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: daemon_pid(made) is None, what="the daemon ends")
    config.write_text(CONFIG.format(made))
    made.destroy()


def daemon_pid(place: RunningDaemon) -> int | None:
    """The daemon that runs there, by its pid file."""
    try:
        text = (place.run_dir / "aruntimed.pid").read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text else None


def test_command_starts_a_daemon_once(nobody_there: RunningDaemon) -> None:
    """The first command starts it detached, the second uses it."""
    assert nobody_there.out("ps", "-q") == ""
    pid = daemon_pid(nobody_there)
    assert pid is not None
    assert nobody_there.out("info", "-f", "{{.DaemonPid}}") == str(pid)
    assert os.getsid(pid) == pid
    for number, target in ((0, "/dev/null"), (1, "/dev/null")):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == target
    assert os.readlink(f"/proc/{pid}/fd/2") == str(nobody_there.root / "aruntimed.log")
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_captured_output_ends_with_the_command(nobody_there: RunningDaemon) -> None:
    """`$(aruntime …)` does not wait for the daemon that it started."""
    shell = f"seen=$({nobody_there.client} info -f '{{{{.Images}}}}'); echo \"[$seen]\""
    done = subprocess.run(
        ["sh", "-c", shell], env=nobody_there.env, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[0]\n"


def test_clients_that_come_together_start_one(nobody_there: RunningDaemon) -> None:
    """Five at once: all are served, by the same daemon."""
    started = [
        nobody_there.popen("info", "-f", "{{.DaemonPid}}", stdout=subprocess.PIPE) for _ in range(5)
    ]
    answers = {process.communicate(timeout=60)[0].strip() for process in started}
    assert answers == {str(daemon_pid(nobody_there)).encode()}


def test_failure_to_start_is_explained(nobody_there: RunningDaemon) -> None:
    """The daemon's own last line is the reason."""
    Path(nobody_there.env["ARUNTIME_CONFIG"]).write_text("colour = 'blue'\n")
    done = nobody_there.run("ps", code=125)
    assert done.stderr.startswith("aruntime: ")
    assert "unknown key 'colour'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_daemon_that_gives_up_is_quoted(nobody_there: RunningDaemon) -> None:
    """What only the daemon finds out is taken from its log."""
    config = Path(nobody_there.env["ARUNTIME_CONFIG"])
    config.write_text(config.read_text().replace("127.0.0.1:0", "192.0.2.1:1"))
    done = nobody_there.run("ps", code=125)
    assert "cannot start a daemon: cannot serve metrics on 192.0.2.1:1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_lines_start_nothing(nobody_there: RunningDaemon) -> None:
    """Unknown commands, wrong flags and help are answered without a daemon."""
    assert (
        "'frobnicate' is not an aruntime command" in nobody_there.run("frobnicate", code=1).stderr
    )
    assert "unknown flag: --frob" in nobody_there.run("ps", "--frob", code=125).stderr
    assert nobody_there.out("--help").startswith("Usage:  aruntime [OPTIONS] COMMAND")
    assert nobody_there.out("help", "run").startswith("Usage:  aruntime run")
    assert nobody_there.out("run", "--help").startswith("Usage:  aruntime run")
    assert nobody_there.out("--version").startswith("aruntime version ")
    assert nobody_there.out("completion", "bash").startswith("#")
    assert nobody_there.run("__complete", "containers").stdout == ""
    version = nobody_there.run("version", code=1)
    assert version.stdout.startswith("Client:\n Version: ")
    assert version.stderr.startswith("aruntime: no daemon answers at ")
    assert not nobody_there.run_dir.exists()


def test_named_host_is_never_started(nobody_there: RunningDaemon) -> None:
    """--host asks for one particular daemon; if it is not there, that is all there is to say."""
    place = nobody_there.base / "other.sock"
    done = nobody_there.run("--host", f"unix://{place}", "ps", code=125)
    assert done.stderr == (
        f"aruntime: no daemon answers at {place}; start it with 'aruntimed --socket {place}'\n"
    )
    assert "write unix:///" in nobody_there.run("-H", "tcp://127.0.0.1:1", "ps", code=125).stderr


def as_nobody(place: RunningDaemon, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the client as an ordinary user (its modules are imported before: /root is closed)."""
    code = (
        "import os, sys, encodings.idna; from aruntime.cli import client, autostart;"
        "autostart.dispatch.load_registry();"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "client.main()"
    )
    os.chmod(place.base, 0o755)
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        env=place.env, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def test_ordinary_user_gets_one_clear_line(nobody_there: RunningDaemon) -> None:
    """Without a daemon: who can start one. With one: how to get access."""
    done = as_nobody(nobody_there, "ps")
    assert done.returncode == 125
    assert "only root can start one" in done.stderr
    assert done.stderr.count("\n") == 1
    nobody_there.run("ps")
    done = as_nobody(nobody_there, "ps")
    sock = nobody_there.run_dir / "aruntime.sock"
    assert done.stderr.startswith(f"aruntime: permission denied at {sock}; run this as root, or")
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)


def test_member_of_the_group_may_use_it(nobody_there: RunningDaemon) -> None:
    """--socket-group opens the socket to a group."""
    config = Path(nobody_there.env["ARUNTIME_CONFIG"])
    config.write_text(config.read_text() + 'socket-group = "nogroup"\n')
    nobody_there.run("ps")
    sock = nobody_there.run_dir / "aruntime.sock"
    assert (sock.stat().st_gid, stat.S_IMODE(sock.stat().st_mode)) == (65534, 0o660)
    done = as_nobody(nobody_there, "info", "-f", "{{.Containers}}")
    assert (done.stdout, done.returncode) == ("0\n", 0)
