"""Carrying out planned writes on a cgroup, all of them or none.

The plan (which value for which file, in which order) comes from ``limits_v1`` or ``limits_v2``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import groupby

from aruntime.cgroups import refusals, tree
from aruntime.cgroups.files import read_optional, write_file
from aruntime.cgroups.resources import Write

_LISTS = ("devices.", "blkio.throttle.", "io.max", "rdma.max", "net_prio.")
"""Files that hold a list of lines: their content cannot be written back as one value."""


def carry_out(directories: Mapping[str, str], writes: Iterable[Write]) -> None:
    """Write every value in order; successive values for one file go through one descriptor.

    Args:
        directories: the cgroup's directory by controller.
        writes: the plan.

    Raises:
        AruntimeError, OSError: see :func:`aruntime.cgroups.refusals.explained`.
    """
    for (controller, file), group in groupby(writes, key=lambda write: write[:2]):
        directory = directories[controller]
        fd = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            for write in group:
                _write(fd, directory, write)
        finally:
            os.close(fd)


def _write(fd: int, directory: str, write: Write) -> None:
    try:
        os.write(fd, write.value.encode())
    except OSError as error:
        error.filename = f"{directory}/{write.file}"
        raise refusals.explained(error, directory, write) from error


def carry_out_or_restore(directories: Mapping[str, str], writes: Iterable[Write]) -> None:
    """Write every value in order; if one is refused, put the earlier files back as they were.

    Lists of lines (device rules, throttles) stay as far as they were written.

    Raises:
        AruntimeError, OSError: as :func:`carry_out`.
    """
    undo = tree.Undo()
    try:
        for write in writes:
            path = f"{directories[write.controller]}/{write.file}"
            old = None if write.file.startswith(_LISTS) else read_optional(path)
            carry_out(directories, [write])
            if old is not None:
                undo.add(partial(write_file, path, old.decode().strip()))
    except BaseException as error:
        raise undo.run(error) from error.__cause__
