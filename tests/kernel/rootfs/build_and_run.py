"""Stand-in for the launch path: executes a plan in new namespaces, then a program inside.

Run in an interpreter of its own; one JSON object on standard input: host_ops, ops, uid_map,
cgroups, namespaces, args, fake_host. A failed step is told on standard error as JSON, exit code 99.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from aruntime.kernel import mounts, namespaces
from aruntime.rootfs import apply

STEP_FAILED = 99


def main() -> None:
    """Do what standard input says and exit like the program inside."""
    request = json.load(sys.stdin)
    if request["fake_host"]:
        # A mount namespace of the test's own, in which the host's part can be played.
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        exec(request["fake_host"], {"mounts": mounts, "os": os})  # noqa: S102 (the test's own text)
    for directory in request["cgroups"]:
        with open(f"{directory}/cgroup.procs", "w") as file:
            file.write("0")
    try:
        status = launch(request)
    except apply.StepFailed as failed:
        refuse(failed)
    sys.exit(os.waitstatus_to_exitcode(status))


def refuse(failed: apply.StepFailed) -> NoReturn:
    """Tell which step failed and why."""
    error = failed.error
    told = {"step": failed.step, "errno": error.errno, "path": error.filename}
    os.write(2, json.dumps(told).encode())
    os._exit(STEP_FAILED)


def open_descriptors() -> set[int]:
    """Return the numbers of open descriptors."""
    found = set()
    for fd in range(256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.add(fd)
    return found


def launch(request: dict[str, Any]) -> int:
    """Fork the container's process and return its wait status."""
    held: dict[str, int] = {}
    uid_map = request["uid_map"]
    if uid_map:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        held = apply.apply(request["host_ops"])
    mapped_read, mapped_write = os.pipe()
    flags = namespaces.CLONE_NEWPID | (namespaces.CLONE_NEWUSER if uid_map else 0)
    pid, _ = namespaces.clone3(flags)
    if pid == 0:
        os.read(mapped_read, 1)
        contain(request, held)
    if uid_map:
        namespaces.write_uid_map(pid, uid_map)
        namespaces.write_gid_map(pid, uid_map)
    os.write(mapped_write, b"x")
    return os.waitpid(pid, 0)[1]


def contain(request: dict[str, Any], held: dict[str, int]) -> NoReturn:
    """Be the container's first process."""
    try:
        if request["uid_map"]:
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        namespaces.unshare(request["namespaces"])
        before = open_descriptors() - set(held.values())
        left = apply.apply(request["ops"], held)
        assert not left, f"still held: {left}"
        leaked = open_descriptors() - before
        assert not leaked, f"descriptors left open: {leaked}"
        assert os.getcwd() == "/"
        os.execve(request["args"][0], request["args"], {"PATH": "/bin"})
    except apply.StepFailed as failed:
        refuse(failed)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
        os._exit(1)


main()
