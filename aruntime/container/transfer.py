"""The child that reads or writes a container's files: its world is the container's root.

Started by the daemon as ``python -IS …/transfer.py PACKAGES REQUEST``. The archive goes through an
inherited descriptor, the answer is one line of JSON on standard output:

    REQUEST  {"operation": "take"|"place"|"tree", "fd", "parent", "root": […], "shift": [first, n],
              for take "path", "follow"; for place "path", "owner", "adjusts", "whole";
              for tree "whiteouts", "skipped"}
    root     ["live", pidfd]                    what a running container sees
             ["stopped", operations, sealed]    what it would see, put together by the operations;
                                                sealed: its own root is read-only
             ["merged", staging, [directory…]]  its own files alone, read-only, lowest first
    answer   {"result": {…}} or {"error": {"kind", "message"}}

Before it looks at a single file it has made a copy of the container's mounts its root, without
devices, setuid or execution, and given up what copying does not take: links, races and devices of
whoever lives in there lead nowhere but in there (CVE-2018-15664, CVE-2019-14271). Everything is
imported before. Standard library only, and zstandard for an archive of the user's.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import json
import resource
from collections.abc import Callable
from typing import Any

from aruntime.errors import AruntimeError, Conflict, Unavailable
from aruntime.images import endpoints, packing, placing
from aruntime.images.compression import Input, Limits, Plain, gzip_library
from aruntime.kernel import capabilities, mounts, namespaces, process
from aruntime.rootfs import apply, overlay, roots
from aruntime.rootfs.tree import ROOT, Tree

NEEDED = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_SETFCAP",
)
OVERLAY_MARKS = ("CAP_SYS_ADMIN",)
"""To see which directories of an overlay are opaque."""
HARMLESS = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
CLONE = mounts.OPEN_TREE_CLONE
ROOT_CWD = b"/"

Json = dict[str, Any]


def main(request_text: str) -> None:
    """Do what the request says and print the answer."""
    request: Json = json.loads(request_text)
    process.set_dumpable(False)
    os.umask(0)
    allow_descriptors()
    if request.get("whole"):
        gzip_library()
        import zstandard  # noqa: F401 - while its files can still be seen
    try:
        enter(request["root"], read_only=request["operation"] != "place")
        capabilities.keep_only(NEEDED + (OVERLAY_MARKS if request.get("whiteouts") else ()))
        answer: Json = {"result": answer_to(request)}
    except BrokenPipeError:
        answer = {"result": {"reader_gone": True}}  # it has said why
    except AruntimeError as error:
        answer = {"error": {"kind": type(error).__name__, "message": error.message}}
    except apply.StepFailed as error:
        answer = {"error": {"kind": "Unavailable", "message": str(error)}}
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        message = f"{what}{os.strerror(error.errno or 0).lower()}"
        answer = {"error": {"kind": "Unavailable", "message": message}}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def allow_descriptors() -> None:
    """A tree takes one for each level: as many as this process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def enter(root: list[Any], *, read_only: bool) -> None:
    """Make a container's tree the root of this process, and forget every other.

    Raises:
        OSError, StepFailed: a mount cannot be made.
        Conflict: the container has just stopped.
    """
    kind, *more = root
    tree = Tree({})
    if kind == "live":
        hold_live(tree, *more)
    elif kind == "stopped":
        operations, sealed = more
        unshare()
        tree.held.update(apply.apply(operations))
        if sealed:
            mounts.mount_setattr(tree.root, "", attr_set=mounts.MOUNT_ATTR_RDONLY)
    else:
        unshare()
        hold_merged(tree, *more)
    attributes = HARMLESS | (mounts.MOUNT_ATTR_RDONLY if read_only else 0)
    mounts.mount_setattr(tree.root, "", mounts.AT_RECURSIVE, attr_set=attributes)
    roots.pivot(tree)


def unshare() -> None:
    """Get a mount namespace of our own, cut off from the one we had."""
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)


def hold_live(tree: Tree, pidfd: int) -> None:
    """Hold a copy of all mounts of a running container, attached in a namespace of our own."""
    try:
        namespaces.setns(pidfd, namespaces.CLONE_NEWNS)
    except ProcessLookupError:
        raise Conflict("the container has stopped meanwhile; try again") from None
    tree.hold(ROOT, mounts.open_tree(mounts.AT_FDCWD, "/", CLONE | mounts.AT_RECURSIVE))
    unshare()
    mounts.mount_setattr(tree.root, "", mounts.AT_RECURSIVE, propagation=mounts.MS_PRIVATE)
    mounts.move_mount(tree.root, "", mounts.AT_FDCWD, "/")


def hold_merged(tree: Tree, staging: str, directories: list[str]) -> None:
    """Hold directories merged as overlayfs shows them, attached at the staging directory."""
    if len(directories) == 1:
        tree.hold(ROOT, mounts.open_tree(mounts.AT_FDCWD, directories[0], CLONE))
    else:
        tree.hold(ROOT, overlay.open_readonly(directories))
    mounts.move_mount(tree.root, "", mounts.AT_FDCWD, staging)


def answer_to(request: Json) -> Json:
    """Carry out a request inside the root.

    Raises:
        AruntimeError, OSError: it cannot be done.
    """
    alive = liveness(request["parent"])
    if request["operation"] == "place":
        return place(request, alive)
    writer = packing.Writer(request["fd"], alive)
    first, count = request["shift"]
    skipped = frozenset(os.fsencode(path) for path in request.get("skipped", ()))
    options = packing.Options((first, count), bool(request.get("whiteouts")), skipped)
    packer = packing.Packer(writer.write, options)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if request["operation"] == "tree":
        packer.tree(root, b"")
        packer.finish()
    else:
        path = os.fsencode(request["path"])
        endpoints.take(endpoints.Place(root), path, ROOT_CWD, request["follow"], packer)
    writer.flush()
    return {"size": writer.size}


def liveness(parent: int) -> Callable[[], None]:
    """Return what raises when the daemon that wants the answer is gone."""

    def alive() -> None:
        if os.getppid() != parent:
            raise Unavailable("the daemon is gone")

    return alive


def place(request: Json, alive: Callable[[], None]) -> Json:
    """Put the archive into the root."""
    source = Input(request["fd"], alive)
    read = Plain(source, Limits()).read if request["whole"] else source.read
    owner = tuple(request["owner"]) if request["owner"] else None
    rules = placing.Rules(owner, tuple(request["shift"]), adjusts=request["adjusts"])
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    path = os.fsencode(request["path"])
    try:
        placed = placing.place_archive(
            endpoints.Place(root), path, read, rules, whole=request["whole"]
        )
    except placing.Interrupted:
        return {"writer_gone": True}  # it has said why
    return placed._asdict()


if __name__ == "__main__":
    main(sys.argv[2])
