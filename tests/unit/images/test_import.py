"""``import`` from the archive to the committed image, through the real child process."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import lzma
import os
import platform
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import zstandard

from aruntime.daemon.unpacking import import_image
from aruntime.errors import InvalidArchive, InvalidParameter, InvalidReference
from aruntime.images.compression import Limits
from aruntime.images.image import Image
from aruntime.images.store import Store
from tests import archives
from tests.harness import wait_until

Import = Callable[..., Image]
ROOTFS = archives.tar(archives.file("bin/true", b"#!", mode=0o755), archives.file("etc/x", b"12"))


def test_a_rootfs_becomes_an_image_with_one_layer(store: Store, import_tar: Import) -> None:
    """The image has the name, the configuration and the files it was given."""
    image = import_tar(
        ROOTFS, "tool", change=['CMD ["/bin/true"]', "ENV A=b"], message="from a test"
    )

    assert image == store.resolve("tool")
    assert image.names == ("docker.io/library/tool:latest",)
    assert (image.config.cmd, image.config.env) == (("/bin/true",), ("A=b",))
    assert image.size == 4
    assert image.diff_ids == (archives.digest(ROOTFS),)
    assert image.os == "linux"
    assert image.architecture == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert [line.comment for line in image.history] == ["from a test"]
    (layer,) = image.layers
    assert Path(layer, "bin/true").read_bytes() == b"#!"


@pytest.mark.parametrize(
    ("compress", "kept"),
    [
        (gzip.compress, True),
        (zstandard.ZstdCompressor().compress, True),
        (bz2.compress, False),
        (lzma.compress, False),
    ],
    ids=["gzip", "zstd", "bzip2", "xz"],
)
def test_compressed_archives(
    store: Store, import_tar: Import, compress: Callable[[bytes], bytes], kept: bool
) -> None:
    """The diff id is the plain archive's; what no media type names is kept plain."""
    archive = compress(ROOTFS)

    image = import_tar(archive, "tool")

    assert image.diff_ids == (archives.digest(ROOTFS),)
    blob = Path(store.base, "blobs/sha256", archives.digest(archive if kept else ROOTFS)[7:])
    assert blob.read_bytes() == (archive if kept else ROOTFS)


def test_a_pipe_is_as_good_as_a_file(store: Store) -> None:
    """The archive may come from anywhere."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        cat.stdin.write(ROOTFS)
        cat.stdin.close()
        image = trio.run(import_image, store, cat.stdout.fileno())

    assert image.names == ()
    assert [one.id for one in store.list()] == [image.id]


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "not a tar archive"),
        (b"hello" * 500, "not a tar archive"),
        (ROOTFS[:1600], "'etc/x'"),
        (gzip.compress(ROOTFS)[:-9], "cut off"),
        (archives.tar(archives.file("a"), archives.file("../b")), "'../b' lies outside"),
    ],
)
def test_a_broken_archive_leaves_nothing(
    import_tar: Import, is_empty: Callable[[], bool], archive: bytes, message: str
) -> None:
    """The error is one line, and the store is as before."""
    with pytest.raises(InvalidArchive, match=message) as caught:
        import_tar(archive, "tool")

    assert "\n" not in caught.value.message
    assert is_empty()


def test_limits_hold(import_tar: Import, is_empty: Callable[[], bool]) -> None:
    """Bytes and entries are bounded as the caller says."""
    with pytest.raises(InvalidArchive, match="more than 1 entries"):
        import_tar(ROOTFS, limits=Limits(entries=1))
    with pytest.raises(InvalidArchive, match="more than the allowed 1000 bytes"):
        import_tar(ROOTFS, limits=Limits(stream_bytes=1000))

    assert is_empty()


def test_wrong_parameters_are_refused_before_anything_is_read(import_tar: Import) -> None:
    """Names, changes and platforms are checked first."""
    with pytest.raises(InvalidReference):
        import_tar(b"", f"tool@sha256:{'0' * 64}")
    with pytest.raises(InvalidReference):
        import_tar(b"", "Tool")
    with pytest.raises(InvalidParameter, match="RUN"):
        import_tar(b"", "tool", change=["RUN x"])
    with pytest.raises(InvalidParameter, match="platform"):
        import_tar(b"", "tool", platform="windows")


async def test_a_cancelled_import_leaves_nothing(
    store: Store, is_empty: Callable[[], bool]
) -> None:
    """Cancelling kills the child in the middle of its work and removes what it had made."""
    reading, writing = os.pipe()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(import_image, store, reading)
            # Once the child has taken the first piece it is in the middle of its work.
            await trio.to_thread.run_sync(write_and_wait, writing, ROOTFS[:1024])
            nursery.cancel_scope.cancel()
    finally:
        os.close(reading)
        os.close(writing)

    assert is_empty()


def write_and_wait(pipe: int, content: bytes) -> None:
    """Write into a pipe and wait until it has been read."""
    os.write(pipe, content)
    wait_until(lambda: not unread(pipe), what="the child reads its archive")


def unread(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
