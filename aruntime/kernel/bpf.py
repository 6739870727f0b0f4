"""bpf(2): load a program, attach it to a cgroup, ask what is attached.

Wraps the five commands that a device filter needs and the encoding of one instruction. What a
program does is its builder's affair (``cgroups.device_filter``). Out of scope: maps, links, BTF.
Source: include/uapi/linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from aruntime.kernel import libc

# enum bpf_cmd
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16

# enum bpf_prog_type, enum bpf_attach_type, flags of BPF_PROG_ATTACH
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 1 << 1

# struct bpf_cgroup_dev_ctx { __u32 access_type, major, minor; }: access_type is
# (BPF_DEVCG_ACC_* << 16) | BPF_DEVCG_DEV_*
BPF_DEVCG_ACC_MKNOD = 1 << 0
BPF_DEVCG_ACC_READ = 1 << 1
BPF_DEVCG_ACC_WRITE = 1 << 2
BPF_DEVCG_DEV_BLOCK = 1 << 0
BPF_DEVCG_DEV_CHAR = 1 << 1

# Instruction codes: class, size or operation, and source, or-ed.
BPF_LDX_MEM_W = 0x61
BPF_MOV32_X = 0xBC
BPF_MOV64_K = 0xB7
BPF_AND32_K = 0x54
BPF_RSH32_K = 0x74
BPF_JNE_K = 0x55
BPF_JNE_X = 0x5D
BPF_JEQ_K = 0x15
BPF_EXIT = 0x95

INSTRUCTION = struct.Struct("=BBhi")
"""struct bpf_insn: code, dst_reg:4 src_reg:4, off, imm."""

_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}
"""bpf(2) by machine; it predates the common numbering."""
_PROG_LOAD = struct.Struct("=IIQQIIQII16sII")
_PROG_ATTACH = struct.Struct("=IIII")
_PROG_GET_FD = struct.Struct("=III")
_PROG_QUERY = struct.Struct("=IIIIQI4x")
_LOG_SIZE = 65536
_VERIFIER_ERRNOS = frozenset({errno.EACCES, errno.EINVAL})
"""The verifier's refusals; a second attempt asks it for its log."""
_MOST_PROGRAMS = 64
"""The kernel attaches no more than this many programs of one type to a cgroup."""

_bpf = libc.syscall(_NUMBERS.get(os.uname().machine, -1), libc.cint, libc.pointer, libc.uint)


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Return one instruction; ``off`` counts instructions from the next one."""
    return INSTRUCTION.pack(code, dst | src << 4, off, imm)


def prog_load(prog_type: int, instructions: bytes, *, name: str = "") -> int:
    """Load a program and return its descriptor, which the caller owns.

    Raises:
        OSError: EPERM without CAP_BPF; EINVAL or EACCES when the verifier refuses the program, with
            what it said as a note.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(_LOG_SIZE)

    def load(log_level: int) -> int:
        attr = _PROG_LOAD.pack(
            prog_type,
            len(instructions) // INSTRUCTION.size,
            ctypes.addressof(code),
            ctypes.addressof(licence),
            log_level,
            _LOG_SIZE if log_level else 0,
            ctypes.addressof(log) if log_level else 0,
            0,
            0,
            name.encode()[:15],
            0,
            0,
        )
        return _call(BPF_PROG_LOAD, attr, "BPF_PROG_LOAD")[0]

    try:
        return load(0)
    except OSError as error:
        if error.errno not in _VERIFIER_ERRNOS:
            raise
    try:
        return load(1)
    except OSError as error:
        error.add_note(log.value.decode(errors="replace"))
        raise


def prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int) -> None:
    """Attach a program to a cgroup (a descriptor of its directory); it stays without the fds."""
    _call(BPF_PROG_ATTACH, _PROG_ATTACH.pack(target_fd, prog_fd, attach_type, flags), "attach")


def prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """Detach a program from a cgroup."""
    _call(BPF_PROG_DETACH, _PROG_ATTACH.pack(target_fd, prog_fd, attach_type, 0), "detach")


def prog_query(target_fd: int, attach_type: int) -> list[int]:
    """Return the ids of the programs attached to this very cgroup, not to its ancestors."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    attr = _PROG_QUERY.pack(target_fd, attach_type, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS)
    _, answer = _call(BPF_PROG_QUERY, attr, "BPF_PROG_QUERY")
    count = _PROG_QUERY.unpack(answer)[5]
    return [int(ids[place]) for place in range(count)]


def prog_get_fd_by_id(prog_id: int) -> int:
    """Return a descriptor of a loaded program, which the caller owns."""
    return _call(BPF_PROG_GET_FD_BY_ID, _PROG_GET_FD.pack(prog_id, 0, 0), "get_fd_by_id")[0]


def _call(command: int, attr: bytes, name: str) -> tuple[int, bytes]:
    """Call bpf(2) and return its result and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = libc.check(_bpf(command, ctypes.addressof(buffer), len(attr)), f"bpf {name}")
    return result, buffer.raw
