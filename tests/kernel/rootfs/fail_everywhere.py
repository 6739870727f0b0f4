"""Execute one plan again and again, in new namespaces, with the n-th kernel call failing.

Run in an interpreter of its own; {ops, host} as JSON on standard input. Writes how many calls
a plan makes. Each attempt must end in StepFailed with the injected errno and no descriptor more
open than before; anything else is told on standard error and makes the exit code 1.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from aruntime.kernel import mounts, namespaces
from aruntime.rootfs import apply

KERNEL_CALLS = (
    "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "fsopen",
    "fsconfig_flag", "fsconfig_string", "fsconfig_create", "fsmount", "openat2", "fstatfs_type",
)  # fmt: skip
OS_CALLS = ("open", "mkdir", "mknod", "symlink", "chown", "fstat", "fchdir", "chdir", "write")
INJECTED = errno.EDOM  # no call used here returns it by itself
FELL_THROUGH, FAILED_RIGHT, WRONG = 0, 10, 11


def main() -> None:
    """Let the first call fail, then the second, until a plan gets through."""
    request = json.load(sys.stdin)
    ops, failing = request["ops"], 0
    while True:
        # The host's half runs among the host's processes, of which /proc tells.
        pid, _ = namespaces.clone3(0 if request["host"] else namespaces.CLONE_NEWPID)
        if pid == 0:
            attempt(ops, failing)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == FELL_THROUGH:
            sys.stdout.write(f"{failing}\n")
            return
        if code != FAILED_RIGHT:
            sys.exit(f"call {failing}: exit code {code}")
        failing += 1


def attempt(ops: list[list[Any]], failing: int) -> NoReturn:
    """Be a container's init whose call number ``failing`` fails."""
    flags = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC
    namespaces.unshare(flags | namespaces.CLONE_NEWUTS)
    before = open_descriptors()
    inject(failing)
    code = WRONG
    try:
        apply.apply(ops)
        code = FELL_THROUGH
    except apply.StepFailed as failed:
        left = open_descriptors() - before
        if failed.error.errno == INJECTED and not left:
            code = FAILED_RIGHT
        else:
            sys.stderr.write(f"{failed}, left open: {left}\n")
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


real_fstat = os.fstat


def open_descriptors() -> set[int]:
    """Return the numbers of open descriptors."""
    found = set()
    for fd in range(256):
        try:
            real_fstat(fd)
        except OSError:
            continue
        found.add(fd)
    return found


def inject(failing: int) -> None:
    """Count the calls of both modules and fail one of them."""
    counter = iter(range(1 << 30))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def fail_or_call(*arguments: Any, **options: Any) -> Any:
            if next(counter) == failing:
                raise OSError(INJECTED, os.strerror(INJECTED))
            return call(*arguments, **options)

        return fail_or_call

    for module, names in ((mounts, KERNEL_CALLS), (os, OS_CALLS)):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))


main()
