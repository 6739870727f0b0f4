"""ROOT/networks/<name>/config.json: what users' networks were asked to be.

Written under a temporary name, fsynced and renamed: whoever dies, a reader finds the old or the
new record. The directory of a network also holds its leases. Blocks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from aruntime.errors import AruntimeError
from aruntime.network.definition import Definition

CONFIG_NAME = "config.json"
LEASES_NAME = "leases"
TEMPORARY_SUFFIX = ".tmp"
REMOVED_SUFFIX = ".removed"
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class BrokenNetwork(AruntimeError):
    """A network's record is not what was written."""


def save(directory: Path, definition: Definition) -> None:
    """Write the record durably; the directory is made when it is missing.

    Raises:
        OSError: the disk refused; the old record is untouched.
    """
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path = directory / CONFIG_NAME
    temporary = directory / (CONFIG_NAME + TEMPORARY_SUFFIX)
    try:
        with open(temporary, "wb", opener=_opener) as file:
            file.write(msgspec.json.encode(definition))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise
    for place in (directory, directory.parent):
        _sync(place)


def load(directory: Path) -> Definition:
    """Return the record of a network.

    Raises:
        FileNotFoundError: there is none.
        BrokenNetwork: it cannot be read.
    """
    path = directory / CONFIG_NAME
    content = path.read_bytes()
    try:
        return msgspec.json.decode(content, type=Definition)
    except msgspec.MsgspecError as error:
        raise BrokenNetwork(f"{path} is broken: {error}") from error


def load_all(root: Path) -> tuple[list[Definition], list[Exception]]:
    """Return the records below a directory by age, and what kept others from being read."""
    found: list[Definition] = []
    broken: list[Exception] = []
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            found.append(load(entry))
        except (FileNotFoundError, NotADirectoryError):
            continue  # the leases of the default network, or a removal that was cut off
        except (BrokenNetwork, OSError) as error:
            broken.append(error)
    return sorted(found, key=lambda one: one.created_ns), broken


def remove(directory: Path) -> None:
    """Remove a network's record and leases: both or, if this is cut off, later the rest.

    Raises:
        OSError: the disk refused.
    """
    hidden = directory.with_name(f".{directory.name}{REMOVED_SUFFIX}")
    shutil.rmtree(hidden, ignore_errors=True)
    directory.rename(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(root: Path) -> None:
    """Remove what a removal, or a creation before its record, has left that was cut off."""
    for entry in root.iterdir() if root.is_dir() else ():
        is_removed = entry.name.startswith(".") and entry.name.endswith(REMOVED_SUFFIX)
        if is_removed or _has_begun_only(entry):
            shutil.rmtree(entry, ignore_errors=True)


def _has_begun_only(directory: Path) -> bool:
    """Whether there is nothing but perhaps a record not yet renamed; leases are kept, anyone's."""
    try:
        return set(os.listdir(directory)) <= {CONFIG_NAME + TEMPORARY_SUFFIX}
    except OSError:
        return False


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, FILE_MODE)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
