"""Where a run of the benchmarks happens and what it leaves behind: nothing.

A `Place` owns a directory, the runners, cgroups below a parent of its own and network links; it
removes all of them when it closes, whatever happened in between. An engine's runner has a mount
namespace in which the places that engines write to whatever they are told (/run, /dev/shm, /etc,
/opt) are private, so a real engine of this host is never touched; it can have a network namespace
with that, whose links and firewall rules are gone with its last process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aruntime.kernel import storage

CGROUPS = Path("/sys/fs/cgroup")
RUNNER = Path(__file__).with_name("runner.py")
PRIVATE = """set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /dev/shm
for each in etc opt; do
    mount -t overlay -o "lowerdir=/$each,upperdir=$1/$each,workdir=$1/work-$each" overlay /$each
done
if [ "$2" = v1 ] && mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
if [ "$3" = own ]; then ip link set lo up; fi
shift 3
exec "$@"
"""
"""Makes what engines write to private; `v1` also hides the cgroup2 tree of a hybrid host, with
which crun refuses to work; `own` readies a network namespace that was just made."""
SECONDS_TO_END = 20.0


class CommandFailed(Exception):
    """A command of an engine did not do what the benchmark needs."""


class Runner:
    """A runner process; owned by the Place that made it. Its mount namespace is an engine's."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.env = env
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request | {"env": self.env}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise CommandFailed(f"the runner ended: {request}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def measure(
        self, argvs: Sequence[Sequence[str]], parallel: int = 1, out: str = "/dev/null"
    ) -> tuple[float, list[float]]:
        """Run commands; returns the seconds of all together and of each.

        Raises:
            CommandFailed: a command's exit code is not 0.
        """
        reply = self._ask({"argvs": argvs, "parallel": parallel, "out": out})
        if any(reply["codes"]):
            bad = next(code for code in reply["codes"] if code)
            raise CommandFailed(f"{' '.join(argvs[0])}: exit code {bad}: {reply['stderr']}")
        return reply["total_ns"] / 1e9, [wall / 1e9 for wall in reply["wall_ns"]]

    def output(self, argv: Sequence[str]) -> bytes:
        """Run one command and return what it printed."""
        with tempfile.NamedTemporaryFile(prefix="aruntime-bench-") as out:
            self.measure([argv], out=out.name)
            return Path(out.name).read_bytes()

    def launch(self, argv: Sequence[str], log: Path) -> int:
        """Start a daemon in the runner's namespace; returns its pid."""
        return int(self._ask({"argv": argv, "log": str(log)})["pid"])

    def others(self) -> list[int]:
        """Processes in the runner's mount namespace but the runner: the engine's own ones."""
        own = self.process.pid
        return [pid for pid in in_mount_namespace(os.readlink(f"/proc/{own}/ns/mnt")) if pid != own]

    def close(self) -> None:
        """End the runner."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(SECONDS_TO_END)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Place:
    """What a run of the benchmarks owns; a context manager that removes it all."""

    def __init__(self) -> None:
        # Not in /tmp: that may be in memory, and where many files are made and removed all the
        # time ext4 looks long for an inode that was not in use lately.
        self.base = Path(tempfile.mkdtemp(prefix="aruntime-bench-", dir="/var/tmp"))
        storage.scatter(str(self.base))  # each engine meets only what it has removed itself
        self.cgroup_parent = f"/aruntime-test-{os.getpid()}"
        self.links: list[str] = []
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Place:
        self._undo.callback(shutil.rmtree, self.base)
        self._undo.callback(self._remove_cgroups)
        self._undo.callback(self._remove_links)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def directory(self, *names: str) -> Path:
        """Make a directory below the place's own."""
        path = self.base.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def link_name(self, letter: str) -> str:
        """Name a network link that is removed at the end."""
        name = f"arb{os.getpid()}{letter}"
        self.links.append(name)
        return name

    def runner(
        self, name: str, *, private: bool, v1_only: bool = False, own_network: bool = False
    ) -> Runner:
        """Start a runner; its engine's processes are killed when the place closes.

        `v1_only` and `own_network` (a network namespace without a way out) are for private ones.
        """
        argv = [sys.executable, "-I", "-S", str(RUNNER)]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory(name, "home"))}
        if private:
            layers = self.directory(name, "private")
            for each in ("etc", "work-etc", "opt", "work-opt"):
                (layers / each).mkdir()
            shape = "v1" if v1_only else "as-is"
            network, flags = ("own", "-mn") if own_network else ("host", "-m")
            argv = ["/usr/bin/unshare", flags, "/bin/sh", "-c", PRIVATE, "sh"]
            argv += [str(layers), shape, network]
            argv += [sys.executable, "-I", "-S", str(RUNNER)]
        runner = Runner(argv, env)
        self._undo.callback(runner.close)
        if private:
            runner.output(["/bin/true"])  # the namespace is made once this has run
            self._undo.callback(lambda: kill(runner.others()))
        return runner

    def on_close(self, undo: contextlib.AbstractContextManager[object]) -> None:
        """Leave a context when the place closes, before the runners end."""
        self._undo.enter_context(undo)

    def _remove_links(self) -> None:
        for name in self.links:
            if Path("/sys/class/net", name).exists():
                subprocess.run(["/sbin/ip", "link", "del", name], check=True)

    def _remove_cgroups(self) -> None:
        tops = [top for top in CGROUPS.glob(f"*{self.cgroup_parent}") if top.is_dir()]
        for state in [state for top in tops for state in top.rglob("freezer.state")]:
            state.write_text("THAWED")  # what an engine has paused cannot end
        lists = [procs.read_text().split() for top in tops for procs in top.rglob("cgroup.procs")]
        kill({int(pid) for pids in lists for pid in pids})
        for top in tops:
            for directory, _, _ in os.walk(top, topdown=False):
                _remove_cgroup(Path(directory))


def _remove_cgroup(directory: Path) -> None:
    """Remove a cgroup; just after an exit the kernel may need a moment."""
    deadline = time.monotonic() + SECONDS_TO_END
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def in_mount_namespace(namespace: str) -> list[int]:
    """Processes in a mount namespace, zombies excepted."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/mnt") == namespace:
                    found.append(int(entry))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(pids: Iterable[int]) -> None:
    """Kill processes and wait until they have ended."""
    pids = list(pids)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for_end(pids)


def wait_for_end(pids: Iterable[int]) -> None:
    """Wait until processes that were told to end have ended."""
    deadline = time.monotonic() + SECONDS_TO_END
    for pid in pids:
        while is_alive(pid):
            if time.monotonic() > deadline:
                raise CommandFailed(f"process {pid} does not end")
            time.sleep(0.01)
