"""seccomp profiles: docker's JSON format, and the part of one that applies to a container.

A profile's rules may depend on capabilities, architecture and kernel; :func:`resolve` turns it
into the specification's ``linux.seccomp`` (config-linux.md, "Seccomp"), which
:mod:`aruntime.container.seccomp_filter` compiles. Pure, except that the running kernel and
machine are the defaults of the parameters.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from aruntime.container.seccomp_default import default_profile
from aruntime.errors import InvalidParameter, InvalidSpec
from aruntime.spec.validation import check_seccomp

MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
}
"""uname's machine to the name in ``includes.arches`` and the token of libseccomp."""

MAX_PROFILE_BYTES = 1 << 20
_RULE_MEMBERS = ("names", "action", "errnoRet", "args")
_MIN_KERNEL = re.compile(r"([0-9]+)\.([0-9]+)")


def seccomp_of(
    chosen: str, *, privileged: bool, capabilities: Collection[str]
) -> dict[str, Any] | None:
    """Return ``linux.seccomp`` for what a container's configuration says, None for no filter.

    Args:
        chosen: ``ContainerConfig.seccomp``: empty, ``unconfined`` or the JSON of a profile.
        privileged: no filter, unless a profile was given.
        capabilities: the bounding set of the container.

    Raises:
        InvalidParameter: the profile is malformed.
    """
    if chosen == "unconfined" or (privileged and not chosen):
        return None
    return _resolved(chosen, tuple(capabilities))


@functools.lru_cache(maxsize=64)
def _resolved(chosen: str, capabilities: tuple[str, ...]) -> dict[str, Any] | None:
    """Resolve once for each profile and set: nobody changes what comes out."""
    profile = parse_profile(chosen) if chosen else default_profile()
    return resolve(profile, capabilities)


def parse_profile(text: str) -> dict[str, Any]:
    """Read a profile in docker's JSON format.

    Raises:
        InvalidParameter: naming the field that is wrong.
    """
    if len(text) > MAX_PROFILE_BYTES:
        raise InvalidParameter(f"seccomp profile is longer than {MAX_PROFILE_BYTES} bytes")
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"decoding seccomp profile failed: {error}") from None
    try:
        _check(profile)
    except InvalidSpec as error:
        raise InvalidParameter(f"invalid seccomp profile: {error}") from None
    return dict(profile)


def _check(profile: Any) -> None:
    if not isinstance(profile, dict):
        raise InvalidSpec(f"must be an object, got {type(profile).__name__}")
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidSpec("use either 'architectures' or 'archMap'")
    rules = profile.get("syscalls")
    if not profile.get("defaultAction") and not rules:
        return
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if not isinstance(rule, dict):
            raise InvalidSpec(f"syscalls[{index}]: must be an object, got {rule!r}")
        if rule.get("name") and rule.get("names"):
            raise InvalidSpec(f"syscalls[{index}]: use either 'name' or 'names'")
        if rule.get("name"):  # the format before docker 1.12
            rule["names"] = [rule.pop("name")]
        for name in ("includes", "excludes"):
            _check_condition(f"syscalls[{index}].{name}", rule.get(name))
    check_seccomp("seccomp", profile)
    for entry in profile.get("archMap") or ():
        if not isinstance(entry, dict) or not isinstance(entry.get("architecture"), str):
            raise InvalidSpec("archMap: every entry needs an architecture")


def _check_condition(field: str, condition: Any) -> None:
    if condition is None:
        return
    if not isinstance(condition, dict):
        raise InvalidSpec(f"{field}: must be an object, got {condition!r}")
    for name in ("arches", "caps"):
        values = condition.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InvalidSpec(f"{field}.{name}: must be a list of names, got {values!r}")
    kernel = condition.get("minKernel") or "0.0"
    if not isinstance(kernel, str) or not _MIN_KERNEL.fullmatch(kernel):
        raise InvalidSpec(f"{field}.minKernel: must be like 4.8, got {kernel!r}")


def resolve(
    profile: Mapping[str, Any],
    capabilities: Collection[str],
    *,
    machine: str = "",
    release: str = "",
) -> dict[str, Any] | None:
    """Return ``linux.seccomp`` of a profile for one container.

    Args:
        profile: in docker's format, checked.
        capabilities: the bounding set, as ``CAP_…`` names.
        machine: uname's; empty: this machine's.
        release: of the kernel; empty: the running one's.

    Returns:
        None when the profile says nothing at all, as docker reads it.
    """
    if not profile.get("defaultAction") and not profile.get("syscalls"):
        return None
    uname = os.uname()
    arch, token = MACHINES.get(machine or uname.machine, (machine or uname.machine, ""))
    kernel = _version(release or uname.release)
    resolved: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    for name in ("defaultErrnoRet", "flags"):
        if profile.get(name) is not None:
            resolved[name] = profile[name]
    resolved["architectures"] = _architectures(profile, token)
    resolved["syscalls"] = [
        {
            key: rule[key]
            for key in ("names", "action", "errnoRet", "args")
            if rule.get(key) is not None
        }
        for rule in profile.get("syscalls") or ()
        if _applies(rule, arch, capabilities, kernel)
    ]
    return resolved


def _architectures(profile: Mapping[str, Any], token: str) -> list[str]:
    if profile.get("architectures"):
        return list(profile["architectures"])
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == token:
            return [token, *(entry.get("subArchitectures") or ())]
    return []


def _applies(
    rule: Mapping[str, Any], arch: str, capabilities: Collection[str], kernel: tuple[int, int]
) -> bool:
    """Any match excludes, everything must match to include (moby's reading)."""
    excludes = rule.get("excludes") or {}
    includes = rule.get("includes") or {}
    if arch in (excludes.get("arches") or ()):
        return False
    if any(name in capabilities for name in excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]):
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if not all(name in capabilities for name in includes.get("caps") or ()):
        return False
    return not includes.get("minKernel") or kernel >= _version(includes["minKernel"])


def _version(release: str) -> tuple[int, int]:
    match = _MIN_KERNEL.match(release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
