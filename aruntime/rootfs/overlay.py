"""overlayfs: one writable tree over read-only layers (kernel: filesystems/overlayfs.rst).

Layers are given lowest first, as images list them; overlayfs wants the topmost first.

Runs in init: standard library only, and nothing is imported late.
"""

from __future__ import annotations

import errno
import os

from aruntime.kernel import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = "overlay"
"""What /proc/mounts shows as the source."""
FEATURES = {"index": "off", "metacopy": "off", "redirect_dir": "off"}
"""Whatever this kernel was built to default to: an upperdir must hold whole files under their
own names, since ``diff``, ``commit`` and ``export`` read it."""
OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
MAX_STRING = 255
"""Longest value of fsconfig(FSCONFIG_SET_STRING), without its NUL."""
MAX_DATA = 4095
"""Longest mount(2) data on machines with 4 KiB pages; more would be cut without a word."""

NO_LOWERDIR_APPEND = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What kernels before 6.8 say to ``lowerdir+``."""


def mount_writable(
    lower: Sequence[str], upper: str, work: str, target: str, flags: Sequence[str] = ()
) -> int:
    """Mount layers with a writable one on top at ``target``.

    Args:
        lower: directories of the read-only layers, lowest first.
        upper, work: directories of one file system; work is emptied by the kernel.
        target: an existing directory.
        flags: options without a value (``volatile``).

    Returns:
        An O_PATH descriptor of the mounted root; the caller owns it.

    Raises:
        OSError: a directory is missing or unfit (EINVAL: not a layer overlayfs can use).
    """
    try:
        fd = open_detached(lower, upper, work, flags)
    except _AppendMissing:
        mount_by_string(lower, upper, work, target, flags)
        return os.open(target, OPEN_DIRECTORY)
    try:
        mounts.move_mount(fd, "", mounts.AT_FDCWD, target)
    except OSError:
        os.close(fd)
        raise
    return fd


class _AppendMissing(Exception):
    """This kernel cannot take layers one by one."""


def open_detached(
    lower: Sequence[str], upper: str | None, work: str | None, flags: Sequence[str] = ()
) -> int:
    """Return a descriptor of an overlay that is mounted nowhere; closing it ends it.

    Raises:
        OSError: as :func:`mount_writable`.
        _AppendMissing: the kernel is older than 6.8.
    """
    held: list[int] = []
    context = mounts.fsopen("overlay")
    try:
        mounts.fsconfig_string(context, "source", SOURCE)
        for path in reversed(lower):
            _append_lower(context, _short(path, held))
        if upper is not None and work is not None:
            mounts.fsconfig_string(context, "upperdir", _short(upper, held))
            mounts.fsconfig_string(context, "workdir", _short(work, held))
        for key, value in FEATURES.items():
            mounts.fsconfig_string(context, key, value)
        for flag in flags:
            mounts.fsconfig_flag(context, flag)
        _create(context)
        return mounts.fsmount(context)
    finally:
        for fd in (context, *held):
            os.close(fd)


def open_readonly(lower: Sequence[str]) -> int:
    """Return a descriptor of the merged layers, mounted nowhere; closing it ends the overlay.

    Args:
        lower: two or more layers, lowest first.

    Raises:
        OSError: as :func:`mount_writable`; E2BIG for more layers than a kernel before 6.8 can
            take this way (about fifteen).
    """
    try:
        return open_detached(lower, None, None)
    except _AppendMissing:
        return open_readonly_by_string(lower)


def open_readonly_by_string(lower: Sequence[str]) -> int:
    """Do as :func:`open_readonly` on kernels before 6.8."""
    held: list[int] = []
    context = mounts.fsopen("overlay")
    try:
        held.extend(os.open(path, OPEN_DIRECTORY) for path in reversed(lower))
        value = ":".join(f"/proc/self/fd/{fd}" for fd in held)
        if len(value) > MAX_STRING:
            raise OSError(errno.E2BIG, f"{len(lower)} layers are too many for this kernel")
        mounts.fsconfig_string(context, "lowerdir", value)
        _create(context)
        return mounts.fsmount(context)
    finally:
        for fd in (context, *held):
            os.close(fd)


def _append_lower(context: int, path: str) -> None:
    try:
        mounts.fsconfig_string(context, "lowerdir+", path)
    except OSError as error:
        unknown = "unknown parameter" in mounts.fsopen_log(context).lower()
        if error.errno in NO_LOWERDIR_APPEND and (unknown or error.errno != errno.EINVAL):
            raise _AppendMissing from error
        raise


def _create(context: int) -> None:
    """Make the superblock; the kernel's own words explain a refusal better than EINVAL."""
    try:
        mounts.fsconfig_create(context)
    except OSError as error:
        said = mounts.fsopen_log(context)
        raise OSError(
            error.errno, f"{error.strerror} ({said})" if said else error.strerror
        ) from None


def _short(path: str, held: list[int]) -> str:
    """Return the path, or one through a held descriptor where fsconfig would refuse its length."""
    if len(os.fsencode(path)) <= MAX_STRING:
        return path
    fd = os.open(path, OPEN_DIRECTORY)
    held.append(fd)
    return f"/proc/self/fd/{fd}"


def mount_by_string(
    lower: Sequence[str], upper: str, work: str, target: str, flags: Sequence[str] = ()
) -> None:
    """Mount as :func:`mount_writable` does, by mount(2): for kernels before 6.8.

    Raises:
        OSError: as mount(2); E2BIG for more layers than a page of options can name.
    """
    data = option_string(lower, upper, work, flags)
    held: list[int] = []
    try:
        if len(os.fsencode(data)) > MAX_DATA:
            held.extend(os.open(path, OPEN_DIRECTORY) for path in lower)
            data = option_string([f"/proc/self/fd/{fd}" for fd in held], upper, work, flags)
        if len(os.fsencode(data)) > MAX_DATA:
            raise OSError(errno.E2BIG, f"{len(lower)} layers are too many for this kernel", target)
        mounts.mount(SOURCE, target, "overlay", 0, data)
    finally:
        for fd in held:
            os.close(fd)


def option_string(lower: Sequence[str], upper: str, work: str, flags: Sequence[str] = ()) -> str:
    r"""Return overlay's mount options; ``,``, ``:`` and ``\`` in paths are escaped."""
    lowers = ":".join(escape(path, "\\:,") for path in reversed(lower))
    pairs = [f"lowerdir={lowers}"]
    for key, path in (("upperdir", upper), ("workdir", work)):
        pairs.append(f"{key}=" + escape(path, "\\,"))
    features = [f"{key}={value}" for key, value in FEATURES.items()]
    return ",".join([*pairs, *features, *flags])


def escape(path: str, special: str) -> str:
    """Return the path with a backslash before each special character."""
    return "".join("\\" + char if char in special else char for char in path)
