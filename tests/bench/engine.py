"""What the benchmarks ask of an engine, and which engines there are.

docker, podman and aruntime understand the same words, so one class speaks to all three; runc and
crun are in :mod:`tests.bench.oci`. An engine that cannot do something says so by not listing it.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from typing import Protocol

from tests.bench import image
from tests.bench.place import Place, Runner

IDLE = "bench-idle"
"""A container that every engine keeps running meanwhile, as a host in use has some; without it
podman makes and removes its bridge and its firewall rules with every container."""
LATENCY_NONE, LATENCY_BRIDGE = "run, network none", "run, network bridge"
LATENCY_ALONE = "run, network bridge, no other container"
EXEC, PAUSE, RESUME, PS = "exec", "pause", "resume", "ps"
THROUGHPUT = "containers per second, {} in parallel"
PULL_FIRST = "first pull of 150 MB in five layers, nothing removed before"
PULL = "pull of 150 MB in five layers"
PULL_CPU = "CPU time of such a pull"
MEMORY, LOGS = "memory per idle container", "log throughput"
NETWORK_COST = "run, what a network costs"
NETWORK = "container to host, iperf3"
NETWORK_CPU = "container to host, per second of a processor"


class Engine(Protocol):
    """An engine at work; its processes belong to the Place it was opened in."""

    name: str
    version: str
    runner: Runner
    lacks: dict[str, str]
    """What of the measures it cannot do, and why."""

    def run(self, network: str, *command: str) -> list[str]:
        """Command line that runs a container to its end and removes it."""

    def detach(self, name: str, *command: str) -> list[str]:
        """Command line that starts a container and leaves it running."""

    def exec(self, name: str, *command: str) -> list[str]:
        """Command line that runs a command in a running container."""

    def command(self, verb: str, *names: str) -> list[str]:
        """Command line of `pause`, `resume`, `ps`, `wait`, `logs`, `remove`, `pull` or `rmi`."""

    def processes(self) -> list[int]:
        """Return the engine's own processes: daemons and one per container, no container's."""


class CommandLine:
    """An engine with docker's command line."""

    lacks: dict[str, str]

    def __init__(
        self,
        name: str,
        prefix: Sequence[str],
        runner: Runner,
        *,
        networks: dict[str, str],
        run_flags: Sequence[str] = (),
        verbs: dict[str, list[str]] | None = None,
    ) -> None:
        self.name = name
        self.version = ""
        self.runner = runner
        self.lacks = {}
        self._prefix = list(prefix)
        self._networks = networks
        self._run_flags = list(run_flags)
        self._verbs = {"remove": ["rm", "-f"], "resume": ["unpause"], "rmi": ["rmi", "-f"]} | (
            verbs or {}
        )

    def run(self, network: str, *command: str) -> list[str]:
        """Command line of ``run --rm``."""
        return [*self._run("--rm", network), image.NAME, *command]

    def detach(self, name: str, *command: str) -> list[str]:
        """Command line of ``run -d``, with bridge networking."""
        return [*self._run("-d", "bridge"), "--name", name, image.NAME, *command]

    def _run(self, flag: str, network: str) -> list[str]:
        name = self._networks[network]
        return [*self._prefix, "run", flag, "--network", name, *self._run_flags]

    def exec(self, name: str, *command: str) -> list[str]:
        """Command line of ``exec``."""
        return [*self._prefix, "exec", name, *command]

    def command(self, verb: str, *names: str) -> list[str]:
        """Command line of any other command."""
        return [*self._prefix, *self._verbs.get(verb, [verb]), *names]

    def processes(self) -> list[int]:
        """All that runs in the engine's own mount namespace."""
        return self.runner.others()


class Names:
    """Gives out names of containers that no other container of this run has."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def take(self, count: int) -> list[str]:
        """Return so many new names."""
        return [f"bench-{next(self._count)}" for _ in range(count)]


def find(program: str) -> str | None:
    """Path of an installed program of Debian's; a stand-in elsewhere in PATH does not count."""
    return shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin")


def make_bridge(place: Place, letter: str, address: str) -> str:
    """Make a bridge with an address that goes with the place; returns its name."""
    name = place.link_name(letter)
    for words in (["add", name, "type", "bridge"], ["set", name, "up"]):
        subprocess.run(["/sbin/ip", "link", *words], check=True)
    subprocess.run(["/sbin/ip", "addr", "add", address, "dev", name], check=True)
    return name
