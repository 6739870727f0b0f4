"""How failures of C calls become exceptions."""

from __future__ import annotations

import errno
import os

import pytest

from aruntime.kernel import libc, mounts


def test_failure_names_errno_path_and_call() -> None:
    """A failed call raises the fitting OSError with the path and a note naming the call."""
    with pytest.raises(FileNotFoundError) as caught:
        mounts.openat2(mounts.AT_FDCWD, "/nonexistent/file", os.O_RDONLY)

    assert caught.value.filename == "/nonexistent/file"
    assert caught.value.__notes__ == ["in openat2"]


def test_success_is_passed_on() -> None:
    """A result that is not negative is returned as it is."""
    assert libc.check(7, "anything") == 7


def test_nul_in_path_is_refused() -> None:
    """C would take a NUL for the end of the path and use another file."""
    with pytest.raises(ValueError, match="NUL"):
        mounts.openat2(mounts.AT_FDCWD, "/etc\0/passwd", os.O_RDONLY)


def test_path_that_is_not_utf8_reaches_the_kernel(tmp_path: os.PathLike[str]) -> None:
    """File names are bytes: surrogates of Python's decoding become the bytes they stand for."""
    name = os.path.join(os.fsencode(tmp_path), b"\xff\xfe")
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))

    fd = mounts.openat2(mounts.AT_FDCWD, os.fsdecode(name), os.O_RDONLY)

    os.close(fd)


def test_prototypes_are_separate() -> None:
    """Two users of one C function do not change each other's argument types."""
    first = libc.function("getppid")
    second = libc.function("getppid", libc.cint)

    assert first() == second(0) == os.getppid()


def test_check_without_path() -> None:
    """A call that concerns no file raises an OSError without a filename."""
    close = libc.function("close", libc.cint)

    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        libc.check(close(-1), "close")

    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, None)
