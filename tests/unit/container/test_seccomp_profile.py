"""seccomp profiles in docker's format: what applies to a container, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aruntime.container.seccomp import parse_profile, resolve, seccomp_of
from aruntime.container.seccomp_default import default_profile
from aruntime.errors import InvalidParameter
from aruntime.spec import validate
from aruntime.spec.capabilities import DEFAULT_CAPABILITIES


def resolved(profile: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Resolve for an x86 machine with a new kernel and docker's capabilities."""
    given: dict[str, Any] = {"machine": "x86_64", "release": "6.18.0"}
    caps = more.pop("capabilities", DEFAULT_CAPABILITIES)
    found = resolve(profile, caps, **{**given, **more})
    assert found is not None
    return found


def names(profile: dict[str, Any], **more: Any) -> set[str]:
    """Every call that gets a rule."""
    return {name for rule in resolved(profile, **more)["syscalls"] for name in rule["names"]}


def test_the_default_profile_is_a_valid_specification() -> None:
    """What resolve makes can stand in config.json."""
    spec = {"ociVersion": "1.1.0", "root": {"path": "r"}}
    validate({**spec, "linux": {"seccomp": resolved(default_profile())}})


def test_the_default_profile_survives_json() -> None:
    """It is docker's format: it can be written out, changed and given back."""
    text = json.dumps(default_profile())
    assert resolved(parse_profile(text)) == resolved(default_profile())


def test_capabilities_open_calls() -> None:
    """mount needs CAP_SYS_ADMIN, chroot is there by default."""
    assert {"chroot", "read", "ptrace"} <= names(default_profile())
    assert not {"mount", "keyctl", "io_uring_setup", "bpf"} & names(default_profile())
    assert {"mount", "bpf", "setns"} <= names(default_profile(), capabilities=["CAP_SYS_ADMIN"])
    assert "bpf" in names(default_profile(), capabilities=["CAP_BPF"])


def test_clone3_is_hidden_and_clone_is_filtered_without_sys_admin() -> None:
    """ENOSYS makes programs fall back to clone, whose flags can be seen."""

    def rules(call: str, caps: list[str]) -> list[dict[str, Any]]:
        found = resolved(default_profile(), capabilities=caps)["syscalls"]
        return [rule for rule in found if call in rule["names"]]

    (hidden,) = rules("clone3", [])
    assert hidden["action"] == "SCMP_ACT_ERRNO"
    assert hidden["errnoRet"] == 38
    (clone,) = rules("clone", [])
    assert clone["args"][0]["op"] == "SCMP_CMP_MASKED_EQ"
    assert [rule["action"] for rule in rules("clone3", ["CAP_SYS_ADMIN"])] == ["SCMP_ACT_ALLOW"]


def test_architecture_and_kernel_choose_rules() -> None:
    """arch_prctl on x86, set_tls on ARM; ptrace since Linux 4.8."""
    assert "arch_prctl" in names(default_profile())
    assert "set_tls" in names(default_profile(), machine="aarch64")
    assert "arch_prctl" not in names(default_profile(), machine="aarch64")
    assert "ptrace" not in names(default_profile(), release="4.4.0-generic")
    assert "ptrace" in names(default_profile(), release="4.4.0", capabilities=["CAP_SYS_PTRACE"])
    found = resolved(default_profile(), machine="aarch64")
    assert found["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    s390 = resolved(default_profile(), machine="s390x")["syscalls"]
    assert [r["args"][0]["index"] for r in s390 if r["names"] == ["clone"]] == [1]


def test_what_a_container_chose() -> None:
    """Nothing, unconfined, a profile; privileged means none unless one was given."""
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW"})
    assert seccomp_of("unconfined", privileged=False, capabilities=[]) is None
    assert seccomp_of("", privileged=True, capabilities=[]) is None
    own = seccomp_of(text, privileged=True, capabilities=[])
    assert own == {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": []}
    assert seccomp_of("", privileged=False, capabilities=[]) is not None
    assert seccomp_of("{}", privileged=False, capabilities=[]) is None


def test_conditions_of_excludes_and_includes() -> None:
    """Any match excludes, all must match to include."""

    def applies(**rule: Any) -> bool:
        profile = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", **rule}],
        }
        return bool(names(parse_profile(json.dumps(profile)), capabilities=["CAP_KILL"]))

    assert applies()
    assert not applies(excludes={"caps": ["CAP_BPF", "CAP_KILL"]})
    assert not applies(excludes={"arches": ["amd64"]})
    assert not applies(excludes={"minKernel": "4.8"})
    assert applies(excludes={"minKernel": "9.1"})
    assert applies(includes={"caps": ["CAP_KILL"]})
    assert not applies(includes={"caps": ["CAP_KILL", "CAP_BPF"]})
    assert not applies(includes={"minKernel": "9.1"})
    assert applies(includes={}, excludes={})


def test_the_old_form_with_a_single_name_is_read() -> None:
    """Profiles from before docker 1.12."""
    text = (
        '{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW"}]}'
    )
    assert names(parse_profile(text)) == {"read"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "decoding seccomp profile failed"),
        ("[" * 100_000, "decoding seccomp profile failed"),
        ("[]", "must be an object"),
        ('{"syscalls": [{"names": ["x"], "action": "SCMP_ACT_ALLOW"}]}',
         "defaultAction: is missing"),
        ('{"defaultAction": "ALLOW"}', "defaultAction: must be one of"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["a"], "archMap": [{}]}',
         "either 'architectures' or 'archMap'"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{}]}', "archMap: every entry"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [3]}', r"syscalls\[0\]: must be an"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "a", "names": ["b"]}]}',
         r"syscalls\[0\]: use either 'name' or 'names'"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": "X"}]}',
         r"syscalls\[0\].action: must be one of"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": '
         '"SCMP_ACT_ALLOW", "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}]}',
         r"args\[0\].index: must be a whole number from 0 to 5"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": '
         '"SCMP_ACT_ALLOW", "includes": {"caps": "CAP_KILL"}}]}', "includes.caps: must be a list"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": '
         '"SCMP_ACT_ALLOW", "excludes": {"minKernel": "new"}}]}', "minKernel: must be like 4.8"),
    ],
)  # fmt: skip
def test_a_malformed_profile_is_refused(text: str, reason: str) -> None:
    """Naming the field."""
    with pytest.raises(InvalidParameter, match=reason):
        parse_profile(text)
