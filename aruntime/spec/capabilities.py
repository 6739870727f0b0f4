"""Which capabilities a container gets: docker's default set, what is added, what is dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aruntime.kernel.capabilities import NAMES, NUMBERS

ALL = "ALL"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""docker's fourteen."""


def normalise_capabilities(names: Iterable[str]) -> list[str]:
    """Return names as the kernel's headers have them, ``ALL`` as it is, each once.

    Raises:
        ValueError: ``unknown capability: "CAP_FOO"``.
    """
    found: dict[str, None] = {}
    for text in names:
        name = text.strip().upper()
        if name != ALL:
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in NUMBERS:
                raise ValueError(f'unknown capability: "{name}"')
        found[name] = None
    return list(found)


def effective_capabilities(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool, available: int
) -> tuple[list[str], list[str]]:
    """Return the capabilities of a container, in the order of their numbers, and warnings.

    Args:
        add: normalised names, or ``ALL``.
        drop: likewise; ``ALL`` leaves only what is added.
        privileged: all of them, whatever is added or dropped.
        available: mask of what the daemon has itself; nothing else can be given.
    """
    if privileged:
        wanted = set(NAMES)
    elif ALL in add:
        wanted = set(NAMES) - set(drop)
    elif ALL in drop:
        wanted = set(add)
    else:
        wanted = (set(DEFAULT_CAPABILITIES) - set(drop)) | set(add)
    held = [name for name in NAMES if name in wanted and available >> NUMBERS[name] & 1]
    missing = [name for name in NAMES if name in wanted and name not in held]
    if not missing:
        return held, []
    return held, [f"the daemon itself lacks {', '.join(missing)}: the container does without"]
