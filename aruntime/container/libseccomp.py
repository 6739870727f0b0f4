"""libseccomp.so.2 by ctypes: the calls that compiling a filter needs, and no policy.

Functions are named as the library's. It returns negative errno values, which become OSError.
Source: seccomp.h of libseccomp 2.5. Out of scope: loading filters (``kernel.seccomp``).
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Sequence
from typing import Any

from aruntime.errors import Unavailable

SCMP_FLTATR_CTL_NNP = 3
SCMP_FLTATR_CTL_OPTIMIZE = 8
NR_SCMP_ERROR = -1
"""What resolve_name answers for a name it does not know."""

COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
}
"""Names of the specification to AUDIT_ARCH_* tokens (x32 has one of libseccomp's own)."""

_MISSING = (
    "libseccomp.so.2 cannot be loaded, so no seccomp filter can be made: install it "
    "(Debian: libseccomp2) or run with --security-opt seccomp=unconfined"
)


_ARG_CMP = struct.Struct("=IiQQ")
"""``struct scmp_arg_cmp``: argument, comparison, two operands."""


def arg_cmp(arg: int, op: str, datum_a: int, datum_b: int) -> bytes:
    """Encode one comparison of an argument; ``op`` is one of COMPARISONS."""
    return _ARG_CMP.pack(arg, COMPARISONS[op], datum_a, datum_b)


@functools.cache
def _library() -> ctypes.CDLL:
    """Load the library once and set its prototypes.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise Unavailable(_MISSING) from None
    context, uint, text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p
    cint = ctypes.c_int
    prototypes: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "seccomp_version": (ctypes.POINTER(ctypes.c_uint), ()),
        "seccomp_init": (context, (uint,)),
        "seccomp_release": (None, (context,)),
        "seccomp_arch_add": (cint, (context, uint)),
        "seccomp_arch_exist": (cint, (context, uint)),
        "seccomp_arch_native": (uint, ()),
        "seccomp_arch_remove": (cint, (context, uint)),
        "seccomp_attr_set": (cint, (context, cint, uint)),
        "seccomp_syscall_resolve_name": (cint, (text,)),
        "seccomp_syscall_resolve_name_arch": (cint, (uint, text)),
        "seccomp_rule_add_array": (cint, (context, uint, cint, ctypes.c_uint, text)),
        "seccomp_export_bpf": (cint, (context, cint)),
    }  # fmt: skip
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _check(result: int, call: str) -> None:
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")


def version() -> tuple[int, int, int]:
    """Return the library's version."""
    found = _library().seccomp_version()  # struct scmp_version: three unsigned ints
    return found[0], found[1], found[2]


def arch_native() -> int:
    """Return the token of this machine's architecture."""
    return int(_library().seccomp_arch_native())


@functools.cache
def syscall_resolve_name(name: str) -> int:
    """Return a system call's number here, negative if it exists elsewhere, -1 if nowhere."""
    return int(_library().seccomp_syscall_resolve_name(name.encode()))


@functools.cache
def syscall_resolve_name_arch(arch: int, name: str) -> int:
    """Return a system call's number on an architecture, negative if it has none there."""
    return int(_library().seccomp_syscall_resolve_name_arch(arch, name.encode()))


class Context:
    """A filter in the making; owns the library's memory and must be closed."""

    def __init__(self, default_action: int) -> None:
        self._library = _library()
        self._handle = self._library.seccomp_init(default_action)
        if not self._handle:
            raise OSError(22, f"seccomp_init: action {default_action:#x} is invalid")

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.seccomp_release(self._handle)
        self._handle = None

    def arch_add(self, token: int) -> None:
        """Make the filter apply to an architecture; one that it has already is fine."""
        if self._library.seccomp_arch_exist(self._handle, token) != 0:
            _check(self._library.seccomp_arch_add(self._handle, token), "seccomp_arch_add")

    def arch_remove(self, token: int) -> None:
        """Take an architecture out; its calls are then killed."""
        _check(self._library.seccomp_arch_remove(self._handle, token), "seccomp_arch_remove")

    def attr_set(self, attribute: int, value: int) -> None:
        """Set an attribute of the filter."""
        _check(self._library.seccomp_attr_set(self._handle, attribute, value), "seccomp_attr_set")

    def rule_add(self, action: int, number: int, comparisons: Sequence[bytes] = ()) -> None:
        """Add a rule for a system call; all comparisons (:func:`arg_cmp`) must hold."""
        result = self._library.seccomp_rule_add_array(
            self._handle, action, number, len(comparisons), b"".join(comparisons)
        )
        _check(result, "seccomp_rule_add_array")

    def export_bpf(self) -> bytes:
        """Return the filter as an array of ``struct sock_filter``."""
        fd = os.memfd_create("bpf", os.MFD_CLOEXEC)
        try:
            _check(self._library.seccomp_export_bpf(self._handle, fd), "seccomp_export_bpf")
            size = os.lseek(fd, 0, os.SEEK_END)
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)
