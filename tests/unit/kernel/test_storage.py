"""Flags of directories."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from aruntime.kernel import storage


def flags_of(directory: Path) -> int:
    """Return the flags that lsattr(1) shows; none where the file system has none."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return int.from_bytes(fcntl.ioctl(fd, storage.FS_IOC_GETFLAGS, bytes(4)), "little")
    finally:
        os.close(fd)


def test_a_directory_becomes_a_top_of_directories(tmp_path: Path) -> None:
    """The flag is added to those there are, and may be there already."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = flags_of(tmp_path)
        for _ in range(2):
            storage.set_top_directory(fd)
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY)
        pytest.skip("the temporary directory is on a file system without this flag")
    finally:
        os.close(fd)

    assert not before & storage.FS_TOPDIR_FL
    assert flags_of(tmp_path) == before | storage.FS_TOPDIR_FL


def test_where_there_is_no_such_flag_it_is_an_error() -> None:
    """Memory has no groups of inodes."""
    fd = os.open("/dev/shm", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError) as caught:
            storage.set_top_directory(fd)
    finally:
        os.close(fd)
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.ENOTTY)


def test_scattering_leaves_a_file_system_to_its_own_ways(tmp_path: Path) -> None:
    """Only a directory that is not there is an error."""
    storage.scatter("/dev/shm")
    with pytest.raises(FileNotFoundError):
        storage.scatter(str(tmp_path / "nothing"))
