"""Device rules: who may open or create which device node.

Pure: the specification's list of rules is folded into one :class:`DeviceAccess` (a default and
its exceptions), which both drivers put into force, v1 as lines for ``devices.allow`` and
``devices.deny``, v2 as a BPF program. The default list and rules as users type them are
:mod:`aruntime.spec.devices`'; creating nodes is rootfs' work. Source: OCI
config-linux.md, "Allowed Device list"; Documentation/admin-guide/cgroup-v1/devices.rst.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aruntime.cgroups.resources import Resources, Write
from aruntime.errors import InvalidParameter
from aruntime.spec import devices as spec_devices
from aruntime.spec.devices import ACCESS


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


DEFAULT_ALLOWED: tuple[tuple[DeviceKey, str], ...] = tuple(
    (DeviceKey(kind, major, minor), access)
    for kind, major, minor, access in spec_devices.DEFAULT_ALLOWED
)
"""The specification's default list; every other list is completed with it."""


def device_access(resources: Resources) -> DeviceAccess:
    """Fold the rules of the resources, in their order, onto "deny all".

    The default list is allowed last, as runc does it, so that a container without any rule is
    confined and /dev/null always works.

    Raises:
        InvalidParameter: a rule is malformed.
    """
    rules = resources.get("devices") or ()
    try:
        # With the types: True is not 1 here.
        return _folded(tuple((*rule.items(), *map(type, rule.values())) for rule in rules))
    except TypeError:  # malformed, so that it cannot be remembered: say what is wrong
        return _fold(rules)


@functools.lru_cache(maxsize=64)
def _folded(rules: tuple[tuple[Any, ...], ...]) -> DeviceAccess:
    """Fold once: most containers have the same rules, and nobody changes what comes out."""
    return _fold([dict(rule[: len(rule) // 2]) for rule in rules])


def _fold(rules: Iterable[Mapping[str, Any]]) -> DeviceAccess:
    allow_by_default, exceptions = False, dict[DeviceKey, str]()
    for rule in rules:
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
