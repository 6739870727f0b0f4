"""A host that is not as it should be: no controller, a vanished cgroup, damaged files, a full disk.

Each shows as one line on stderr, nothing is left behind, and it is well again when the host is.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import BIN, RunningDaemon, wait_until
from tests.traces import assert_no_more_than, assert_one_line, traces

pytestmark = pytest.mark.e2e

MIB = 1 << 20


def test_controllers_that_are_missing(daemon: RunningDaemon) -> None:
    """A limit that this kernel has no file for is refused before anything is started."""
    before = traces(daemon)
    lacking = {
        "cpu/cpu.rt_runtime_us": ["--cpu-rt-runtime", "950000"],
        "blkio/blkio.bfq.weight": ["--blkio-weight", "500"],
    }
    for name, flags in lacking.items():
        usable = (Path("/sys/fs/cgroup") / name).exists()
        done = daemon.run("run", "--rm", *flags, "busybox", "true", code=None)
        if usable and done.returncode == 0:
            continue
        assert_one_line(done, 125, name.partition("/")[0])
        assert_no_more_than(before, daemon, flags)


@pytest.fixture
def without_pids(tmp_path: Path, busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield a daemon that has no pids controller, in a mount namespace of its own."""
    daemon = RunningDaemon()
    start = tmp_path / "aruntimed"
    start.write_text(
        "#!/bin/sh\n"
        'if [ -z "$ARUNTIME_APART" ]; then ARUNTIME_APART=1 exec unshare -m "$0" "$@"; fi\n'
        f'umount /sys/fs/cgroup/pids && exec {daemon.program} "$@"\n'
    )
    start.chmod(0o755)
    daemon.program = str(start)
    daemon.start()
    daemon.load_busybox(busybox_tar)
    yield daemon
    daemon.destroy()


def test_a_hierarchy_that_is_not_mounted(without_pids: RunningDaemon) -> None:
    """The error names the controller; containers without that limit run."""
    assert without_pids.out("run", "--rm", "busybox", "echo", "well") == "well"
    before = traces(without_pids)
    for command in ("run", "create"):
        done = without_pids.run(command, "--pids-limit", "9", "busybox", "true", code=None)
        assert_one_line(done, 125, "pids")
    without_pids.run("run", "-d", "--name", "box", "busybox", "sleep", "99")
    assert_one_line(without_pids.run("update", "--pids-limit", "9", "box", code=None), 1, "pids")
    without_pids.run("rm", "-f", "box")
    assert_no_more_than(before, without_pids)


def test_a_cgroup_that_vanishes(daemon: RunningDaemon) -> None:
    """Somebody kills a container's processes and removes its groups under a sleeping daemon."""
    before = traces(daemon)
    container = daemon.out("run", "-d", "--name", "victim", "busybox", "sleep", "99")
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "victim"))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", what="a zombie")
        for group in Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}/{container}"):
            group.rmdir()
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert daemon.out("wait", "victim") == "137"
    daemon.run("start", "victim")
    for group in Path("/sys/fs/cgroup").glob(f"pids{daemon.cgroup_parent}/{container}"):
        # Its processes are moved away, and one of its groups is gone while it runs.
        (group.parent / "cgroup.procs").write_text(
            daemon.out("inspect", "-f", "{{.State.Pid}}", "victim")
        )
        group.rmdir()
    assert daemon.out("stats", "--no-stream", "--format", "{{.Name}}", "victim") == "victim"
    assert daemon.metrics()
    daemon.run("rm", "-f", "victim")
    assert_no_more_than(before, daemon)


DAMAGED = ("{", '{"status": "flying"}', "")


def test_a_record_that_is_damaged(daemon: RunningDaemon) -> None:
    """A malformed state.json hides one container, says so, and comes back when it is repaired."""
    names = [f"box{number}" for number in range(len(DAMAGED))]
    for name in names:
        daemon.run("run", "--name", name, "busybox", "true")
    ids = daemon.out("inspect", "-f", "{{.Id}}", *names).split()
    paths = [daemon.root / "containers" / container_id / "state.json" for container_id in ids]
    intact = [path.read_bytes() for path in paths]
    daemon.stop()
    for path, damaged in zip(paths, DAMAGED, strict=True):
        path.write_text(damaged)
    daemon.start()
    assert daemon.out("ps", "-aq") == ""
    errors = [
        json.loads(line)["error"]
        for line in daemon.log.splitlines()
        if "container not loaded" in line
    ]
    assert len(errors) == len(DAMAGED)
    assert all("restore the file, or remove" in error for error in errors)
    assert daemon.out("run", "--rm", "busybox", "echo", "well") == "well"
    daemon.stop()
    for path, content in zip(paths, intact, strict=True):
        path.write_bytes(content)
    daemon.start()
    assert len(daemon.out("ps", "-aq").split()) == len(DAMAGED)
    daemon.run("rm", *names)


def refusal(daemon: RunningDaemon) -> str:
    """Start the daemon, which must end by itself; return the one line it says."""
    done = subprocess.run(
        [
            str(BIN / "aruntimed"), f"--root={daemon.root}", f"--run-dir={daemon.run_dir}",
            f"--bridge={daemon.bridge}", f"--subnet={daemon.subnet}", "--metrics-address=none",
            f"--cgroup-parent={daemon.cgroup_parent}", "--log-level=error",
        ],
        capture_output=True, text=True, timeout=30, env=daemon.env,
    )  # fmt: skip
    assert done.returncode == 125, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def damage_header(path: Path) -> None:
    """Write over the beginning of the file."""
    with path.open("r+b") as file:
        file.write(os.urandom(100))


def damage_pages(path: Path) -> None:
    """Write over everything but the first page."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def damage_row(path: Path) -> None:
    """Change a tenant's totals into what is no JSON."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tenants SET totals = '{\"cpu_ns\": '")
    connection.close()


def test_a_ledger_that_is_damaged(daemon: RunningDaemon) -> None:
    """The daemon does not start over a damaged ledger; repaired, it goes on with its totals."""
    daemon.run("run", "--rm", "busybox", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do :; done")
    ledger = daemon.root / "ledger.db"
    total = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    daemon.stop()
    subprocess.run(
        [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("
         "'PRAGMA wal_checkpoint(TRUNCATE)')", str(ledger)], check=True,
    )  # fmt: skip
    intact = ledger.read_bytes()
    for damage in (damage_header, damage_pages, damage_row):
        damage(ledger)
        said = refusal(daemon)
        assert said.startswith(f"aruntimed: cannot open ledger {ledger}"), (damage, said)
        ledger.write_bytes(intact)
        for suffix in ("-wal", "-shm"):
            Path(f"{ledger}{suffix}").unlink(missing_ok=True)
    daemon.start()
    assert daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default") >= total > 0


@pytest.fixture
def small_disk(tmp_path: Path, busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield a daemon with a root on a tmpfs of 48 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(disk)], check=True)
    daemon = RunningDaemon()
    daemon.root = disk / "root"
    daemon.env["ARUNTIME_ROOT"] = str(daemon.root)
    daemon.start()
    daemon.load_busybox(busybox_tar)
    yield daemon
    (disk / "filling").unlink(missing_ok=True)
    daemon.destroy()
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Use up every byte of a file system; return the file that holds them."""
    path = disk / "filling"
    with path.open("wb") as file:
        for size in (MIB, 4096):
            try:
                while True:
                    os.write(file.fileno(), bytes(size))
            except OSError:
                continue
    return path


SPIN = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done"
TALK = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo line $i; done; sleep 99"


def test_a_full_disk(small_disk: RunningDaemon, busybox_tar: bytes) -> None:
    """Nothing new is made on it, what runs goes on, and with space all is well and counted."""
    daemon = small_disk
    daemon.run("run", "--rm", "busybox", "true")
    daemon.run("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do sleep 0.1; done")
    daemon.run("create", "--name", "later", "busybox", "true")
    before, images = traces(daemon), daemon.out("images", "-q")
    known = daemon.container_ids()
    containers = daemon.root / "containers"
    # Files of the first one go a moment after its end, and would give back room.
    wait_until(
        lambda: {one.name for one in containers.iterdir()} == known, what="only two are left"
    )
    filling = fill(daemon.root.parent)

    for argv in (
        ["import", "-", "more:latest"],
        ["create", "busybox", "true"],
        ["create", "-v", "/data", "busybox", "true"],
        ["run", "--rm", "-v", "/etc", "busybox", "true"],
        ["run", "busybox", "true"],
        ["run", "--rm", "-d", "busybox", "true"],
        ["start", "later"],
        ["rename", "later", "never"],
        ["update", "--restart", "always", "later"],
    ):
        done = daemon.run(*argv, stdin=busybox_tar if argv[0] == "import" else None, code=None)
        assert_one_line(done, (1, 125), "space")
        assert_no_more_than(before, daemon, argv)
    assert daemon.out("images", "-q") == images
    assert daemon.out("exec", "busy", "echo", "well") == "well"
    assert daemon.out("logs", "busy") == ""
    assert daemon.metrics()
    daemon.run("pause", "busy")
    daemon.run("resume", "busy")
    daemon.run("rm", "-f", "busy")

    filling.unlink()
    assert daemon.metrics()
    daemon.run("start", "-a", "later")
    daemon.run("rm", "later")
    daemon.run("run", "--rm", "busybox", "sh", "-c", SPIN)
    daemon.run("import", "-", "more:latest", stdin=busybox_tar)
    assert_total_is_exact(daemon)


def assert_total_is_exact(daemon: RunningDaemon) -> None:
    """Compare the tenant's total with the kernel's count of all that ever ran in our groups."""
    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    shown = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant="default")
    assert round(shown * 1e9) == pytest.approx(kernel, abs=1000)


def test_output_waits_for_a_full_disk(small_disk: RunningDaemon) -> None:
    """Who writes into a full log waits; with space it goes on and no line is lost or doubled."""
    daemon = small_disk
    filling = fill(daemon.root.parent)
    os.truncate(filling, filling.stat().st_size - 65536)
    daemon.run("run", "-d", "--name", "talker", "busybox", "sh", "-c", TALK)
    wait_until(lambda: daemon.out("logs", "--tail", "1", "talker") != "", what="the first lines")
    wait_until(lambda: os.statvfs(daemon.root).f_bfree == 0, what="a full disk")
    done = daemon.run("run", "--rm", "busybox", "true", code=None)
    assert_one_line(done, 125, "space")

    filling.unlink()
    wait_until(lambda: daemon.out("logs", "--tail", "1", "talker") == "line 40000", 30)
    lines = daemon.out("logs", "talker").splitlines()
    assert lines == [f"line {number}" for number in range(1, 40001)]
    daemon.run("rm", "-f", "talker")
    assert_total_is_exact(daemon)
