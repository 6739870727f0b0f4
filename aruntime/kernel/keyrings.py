"""Keyrings, keyctl(2): only what separates a process from the keys of who started it.

Out of scope: adding, reading and searching keys.
"""

from __future__ import annotations

import os

from aruntime.kernel import libc

# include/uapi/linux/keyctl.h
KEYCTL_JOIN_SESSION_KEYRING = 1

SYS_KEYCTL = {
    "aarch64": 219,
    "loongarch64": 219,
    "ppc64le": 271,
    "riscv64": 219,
    "s390x": 280,
    "x86_64": 250,
}
"""One of the calls whose number differs; on other architectures it fails with ENOSYS."""

_keyctl = libc.syscall(SYS_KEYCTL.get(os.uname().machine, -1), libc.cint, libc.pointer)


def join_session_keyring() -> None:
    """Take a new, empty session keyring without a name; children inherit it.

    Raises:
        OSError: ENOSYS on a kernel without keys, EPERM where a filter refuses the call, EDQUOT.
    """
    libc.check(_keyctl(KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")
