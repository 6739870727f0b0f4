"""runc and crun as peers: a bundle and no engine.

They do less than an engine: the root file system is a plain directory, there is no network, no
log and nobody who waits. They are the floor below docker and podman.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench import engine, image
from tests.bench.engine import Names, find
from tests.bench.place import Place, Runner


def missing(name: str) -> str:
    """Name the program if it is not installed."""
    return "" if find(name) else name


class OciRuntime:
    """runc or crun, with a new bundle directory for every container."""

    def __init__(self, name: str, place: Place, runner: Runner, rootfs: Path) -> None:
        self.name = name
        self.version = ""
        self.runner = runner
        no_network, no_engine = "it has no network of its own", "it keeps nothing running"
        self.lacks = {
            engine.LATENCY_BRIDGE: no_network,
            engine.LATENCY_ALONE: no_network,
            engine.MEMORY: no_engine,
            engine.LOGS: "it writes no logs",
            engine.PULL: "it has no images",
        }
        self._place = place
        self._names = Names()
        self._prefix = [str(find(name)), "--root", str(place.directory(name, "state"))]
        if name == "crun":
            self._prefix.append("--cgroup-manager=cgroupfs")
        self._spec = self._default_spec(rootfs)

    def _default_spec(self, rootfs: Path) -> dict[str, Any]:
        """Take the runtime's own default specification and give it our root file system."""
        base = self._place.directory(self.name, "spec")
        self.runner.measure([[*self._prefix, "spec", "--bundle", str(base)]])
        spec: dict[str, Any] = json.loads((base / "config.json").read_text())
        spec["root"] = {"path": str(rootfs), "readonly": True}
        spec["process"]["terminal"] = False
        return spec

    def _bundle(self, name: str, command: tuple[str, ...]) -> str:
        spec = self._spec | {"process": self._spec["process"] | {"args": list(command)}}
        path = f"{self._place.cgroup_parent}/{self.name}/{name}"
        spec["linux"] = self._spec["linux"] | {"cgroupsPath": path}
        directory = self._place.directory(self.name, "bundles", name)
        (directory / "config.json").write_text(json.dumps(spec))
        return str(directory)

    def run(self, network: str, *command: str) -> list[str]:
        """Command line of ``run`` in a network namespace of its own that nothing leads to."""
        assert network == "none"
        [name] = self._names.take(1)
        return [*self._prefix, "run", "--bundle", self._bundle(name, command), name]

    def detach(self, name: str, *command: str) -> list[str]:
        """Command line of ``run --detach``."""
        return [*self._prefix, "run", "--detach", "--bundle", self._bundle(name, command), name]

    def exec(self, name: str, *command: str) -> list[str]:
        """Command line of ``exec``."""
        return [*self._prefix, "exec", name, *command]

    def command(self, verb: str, *names: str) -> list[str]:
        """Command line of any other command."""
        words = {"remove": ["delete", "--force"], "ps": ["list"]}.get(verb, [verb])
        return [*self._prefix, *words, *names]

    def processes(self) -> list[int]:
        """Return nothing: it keeps nothing running."""
        return []


def opened(name: str, place: Place, tar: Path) -> OciRuntime:
    """Prepare bundles for a runtime in a place."""
    rootfs = place.base / "rootfs"
    if not rootfs.exists():
        rootfs.mkdir()
        image.unpack(tar, rootfs)
    runner = place.runner(name, private=True, v1_only=name == "crun")
    runtime = OciRuntime(name, place, runner, rootfs)
    words = runner.output([str(find(name)), "--version"]).decode().split()
    runtime.version = words[2]
    return runtime
