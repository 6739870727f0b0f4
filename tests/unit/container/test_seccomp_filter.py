"""Compiled filters, run by an interpreter of classic BPF: every architecture without a machine."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from aruntime.container import libseccomp, seccomp_filter
from aruntime.container.seccomp import seccomp_of
from aruntime.container.seccomp_filter import NEWER_CALLS, compile_filter
from aruntime.errors import InvalidSpec
from aruntime.spec.capabilities import DEFAULT_CAPABILITIES

ALLOW = 0x7FFF0000
EPERM = 0x00050001
ENOSYS = 0x00050026
KILL = 0
X86_64, X86 = 0xC000003E, 0x40000003
X32_BIT = 0x40000000

pytestmark = pytest.mark.skipif(
    libseccomp.arch_native() != X86_64, reason="numbers of system calls are those of x86_64"
)


def run(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """Answer of a filter for one system call (``struct seccomp_data``)."""
    padded = [*args, *[0] * (6 - len(args))]
    about = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        match operation:
            case 0x20:  # ld [k]
                (accumulator,) = struct.unpack_from("=I", about, k)
            case 0x54:  # and #k
                accumulator &= k
            case 0x05:  # ja
                at += k
            case 0x15:  # jeq
                at += yes if accumulator == k else no
            case 0x25:  # jgt
                at += yes if accumulator > k else no
            case 0x35:  # jge
                at += yes if accumulator >= k else no
            case 0x06:  # ret
                return int(k)
            case _:
                raise AssertionError(f"unexpected instruction {operation:#x}")


def default_filter(*more: str) -> bytes:
    """The default profile with docker's capabilities and more."""
    caps = [*DEFAULT_CAPABILITIES, *more]
    chosen = seccomp_of("", privileged=False, capabilities=caps)
    assert chosen is not None
    return compile_filter(chosen)


def number(name: str) -> int:
    """Number of a call on x86_64."""
    return libseccomp.syscall_resolve_name(name)


def test_ordinary_calls_pass_and_dangerous_ones_do_not() -> None:
    """read, mount, keyctl, unshare, clone3."""
    program = default_filter()
    answers = {name: run(program, number(name)) for name in (
        "read", "write", "execve", "chroot", "ptrace", "mount", "unshare", "keyctl", "add_key",
        "bpf", "io_uring_setup", "kexec_load", "open_by_handle_at", "userfaultfd", "clone3",
    )}  # fmt: skip
    assert answers == {
        "read": ALLOW, "write": ALLOW, "execve": ALLOW, "chroot": ALLOW, "ptrace": ALLOW,
        "mount": EPERM, "unshare": EPERM, "keyctl": EPERM, "add_key": EPERM, "bpf": EPERM,
        "io_uring_setup": EPERM, "kexec_load": EPERM, "open_by_handle_at": EPERM,
        "userfaultfd": EPERM, "clone3": ENOSYS,
    }  # fmt: skip
    admin = default_filter("CAP_SYS_ADMIN")
    assert run(admin, number("mount")) == run(admin, number("clone3")) == ALLOW


def test_clone_may_not_make_namespaces() -> None:
    """Each of the seven flags is refused, threads and forks pass."""
    program = default_filter()
    for flags in (0x11, 0x3D0F00):
        assert run(program, number("clone"), flags) == ALLOW
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert run(program, number("clone"), 0x11 | 1 << bit) == EPERM


def test_address_families_are_an_allow_list_of_64_bits() -> None:
    """AF_ALG and AF_VSOCK are refused, also with bits above the int the kernel looks at."""
    program = default_filter()
    for family in (1, 2, 10, 16, 17, 39, 44):
        assert run(program, number("socket"), family) == ALLOW
    for family in (38, 40, 46, 40 | 1 << 32, 38 | 1 << 63):
        assert run(program, number("socket"), family) == EPERM


def test_personality_takes_known_values_only() -> None:
    """PER_LINUX and PER_LINUX32, not ADDR_NO_RANDOMIZE."""
    program = default_filter()
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert run(program, number("personality"), value) == ALLOW
    assert run(program, number("personality"), 0x0040000) == EPERM


def test_newer_calls_are_allowed_by_number_or_do_not_exist() -> None:
    """A call after every known one is ENOSYS, so that programs fall back."""
    program = default_filter()
    for name in ("cachestat", "fchmodat2", "futex_wake", "mseal", "statmount", "getxattrat"):
        assert run(program, NEWER_CALLS[name]) == ALLOW
        assert run(program, NEWER_CALLS[name], arch=X86) == ALLOW
    assert run(program, NEWER_CALLS["lsm_list_modules"]) == EPERM
    for unknown in (467, 500, 1000, 0x3FFFFFFF):
        assert run(program, unknown) == ENOSYS
        assert run(program, unknown, arch=X86) == ENOSYS


def test_all_three_x86_abis_are_filtered() -> None:
    """32 bits and x32 have the same rules under their own numbers; others are killed."""
    program = default_filter()
    assert run(program, 3, arch=X86) == ALLOW  # read
    assert run(program, 21, arch=X86) == EPERM  # mount
    assert run(program, 288, arch=X86) == EPERM  # keyctl
    assert run(program, X32_BIT | 0) == ALLOW  # read
    assert run(program, X32_BIT | number("mount")) == EPERM
    assert run(program, X32_BIT | 2000) == ENOSYS
    assert run(program, 0, arch=0xC00000B7) == KILL


def test_alternatives_on_one_argument() -> None:
    """Two comparisons of the same argument are alternatives, as runc reads them."""
    seccomp: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 13,
        "syscalls": [
            {
                "names": ["personality", "no_such_call"],
                "action": "SCMP_ACT_ALLOW",
                "args": [
                    {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"},
                ],
            },
            {
                "names": ["kill"],
                "action": "SCMP_ACT_LOG",
                "args": [
                    {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                    {"index": 1, "value": 9, "op": "SCMP_CMP_GE"},
                ],
            },
        ],
    }
    program = compile_filter(seccomp)
    assert [run(program, number("personality"), value) for value in (1, 7, 8)] == [
        ALLOW, ALLOW, 0x0005000D,
    ]  # fmt: skip
    assert run(program, number("kill"), 1, 10) == 0x7FFC0000
    assert run(program, number("kill"), 2, 10) == run(program, number("kill"), 1, 8) == 0x5000D


def test_a_deny_list_has_no_prelude() -> None:
    """Where the default is to allow, a new call is allowed too."""
    rule = {"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}
    program = compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    assert run(program, number("chmod")) == EPERM
    assert run(program, 2000) == ALLOW


@pytest.mark.parametrize(
    ("seccomp", "reason"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY is not supported"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]},
            "SCMP_ARCH_Z80 is unknown",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(seccomp: dict[str, Any], reason: str) -> None:
    """Before anything runs unfiltered."""
    with pytest.raises(InvalidSpec, match=reason):
        compile_filter(seccomp)


def test_programs_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second daemon does not compile; a damaged file is made again."""
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]}
    directory = str(tmp_path / "seccomp")
    seccomp_filter._programs.clear()
    program = compile_filter(seccomp, directory=directory)
    (file,) = Path(directory).iterdir()
    assert Path(directory).stat().st_mode & 0o777 == 0o700

    def no_compiler(_: object) -> bytes:
        raise AssertionError("compiled although it was on disk")

    with monkeypatch.context() as patched:
        patched.setattr(seccomp_filter, "_compile", no_compiler)
        assert compile_filter(seccomp, directory=directory) == program
        seccomp_filter._programs.clear()
        assert compile_filter(seccomp, directory=directory) == program
    file.write_bytes(file.read_bytes()[:-1])
    seccomp_filter._programs.clear()
    assert compile_filter(seccomp, directory=directory) == program


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["a"]}
    seccomp_filter._programs.clear()
    assert compile_filter(seccomp, directory=str(blocked / "x"))
