"""Remove a tree of any depth that someone else's archive made.

``shutil.rmtree`` holds a descriptor and a stack frame for each level; an archive can nest two
thousand. Here nested directories are first moved up, so two descriptors are enough. Symbolic
links are never followed. Standard library only.
"""

from __future__ import annotations

import os


def remove_tree(parent: int, name: bytes) -> None:
    """Remove the directory ``name`` of the directory ``parent`` and all below it.

    Args:
        parent: a descriptor of the directory it is in; stays the caller's.
        name: one path component.

    Raises:
        FileNotFoundError: it is not there.
        NotADirectoryError: it is something else, a symbolic link included.
    """
    top = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> None:
    """Remove everything in a directory."""
    pending = _remove_files(top)
    moved = 0
    # The other names here are the archive's choice; it cannot foresee this one.
    prefix = b".removing-" + os.urandom(8).hex().encode()
    while pending:
        name = pending.pop()
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        try:
            for child in _remove_files(fd):
                lifted = b"%b-%d" % (prefix, moved)
                moved += 1
                os.rename(child, lifted, src_dir_fd=fd, dst_dir_fd=top)
                pending.append(lifted)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=top)


def _remove_files(directory: int) -> list[bytes]:
    """Unlink whatever is not a directory; return the names of the directories."""
    directories: list[bytes] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
            else:
                os.unlink(name, dir_fd=directory)
    return directories
