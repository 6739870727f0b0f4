"""Paths inside a root that an attacker may have arranged, and may be changing right now.

Every path is resolved by the kernel, scoped to a descriptor of the root
(openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS), and whatever happens next happens to
the descriptor that came out, never to the path again. Missing parts are made component by
component, each below the descriptor of its resolved parent.

Runs in init: standard library only, and nothing is imported late.
"""

from __future__ import annotations

import errno
import os
import stat

from aruntime.kernel import mounts

IN_ROOT = mounts.RESOLVE_IN_ROOT | mounts.RESOLVE_NO_MAGICLINKS
STRICT = IN_ROOT | mounts.RESOLVE_NO_SYMLINKS
"""For places where a symbolic link can only be an attack, such as /proc."""

MAX_SYMLINKS = 40
"""As the kernel's own limit (MAXSYMLINKS)."""
MAX_RETRIES = 200
"""openat2 answers EAGAIN when a directory moved while ``..`` was resolved: a race, or an attack."""

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH, resolve: int = IN_ROOT) -> int:
    """Return a descriptor of an existing path inside the root; the caller owns it.

    Raises:
        OSError: as openat2(2); ELOOP for magic links, and for any link where ``resolve`` is
            STRICT.
    """
    relative = path.lstrip("/") or "."
    for _ in range(MAX_RETRIES):
        try:
            return mounts.openat2(root_fd, relative, flags, 0, resolve)
        except BlockingIOError:
            continue
        except OSError as error:
            error.filename = path
            raise
    raise OSError(errno.EAGAIN, "the directory tree keeps changing", path)


def open_or_make(root_fd: int, path: str, *, directory: bool, resolve: int = IN_ROOT) -> int:
    """Return an O_PATH descriptor of a mount point, made (with its parents) if missing.

    Symbolic links are followed inside the root, dangling ones too: what they point at is made.

    Raises:
        OSError: it cannot be resolved or made.
    """
    try:
        return open_in_root(root_fd, path, resolve=resolve)
    except FileNotFoundError:
        pass
    try:
        fd = _make_last(root_fd, path, directory, resolve)
        return _make(root_fd, path, directory, resolve) if fd < 0 else fd
    except OSError as error:
        error.filename = path
        raise


def open_parent(root_fd: int, path: str, *, resolve: int = IN_ROOT) -> tuple[int, str]:
    """Return a descriptor of the directory that holds ``path`` (made if missing), and the name.

    Raises:
        OSError: EINVAL for a path that has no last component; as :func:`open_or_make`.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "the path names no file", path)
    return open_or_make(root_fd, parent or "/", directory=True, resolve=resolve), name


def _make_last(root_fd: int, path: str, directory: bool, resolve: int) -> int:
    """Make a path of which only the last component is missing, -1 if that is not so.

    The common case (/dev/pts in a new tmpfs), in half the system calls.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        return -1
    try:
        parent_fd = open_in_root(root_fd, parent, os.O_PATH | os.O_DIRECTORY, resolve)
    except FileNotFoundError:
        return -1
    try:
        _make_in(parent_fd, name, directory)
        return open_in_root(parent_fd, name, resolve=STRICT)
    except FileExistsError:
        return -1  # a dangling link
    finally:
        os.close(parent_fd)


def _make(root_fd: int, path: str, directory: bool, resolve: int) -> int:
    """Walk the path one component at a time, making what is missing."""
    pending = path.split("/")[::-1]
    walked: list[str] = []  # components that are no symbolic links
    links = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del walked[-1:]
            continue
        target = _link_target(root_fd, [*walked, name])
        if target is None:
            last = not any(part not in ("", ".") for part in pending)
            _make_one(root_fd, walked, name, directory or not last)
        elif target:
            links += 1
            if links > MAX_SYMLINKS or resolve & mounts.RESOLVE_NO_SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                walked.clear()
            pending.extend(target.split("/")[::-1])
            continue
        walked.append(name)
    return open_in_root(root_fd, "/".join(walked), resolve=STRICT)


def _link_target(root_fd: int, parts: list[str]) -> str | None:
    """Return what a symbolic link points at, ``""`` for anything else, None if it is missing."""
    try:
        fd = open_in_root(root_fd, "/".join(parts), os.O_PATH | os.O_NOFOLLOW, STRICT)
    except FileNotFoundError:
        return None
    try:
        return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else ""
    finally:
        os.close(fd)


def _make_one(root_fd: int, parents: list[str], name: str, directory: bool) -> None:
    """Make one directory or empty file below parents that exist."""
    flags = os.O_PATH | os.O_DIRECTORY
    parent_fd = open_in_root(root_fd, "/".join(parents), flags, STRICT)
    try:
        _make_in(parent_fd, name, directory)
    except FileExistsError:
        pass  # somebody else made it meanwhile: what it is shows when it is opened
    finally:
        os.close(parent_fd)


def _make_in(parent_fd: int, name: str, directory: bool) -> None:
    """Make a directory or an empty file below a descriptor."""
    if directory:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent_fd)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(name, flags, FILE_MODE, dir_fd=parent_fd))
