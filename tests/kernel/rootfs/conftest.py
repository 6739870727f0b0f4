"""A small image, a specification like docker's, and a launch path that does only the file tree."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from aruntime.kernel import namespaces
from aruntime.rootfs import plan
from aruntime.spec.mounts import MASKED_PATHS, READONLY_PATHS

PROGRAM = Path(__file__).with_name("build_and_run.py")
STEP_FAILED = 99
OWN = {
    "mount": namespaces.CLONE_NEWNS,
    "network": namespaces.CLONE_NEWNET,
    "ipc": namespaces.CLONE_NEWIPC,
    "uts": namespaces.CLONE_NEWUTS,
    "cgroup": namespaces.CLONE_NEWCGROUP,
}
SAFE = ["nosuid", "noexec", "nodev"]
DEVPTS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
SYSTEM_MOUNTS = (
    ("/proc", "proc", "proc", SAFE),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", DEVPTS),
    ("/sys", "sysfs", "sysfs", [*SAFE, "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", [*SAFE, "ro"]),
    ("/dev/mqueue", "mqueue", "mqueue", SAFE),
    ("/dev/shm", "tmpfs", "shm", [*SAFE, "mode=1777", "size=65536k"]),
)
APPLETS = ("sh", "cat", "ls", "stat", "touch", "mkdir", "mount", "id", "echo", "chown", "readlink",
           "rm", "test", "find", "sleep", "ln", "mknod")  # fmt: skip


class Outcome(msgspec.Struct):
    """What became of a container."""

    code: int
    out: str
    error: str

    @property
    def failed(self) -> dict[str, Any]:
        """The step that failed: step, errno, path."""
        assert self.code == STEP_FAILED, self
        told: dict[str, Any] = json.loads(self.error)
        return told

    @property
    def lines(self) -> list[str]:
        """The output's lines, of a program that succeeded."""
        assert self.code == 0, self
        return self.out.splitlines()


class Container:
    """A container to be: its directories, its specification, and how to run it."""

    def __init__(self, directory: Path, interpreter: str) -> None:
        self._interpreter = interpreter
        self.directory = directory
        self.upper, self.work, self.staging = (
            directory / name for name in ("upper", "work", "staging")
        )
        for path in (self.upper, self.work, self.staging):
            path.mkdir()
        self.lower = [directory / "image"]
        self.cgroups: list[tuple[list[str], str]] = []
        self.unified: str | None = None
        self.uid_map: list[list[int]] = []
        self.fake_host = ""
        self.volatile = False
        self.spec: dict[str, Any] = {
            "root": {"path": str(directory / "image"), "readonly": False},
            "process": {},
            "mounts": [self.entry(*mount) for mount in SYSTEM_MOUNTS],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", *OWN)],
                "maskedPaths": list(MASKED_PATHS),
                "readonlyPaths": list(READONLY_PATHS),
            },
        }

    @property
    def image(self) -> Path:
        """The directory of the lowest layer."""
        return self.lower[0]

    @staticmethod
    def entry(destination: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
        """Return one mount of the specification."""
        return {
            "destination": destination,
            "type": kind,
            "source": source,
            "options": list(options),
        }

    def mount(self, destination: str, kind: str, source: object, *options: str) -> None:
        """Add a mount to the specification."""
        self.spec["mounts"].append(self.entry(destination, kind, str(source), options))

    def use_user_namespace(self, first: int, count: int) -> None:
        """Give the container a user namespace with one range of ids."""
        row = {"containerID": 0, "hostID": first, "size": count}
        self.uid_map = [[0, first, count]]
        self.spec["linux"]["namespaces"].append({"type": "user"})
        self.spec["linux"]["uidMappings"] = self.spec["linux"]["gidMappings"] = [row]

    def plan(self) -> list[list[Any]]:
        """Return the operations, as they come out of JSON."""
        made = plan.plan(
            copy.deepcopy(self.spec),
            lower=[str(path) for path in self.lower],
            upper=str(self.upper),
            work=str(self.work),
            staging=str(self.staging),
            cgroups=self.cgroups,
            unified=self.unified,
            volatile=self.volatile,
        )
        decoded: list[list[Any]] = json.loads(json.dumps(made))
        return decoded

    def run(self, script: str) -> Outcome:
        """Run a shell script inside and return what became of it."""
        return self.execute(["/bin/sh", "-c", script])

    def execute(self, args: list[str]) -> Outcome:
        """Run a program inside."""
        host_ops, ops = plan.split(self.plan())
        kinds = {entry["type"] for entry in self.spec["linux"]["namespaces"]}
        cgroups = [path for _, path in self.cgroups] + ([self.unified] if self.unified else [])
        request = {
            "host_ops": host_ops,
            "ops": ops,
            "uid_map": self.uid_map,
            "cgroups": cgroups,
            "namespaces": sum(flag for kind, flag in OWN.items() if kind in kinds),
            "args": args,
            "fake_host": self.fake_host,
        }
        done = subprocess.run(
            [self._interpreter, "-I", str(PROGRAM)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


def make_image(directory: Path, busybox: str) -> Path:
    """Make the tree of a small image: busybox and the usual directories."""
    for name in ("bin", "etc", "proc", "sys", "dev", "root"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    shutil.copy(busybox, directory / "bin/busybox")
    for name in APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/hostname").write_text("image\n")
    return directory


@pytest.fixture(name="container")
def _container(tmp_path: Path, busybox: str, interpreter: str) -> Container:
    """Return a container that is like docker's until the test changes it."""
    make_image(tmp_path / "image", busybox)
    return Container(tmp_path, interpreter)


@pytest.fixture(name="canary")
def _canary(tmp_path: Path) -> Iterator[Path]:
    """Return a file and its directory on the host that no container may touch."""
    directory = tmp_path / "host"
    directory.mkdir()
    canary = directory / "canary"
    canary.write_text("untouched")
    before = (os.stat(canary), os.stat(directory))
    yield canary
    assert canary.read_text() == "untouched"
    for then, path in zip(before, (canary, directory), strict=True):
        now = os.stat(path)
        assert stat.S_IMODE(now.st_mode) == stat.S_IMODE(then.st_mode)
        assert (now.st_uid, now.st_mtime_ns) == (then.st_uid, then.st_mtime_ns)
    assert sorted(os.listdir(directory)) == ["canary"]


SMALL_TMPFS = """
import sys
from aruntime.kernel import mounts, namespaces
namespaces.unshare(namespaces.CLONE_NEWNS)
mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
root = sys.argv[1]
mounts.mount("tmpfs", root, "tmpfs", 0, "size=1m")
"""


@pytest.fixture(name="in_small_tmpfs")
def _in_small_tmpfs(tmp_path: Path, interpreter: str) -> Callable[[str], str]:
    """Return a function that runs a program which has 1 MiB of space below ``root``."""
    root = tmp_path / "small"
    root.mkdir()

    def run(program: str) -> str:
        done = subprocess.run(
            [interpreter, "-I", "-c", SMALL_TMPFS + dedent(program), str(root)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
