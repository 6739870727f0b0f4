"""The source document, 2.1.3 to 2.1.6: control groups of a container, inside and on the host.

One test per command shown there. The group called ``docker`` there is the daemon's
``--cgroup-parent`` here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningDaemon
from tests.terminal import PROMPT, Terminal

pytestmark = pytest.mark.e2e

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = "9223372036854771712"
"""The largest multiple of a page below 2^63, which the kernel shows for no limit."""

COUNT = 120
ATTEMPTS = 5
"""Megabytes written here; the document writes 800, which takes half a minute."""

WRITE = f"time dd if=/dev/zero of=test.out bs=1M count={COUNT} oflag=direct"
LIMIT = 30 << 20
"""30MB, in docker's reading; in dd's it is the 31.5 MB/s of the document."""

SIZES = [[f"{COUNT}M", "test.out"], [f"{COUNT + 1}M", "test.out"]]
"""What ``du -h`` may show: ext4 counts the block that holds a file's extents, du rounds up."""


@pytest.fixture
def shell(host: RunningDaemon) -> Iterator[Terminal]:
    """Yield a terminal at the prompt of a container named test."""
    with Terminal(host, "run", "-it", "--rm", "--name", "test", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)
        yield terminal
        terminal.leave()


def container_id(host: RunningDaemon, name: str = "test") -> str:
    """Return the full id, which is also the name of the cgroup."""
    return host.out("inspect", "-f", "{{.Id}}", name)


def parent(host: RunningDaemon, controller: str) -> Path:
    """Return the daemon's group in the hierarchy of a controller."""
    return CGROUPS / controller / host.cgroup_parent.strip("/")


def test_ls_of_the_hosts_controllers(host: RunningDaemon) -> None:
    """``cd /sys/fs/cgroup; ls``: one directory per controller."""
    assert {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"} <= {
        entry.name for entry in CGROUPS.iterdir()
    }


def test_ls_of_the_cpu_controller(host: RunningDaemon) -> None:
    """``cd cpu; ls``: weights, tasks, and our parent group where the document has docker's."""
    listed = {entry.name for entry in (CGROUPS / "cpu").iterdir()}

    assert {"cpu.shares", "tasks", "cgroup.procs", "cpu.cfs_quota_us", "release_agent"} <= listed
    assert host.cgroup_parent.strip("/") in listed


def test_ls_of_the_parent_names_the_container(host: RunningDaemon, shell: Terminal) -> None:
    """``cd docker; ls``: a directory with the full id of the container."""
    directories = [entry.name for entry in parent(host, "cpu").iterdir() if entry.is_dir()]

    assert directories == [container_id(host)]
    assert len(directories[0]) == 64


def test_tasks_of_the_parent_are_none(host: RunningDaemon, shell: Terminal) -> None:
    """``cat tasks`` in the parent: empty, also while a container runs."""
    assert (parent(host, "cpu") / "tasks").read_text() == ""


def test_ls_of_the_containers_group(host: RunningDaemon, shell: Terminal) -> None:
    """``cd 41052cceb473…; ls``: the files of the controller."""
    listed = {entry.name for entry in (parent(host, "cpu") / container_id(host)).iterdir()}

    assert {
        "cgroup.clone_children",
        "cgroup.procs",
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpu.shares",
        "cpu.stat",
        "notify_on_release",
        "tasks",
    } <= listed


@pytest.mark.parametrize("controller", ["cpu", "memory", "freezer", "blkio", "devices", "pids"])
def test_tasks_are_the_containers_processes(
    host: RunningDaemon, shell: Terminal, controller: str
) -> None:
    """``cat tasks``: the pids, on the host, of the first shell and of one brought by exec."""
    group = parent(host, controller) / container_id(host)
    with Terminal(host, "exec", "-it", "test", "/bin/bash") as second:
        second.expect(PROMPT)
        tasks = (group / "tasks").read_text().split()
        first = host.out("inspect", "-f", "{{.State.Pid}}", "test")

        assert len(tasks) == 2
        assert first in tasks
        assert (group / "cgroup.procs").read_text().split() == tasks
        for pid in tasks:
            assert Path(f"/proc/{pid}/comm").read_text() == "bash\n"
        assert second.leave() == 0


def test_ps_names_the_same_id(host: RunningDaemon, shell: Terminal) -> None:
    """``ps``: the CONTAINER ID is the beginning of the directory's name."""
    (row,) = host.out("ps").splitlines()[1:]
    (directory,) = [entry.name for entry in parent(host, "cpu").iterdir() if entry.is_dir()]

    assert directory.startswith(row.split()[0])
    assert row.split()[-1] == "test"
    assert " Up " in row


@pytest.fixture
def limited(host: RunningDaemon) -> Iterator[Terminal]:
    """Yield the document's ``run -it -m 200M --memory-swap 300M centos:7``: no command given."""
    with Terminal(
        host, "run", "-it", "--rm", "-m", "200M", "--memory-swap", "300M", "centos:7"
    ) as terminal:
        terminal.expect(PROMPT)
        yield terminal
        terminal.leave()


@pytest.fixture
def unlimited(host: RunningDaemon) -> Iterator[Terminal]:
    """Yield the document's ``run -it centos:7``."""
    with Terminal(host, "run", "-it", "--rm", "centos:7") as terminal:
        terminal.expect(PROMPT)
        yield terminal
        terminal.leave()


def test_ls_of_the_controllers_inside(limited: Terminal) -> None:
    """``cd /sys/fs/cgroup/; ls`` inside: the same controllers as on the host."""
    limited.ask("cd /sys/fs/cgroup/")

    assert set(limited.ask("ls").split()) == {entry.name for entry in CGROUPS.iterdir()}


def test_ls_of_the_memory_controller_inside(limited: Terminal) -> None:
    """``cd memory/; ls`` inside: the container's own group."""
    limited.ask("cd /sys/fs/cgroup/memory/")

    assert {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "tasks"} <= set(
        limited.ask("ls").split()
    )


def test_memory_limit_inside(limited: Terminal) -> None:
    """``cat memory.limit_in_bytes``: 200M."""
    limited.ask("cd /sys/fs/cgroup/memory/")

    assert limited.ask("cat memory.limit_in_bytes") == "209715200"


def test_memory_and_swap_limit_inside(limited: Terminal) -> None:
    """``cat memory.memsw.limit_in_bytes``: 300M, memory and swap together."""
    limited.ask("cd /sys/fs/cgroup/memory/")

    assert limited.ask("cat memory.memsw.limit_in_bytes") == "314572800"


def test_no_memory_limit_inside(unlimited: Terminal) -> None:
    """Without ``-m``, ``cat memory.limit_in_bytes`` shows no limit."""
    unlimited.ask("cd /sys/fs/cgroup/memory/")

    assert unlimited.ask("cat memory.limit_in_bytes") == UNLIMITED


def test_no_memory_and_swap_limit_inside(unlimited: Terminal) -> None:
    """Without ``--memory-swap``, ``cat memory.memsw.limit_in_bytes`` shows no limit."""
    unlimited.ask("cd /sys/fs/cgroup/memory/")

    assert unlimited.ask("cat memory.memsw.limit_in_bytes") == UNLIMITED


@pytest.mark.parametrize(
    ("name", "flags", "weight"),
    [("containerA", (), "1024"), ("containerB", ("-c", "512"), "512")],
)
def test_cpu_weight_inside(
    host: RunningDaemon, name: str, flags: tuple[str, ...], weight: str
) -> None:
    """``cat cpu.shares`` in containerA: 1024; in containerB, run with ``-c 512``: 512."""
    with Terminal(host, "run", "-it", "--rm", "--name", name, *flags, "centos:7") as terminal:
        terminal.expect(PROMPT)
        terminal.ask("cd /sys/fs/cgroup/cpu")

        assert terminal.ask("cat cpu.shares") == weight
        assert (parent(host, "cpu") / container_id(host, name) / "cpu.shares").read_text() == (
            f"{weight}\n"
        )
        assert terminal.leave() == 0


def disk_of(path: Path) -> str:
    """Return the whole disk that a file system is on, here what /dev/sda is there."""
    number = path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    return f"/dev/{(device.parent if (device / 'partition').exists() else device).name}"


def written(terminal: Terminal) -> tuple[int, float]:
    """Let dd write; returns the bytes and seconds it reports, which ``time`` confirms."""
    answer = terminal.ask(WRITE, seconds=60)
    report = re.search(r"(\d+) bytes \(.*\) copied, ([0-9.]+) s, ", answer)
    took = re.search(r"^real\s+(\d+)m([0-9.]+)s$", answer, re.MULTILINE)
    assert report, answer
    assert took, answer
    seconds = int(took[1]) * 60 + float(took[2])
    assert float(report[2]) <= seconds < float(report[2]) + 5
    return int(report[1]), float(report[2])


def test_dd_is_held_to_thirty_megabytes_a_second(host: RunningDaemon) -> None:
    """``run --device-write-bps DISK:30MB``, ``time dd … oflag=direct``, ``du -h``; then without."""
    limit = f"{disk_of(host.root)}:30MB"
    with Terminal(
        host, "run", "-it", "--rm", "--name", "testA", "--device-write-bps", limit, "centos:7"
    ) as terminal:
        terminal.expect(PROMPT)
        count, held = written(terminal)
        assert count == COUNT << 20
        assert LIMIT * 0.8 < count / held < LIMIT * 1.15
        assert terminal.ask("du -h test.out").split() in SIZES
        assert terminal.leave() == 0

    with Terminal(host, "run", "-it", "--rm", "--name", "testc", "centos:7") as terminal:
        terminal.expect(PROMPT)
        counts, seconds = zip(*(written(terminal) for _ in range(ATTEMPTS)), strict=True)
        assert set(counts) == {COUNT << 20}
        assert held / min(seconds) > 10
        assert terminal.ask("du -h test.out").split() in SIZES
        assert terminal.leave() == 0
