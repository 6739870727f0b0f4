"""What a kubelet leaves on its node for whoever meters it: cgroups of pods, names of their logs."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from tests.harness import wait_until


def parent_usage(path: str) -> int:
    """CPU time in nanoseconds of everything that was ever below a cgroup."""
    return int(Path(f"/sys/fs/cgroup/cpuacct{path}/cpuacct.usage").read_text())


class Kubernetes:
    """The cgroups and the log links of a node, made as the kubelet's cgroupfs driver makes them."""

    TREES = ("cpuacct", "memory", "pids", "systemd", "unified")

    def __init__(self, parent: str, logs: Path) -> None:
        self.parent = parent
        self.logs = logs
        logs.mkdir()
        self.made: list[Path] = []

    def make(self, path: str) -> None:
        """Make a cgroup and those above it."""
        for tree in self.TREES:
            top = Path("/sys/fs/cgroup") / tree
            if not top.is_dir():
                continue
            for part in self.parent.split("/")[1:] + path.split("/"):
                top /= part
                if not top.exists():
                    top.mkdir()
                    self.made.append(top)

    def run(self, path: str, pod: str, container: str, program: str) -> int:
        """Run a shell program in a container's cgroup to its end; its CPU time in nanoseconds."""
        container_id = path.rpartition("/")[2].removeprefix("cri-containerd-")
        container_id = container_id.removesuffix(".scope")
        link = self.logs / f"{pod}_shop_{container}-{container_id}.log"
        link.symlink_to("/dev/null")
        self.make(path)
        tops = [Path("/sys/fs/cgroup") / tree for tree in self.TREES]
        procs = [f"{top}{self.parent}/{path}/cgroup.procs" for top in tops if top.is_dir()]
        joined = "".join(f"echo 0 > {each}; " for each in procs)
        subprocess.run(["/bin/sh", "-c", joined + program], check=True)
        return parent_usage(f"{self.parent}/{path}")

    def remove(self, path: str) -> None:
        """Remove a container's cgroup."""
        for directory in [each for each in self.made if str(each).endswith(path)]:
            wait_until(partial(removed, directory), what=f"{directory} goes")
            self.made.remove(directory)

    def close(self) -> None:
        """Remove all cgroups."""
        for directory in reversed(self.made):
            wait_until(partial(removed, directory), what=f"{directory} goes")


def removed(directory: Path) -> bool:
    """Remove a cgroup; False if the kernel is not ready to."""
    try:
        directory.rmdir()
    except OSError:
        return False
    return True
