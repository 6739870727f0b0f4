"""``linux.seccomp`` to the BPF program that the kernel runs on every system call.

libseccomp makes the program (as a binary tree: ``SCMP_FLTATR_CTL_OPTIMIZE`` 2). Before it stands
a prelude of our own, for system calls newer than the library or the profile:

    per architecture   number of a call that the profile names but the library does not know
                       → the profile's action
                       number above every call that the profile names → ENOSYS
    otherwise          the library's program

Without it a new call would fail with EPERM and programs would not fall back to an older one (as
runc, which does the second part). Compiled programs are kept in memory and on disk, by a key
made of everything they depend on. Synchronous; a compilation takes some tens of milliseconds.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from aruntime.container import libseccomp
from aruntime.errors import InvalidSpec

_FORMAT = 1
"""Part of the key: raise it when this module makes other programs from the same input."""
_KEPT = 64
_EPERM = 1
_ENOSYS = 38
_MAX_INSTRUCTIONS = 4096

SCMP_ACT_ALLOW = 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": SCMP_ACT_ALLOW,
}
_WITH_ERRNO = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})

NEWER_CALLS = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
"""Calls that libseccomp 2.5 does not know; since 424 numbers are the same everywhere
(arch/*/kernel/syscalls of Linux)."""

_UNIFIED = frozenset(
    libseccomp.ARCHITECTURES[f"SCMP_ARCH_{name}"]
    for name in ("X86", "X86_64", "X32", "ARM", "AARCH64", "PPC64LE", "S390", "S390X", "RISCV64")
)
_X86_64 = libseccomp.ARCHITECTURES["SCMP_ARCH_X86_64"]
_X32 = libseccomp.ARCHITECTURES["SCMP_ARCH_X32"]
_X32_BIT = 0x40000000
"""Set in the number of an x32 call, whose architecture the kernel calls x86_64."""

_INSTRUCTION = struct.Struct("=HBBI")
"""``struct sock_filter``: code, jump if true, jump if false, k."""
_LOAD, _JUMP, _EQUAL, _GREATER, _GREATER_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH = 0, 4

_programs: collections.OrderedDict[str, bytes] = collections.OrderedDict()
_keys: collections.OrderedDict[int, tuple[Mapping[str, Any], str]] = collections.OrderedDict()
"""Keys by identity of the object, which is kept so that its identity stays its own."""
_lock = threading.Lock()


def compile_filter(seccomp: Mapping[str, Any], *, directory: str = "") -> bytes:
    """Return the program of a ``linux.seccomp`` object, compiled or remembered.

    Args:
        seccomp: the object, checked (:func:`aruntime.spec.validate`); its ``flags`` are for who
            loads the program. It must not change any more.
        directory: where programs are kept on disk (made if missing, mode 0700); empty: nowhere.

    Raises:
        Unavailable: libseccomp is not installed.
        InvalidSpec: an action or architecture cannot be compiled, or the program is too long.
    """
    key = _key_of(seccomp)
    with _lock:
        found = _programs.get(key)
        if found is not None:
            _programs.move_to_end(key)
            return found
    path = f"{directory}/{key}.bpf" if directory else ""
    program = (_read(path) if path else b"") or _compile(seccomp)
    if path:
        _write(path, program)
    with _lock:
        _programs[key] = program
        while len(_programs) > _KEPT:
            _programs.popitem(last=False)
    return program


def _key_of(seccomp: Mapping[str, Any]) -> str:
    """Return the key of an object; that of one which was seen lately is remembered."""
    known = _keys.get(id(seccomp))
    if known is not None and known[0] is seccomp:
        return known[1]
    key = _key(seccomp)
    with _lock:
        _keys[id(seccomp)] = seccomp, key
        while len(_keys) > _KEPT:
            _keys.popitem(last=False)
    return key


def _key(seccomp: Mapping[str, Any]) -> str:
    parts = [_FORMAT, libseccomp.version(), libseccomp.arch_native(), sys.byteorder, seccomp]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(path: str) -> bytes:
    """Return a program kept on disk, empty if it cannot be read or was cut short."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return b""
    program, digest = content[:-32], content[-32:]
    return program if hashlib.sha256(program).digest() == digest else b""


def _write(path: str, program: bytes) -> None:
    """Keep a program on disk; a full or read-only disk only means compiling again."""
    if os.path.exists(path):
        return
    directory = os.path.dirname(path)
    with contextlib.suppress(OSError):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=directory)
        try:
            with open(fd, "wb") as file:
                file.write(program + hashlib.sha256(program).digest())
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise


def action_number(name: str, errno_ret: int | None) -> int:
    """Return what a filter answers for an action of the specification.

    Raises:
        InvalidSpec: the action needs somebody to notify.
    """
    if name not in _ACTIONS:
        raise InvalidSpec(f"linux.seccomp: {name} is not supported: use SCMP_ACT_ERRNO")
    if name not in _WITH_ERRNO:
        return _ACTIONS[name]
    return _ACTIONS[name] | (_EPERM if errno_ret is None else errno_ret)


def _compile(seccomp: Mapping[str, Any]) -> bytes:
    default = action_number(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    tokens = _tokens(seccomp)
    unknown: dict[int, int] = {}
    with libseccomp.Context(default) as context:
        for token in tokens:
            context.arch_add(token)
        if libseccomp.arch_native() not in tokens:
            context.arch_remove(libseccomp.arch_native())
        # Who loads it decides about no_new_privs.
        context.attr_set(libseccomp.SCMP_FLTATR_CTL_NNP, 0)
        with contextlib.suppress(OSError):  # libseccomp before 2.5 has no binary trees
            context.attr_set(libseccomp.SCMP_FLTATR_CTL_OPTIMIZE, 2)
        for rule in seccomp.get("syscalls") or ():
            action = action_number(rule["action"], rule.get("errnoRet"))
            if action != default:
                _add_rule(context, rule, action, unknown)
        program = context.export_bpf()
    if default != SCMP_ACT_ALLOW:
        program = _prelude(seccomp, tokens, unknown) + program
    if len(program) // _INSTRUCTION.size > _MAX_INSTRUCTIONS:
        raise InvalidSpec("linux.seccomp: the filter has more than 4096 instructions")
    return program


def _tokens(seccomp: Mapping[str, Any]) -> list[int]:
    names = seccomp.get("architectures") or ()
    for name in names:
        if name not in libseccomp.ARCHITECTURES:
            raise InvalidSpec(f"linux.seccomp.architectures: {name} is unknown")
    return [libseccomp.ARCHITECTURES[name] for name in names] or [libseccomp.arch_native()]


def _add_rule(
    context: libseccomp.Context, rule: Mapping[str, Any], action: int, unknown: dict[int, int]
) -> None:
    """Add one rule for each of its names; names that nobody knows are passed over, as by runc."""
    alternatives = _alternatives(rule.get("args") or ())
    for name in rule["names"]:
        number = libseccomp.syscall_resolve_name(name)
        if number == libseccomp.NR_SCMP_ERROR:
            if name in NEWER_CALLS and alternatives == [[]]:
                unknown[NEWER_CALLS[name]] = action
            continue
        for comparisons in alternatives:
            context.rule_add(action, number, comparisons)


def _alternatives(args: Sequence[Mapping[str, Any]]) -> list[list[bytes]]:
    """Return lists of comparisons, one of which must hold as a whole.

    Several comparisons of one argument are alternatives, as runc reads them; libseccomp refuses
    them in one rule.
    """
    comparisons = [
        libseccomp.arg_cmp(arg["index"], arg["op"], arg["value"], arg.get("valueTwo") or 0)
        for arg in args
    ]
    indexes = [arg["index"] for arg in args]
    if len(set(indexes)) < len(indexes):
        return [[comparison] for comparison in comparisons]
    return [comparisons]


def _prelude(
    seccomp: Mapping[str, Any], tokens: Sequence[int], unknown: Mapping[int, int]
) -> bytes:
    """Return the instructions that stand before the library's program."""
    names = {name for rule in seccomp.get("syscalls") or () for name in rule["names"]}
    blocks = []
    for token in tokens:
        if token == _X32:
            continue  # inside the block of x86_64
        last = _last_number(token, names, unknown)
        if last < 0:
            continue
        body = _checks(last, unknown if token in _UNIFIED else {})
        if token == _X86_64:
            other = _last_number(_X32, names, {}) if _X32 in tokens else -1
            body = _x32_checks(other, len(body)) + body
        blocks.append((token, body))
    out: list[tuple[int, int, int, int]] = []
    rest = sum(len(body) + 5 for _, body in blocks)
    for token, body in blocks:
        out += [
            (_LOAD, 0, 0, _OFFSET_ARCH),
            (_EQUAL, 1, 0, token),
            (_JUMP, 0, 0, len(body) + 2),
            (_LOAD, 0, 0, _OFFSET_NUMBER),
            *body,
        ]
        rest -= len(body) + 5
        out.append((_JUMP, 0, 0, rest))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in out)


def _last_number(token: int, names: set[str], unknown: Mapping[int, int]) -> int:
    """Return the greatest number that the profile names on an architecture, -1 for none."""
    known = [libseccomp.syscall_resolve_name_arch(token, name) for name in names]
    newer = [*unknown] if token in _UNIFIED else []
    return max([*known, *newer, -1])


def _checks(last: int, unknown: Mapping[int, int]) -> list[tuple[int, int, int, int]]:
    """Answer calls that the library does not know; fall through for the others."""
    body: list[tuple[int, int, int, int]] = []
    for number, action in sorted(unknown.items()):
        body += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
    return [*body, (_GREATER, 0, 1, last), (_RETURN, 0, 0, _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS)]


def _x32_checks(last: int, body_length: int) -> list[tuple[int, int, int, int]]:
    """Keep x32 calls out of the checks for x86_64; they have their own greatest number."""
    if last < 0:
        return [(_GREATER_EQUAL, 0, 1, _X32_BIT), (_JUMP, 0, 0, body_length)]
    return [
        (_GREATER_EQUAL, 0, 3, _X32_BIT),
        (_GREATER, 0, 1, last),
        (_RETURN, 0, 0, _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS),
        (_JUMP, 0, 0, body_length),
    ]
