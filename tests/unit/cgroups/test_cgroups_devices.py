"""Device rules: folded, written for v1, compiled for v2, all three saying the same."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.cgroups import devices
from aruntime.cgroups.device_filter import device_program
from aruntime.cgroups.devices import DeviceAccess, DeviceKey, device_access
from aruntime.cgroups.parsers import parse_device_list
from aruntime.cgroups.resources import Write
from aruntime.errors import InvalidParameter
from aruntime.kernel import bpf
from aruntime.spec import default_device_rules

RECORDED = b"""c *:* m
b *:* m
c 1:3 rwm
c 1:5 rwm
c 1:7 rwm
c 1:8 rwm
c 1:9 rwm
c 5:0 rwm
c 5:1 rwm
c 5:2 rwm
c 136:* rwm
"""

NUMBERS = st.none() | st.integers(0, 3)
ACCESS = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda s: "".join(sorted(s)))
KEYS = st.builds(DeviceKey, st.sampled_from("bc"), NUMBERS, NUMBERS)
ACCESSES = st.builds(DeviceAccess, st.booleans(), st.dictionaries(KEYS, ACCESS, max_size=6))
REQUESTS = st.tuples(st.sampled_from("bc"), st.integers(0, 3), st.integers(0, 3), ACCESS)


def permits(access: DeviceAccess, request: tuple[str, int, int, str]) -> bool:
    """Decide as Documentation/admin-guide/cgroup-v1/devices.rst and its source do."""
    kind, major, minor, wanted = request
    for key, letters in access.exceptions.items():
        here = key.type == kind and key.major in (None, major) and key.minor in (None, minor)
        covered = set(wanted) & set(letters)
        if here and (covered if access.allow_by_default else covered == set(wanted)):
            return not access.allow_by_default
    return access.allow_by_default


def interpret(program: bytes, context: bytes) -> int:
    """Run a BPF program over the few instructions a device filter is made of."""
    registers = [0] * 11
    place = 0
    while True:
        code, both, offset, immediate = bpf.INSTRUCTION.unpack_from(program, place * 8)
        destination, source = both & 15, both >> 4
        place += 1
        if code == bpf.BPF_EXIT:
            return registers[0]
        if code == bpf.BPF_LDX_MEM_W:
            registers[destination] = struct.unpack_from("=I", context, offset)[0]
        elif code == bpf.BPF_MOV32_X:
            registers[destination] = registers[source]
        elif code == bpf.BPF_MOV64_K:
            registers[destination] = immediate
        elif code == bpf.BPF_AND32_K:
            registers[destination] &= immediate
        elif code == bpf.BPF_RSH32_K:
            registers[destination] >>= immediate
        else:
            taken = {
                bpf.BPF_JNE_K: registers[destination] != immediate,
                bpf.BPF_JEQ_K: registers[destination] == immediate,
                bpf.BPF_JNE_X: registers[destination] != registers[source],
            }[code]
            place += offset if taken else 0


def bpf_context(request: tuple[str, int, int, str]) -> bytes:
    """Return struct bpf_cgroup_dev_ctx for an access."""
    kind, major, minor, wanted = request
    bits = {"m": 1, "r": 2, "w": 4}
    access = sum(bits[letter] for letter in wanted)
    return struct.pack("=III", access << 16 | {"b": 1, "c": 2}[kind], major, minor)


@given(ACCESSES, REQUESTS)
def test_program_decides_as_the_v1_controller(
    access: DeviceAccess, request: tuple[str, int, int, str]
) -> None:
    """The compiled program agrees with the documented rules for every access."""
    verdict = interpret(device_program(access), bpf_context(request))
    assert bool(verdict) == permits(access, request)


def carry_out(
    table: dict[DeviceKey, str] | None, writes: list[Write]
) -> dict[DeviceKey, str] | None:
    """Do to a table of allowed devices what the kernel does; None is "everything"."""
    for write in writes:
        if write.value == "a":
            table = None if write.file == "devices.allow" else {}
            continue
        assert table is not None
        (rule,) = parse_device_list(write.value.encode())
        key = DeviceKey(*rule[:3])
        held = set(table.pop(key, ""))
        held = held | set(rule[3]) if write.file == "devices.allow" else held - set(rule[3])
        if held:
            table[key] = "".join(letter for letter in "rwm" if letter in held)
    return table


def letters_sorted(table: dict[DeviceKey, str] | None) -> dict[DeviceKey, set[str]] | None:
    """Compare access letters as sets."""
    return None if table is None else {key: set(value) for key, value in table.items()}


TABLES = st.dictionaries(KEYS, ACCESS, max_size=6)


@given(st.none() | TABLES, TABLES)
def test_update_reaches_the_wanted_table(
    start: dict[DeviceKey, str] | None, wanted: dict[DeviceKey, str]
) -> None:
    """From any present list to any default-deny rules, by differences."""
    current = [("a", None, None, "rwm")] if start is None else [(*k, v) for k, v in start.items()]
    writes = devices.v1_update_writes(current, DeviceAccess(False, wanted))
    assert letters_sorted(carry_out(start, writes)) == letters_sorted(wanted)


@given(TABLES, TABLES)
def test_update_never_takes_a_device_that_stays(
    start: dict[DeviceKey, str], wanted: dict[DeviceKey, str]
) -> None:
    """No line of an update denies access that both lists grant."""
    current = [(*key, letters) for key, letters in start.items()]
    for write in devices.v1_update_writes(current, DeviceAccess(False, wanted)):
        if write.file == "devices.deny":
            (rule,) = parse_device_list(write.value.encode())
            assert not set(rule[3]) & set(wanted.get(DeviceKey(*rule[:3]), ""))


def test_default_rules_give_the_recorded_list() -> None:
    """docker's default devices, folded and written, are what the kernel then lists."""
    access = device_access({"devices": default_device_rules()})
    assert [(*key, letters) for key, letters in access.exceptions.items()] == parse_device_list(
        RECORDED
    )
    writes = devices.v1_writes(access)
    assert writes[0] == Write("devices", "devices.deny", "a")
    assert [write.value for write in writes[1:]] == RECORDED.decode().splitlines()
    assert devices.v1_update_writes(parse_device_list(RECORDED), access) == []


def test_no_rules_at_all_are_the_default_rules() -> None:
    """A container whose specification forgets devices is confined all the same."""
    assert device_access({}) == device_access({"devices": default_device_rules()})
    assert device_access({"devices": None}) == device_access({"devices": []})


def test_privileged_may_use_everything() -> None:
    """Allow all leaves nothing to write on v1 and always says yes on v2."""
    access = device_access({"devices": [{"allow": True, "access": "rwm"}]})
    assert access == DeviceAccess(True, {})
    assert devices.v1_writes(access) == []
    assert interpret(device_program(access), bpf_context(("b", 8, 0, "rw"))) == 1


def test_rules_are_folded_in_order() -> None:
    """Later rules add to, take from, and reset earlier ones."""
    fuse: dict[str, Any] = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    kept = device_access({"devices": [fuse, {**fuse, "allow": False, "access": "w"}]})
    assert kept.exceptions[DeviceKey("c", 10, 229)] == "r"
    gone = device_access({"devices": [fuse, {**fuse, "allow": False}]})
    assert DeviceKey("c", 10, 229) not in gone.exceptions
    reset = device_access({"devices": [fuse, {"allow": False, "access": "rwm"}]})
    assert DeviceKey("c", 10, 229) not in reset.exceptions
    denied = device_access({"devices": [{"allow": True}, {**fuse, "allow": False}]})
    assert denied == DeviceAccess(True, {DeviceKey("c", 10, 229): "rw"})


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"allow": "yes"},
        {"allow": True, "type": "x"},
        {"allow": True, "access": "rwx"},
        {"allow": True, "type": "c", "major": "1"},
    ],
)
def test_malformed_rules_are_refused(rule: dict[str, Any]) -> None:
    """No rule is guessed at."""
    with pytest.raises(InvalidParameter, match="malformed rule"):
        device_access({"devices": [rule]})
