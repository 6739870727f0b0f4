"""Devices of a container: the default access list, rules and nodes in the specification's form.

Source: docker's default device list; OCI config-linux.md, "Devices" and "Allowed Device list".
"""

from __future__ import annotations

import re
from typing import Any

from aruntime.errors import InvalidSpec

ACCESS = "rwm"
"""Read, write, mknod."""

DEFAULT_ALLOWED: tuple[tuple[str, int | None, int | None, str], ...] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, ACCESS),  # /dev/null
    ("c", 1, 5, ACCESS),  # /dev/zero
    ("c", 1, 7, ACCESS),  # /dev/full
    ("c", 1, 8, ACCESS),  # /dev/random
    ("c", 1, 9, ACCESS),  # /dev/urandom
    ("c", 5, 0, ACCESS),  # /dev/tty
    ("c", 5, 1, ACCESS),  # /dev/console
    ("c", 5, 2, ACCESS),  # /dev/ptmx
    ("c", 136, None, ACCESS),  # /dev/pts/*
)
"""What every container may use, as under docker: any node may be made, these may be opened."""
_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def default_device_rules() -> list[dict[str, Any]]:
    """Return docker's list: deny all, let any node be made, let the usual ones be used."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": ACCESS}]
    return rules + [_rule(*entry) for entry in DEFAULT_ALLOWED]


def device_rule(text: str) -> dict[str, Any]:
    """Return the rule of ``--device-cgroup-rule 'c 42:* rmw'``.

    Raises:
        InvalidSpec: the text is not ``TYPE MAJOR:MINOR ACCESS``.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidSpec(
            f"invalid device cgroup format '{text}', use 'TYPE MAJOR:MINOR ACCESS' "
            "such as 'c 42:* rmw'"
        )
    kind, major, minor, access = match.groups()
    numbers = [None if number == "*" else int(number) for number in (major, minor)]
    return _rule(kind, numbers[0], numbers[1], access)


def node_rule(node: dict[str, Any], access: str) -> dict[str, Any]:
    """Return the rule that lets a container use one of its device nodes."""
    return _rule(node["type"], node["major"], node["minor"], access)


def _rule(kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule
