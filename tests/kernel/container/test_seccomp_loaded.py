"""The default filter in force: what a process under it can still do, on the running kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import aruntime
from aruntime.container import libseccomp
from aruntime.container.seccomp import seccomp_of
from aruntime.container.seccomp_filter import compile_filter
from aruntime.kernel.capabilities import NAMES
from aruntime.spec.capabilities import DEFAULT_CAPABILITIES

pytestmark = pytest.mark.kernel

# Runs under the filter: makes each system call with the arguments given, then executes a program.
UNDER_FILTER = """
import ctypes, errno, json, os, sys
from aruntime.kernel import seccomp
libc = ctypes.CDLL(None, use_errno=True)
program, calls, argv = sys.stdin.buffer.read(int(sys.argv[1])), *map(json.loads, sys.argv[2:])
seccomp.load_filter(program)
for name, number, arguments in calls:
    ctypes.set_errno(0)
    result = libc.syscall(number, *map(ctypes.c_long, arguments))
    print(name, errno.errorcode[ctypes.get_errno()] if result < 0 else "ok", flush=True)
os.execv(argv[0], argv)
"""

CLONE_NEWUSER = 0x10000000


def default_program(capabilities: tuple[str, ...]) -> bytes:
    """The default profile compiled for a set of capabilities."""
    chosen = seccomp_of("", privileged=False, capabilities=capabilities)
    assert chosen is not None
    return compile_filter(chosen)


def under(program: bytes, calls: list[tuple[str, list[int]]], *argv: str) -> list[str]:
    """Load the filter in a process of its own; return what it printed, line by line."""
    numbered = [
        (name, libseccomp.syscall_resolve_name(name) if name.isidentifier() else int(name), args)
        for name, args in calls
    ]
    done = subprocess.run(
        [
            sys.executable, "-c", UNDER_FILTER, str(len(program)), json.dumps(numbered),
            json.dumps(argv),
        ],
        input=program,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(aruntime.__file__).parent.parent)},
        check=True,
        timeout=60,
    )  # fmt: skip
    return done.stdout.decode().splitlines()


def test_the_default_filter_blocks_and_busybox_works(busybox: str) -> None:
    """Namespaces, keys, mounts, io_uring and modules are closed; a shell pipeline runs."""
    calls: list[tuple[str, list[int]]] = [
        ("unshare", [CLONE_NEWUSER]),
        ("keyctl", [0, 0]),
        ("add_key", [0, 0, 0, 0, 0]),
        ("mount", [0, 0, 0, 0, 0]),
        ("setns", [-1, 0]),
        ("bpf", [0, 0, 0]),
        ("io_uring_setup", [1, 0]),
        ("init_module", [0, 0, 0]),
        ("userfaultfd", [0]),
        ("clone3", [0, 0]),
        ("clone", [CLONE_NEWUSER | 17, 0, 0, 0, 0]),
        ("socket", [40, 1, 0]),
        ("socket", [38, 5, 0]),
        ("personality", [0x0040000]),
        ("personality", [0xFFFFFFFF]),
        ("9999", []),
        ("getpid", []),
    ]
    script = "echo a b c | busybox wc -w; busybox ls / | busybox grep -c etc; exit 0"
    lines = under(
        default_program(DEFAULT_CAPABILITIES), calls, busybox, "sh", "-c",
        script.replace("busybox", busybox),
    )  # fmt: skip
    assert lines == [
        "unshare EPERM", "keyctl EPERM", "add_key EPERM", "mount EPERM", "setns EPERM",
        "bpf EPERM", "io_uring_setup EPERM", "init_module EPERM", "userfaultfd EPERM",
        "clone3 ENOSYS", "clone EPERM", "socket EPERM", "socket EPERM", "personality EPERM",
        "personality ok", "9999 ENOSYS", "getpid ok", "3", "1",
    ]  # fmt: skip


def test_all_capabilities_open_the_calls_they_stand_for(busybox: str) -> None:
    """The kernel itself answers then: bad pointers and descriptors, not EPERM."""
    calls: list[tuple[str, list[int]]] = [
        ("mount", [1, 1, 1, 0, 0]),
        ("setns", [-1, 0]),
        ("clone3", [0, 0]),
        ("keyctl", [0, 0]),
    ]
    assert under(default_program(NAMES), calls, busybox, "true") == [
        "mount EFAULT", "setns EBADF", "clone3 EINVAL", "keyctl EPERM",
    ]  # fmt: skip
