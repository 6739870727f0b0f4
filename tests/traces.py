"""What containers leave on a host: the directories, cgroups, leases, mounts, links, processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from tests.conftest import difference
from tests.harness import RunningDaemon, wait_until

CGROUP_ROOT = Path("/sys/fs/cgroup")


def traces(daemon: RunningDaemon) -> dict[str, set[str]]:
    """Return everything on the host that belongs to containers of this daemon, by kind."""
    return {
        "directories": names_in(daemon.root / "containers"),
        "volumes": names_in(daemon.root / "volumes"),
        "leases": names_in(daemon.root / "networks" / daemon.bridge / "leases"),
        "cgroups": {
            str(group) for group in CGROUP_ROOT.glob(f"*{daemon.cgroup_parent}/*") if group.is_dir()
        },
        "mounts": {
            " ".join(line.split()[3:5])
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(daemon.base) in line
        },
        "links": names_in(Path("/sys/class/net") / daemon.bridge / "brif"),
        "processes": {str(pid) for pid in children_of(daemon.shim_pid)},
        "members": {
            line
            for tasks in CGROUP_ROOT.glob(f"*{daemon.cgroup_parent}/cgroup.procs")
            for line in tasks.read_text().split()
        },
    }


def names_in(directory: Path) -> set[str]:
    """Return the names in a directory; a missing one has none."""
    return set(os.listdir(directory)) if directory.is_dir() else set()


def children_of(pid: int) -> set[int]:
    """Return the children of a process, zombies included."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (task / "children").read_text().split()))
    return found


def assert_no_more_than(
    before: dict[str, set[str]], daemon: RunningDaemon, what: object = ""
) -> None:
    """Fail if there is more than there was.

    What the kernel removes in the background (links of a dead network namespace) gets its time.
    """
    now = traces(daemon)
    if difference(before, now):
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not difference(before, traces(daemon)), 30)
        now = traces(daemon)
    left = difference(before, now)
    assert not left, f"{what} left behind: {left}"


def assert_one_line(
    done: subprocess.CompletedProcess[str], code: int | tuple[int, ...] = 125, said: str = ""
) -> None:
    """Fail unless a command failed with this exit code and one line of ours on stderr."""
    codes = (code,) if isinstance(code, int) else code
    shown = f"{' '.join(map(str, done.args[1:]))[:300]}: exit {done.returncode}\n{done.stderr}"
    assert done.returncode in codes, shown
    assert done.stderr.startswith("aruntime: "), shown
    assert done.stderr.count("\n") == 1, shown
    assert done.stderr.endswith("\n"), shown
    assert "Traceback" not in done.stderr, shown
    assert said in done.stderr, f"{said!r} is not in: {shown}"
