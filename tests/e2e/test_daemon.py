"""The daemon as a process: starting, refusing to start, reloading, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

AS_NOBODY = (
    "import os, sys; from aruntime.daemon.main import main;"
    "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main([]))"
)


@pytest.fixture
def daemon_at_rest() -> Iterator[RunningDaemon]:
    """Yield a daemon that has not been started."""
    made = RunningDaemon()
    yield made
    made.destroy()


def aruntimed(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to give up at once."""
    return subprocess.run(
        [sys.executable, "-m", "aruntime.daemon.main", *options],
        capture_output=True, text=True, timeout=30, env=os.environ | env,
    )  # fmt: skip


def test_version_and_info(bare_daemon: RunningDaemon) -> None:
    """Both commands answer in all three formats and tell the truth."""
    version = json.loads(bare_daemon.out("version", "--format", "json"))
    assert version["Client"]["Version"] == version["Server"]["Version"]
    assert bare_daemon.process is not None
    assert version["Server"]["Pid"] == bare_daemon.process.pid
    assert bare_daemon.out("version", "-f", "{{.Server.Version}}") == version["Server"]["Version"]
    info = json.loads(bare_daemon.out("info", "-f", "json"))
    assert (info["Containers"], info["Images"]) == (0, 0)
    assert info["RootDir"] == str(bare_daemon.root)
    assert info["MetricsAddress"] == (bare_daemon.run_dir / "metrics.addr").read_text().strip()
    assert info["ShimPid"] == bare_daemon.shim_pid
    assert f"Bridge: {bare_daemon.bridge}\n" in bare_daemon.run("info").stdout


def test_second_daemon_is_told_of_the_first(bare_daemon: RunningDaemon, tmp_path: Path) -> None:
    """Same run directory or same root: one line that names the pid."""
    assert bare_daemon.process is not None
    pid = bare_daemon.process.pid
    done = aruntimed(f"--root={tmp_path}", f"--run-dir={bare_daemon.run_dir}")
    said = f"aruntimed: another aruntimed (pid {pid}) uses the run directory {bare_daemon.run_dir};"
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert done.stderr.startswith(said)
    done = aruntimed(f"--root={bare_daemon.root}", f"--run-dir={tmp_path}")
    assert done.stderr.startswith(
        f"aruntimed: another aruntimed (pid {pid}) uses the root {bare_daemon.root};"
    )
    assert bare_daemon.out("version", "-f", "{{.Server.Pid}}") == str(pid)


def test_killed_daemon_does_not_lock_out_the_next(bare_daemon: RunningDaemon) -> None:
    """After SIGKILL the next daemon starts on the same directories and socket."""
    bare_daemon.kill()
    bare_daemon.start()
    assert bare_daemon.process is not None
    assert bare_daemon.out("version", "-f", "{{.Server.Pid}}") == str(bare_daemon.process.pid)


def test_orderly_stop_cleans_the_run_directory(bare_daemon: RunningDaemon) -> None:
    """SIGTERM: exit code 0, no socket, no address, nobody named in the pid file."""
    pid_file = bare_daemon.run_dir / "aruntimed.pid"
    process = bare_daemon.process
    assert process is not None
    assert pid_file.read_text().strip() == str(process.pid)
    assert stat.S_IMODE((bare_daemon.run_dir / "aruntime.sock").stat().st_mode) == 0o660
    bare_daemon.stop()
    assert process.returncode == 0
    assert pid_file.read_text() == ""
    assert not (bare_daemon.run_dir / "aruntime.sock").exists()
    assert not (bare_daemon.run_dir / "metrics.addr").exists()
    assert '"event": "stopped"' in bare_daemon.log


def test_interrupt_stops_too(bare_daemon: RunningDaemon) -> None:
    """^C of a daemon in the foreground is an orderly stop."""
    process = bare_daemon.process
    assert process is not None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    bare_daemon.process = None


def test_reload_changes_settings(daemon_at_rest: RunningDaemon) -> None:
    """SIGHUP takes over what it can, names what needs a restart, keeps bad files out."""
    config = daemon_at_rest.base / "config.toml"
    config.write_text("poll-interval = 1\n")
    daemon_at_rest.start(f"--config={config}")
    process = daemon_at_rest.process
    assert process is not None

    def interval() -> str:
        return daemon_at_rest.out("info", "-f", "{{.PollIntervalSeconds}}")

    config.write_text('poll-interval = 7.5\nsocket-group = "root"\n')
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: interval() == "7.5")
    assert '"settings": ["socket-group"]' in daemon_at_rest.log
    config.write_text("pol-interval = 3\n")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "unknown key 'pol-interval'" in daemon_at_rest.log)
    assert interval() == "7.5"


def test_systemd_is_told(daemon_at_rest: RunningDaemon) -> None:
    """READY after the start, RELOADING and READY around a reload, STOPPING before the end."""
    address = str(daemon_at_rest.base / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        daemon_at_rest.env["NOTIFY_SOCKET"] = address
        daemon_at_rest.start()
        assert systemd.recv(1000).startswith(b"READY=1\nSTATUS=Listening on ")
        assert daemon_at_rest.process is not None
        daemon_at_rest.process.send_signal(signal.SIGHUP)
        assert systemd.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert systemd.recv(1000) == b"READY=1"
        daemon_at_rest.stop()
        assert systemd.recv(1000) == b"STOPPING=1"
    del daemon_at_rest.env["NOTIFY_SOCKET"]


def test_file_limit_is_raised(bare_daemon: RunningDaemon) -> None:
    """The daemon uses all descriptors it may have."""
    assert bare_daemon.process is not None
    limits = Path(f"/proc/{bare_daemon.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_stopping_daemon_tells_its_clients(bare_daemon: RunningDaemon) -> None:
    """Whoever follows gets one line and exit code 125, at once."""
    bare_daemon.run("network", "create", "told")
    following = bare_daemon.popen(
        "events", "--since", "1h", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert following.stdout is not None
    assert b" network create " in following.stdout.readline()  # it is served
    bare_daemon.stop()
    _, errors = following.communicate(timeout=60)
    assert (following.returncode, errors) == (
        125,
        b"aruntime: the daemon is stopping; containers run on\n",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nonsense",), "unknown flag: --nonsense; see 'aruntime daemon --help'"),
        (("argument",), '"aruntime daemon" accepts no arguments; see'),
        (("--poll-interval=often",), "--poll-interval must be a number of seconds"),
        (("--config=/no/such/file",), "cannot read /no/such/file: no such file"),
        (("--cgroup-parent=../x",), "--cgroup-parent must be an absolute path"),
        (("--run-dir=/proc/nowhere",), "/proc/nowhere: no such file or directory"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """Bad flags, files and directories: one line, exit code 125, nothing made."""
    done = aruntimed(f"--root={tmp_path}/root", f"--run-dir={tmp_path}/run", *options)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (125, 1, ""), done.stderr
    assert done.stderr.startswith(f"aruntimed: {said}")
    assert not (tmp_path / "root" / "images").exists()


def test_parts_that_cannot_start_are_one_line(daemon_at_rest: RunningDaemon) -> None:
    """An address or group that is not there: what was started before is stopped again."""
    base = [
        f"--root={daemon_at_rest.root}", f"--run-dir={daemon_at_rest.run_dir}",
        f"--bridge={daemon_at_rest.bridge}", f"--subnet={daemon_at_rest.subnet}",
        f"--cgroup-parent={daemon_at_rest.cgroup_parent}", "--log-level=error",
    ]  # fmt: skip
    for options, said in (
        (["--metrics-address=192.0.2.1:9"], "cannot serve metrics on 192.0.2.1:9"),
        (
            ["--metrics-address=none", "--socket-group=no-such-group"],
            "--socket-group: there is no group no-such-group",
        ),
    ):
        done = aruntimed(*base, *options)
        assert (done.returncode, done.stderr.count("\n")) == (125, 1), done.stderr
        assert done.stderr.startswith(f"aruntimed: {said}")
        assert (daemon_at_rest.run_dir / "aruntimed.pid").read_text() == ""


def test_without_root_one_line(tmp_path: Path) -> None:
    """An ordinary user is told what to do."""
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 125
    assert done.stderr.startswith("aruntimed: aruntimed needs root to make containers;")
    assert done.stderr.count("\n") == 1


def test_help_needs_no_root_and_no_daemon() -> None:
    """`aruntimed --help` and `aruntime daemon --help` are the same page."""
    done = aruntimed("--help")
    assert done.returncode == 0
    for flag in ("--root DIR", "--run-dir DIR", "--socket PATH", "--metrics-address HOST:PORT"):
        assert flag in done.stdout
    client = Path(sys.executable).parent / "aruntime"
    same = subprocess.run([client, "daemon", "--help"], capture_output=True, text=True)
    assert same.stdout == done.stdout


def test_containers_and_volumes_are_scattered_over_the_disk(daemon: RunningDaemon) -> None:
    """What was removed lately is not in the way of what comes (ext4; others know no flag)."""
    for name in ("containers", "volumes"):
        path = str(daemon.root / name)
        kind = subprocess.run(["stat", "-fc", "%T", path], capture_output=True, check=True)
        if kind.stdout != b"ext2/ext3\n":
            pytest.skip("the temporary directory is not on ext4")
        listed = subprocess.run(["lsattr", "-d", path], capture_output=True, check=True)
        assert b"T" in listed.stdout.split()[0]
