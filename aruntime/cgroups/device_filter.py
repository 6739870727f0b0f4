"""Device rules as a BPF program on a cgroup2 directory: what replaces the v1 devices controller.

The program's text is built purely from a :class:`~aruntime.cgroups.devices.DeviceAccess`;
loading and attaching goes through :mod:`aruntime.kernel.bpf`. The kernel asks every program
attached to the cgroup and its ancestors, and each of them must allow the access. Source:
kernel/bpf/cgroup.c, ``__cgroup_bpf_check_dev_permission``.
"""

from __future__ import annotations

import errno
import os

from aruntime.cgroups.devices import DeviceAccess, DeviceKey
from aruntime.errors import KernelFeatureMissing
from aruntime.kernel import bpf
from aruntime.kernel.bpf import insn
from aruntime.spec.devices import ACCESS

_TYPES = {"b": bpf.BPF_DEVCG_DEV_BLOCK, "c": bpf.BPF_DEVCG_DEV_CHAR}
_ACCESS_BITS = {
    "r": bpf.BPF_DEVCG_ACC_READ,
    "w": bpf.BPF_DEVCG_ACC_WRITE,
    "m": bpf.BPF_DEVCG_ACC_MKNOD,
}
# Registers: the verdict, the context and scratch, then what is asked for.
_R0, _R1, _TYPE, _WANTED, _MAJOR, _MINOR = range(6)


def device_program(access: DeviceAccess) -> bytes:
    """Return the instructions that decide as the v1 devices controller would.

    With "deny" as default an exception applies if it covers all the access asked for; with
    "allow" it applies if it covers any of it.
    """
    text = b"".join(
        (
            insn(bpf.BPF_LDX_MEM_W, _TYPE, _R1, off=0),
            insn(bpf.BPF_MOV32_X, _WANTED, _TYPE),
            insn(bpf.BPF_AND32_K, _TYPE, imm=0xFFFF),
            insn(bpf.BPF_RSH32_K, _WANTED, imm=16),
            insn(bpf.BPF_LDX_MEM_W, _MAJOR, _R1, off=4),
            insn(bpf.BPF_LDX_MEM_W, _MINOR, _R1, off=8),
        )
    )
    for key, letters in access.exceptions.items():
        text += _exception(key, letters, access.allow_by_default)
    return text + _verdict(access.allow_by_default)


def _verdict(allowed: bool) -> bytes:
    return insn(bpf.BPF_MOV64_K, _R0, imm=int(allowed)) + insn(bpf.BPF_EXIT)


def _exception(key: DeviceKey, letters: str, allow_by_default: bool) -> bytes:
    """One exception: tests that jump to the next exception, then the opposite verdict."""
    tests = [(bpf.BPF_JNE_K, _TYPE, 0, _TYPES[key.type])]
    if key.major is not None:
        tests.append((bpf.BPF_JNE_K, _MAJOR, 0, key.major))
    if key.minor is not None:
        tests.append((bpf.BPF_JNE_K, _MINOR, 0, key.minor))
    masking = b""
    if set(letters) != set(ACCESS):
        mask = sum(_ACCESS_BITS[letter] for letter in letters)
        masking = insn(bpf.BPF_MOV32_X, _R1, _WANTED) + insn(bpf.BPF_AND32_K, _R1, imm=mask)
        if allow_by_default:
            tests.append((bpf.BPF_JEQ_K, _R1, 0, 0))
        else:
            tests.append((bpf.BPF_JNE_X, _R1, _WANTED, 0))
    verdict = _verdict(not allow_by_default)
    left = len(tests) + (len(masking) + len(verdict)) // bpf.INSTRUCTION.size
    text = b""
    for place, (code, dst, src, imm) in enumerate(tests):
        if place == len(tests) - 1 and masking:
            text += masking
            left -= len(masking) // bpf.INSTRUCTION.size
        left -= 1
        text += insn(code, dst, src, off=left, imm=imm)
    return text + verdict


def confine(directory: str, access: DeviceAccess) -> None:
    """Put the rules into force for a cgroup, in place of those that this cgroup had before.

    The new program is attached before the old ones go: what both allow works all the time.

    Raises:
        KernelFeatureMissing: the kernel cannot filter devices on cgroup2.
        OSError: any other failure.
    """
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = bpf.prog_query(target, bpf.BPF_CGROUP_DEVICE)
        program = bpf.prog_load(
            bpf.BPF_PROG_TYPE_CGROUP_DEVICE, device_program(access), name="aruntime_dev"
        )
        try:
            bpf.prog_attach(target, program, bpf.BPF_CGROUP_DEVICE, bpf.BPF_F_ALLOW_MULTI)
        finally:
            os.close(program)
        for prog_id in old:
            _detach(target, prog_id)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        raise KernelFeatureMissing(
            "this kernel cannot confine devices on cgroup v2, it lacks CONFIG_CGROUP_BPF; "
            "mount the v1 devices controller or use another kernel"
        ) from error
    finally:
        os.close(target)


def _detach(target: int, prog_id: int) -> None:
    program = bpf.prog_get_fd_by_id(prog_id)
    try:
        bpf.prog_detach(target, program, bpf.BPF_CGROUP_DEVICE)
    finally:
        os.close(program)
