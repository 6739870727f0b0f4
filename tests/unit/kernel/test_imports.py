"""What may be loaded where start-up counts and files may be an attacker's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aruntime

PACKAGE_PARENT = str(Path(aruntime.__file__).parent.parent)
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from aruntime.kernel import capabilities, libc, mounts, namespaces, netlink, pipes, process, seccomp
from aruntime.rootfs import apply
print(*sys.modules)
"""
TOO_HEAVY = {
    "dataclasses", "typing", "enum", "re", "subprocess", "socket", "logging", "pathlib",
    "threading", "signal", "json", "collections", "functools", "contextlib", "trio", "structlog",
    "pyroute2", "msgspec", "aruntime.errors",
}  # fmt: skip


def test_only_light_modules() -> None:
    """The wrappers and the execution of a plan load nothing that costs milliseconds."""
    arguments = [sys.executable, "-I", "-S", "-c", PROGRAM, PACKAGE_PARENT]
    loaded = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()

    assert "aruntime.rootfs.apply" in loaded
    assert not TOO_HEAVY & set(loaded)
