"""seccomp(2): load a compiled filter into this thread. Compiling profiles is out of scope."""

from __future__ import annotations

import ctypes
import errno
import struct

from aruntime.kernel import process

SECCOMP_MODE_FILTER = 2

SOCK_FILTER_BYTES = 8
BPF_MAXINSNS = 4096


def load_filter(bpf: bytes) -> None:
    """Add a filter, an array of ``struct sock_filter``, to this thread and its heirs.

    Needs no_new_privs or CAP_SYS_ADMIN in the present user namespace.

    Raises:
        OSError: EINVAL for a malformed filter, EACCES without the privilege.
    """
    count, odd = divmod(len(bpf), SOCK_FILTER_BYTES)
    if odd or not 0 < count <= BPF_MAXINSNS:
        raise OSError(errno.EINVAL, f"{len(bpf)} bytes are not a seccomp filter")
    program = ctypes.create_string_buffer(bpf, len(bpf))
    # struct sock_fprog: unsigned short len, padding, pointer to the instructions
    header = ctypes.create_string_buffer(struct.pack("@HP", count, ctypes.addressof(program)))
    process.prctl(process.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header))
