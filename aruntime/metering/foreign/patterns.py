"""Which cgroups `--meter-cgroups` means. Pure.

    /docker             the containers in the tree below /docker, however deep: cgroups whose names
                        are of a known program's form (see ``paths``)
    /system.slice/*     every cgroup that fits; ``*``, ``?`` and ``[…]`` stand for parts of one name
    =/batch/nightly     this one

The counters of a cgroup hold those of the groups below it. So what is below a metered cgroup is
never metered again, whatever fits it; and aruntime's own containers are never foreign.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

import msgspec

from aruntime.errors import InvalidParameter
from aruntime.metering.foreign.paths import origin, parts_of

METER = "meter"
DESCEND = "descend"
IGNORE = "ignore"

_WILD = re.compile(r"[*?\[]")


class Pattern(msgspec.Struct, frozen=True):
    """One pattern, checked."""

    text: str
    parts: tuple[str, ...]
    is_tree: bool
    """Containers below are meant; else what fits part by part."""

    def role(self, path: tuple[str, ...]) -> str:
        """What a cgroup is for this pattern: METER, DESCEND (look below), or IGNORE."""
        depth = min(len(path), len(self.parts))
        if not all(map(self._fits, path[:depth], self.parts)):
            return IGNORE
        if len(path) < len(self.parts):
            return DESCEND
        if self.is_tree:
            return METER if origin("/".join(path)) is not None else DESCEND
        return METER if len(path) == len(self.parts) else IGNORE

    def _fits(self, name: str, part: str) -> bool:
        if self.is_tree or _WILD.search(part) is None:
            return name == part
        return fnmatch.fnmatchcase(name, part)


def parse(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        InvalidParameter: it is no absolute path, or leaves the tree.
    """
    exact = text.startswith("=")
    path = text.removeprefix("=")
    parts = parts_of(path)
    if not path.startswith("/") or "\0" in path or any(part in (".", "..") for part in parts):
        raise InvalidParameter(
            f"invalid cgroup pattern {text!r}, use a path below the root such as /docker, "
            "/system.slice/*.service or =/batch"
        )
    wild = any(_WILD.search(part) for part in parts)
    if exact and (wild or not parts):
        raise InvalidParameter(
            f"invalid cgroup pattern {text!r}: after = comes the path of one cgroup, without "
            "wildcards"
        )
    return Pattern("/" + "/".join(parts) if not exact else f"={path}", parts, not (exact or wild))


def parse_all(texts: Iterable[str]) -> tuple[Pattern, ...]:
    """Read patterns, each of them perhaps a list with commas; the same one counts once.

    Raises:
        InvalidParameter: one is wrong.
    """
    words = (word.strip() for text in texts for word in text.split(","))
    return tuple(dict.fromkeys(parse(word) for word in words if word))


class Selection:
    """All patterns together; what is below ``excluded`` is never meant.

    Args:
        patterns: at least one, or nothing is ever selected.
        excluded: the parents of aruntime's own containers.
    """

    def __init__(self, patterns: Sequence[Pattern], excluded: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._excluded = tuple(parts_of(path) for path in excluded)

    def role(self, path: str) -> str:
        """What to do with a cgroup all of whose ancestors are DESCEND."""
        parts = parts_of(path)
        if any(parts[: len(own)] == own for own in self._excluded):
            return IGNORE
        roles = {pattern.role(parts) for pattern in self.patterns}
        return METER if METER in roles else DESCEND if DESCEND in roles else IGNORE

    def matching(self, path: str) -> list[Pattern]:
        """The patterns that a metered cgroup fits."""
        parts = parts_of(path)
        return [pattern for pattern in self.patterns if pattern.role(parts) == METER]
