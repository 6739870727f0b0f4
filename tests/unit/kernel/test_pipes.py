"""tee and seals."""

from __future__ import annotations

import os

import pytest

from aruntime.kernel import pipes


def test_tee_leaves_the_bytes() -> None:
    """Bytes are in both pipes afterwards."""
    from_read, from_write = os.pipe()
    to_read, to_write = os.pipe()
    os.write(from_write, b"hello")

    assert pipes.tee(from_read, to_write, 100) == 5

    assert os.read(from_read, 10) == os.read(to_read, 10) == b"hello"
    with pytest.raises(BlockingIOError):
        pipes.tee(from_read, to_write, 100, pipes.SPLICE_F_NONBLOCK)
    for fd in (from_read, from_write, to_read, to_write):
        os.close(fd)


def test_sealed_memfd_is_immutable() -> None:
    """Nothing can be written, cut or unsealed, not even by a new descriptor of the file."""
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, b"code")

    pipes.seal(fd)

    with pytest.raises(PermissionError):
        os.pwrite(fd, b"evil", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        pipes.seal(fd)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.write(again, b"evil")
    os.close(again)
    os.close(fd)
