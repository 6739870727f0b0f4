"""Opening, reading and writing one cgroup file.

The only place that knows how these files want to be treated: one write(2) per value, no
truncation, no creation. Every failure is an OSError that carries the path.
"""

from __future__ import annotations

import os

READ_SIZE = 65536
"""Larger than any file read whole here; a cgroup file answers one read(2) with all it has."""


def read_file(path: str) -> bytes:
    """Return the content of a cgroup file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, READ_SIZE)
        while content and len(content) % READ_SIZE == 0:
            more = os.read(fd, READ_SIZE)
            if not more:
                break
            content += more
        return content
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def read_optional(path: str) -> bytes | None:
    """Return the content of a cgroup file, None if the kernel has no such file."""
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def write_file(path: str, value: str) -> None:
    """Write one value; the kernel takes or refuses it as a whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
