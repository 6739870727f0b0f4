"""Device rules: who may open or create which device node.

Pure: the specification's list of rules is folded into one :class:`DeviceAccess` (a default and
its exceptions), which both drivers put into force, v1 as lines for ``devices.allow`` and
``devices.deny``, v2 as a BPF program. Creating nodes is rootfs' work. Source: OCI
config-linux.md, "Allowed Device list"; Documentation/admin-guide/cgroup-v1/devices.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aruntime.cgroups.resources import Resources, Write
from aruntime.errors import InvalidParameter

ACCESS = "rwm"
"""Read, write, mknod."""


class DeviceKey(NamedTuple):
    """What a rule is about; None stands for ``*``."""

    type: str
    """``c`` or ``b``."""
    major: int | None
    minor: int | None

    def __str__(self) -> str:
        """The form of devices.list: ``c 136:*``."""
        major, minor = ("*" if number is None else number for number in (self.major, self.minor))
        return f"{self.type} {major}:{minor}"


class DeviceAccess(NamedTuple):
    """The rules folded: a default and the exceptions from it."""

    allow_by_default: bool
    exceptions: dict[DeviceKey, str]
    """Access letters allowed (default deny) or denied (default allow)."""


DEFAULT_ALLOWED: tuple[tuple[DeviceKey, str], ...] = (
    (DeviceKey("c", None, None), "m"),
    (DeviceKey("b", None, None), "m"),
    (DeviceKey("c", 1, 3), ACCESS),  # /dev/null
    (DeviceKey("c", 1, 5), ACCESS),  # /dev/zero
    (DeviceKey("c", 1, 7), ACCESS),  # /dev/full
    (DeviceKey("c", 1, 8), ACCESS),  # /dev/random
    (DeviceKey("c", 1, 9), ACCESS),  # /dev/urandom
    (DeviceKey("c", 5, 0), ACCESS),  # /dev/tty
    (DeviceKey("c", 5, 1), ACCESS),  # /dev/console
    (DeviceKey("c", 5, 2), ACCESS),  # /dev/ptmx
    (DeviceKey("c", 136, None), ACCESS),  # /dev/pts/*
)
"""What every container may use, as under docker: any node may be made, these may be opened."""


def default_rules() -> list[dict[str, Any]]:
    """Return docker's default list in the specification's form: deny all, allow the usual."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": ACCESS}]
    for key, access in DEFAULT_ALLOWED:
        rule: dict[str, Any] = {"allow": True, "type": key.type, "access": access}
        if key.major is not None:
            rule["major"] = key.major
        if key.minor is not None:
            rule["minor"] = key.minor
        rules.append(rule)
    return rules


def allow_all_rules() -> list[dict[str, Any]]:
    """Return the rules of a privileged container."""
    return [{"allow": True, "access": ACCESS}]


def device_access(resources: Resources) -> DeviceAccess:
    """Fold the rules of the resources, in their order, onto "deny all".

    The default list is allowed last, as runc does it, so that a container without any rule is
    confined and /dev/null always works.

    Raises:
        InvalidParameter: a rule is malformed.
    """
    allow_by_default, exceptions = False, dict[DeviceKey, str]()
    for rule in resources.get("devices") or ():
        allow, key, access = _parse_rule(rule)
        if key is None:
            allow_by_default, exceptions = allow, {}
        elif allow == allow_by_default:
            _take(exceptions, key, access)
        else:
            exceptions[key] = _union(exceptions.get(key, ""), access)
    for key, access in DEFAULT_ALLOWED:
        if not allow_by_default:
            exceptions[key] = _union(exceptions.get(key, ""), access)
    return DeviceAccess(allow_by_default, exceptions)


def _union(held: str, access: str) -> str:
    return "".join(letter for letter in ACCESS if letter in held or letter in access)


def _take(exceptions: dict[DeviceKey, str], key: DeviceKey, access: str) -> None:
    """A rule in the direction of the default ends exceptions of exactly its key."""
    left = "".join(letter for letter in exceptions.get(key, "") if letter not in access)
    if left:
        exceptions[key] = left
    else:
        exceptions.pop(key, None)


def _parse_rule(rule: Mapping[str, Any]) -> tuple[bool, DeviceKey | None, str]:
    """Return (allow, key or None for every device, access)."""
    kind = rule.get("type") or "a"
    access = rule.get("access") or ACCESS
    numbers = [rule.get("major"), rule.get("minor")]
    if (
        not isinstance(rule.get("allow"), bool)
        or kind not in ("a", "b", "c", "u")
        or not isinstance(access, str)
        or not set(access) <= set(ACCESS)
        or any(number is not None and type(number) is not int for number in numbers)
    ):
        raise InvalidParameter(f"linux.resources.devices has a malformed rule: {dict(rule)!r}")
    if kind == "a":
        return rule["allow"], None, access
    major, minor = (None if number is None or number < 0 else number for number in numbers)
    return rule["allow"], DeviceKey("c" if kind == "u" else kind, major, minor), access


def parse_device_cgroup_rule(text: str) -> dict[str, Any]:
    """Return the rule of ``--device-cgroup-rule 'c 42:* rmw'`` in the specification's form.

    Raises:
        InvalidParameter: the text is not ``TYPE MAJOR:MINOR ACCESS``.
    """
    words = text.split(" ")
    numbers = words[1].split(":") if len(words) == 3 else []
    if (
        len(numbers) != 2
        or words[0] not in ("a", "b", "c")
        or not all(number == "*" or number.isdecimal() for number in numbers)
        or not 1 <= len(words[2]) <= len(ACCESS)
        or not set(words[2]) <= set(ACCESS)
    ):
        raise InvalidParameter(
            f"invalid device cgroup format {text!r}, use 'TYPE MAJOR:MINOR ACCESS' "
            "such as 'c 42:* rmw'"
        )
    rule: dict[str, Any] = {"allow": True, "type": words[0], "access": words[2]}
    for name, number in zip(("major", "minor"), numbers, strict=True):
        if number != "*":
            rule[name] = int(number)
    return rule


def device_node_rule(path: str, access: str = ACCESS) -> dict[str, Any]:
    """Return the rule that lets a container use the host's device node at ``path``.

    Raises:
        InvalidParameter: there is no device node at the path.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidParameter(
            f"error gathering device information for {path!r}: {error.strerror}; "
            "name a device node of the host"
        ) from error
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidParameter(f"{path!r} is not a device node; name one of the host")
    return {
        "allow": True,
        "type": "b" if stat.S_ISBLK(status.st_mode) else "c",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "access": access,
    }


def v1_writes(access: DeviceAccess) -> list[Write]:
    """Return the writes that bring a fresh v1 cgroup (which allows all) to ``access``."""
    if access.allow_by_default:
        return [_line("deny", key, letters) for key, letters in access.exceptions.items()]
    start = Write("devices", "devices.deny", "a")
    return [start, *(_line("allow", key, letters) for key, letters in access.exceptions.items())]


def v1_update_writes(
    current: Iterable[tuple[str, int | None, int | None, str]], access: DeviceAccess
) -> list[Write]:
    """Return the writes from ``current`` (devices.list) to ``access``.

    Between two default-deny states only the difference is written, so that the container is
    never without a device that it keeps.
    """
    present = {DeviceKey(*rule[:3]): rule[3] for rule in current if rule[0] != "a"}
    allows_all = any(rule[0] == "a" for rule in current)
    if access.allow_by_default:
        return [Write("devices", "devices.allow", "a"), *v1_writes(access)]
    if allows_all:
        return v1_writes(access)
    writes = []
    for key in {**present, **access.exceptions}:
        held, wanted = present.get(key, ""), access.exceptions.get(key, "")
        lost = "".join(letter for letter in held if letter not in wanted)
        gained = "".join(letter for letter in wanted if letter not in held)
        if lost:
            writes.append(_line("deny", key, lost))
        if gained:
            writes.append(_line("allow", key, gained))
    return writes


def _line(verb: str, key: DeviceKey, access: str) -> Write:
    return Write("devices", f"devices.{verb}", f"{key} {access}")
