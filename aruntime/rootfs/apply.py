"""Execute the operations of :mod:`aruntime.rootfs.plan`, in order, without deciding anything.

Runs in a container's init, in a mount namespace that is the container's own. Until ``pivot``
both trees are in sight: sources are taken from the host's, destinations are descriptors inside
the new one, and what is mounted is attached to the descriptor by move_mount(2), so that no name
is looked up twice.

With a user namespace the first half of the list (``plan.split``) is executed by a process that
still has the host's privileges, in a mount namespace of its own, and the second half by the init
it clones with CLONE_NEWUSER and CLONE_NEWNS. What the first half opened and the working
directory it went to reach the second in memory: :func:`apply` returns what is held.

Standard library only, and nothing is imported, looked up by name or decoded late: after
``pivot`` every file in sight is the container's.
"""

from __future__ import annotations

import os

from aruntime.rootfs import attach, devices, roots
from aruntime.rootfs.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OPERATIONS: dict[str, Callable[..., None]] = {
    "private": roots.private,
    "source": roots.source,
    "idmap": roots.idmap_layers,
    "own": roots.own,
    "overlay": roots.mount_overlay,
    "rootfs": roots.attach_rootfs,
    "nodes": devices.nodes,
    "enter": roots.enter,
    "rebind": roots.rebind,
    "mount": attach.mount,
    "bind": attach.bind,
    "cgroups": attach.cgroup_view,
    "devices": devices.devices,
    "links": devices.links,
    "files": devices.files,
    "sysctls": attach.sysctls,
    "mask": attach.mask,
    "readonly": attach.readonly,
    "pivot": roots.pivot,
    "propagate": roots.propagate,
    "readonly root": roots.readonly_root,
}
"""By the name that begins an operation; what each does is in the function's docstring."""


class StepFailed(Exception):
    """An operation could not be done.

    Attributes:
        step: the operation, in words.
        error: what the kernel said; its filename is the path concerned.
    """

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(f"{step}: {error}")
        self.step = step
        self.error = error


def apply(ops: list[list[Any]], held: dict[str, int] | None = None) -> dict[str, int]:
    """Execute operations in order.

    Args:
        ops: as the plan made them.
        held: what an earlier call returned, when the list was split.

    Returns:
        Descriptors still held, the caller's now; empty after ``pivot``.

    Raises:
        StepFailed: an operation failed. Everything held is closed; what was mounted stays until
            the mount namespace goes.
    """
    tree = Tree(dict(held or {}))
    previous_umask = os.umask(0)
    try:
        for op in ops:
            _execute(tree, op)
    except BaseException:
        tree.close()
        raise
    finally:
        os.umask(previous_umask)
    return tree.held


def _execute(tree: Tree, op: list[Any]) -> None:
    try:
        OPERATIONS[op[0]](tree, *op[1:])
    except OSError as error:
        if not isinstance(error.filename, str) or not error.filename.startswith("/"):
            error.filename = _subject(op)
        raise StepFailed(describe(op), error) from error


def describe(op: list[Any]) -> str:
    """Return an operation in words, as errors and ``--debug`` show it: what, and where."""
    return f"{op[0]} {_subject(op)}".rstrip()


def _subject(op: list[Any]) -> str:
    """Return what an operation is about: by convention its first argument if it is a path."""
    return op[1] if len(op) > 1 and isinstance(op[1], str) else ""
