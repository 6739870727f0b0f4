"""Named volumes: directories that outlive containers.

    ROOT/volumes/<name>/_data          what containers mount
                        volume.json    labels, when it was made
                        populating     exists while an image's content is copied in

Whether a volume is in use is the daemon's knowledge. Everything is synchronous and may take long
(copying): the daemon calls it in worker threads.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from aruntime.errors import Conflict, InvalidParameter, VolumeNotFound
from aruntime.rootfs import copying, overlay, resolve

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
ANONYMOUS = re.compile(r"[0-9a-f]{64}")
MAX_NAME_BYTES = 255
DATA = "_data"
RECORD = "volume.json"
POPULATING = "populating"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as it is on disk."""

    name: str
    path: str
    """The directory containers mount (docker's Mountpoint)."""
    created_ns: int
    labels: dict[str, str]


class _Record(msgspec.Struct):
    created_ns: int = 0
    labels: dict[str, str] = {}


def check_name(name: str) -> str:
    """Return a volume name that is valid.

    Raises:
        InvalidParameter: it is not.
    """
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise InvalidParameter(
            f"volume name {name!r} is invalid: use two or more of a-z A-Z 0-9 _ . - and begin "
            "with a letter or digit"
        )
    return name


def new_name() -> str:
    """Return a name for a volume the user gave none: 64 random hex digits."""
    return secrets.token_hex(32)


def is_anonymous(name: str) -> bool:
    """Tell whether a name looks like one of :func:`new_name`."""
    return ANONYMOUS.fullmatch(name) is not None


def exists(root: str, name: str) -> bool:
    """Tell whether there is such a volume.

    Raises:
        InvalidParameter: the name is not valid.
    """
    return os.path.isdir(f"{root}/{check_name(name)}/{DATA}")


def get(root: str, name: str) -> Volume:
    """Return a volume.

    Args:
        root: the directory of all volumes.
        name: the volume.

    Raises:
        InvalidParameter: the name is not valid.
        VolumeNotFound: there is no such volume.
    """
    if not exists(root, name):
        raise VolumeNotFound(f"no such volume: {name}")
    directory = f"{root}/{name}"
    try:
        with open(f"{directory}/{RECORD}", "rb") as file:
            record = msgspec.json.decode(file.read(), type=_Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        # A volume that was put there by hand, or damaged, is still one with its data.
        record = _Record(created_ns=os.stat(directory).st_mtime_ns)
    path = f"{directory}/{DATA}"
    return Volume(name=name, path=path, created_ns=record.created_ns, labels=record.labels)


def create(root: str, name: str, labels: Mapping[str, str] | None = None) -> Volume:
    """Make a new, empty volume.

    Raises:
        InvalidParameter: the name is not valid.
        Conflict: there is a volume of that name.
        OSError: the file system refuses.
    """
    check_name(name)
    os.makedirs(root, mode=0o711, exist_ok=True)
    # Names of volumes never begin with a dot: a half-made one is not seen.
    draft = tempfile.mkdtemp(prefix=".new-", dir=root)
    try:
        os.mkdir(f"{draft}/{DATA}")
        os.chmod(f"{draft}/{DATA}", 0o755)
        record = _Record(time.time_ns(), dict(labels or {}))
        with open(f"{draft}/{RECORD}", "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(draft, f"{root}/{name}")
        except OSError as error:
            if os.path.lexists(f"{root}/{name}"):
                raise Conflict(f"volume {name} exists already") from error
            raise
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return get(root, name)


def ensure(root: str, name: str, labels: Mapping[str, str] | None = None) -> Volume:
    """Return a volume, made if there is none of that name (as ``docker volume create``).

    Raises:
        InvalidParameter: the name is not valid.
        OSError: the file system refuses.
    """
    if not exists(root, name):
        try:
            return create(root, name, labels)
        except Conflict:
            pass  # another thread was faster
    return get(root, name)


def list_volumes(root: str) -> list[Volume]:
    """Return all volumes by name."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [get(root, name) for name in names if NAME.fullmatch(name) and exists(root, name)]


def remove(root: str, name: str) -> None:
    """Remove a volume and all its data.

    Raises:
        InvalidParameter: the name is not valid.
        VolumeNotFound: there is no such volume.
        OSError: a file cannot be removed; the volume is gone from the list all the same.
    """
    check_name(name)
    doomed = f"{root}/.removed-{secrets.token_hex(8)}"
    try:
        os.rename(f"{root}/{name}", doomed)
    except FileNotFoundError:
        raise VolumeNotFound(f"no such volume: {name}") from None
    shutil.rmtree(doomed)


def remove_leftovers(root: str) -> None:
    """Remove what an interrupted create or remove left; called while nothing else runs."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith((".new-", ".removed-")):
            shutil.rmtree(f"{root}/{name}")


def populate(path: str, lower: Sequence[str], target: str) -> bool:
    """Copy what an image has at a place into an empty volume, as docker does.

    The volume's directory gets owner and mode of the image's, even if that is empty. A copy that
    was interrupted is begun again.

    Args:
        path: the volume's directory (:attr:`Volume.path`).
        lower: directories of the image's layers, lowest first.
        target: where the volume will be mounted; symbolic links in the image are followed
            inside of it, whatever they point at.

    Returns:
        Whether anything was copied: not into a volume that holds something, and not if the
        image has no directory there.

    Raises:
        OSError: the image cannot be read, or the volume not be written.
    """
    if not lower:
        return False
    with _locked(os.path.dirname(path)) as directory:
        interrupted = os.path.lexists(f"{directory}/{POPULATING}")
        if os.listdir(path) and not interrupted:
            return False
        source = _open_in_image(lower, target)
        if source < 0:
            return False
        try:
            with open(f"{directory}/{POPULATING}", "wb"):
                pass
            _clear(path)
            destination = os.open(path, copying.OPEN_DIRECTORY)
            try:
                copying.copy_tree(source, destination)
            finally:
                os.close(destination)
            os.unlink(f"{directory}/{POPULATING}")
        finally:
            os.close(source)
    return True


@contextmanager
def _locked(directory: str) -> Iterator[str]:
    """Hold a volume against another copy into it: containers may start at the same time."""
    fd = os.open(directory, copying.OPEN_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(fd)


def _clear(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _open_in_image(lower: Sequence[str], target: str) -> int:
    """Return a descriptor of the image's directory, -1 if there is none; the caller owns it.

    The kernel merges the layers: an overlay that is mounted nowhere and ends with the last
    descriptor. A single layer has nothing to merge.
    """
    if len(lower) == 1:
        image = os.open(lower[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        image = overlay.open_readonly(lower)
    try:
        return resolve.open_in_root(image, target, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    finally:
        os.close(image)
