"""aruntime as it is installed beside this interpreter, with a daemon of the benchmark's own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from aruntime import __version__
from aruntime.cli.link import link
from tests.bench import image
from tests.bench.engine import CommandLine
from tests.bench.place import Place, in_mount_namespace
from tests.harness import RunningDaemon

SUBNET = "10.214.3.0/24"
INSTALLED = Path(sys.executable).with_name("aruntime")


def missing() -> str:
    """Say what is missing if aruntime is not installed."""
    return "" if INSTALLED.exists() else "aruntime (pip install -e .)"


class Aruntime(CommandLine):
    """aruntime; its daemon and shim are those of a test daemon."""

    daemon: RunningDaemon

    def processes(self) -> list[int]:
        """Daemon, shim and whatever they started that is not in a container."""
        assert self.daemon.process is not None
        family = {self.daemon.process.pid, self.daemon.shim_pid}
        host = in_mount_namespace(os.readlink("/proc/self/ns/mnt"))
        parents = {pid: parent_of(pid) for pid in host}
        grown = True
        while grown:
            born = {pid for pid, parent in parents.items() if parent in family} - family
            family |= born
            grown = bool(born)
        return sorted(family)


def parent_of(pid: int) -> int:
    """Parent of a process, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@contextlib.contextmanager
def running(daemon: RunningDaemon) -> Iterator[None]:
    """Run a daemon; it goes with its containers and its shim."""
    try:
        daemon.start()
        yield
    finally:
        daemon.destroy()


def opened(place: Place, tar: Path) -> Aruntime:
    """Start aruntime and import the image."""
    daemon = RunningDaemon()
    daemon.subnet = SUBNET
    daemon.extra = ["--log-level=warning"]
    daemon.root = place.directory("aruntime", "root")
    daemon.env["ARUNTIME_ROOT"] = str(daemon.root)
    place.on_close(running(daemon))
    runner = place.runner("aruntime", private=False)
    runner.env |= daemon.env
    commands = place.directory("aruntime", "bin")
    link(commands)  # as the README installs it
    client = [str(commands / "aruntime")]
    networks = {"bridge": "bridge", "none": "none"}
    engine = Aruntime("aruntime", client, runner, networks=networks)
    engine.daemon = daemon
    runner.measure([engine.command("import", str(tar), image.NAME)])
    engine.version = __version__
    return engine
