"""Capabilities: their numbers, capget(2), capset(2), the bounding and the ambient set.

Sets are bit masks: bit n is capability n. Out of scope: which capabilities a container gets.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from aruntime.kernel import libc, process

# include/uapi/linux/capability.h, in order of their numbers
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

LINUX_CAPABILITY_VERSION_3 = 0x20080522
MAX_CAPABILITY = 63

_capget = libc.function("capget", libc.text, libc.pointer)
_capset = libc.function("capset", libc.text, libc.text)

# struct cap_user_header; two struct cap_user_data, low words first
_HEADER = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)
_SETS = struct.Struct("=6I")
_LOW = 0xFFFFFFFF


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable set of this thread.

    Raises:
        OSError: as capget(2).
    """
    buffer = ctypes.create_string_buffer(_SETS.size)
    libc.check(_capget(_HEADER, ctypes.addressof(buffer)), "capget")
    low_e, low_p, low_i, high_e, high_p, high_i = _SETS.unpack(buffer.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Replace the three sets of this thread.

    Raises:
        OSError: as capset(2); EPERM when a set would gain what it may not.
    """
    sets = (effective, permitted, inheritable)
    content = _SETS.pack(*(mask & _LOW for mask in sets), *(mask >> 32 for mask in sets))
    libc.check(_capset(_HEADER, content), "capset")


def last_cap() -> int:
    """Return the highest capability this kernel knows (no file is read)."""
    for number in range(len(NAMES) - 1, MAX_CAPABILITY):
        if not _is_known(number + 1):
            return number if _is_known(number) else _last_known_below(number)
    return MAX_CAPABILITY


def _last_known_below(number: int) -> int:
    while not _is_known(number):
        number -= 1
    return number


def _is_known(number: int) -> bool:
    try:
        process.prctl(process.PR_CAPBSET_READ, number)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def bounding() -> int:
    """Return the bounding set of this thread."""
    mask = 0
    for number in range(last_cap() + 1):
        mask |= process.prctl(process.PR_CAPBSET_READ, number) << number
    return mask


def drop_bounding(keep_mask: int) -> None:
    """Take from the bounding set what is not in ``keep_mask``; it can never come back.

    Raises:
        OSError: EPERM without CAP_SETPCAP.
    """
    for number in range(last_cap() + 1):
        if not keep_mask >> number & 1:
            process.prctl(process.PR_CAPBSET_DROP, number)


def keep_only(names: tuple[str, ...]) -> None:
    """Give up all capabilities of this process but these, and that a program could bring more.

    Those that it does not have stay away. No ``exec`` inherits any.

    Raises:
        OSError: the kernel refuses.
    """
    process.set_no_new_privs()
    mask = sum(1 << NUMBERS[name] for name in names)
    kept = capget()[1] & mask
    capset(kept, kept, 0)


def set_ambient(mask: int) -> None:
    """Make the ambient set exactly ``mask``.

    Raises:
        OSError: EPERM for a capability that is not both permitted and inheritable.
    """
    process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_RAISE, number)
