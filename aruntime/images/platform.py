"""What an image runs on, in the names of the Go toolchain that image indexes use.

Standard library only: the unpacking child chooses from indexes by it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from aruntime.errors import InvalidParameter

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}


class Platform(NamedTuple):
    """``os/architecture[/variant]``."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def host() -> Platform:
    """Return the platform of this host; arm64 is v8 whether said or not, so it is not said."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, "" if architecture == "arm64" else variant)


def parse(text: str) -> Platform:
    """Read ``os[/architecture[/variant]]``; what is left out is the host's.

    Raises:
        InvalidParameter: another operating system than Linux, or more than three parts.
    """
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(parts) or parts[0] != "linux":
        raise InvalidParameter(
            f"invalid platform {text!r}: it must be linux[/ARCHITECTURE[/VARIANT]]"
        )
    if len(parts) == 1:
        return host()
    aliases = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
    return Platform(parts[0], aliases.get(parts[1], parts[1]), *parts[2:])


def rank(found: Mapping[str, Any], wanted: Platform) -> int:
    """Tell how well a descriptor's platform fits: 0 not at all, more is better."""
    if found.get("os") != wanted.os or found.get("architecture") != wanted.architecture:
        return 0
    variant = found.get("variant") or ""
    if variant == wanted.variant:
        return 3
    if not variant or not wanted.variant:
        return 2
    # An arm v7 runs v6 and v5.
    return 1 if variant < wanted.variant else 0
