"""ROOT/containers/<id>/: config.json and state.json, written so that a crash leaves old or new.

A file is written under a temporary name and renamed over the old one: whoever dies, the next
reader finds one or the other. Against the host's own death it is fsynced before and the directory
after, unless the caller says that the record need not survive that (``durable=False``): a
container with --rm is removed after a reboot whatever its files say. Everything here blocks: the
daemon calls it on a worker thread. Out of scope: what else lies in the directory (log, upper,
work, hosts) but for its removal.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import TypeVar

import msgspec

from aruntime.container.config import ContainerConfig
from aruntime.container.state import ContainerState
from aruntime.errors import AruntimeError

CONFIG_NAME = "config.json"
STATE_NAME = "state.json"
TEMPORARY_SUFFIX = ".tmp"
REMOVED_SUFFIX = ".removed"
UNFINISHED_SUFFIX = ".new"
FILE_MODE = 0o600
"""Environment variables hold secrets."""
DIRECTORY_MODE = 0o710
DIRECTORIES_MODE = 0o711
"""Of ROOT/containers."""

Record = TypeVar("Record", ContainerConfig, ContainerState)


class BrokenRecord(AruntimeError):
    """A container's file on disk is missing or is not what was written."""


def save_config(directory: str, config: ContainerConfig, *, durable: bool = True) -> None:
    """Write config.json, by default durably.

    Raises:
        OSError: the disk refused; the old file is untouched.
    """
    replace(f"{directory}/{CONFIG_NAME}", msgspec.json.encode(config), durable=durable)


def save_state(directory: str, state: ContainerState, *, durable: bool = True) -> None:
    """Write state.json, by default durably.

    Raises:
        OSError: the disk refused; the old file is untouched.
    """
    replace(f"{directory}/{STATE_NAME}", msgspec.json.encode(state), durable=durable)


def replace(path: str, content: bytes, *, durable: bool = True) -> None:
    """Replace a file: after a crash it holds the old or the new content, never a mixture.

    Raises:
        OSError: the disk refused; the old file is untouched and no temporary file stays.
    """
    temporary = path + TEMPORARY_SUFFIX
    try:
        write(temporary, content, durable=durable)
        os.rename(temporary, path)
    except OSError as error:
        error.filename = path
        try:
            os.unlink(temporary)
        except OSError:
            pass  # the first error is the one to report
        raise
    if durable:
        sync_directory(os.path.dirname(path))


def write(path: str, content: bytes, *, durable: bool) -> None:
    """Write a file anew.

    Raises:
        OSError: the disk refused; what has been written stays.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, FILE_MODE)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if durable:
            os.fsync(fd)
    except OSError as error:
        error.filename = path  # write(2) knows none
        raise
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: as fsync(2).
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unwritten_state(config: ContainerConfig) -> ContainerState:
    """Return the state of a container whose state.json was never written.

    It was created and nothing more; with --rm it was to be started at once. So most containers
    have no such file before their first start, which then replaces none: ext4 writes a file out
    at once when another is renamed over it, and its removal waits for that.
    """
    return ContainerState(starting=config.auto_remove)


def load(directory: str) -> tuple[ContainerConfig, ContainerState]:
    """Read one container.

    A missing state.json means what :func:`unwritten_state` says: nothing was started yet.

    Raises:
        BrokenRecord: a file is missing or malformed; the message names it and says what to do.
    """
    config = _read(f"{directory}/{CONFIG_NAME}", ContainerConfig)
    if config.id != os.path.basename(directory):
        raise BrokenRecord(
            f"{directory}/{CONFIG_NAME} belongs to container {config.id[:12]}: move it back there"
        )
    if not os.path.lexists(f"{directory}/{STATE_NAME}"):
        return config, unwritten_state(config)
    return config, _read(f"{directory}/{STATE_NAME}", ContainerState)


def _read(path: str, kind: type[Record]) -> Record:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except OSError as error:
        reason = error.strerror
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
    raise BrokenRecord(
        f"cannot read {path}: {reason}; restore the file, or remove {os.path.dirname(path)}"
    )


def load_all(
    containers: str,
) -> tuple[list[tuple[ContainerConfig, ContainerState, str]], list[BrokenRecord]]:
    """Read every container below ROOT/containers.

    Returns:
        ``(config, state, directory)`` of each, oldest first, and an error for each that is broken:
        one broken file does not hide the others.

    Raises:
        OSError: the directory itself cannot be read; a missing one holds no containers.
    """
    found: list[tuple[ContainerConfig, ContainerState, str]] = []
    broken: list[BrokenRecord] = []
    try:
        names = sorted(os.listdir(containers))
    except FileNotFoundError:
        return found, broken
    for name in names:
        directory = f"{containers}/{name}"
        if name.startswith(".") or not os.path.isdir(directory):
            continue
        try:
            found.append((*load(directory), directory))
        except BrokenRecord as error:
            broken.append(error)
    found.sort(key=lambda item: item[0].created_ns)
    return found, broken


def make(containers: str, config: ContainerConfig, state: ContainerState) -> str:
    """Make a container's directory with its files and return it.

    Raises:
        FileExistsError: the id is taken.
        OSError: the disk refused; nothing stays.
    """
    directory = f"{containers}/{config.id}"
    unfinished = f"{containers}/.{config.id}{UNFINISHED_SUFFIX}"
    durable = not config.auto_remove
    if os.path.lexists(directory):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
    try:
        os.mkdir(unfinished, DIRECTORY_MODE)
    except FileNotFoundError:
        os.makedirs(containers, mode=DIRECTORIES_MODE, exist_ok=True)
        os.mkdir(unfinished, DIRECTORY_MODE)
    try:
        if state != unwritten_state(config):
            content = msgspec.json.encode(state)
            write(f"{unfinished}/{STATE_NAME}", content, durable=durable)
        write(f"{unfinished}/{CONFIG_NAME}", msgspec.json.encode(config), durable=durable)
        if durable:
            sync_directory(unfinished)
        # Under its name only when it is whole: a creation that is cut off leaves no half container.
        os.rename(unfinished, directory)
        if durable:
            sync_directory(containers)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


def remove(directory: str) -> None:
    """Remove a container's directory with everything in it.

    Raises:
        OSError: something cannot be removed (a mount, an immutable file).
    """
    shutil.rmtree(hide(directory))


def hide(directory: str) -> str:
    """Take a container off the disk's list and return where its files still are, to be deleted.

    A rename: a removal that is cut off leaves a hidden directory that :func:`load_all` skips and
    :func:`remove_leftovers` ends, never half a container. Not fsynced: should the host die now,
    the container may be there again, stopped.

    Raises:
        OSError: the disk refused.
    """
    parent, name = os.path.split(directory)
    hidden = f"{parent}/.{name}{REMOVED_SUFFIX}"
    try:
        os.rename(directory, hidden)
    except FileNotFoundError:
        if not os.path.isdir(hidden):
            os.mkdir(hidden)
    return hidden


def remove_leftovers(containers: str) -> None:
    """Finish removals, and undo creations, that a crash cut off.

    Raises:
        OSError: as :func:`remove`.
    """
    if not os.path.isdir(containers):
        return
    for name in os.listdir(containers):
        if name.startswith(".") and name.endswith((REMOVED_SUFFIX, UNFINISHED_SUFFIX)):
            shutil.rmtree(f"{containers}/{name}")
