"""Limits hold: what the flags say is what the kernel enforces, and update changes it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

MIB = 1 << 20
SPIN = "while :; do :; done"
UNLIMITED = 9223372036854771712
ATTEMPTS = 5
"""Others use the disk too: one free writer of so many has to be as fast as it can be."""


def disk_of(path: Path) -> str:
    """Return the whole disk a file system is on, as /dev/NAME."""
    number = path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if (device / "partition").exists():
        device = device.parent
    return f"/dev/{device.name}"


def inside(daemon: RunningDaemon, name: str, *flags: str) -> str:
    """Return a cgroup file as a new container with these flags sees it."""
    return daemon.out("run", "--rm", *flags, "busybox", "cat", f"/sys/fs/cgroup/{name}")


def test_limits_are_seen_inside(daemon: RunningDaemon) -> None:
    """The values of the source document, read inside the container."""
    memory = ("-m", "200M", "--memory-swap", "300M")
    assert inside(daemon, "memory/memory.limit_in_bytes", *memory) == "209715200"
    assert inside(daemon, "memory/memory.memsw.limit_in_bytes", *memory) == "314572800"
    assert inside(daemon, "memory/memory.limit_in_bytes") == str(UNLIMITED)
    assert inside(daemon, "memory/memory.memsw.limit_in_bytes") == str(UNLIMITED)
    assert inside(daemon, "cpu/cpu.shares") == "1024"
    assert inside(daemon, "cpu/cpu.shares", "-c", "512") == "512"
    assert inside(daemon, "cpu/cpu.cfs_quota_us", "--cpus", "0.5") == "50000"
    assert inside(daemon, "cpuset/cpuset.cpus", "--cpuset-cpus", "1") == "1"
    assert inside(daemon, "pids/pids.max", "--pids-limit", "7") == "7"
    assert inside(daemon, "memory/memory.soft_limit_in_bytes", "--memory-reservation", "64m") == (
        str(64 * MIB)
    )


def test_shares_divide_one_cpu_two_to_one(daemon: RunningDaemon) -> None:
    """Two busy containers with shares 1024 and 512 on one CPU get 2 : 1 of it."""
    pinned = ("run", "-d", "--cpuset-cpus", "0")
    large = daemon.out(*pinned, "-c", "1024", "busybox", "sh", "-c", SPIN)
    small = daemon.out(*pinned, "-c", "512", "busybox", "sh", "-c", SPIN)

    def usage(container: str) -> int:
        return int(daemon.cgroup_file("cpuacct", "cpuacct.usage", container))

    began = usage(large), usage(small)
    wait_until(lambda: usage(small) - began[1] > 1_000_000_000, 30, "a second of CPU")
    ratio = (usage(large) - began[0]) / (usage(small) - began[1])
    assert ratio == pytest.approx(2, rel=0.1)


def test_cpus_holds_back(daemon: RunningDaemon) -> None:
    """--cpus 0.2 lets a busy loop have a fifth of a CPU, and the throttling is counted."""
    container = daemon.out(
        "run", "-d", "--name", "slow", "--cpus", "0.2", "busybox", "sh", "-c", SPIN
    )
    start = time.monotonic()
    before = int(daemon.cgroup_file("cpuacct", "cpuacct.usage", container))
    time.sleep(2)  # the time in which it is held back
    used = int(daemon.cgroup_file("cpuacct", "cpuacct.usage", container)) - before

    assert used / 1e9 / (time.monotonic() - start) < 0.3
    throttled = "aruntime_container_cpu_throttled_periods_total"
    wait_until(lambda: daemon.metric(throttled, name="slow") > 0, 30, "the next slow reading")


def free_rate(daemon: RunningDaemon, copy: str) -> float:
    """Return how many bytes a second a container without a limit writes."""
    start = time.monotonic()
    daemon.run("run", "--rm", "busybox", "sh", "-c", copy)
    return 400 * MIB / (time.monotonic() - start)


def test_write_bandwidth_is_held(daemon: RunningDaemon) -> None:
    """--device-write-bps 30MB holds dd oflag=direct to it by the kernel's own byte counter."""
    limit = 30 * 1000 * 1000
    device = disk_of(daemon.root)
    copy = "dd if=/dev/zero of=/out bs=1M count=400 oflag=direct"
    container = daemon.out(
        "run", "-d", "--device-write-bps", f"{device}:30MB", "busybox", "sh", "-c", copy
    )

    def written() -> int:
        text = daemon.cgroup_file("blkio", "blkio.throttle.io_service_bytes", container)
        return sum(int(line.split()[2]) for line in text.splitlines() if " Write " in line)

    wait_until(lambda: written() > 10 * MIB, 20, "the first bytes")
    began, start = written(), time.monotonic()
    time.sleep(3)  # the span of the measurement
    rate = (written() - began) / (time.monotonic() - start)
    assert rate == pytest.approx(limit, rel=0.2)
    daemon.run("rm", "-f", container)

    assert any(free_rate(daemon, copy) > 10 * limit for _ in range(ATTEMPTS))


def test_pids_limit_stops_forks(daemon: RunningDaemon) -> None:
    """A fork beyond --pids-limit fails inside and is counted."""
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 3 & done; sleep 3"
    daemon.run("run", "-d", "--name", "forker", "--pids-limit", "4", "busybox", "sh", "-c", script)
    wait_until(
        lambda: daemon.metric("aruntime_container_pids_limit_hits_total", name="forker") >= 1,
        15,
    )


def test_update_changes_a_running_container(daemon: RunningDaemon) -> None:
    """update writes new limits into the running container's cgroup and into inspect."""
    container = daemon.out("run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "99")
    daemon.run("update", "-m", "128m", "--memory-swap", "256m", "-c", "256", "box")

    limit = daemon.cgroup_file("memory", "memory.limit_in_bytes", container)
    assert int(limit) == 128 * MIB
    assert daemon.cgroup_file("cpu", "cpu.shares", container) == "256"
    assert daemon.out("inspect", "-f", "{{.HostConfig.Memory}}", "box") == str(128 * MIB)


def test_device_rules(daemon: RunningDaemon) -> None:
    """A device that is not on the list cannot be opened even if its node is made."""
    number = os.stat(disk_of(daemon.root)).st_rdev
    node = f"mknod /disk b {os.major(number)} {os.minor(number)} && head -c 1 /disk"
    done = daemon.run("run", "--rm", "busybox", "sh", "-c", node, code=1)
    assert "Operation not permitted" in done.stderr
    assert daemon.out("run", "--rm", "--device", "/dev/loop-control", "busybox",
                      "ls", "/dev/loop-control") == "/dev/loop-control"  # fmt: skip
