"""The launch payload as the shim or its child reads it, and what the shim adds.

The fields are documented in :mod:`aruntime.container.messages`, section 3.
"""

from __future__ import annotations

import os

from aruntime.container import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_BYTES = 16 << 20


def requested(
    op: str, fields: dict[str, Any], fds: dict[str, int], defaults: dict[str, Any]
) -> dict[str, Any]:
    """Return the payload of a request to the shim, completed, or what stands for it.

    Args:
        op, fields, fds: the request. The payload is closed and taken out, unless it is to come.
        defaults: as for :func:`complete`.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none, or it is malformed.
    """
    if "gate" in fds:
        return to_come(fields["early"], defaults)
    fd = fds.pop("payload")
    try:
        payload = read(fd, op)
    finally:
        os.close(fd)
    complete(payload, defaults)
    return payload


def read(fd: int, kind: str) -> dict[str, Any]:
    """Return the launch payload from its memfd, which stays the caller's.

    Raises:
        OSError: as pread(2).
        ValueError: it is no payload of this kind and version.
    """
    size = os.fstat(fd).st_size
    if size > MOST_BYTES:
        raise ValueError(f"the payload has {size} bytes")
    content = b""
    while len(content) < size:
        chunk = os.pread(fd, size - len(content), len(content))
        if not chunk:
            raise ValueError("the payload is cut off")
        content += chunk
    payload = messages.decode(content)
    if payload.get("version") != messages.PAYLOAD_VERSION or payload.get("kind") != kind:
        shown = f"{payload.get('kind')!r}, version {payload.get('version')!r}"
        raise ValueError(f"expected a payload for {kind}, got {shown}")
    return payload


def to_come(early: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return what stands for the payload of a container's init that is forked before it is made.

    Args:
        early: the field of that name in the request.
        defaults: as for :func:`complete`, by the child.

    Raises:
        KeyError, TypeError, ValueError: it is malformed.
    """
    known = {"clone": int(early["clone"]), "cgroups": [str(path) for path in early["cgroups"]]}
    return {"kind": messages.LAUNCH, "join": [], "defaults": defaults, **known}


def complete(payload: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Give a payload what it leaves open.

    Args:
        payload: is changed.
        defaults: ``rlimits``, of which those count that the payload does not name, and
            ``oom_score_adj``.
    """
    named = {row[0] for row in payload["rlimits"]}
    payload["rlimits"] += [row for row in defaults["rlimits"] if row[0] not in named]
    payload.setdefault("oom_score_adj", defaults["oom_score_adj"])
